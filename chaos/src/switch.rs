//! A network in this process: frames between TAP devices, one in each host's namespace, under conditions
//! that a seed decides.
//!
//! ```text
//!   host 1 eth0 (TAP) ──reader──▶ conditions of 1 and of 2 ──▶ waiting, by time ──writer──▶ host 2 eth0
//! ```
//!
//! A kernel without netem has no other way to delay, double, reorder or damage what it carries. Each
//! ordered pair of hosts has random numbers of its own, so that what becomes of the n-th frame from one to
//! the other does not depend on what others send.

mod conditions;
mod waiting;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::network::Host;
use conditions::Path;
use waiting::Waiting;

pub use conditions::Conditions;

/// An Ethernet frame of the usual size, with room for a tag.
const FRAME_BYTES_MAX: usize = 1_600;
/// How often a reader looks whether it has to end.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const MAC_BYTES: usize = 6;

type Mac = [u8; MAC_BYTES];

/// The switch, which works until it is dropped.
pub struct Switch {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

struct Inner {
    ports: Vec<SyncDevice>,
    table: Mutex<Table>,
    waiting: Waiting,
    stop: AtomicBool,
}

/// Names conditions until they are taken away again: several may lie on a host at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hand(u64);

/// What the switch knows.
struct Table {
    /// Behind which port an address was last seen.
    learned: BTreeMap<Mac, usize>,
    /// What is being done to each host's frames, by whom.
    done: Vec<BTreeMap<Hand, Conditions>>,
    /// And all of that together.
    conditions: Vec<Conditions>,
    next: u64,
    /// By who sends and who receives.
    paths: Vec<Vec<Path>>,
}

impl Switch {
    /// Gives each host an `eth0` that is a port of a new switch, without any address.
    ///
    /// # Errors
    /// Without root or the kernel's TAP driver.
    pub fn new(hosts: &[Host], seed: u64) -> io::Result<Self> {
        let mut ports = Vec::new();
        for host in hosts {
            let host = host.clone();
            // The device is made where its thread is.
            let made = std::thread::spawn(move || -> io::Result<SyncDevice> {
                host.enter()?;
                DeviceBuilder::new().name("eth0").layer(Layer::L2).enable(false).build_sync()
            });
            let port = made.join().map_err(|_| io::Error::other("a thread panicked"))??;
            port.set_nonblocking(true)?;
            ports.push(port);
        }
        let count = ports.len();
        let path = |from: usize, to: usize| {
            // Any injection of the pair into the seed's space would do.
            Path::new(StdRng::seed_from_u64(seed ^ ((from as u64) << 40) ^ ((to as u64) << 48)))
        };
        let paths = (0..count).map(|from| (0..count).map(|to| path(from, to)).collect()).collect();
        let table = Table::new(paths);
        let inner = Arc::new(Inner {
            ports,
            table: Mutex::new(table),
            waiting: Waiting::default(),
            stop: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for port in 0..count {
            let inner = Arc::clone(&inner);
            threads.push(std::thread::spawn(move || inner.read(port)));
        }
        let writer = Arc::clone(&inner);
        threads.push(std::thread::spawn(move || writer.write()));
        Ok(Self { inner, threads })
    }

    /// From now on these hosts' frames, both ways, are treated so, and in no other way.
    pub fn set(&self, hosts: &[usize], conditions: &Conditions) {
        let mut table = self.inner.table();
        for host in hosts {
            if let Some(done) = table.done.get_mut(*host) {
                done.clear();
            }
        }
        table.begin(hosts, conditions);
    }

    /// From now on these hosts' frames, both ways, are treated so as well.
    pub fn begin(&self, hosts: &[usize], conditions: &Conditions) -> Hand {
        self.inner.table().begin(hosts, conditions)
    }

    /// From now on nobody's frames are treated so any more.
    pub fn end(&self, hand: Hand) {
        self.inner.table().end(hand);
    }
}

impl Table {
    fn new(paths: Vec<Vec<Path>>) -> Self {
        let count = paths.len();
        Self {
            learned: BTreeMap::new(),
            done: vec![BTreeMap::new(); count],
            conditions: vec![Conditions::default(); count],
            next: 0,
            paths,
        }
    }

    fn begin(&mut self, hosts: &[usize], conditions: &Conditions) -> Hand {
        let hand = Hand(self.next);
        self.next += 1;
        for host in hosts {
            if let Some(done) = self.done.get_mut(*host) {
                done.insert(hand, *conditions);
            }
        }
        self.sum_up();
        hand
    }

    fn end(&mut self, hand: Hand) {
        for done in &mut self.done {
            done.remove(&hand);
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        for (conditions, done) in self.conditions.iter_mut().zip(&self.done) {
            *conditions = done.values().fold(Conditions::default(), |all, one| all.and(one));
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Relaxed);
        self.inner.waiting.close();
        for thread in self.threads.drain(..) {
            // It has told of its panic itself.
            let _ended = thread.join();
        }
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a host sends until the switch or the host ends.
    fn read(&self, from: usize) {
        let Some(port) = self.ports.get(from) else { return };
        let mut frame = [0; FRAME_BYTES_MAX];
        while !self.stop.load(Ordering::Relaxed) {
            let mut waits = [PollFd::new(port, PollFlags::IN)];
            if poll(&mut waits, Some(&LOOK_EVERY)).is_err() {
                continue;
            }
            loop {
                match port.recv(&mut frame) {
                    Ok(length) => self.forward(from, &frame[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The device is down, or gone with its host.
                    Err(_) => {
                        std::thread::sleep(Duration::from_millis(10));
                        break;
                    }
                }
            }
        }
    }

    fn forward(&self, from: usize, frame: &[u8]) {
        let (Some(to), Some(source)) =
            (frame.first_chunk::<MAC_BYTES>(), frame.get(MAC_BYTES..2 * MAC_BYTES))
        else {
            return;
        };
        let now = Instant::now();
        let mut table = self.table();
        if let Ok(source) = Mac::try_from(source) {
            // As many addresses as there are hosts: nobody else is on this network.
            table.learned.insert(source, from);
        }
        let known = table.learned.get(to).copied();
        let outs: Vec<usize> = match known {
            Some(port) => vec![port],
            None => (0..self.ports.len()).collect(),
        };
        for out in outs.into_iter().filter(|out| *out != from) {
            let conditions = [table.conditions[from], table.conditions[out]];
            let copies = table.paths[from][out].treat(now, frame, &conditions);
            for (at, bytes) in copies {
                self.waiting.push(at, out, bytes);
            }
        }
    }

    /// Delivers what is due until the switch ends.
    fn write(&self) {
        while let Some((out, frame)) = self.waiting.next() {
            if let Some(port) = self.ports.get(out) {
                // A full queue loses it, as any switch does.
                let _lost = port.send(&frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_on_one_host_add_up_and_the_end_of_one_leaves_the_other() {
        let path = || Path::new(StdRng::seed_from_u64(1));
        let mut table = Table::new(vec![vec![path(), path()], vec![path(), path()]]);
        let slow = Conditions { delay_ms: 20, rate_kib: 100, ..Conditions::default() };
        let lossy = Conditions { loss_percent: 50, rate_kib: 10, ..Conditions::default() };
        let first = table.begin(&[0, 1], &slow);
        let second = table.begin(&[1], &lossy);
        let both = Conditions { delay_ms: 20, loss_percent: 50, rate_kib: 10, ..Conditions::default() };
        assert_eq!(table.conditions, [slow, both]);
        table.end(first);
        assert_eq!(table.conditions, [Conditions::default(), lossy]);
        table.end(second);
        assert_eq!(table.conditions, [Conditions::default(), Conditions::default()]);
    }
}
