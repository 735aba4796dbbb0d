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

/// What the switch knows.
struct Table {
    /// Behind which port an address was last seen.
    learned: BTreeMap<Mac, usize>,
    conditions: Vec<Conditions>,
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
        let table = Table { learned: BTreeMap::new(), conditions: vec![Conditions::default(); count], paths };
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

    /// From now on these hosts' frames, both ways, are treated so.
    pub fn set(&self, hosts: &[usize], conditions: &Conditions) {
        let mut table = self.inner.table();
        for host in hosts {
            if let Some(known) = table.conditions.get_mut(*host) {
                *known = *conditions;
            }
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
