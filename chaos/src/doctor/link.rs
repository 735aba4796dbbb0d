//! Faults of the switch: two hosts on one, and numbered datagrams between them.

use std::time::{Duration, Instant};

use super::network::Pair;
use super::{Lack, lack};
use crate::lab::Lab;
use crate::network;
use crate::switch::{Conditions, Switch};

/// The probes' own luck.
const SEED: u64 = 1;
const SAMPLES: u32 = 400;
const PERCENT: u8 = 30;
/// Between two datagrams: slower than the switch.
const GAP: Duration = Duration::from_micros(500);

struct Bench {
    pair: Pair,
    switch: Switch,
}

impl Bench {
    fn new(lab: &mut Lab) -> Result<Self, Lack> {
        let (hosts, switch) = network::switched(lab, 2, SEED)?;
        let pair = Pair::on(hosts)?;
        pair.works()?;
        Ok(Self { pair, switch })
    }

    /// Under these conditions at the second host, what arrives there of so many numbered datagrams.
    fn arrive(&self, conditions: &Conditions) -> Result<Vec<u32>, Lack> {
        self.switch.set(&[1], conditions);
        let [from, to] = &self.pair.sockets;
        let address = to.local_addr()?;
        for number in 0..SAMPLES {
            from.send_to(&number.to_be_bytes(), address)?;
            std::thread::sleep(GAP);
        }
        let (mut arrived, mut bytes) = (Vec::new(), [0; 4]);
        while let Ok((4, _)) = to.recv_from(&mut bytes) {
            arrived.push(u32::from_be_bytes(bytes));
        }
        self.switch.set(&[1], &Conditions::default());
        Ok(arrived)
    }
}

/// Whether a count is what a chance in a hundred makes of the samples: six standard deviations are 55.
fn is_about(count: usize, percent: u8) -> bool {
    count.abs_diff(SAMPLES as usize * usize::from(percent) / 100) <= 60
}

pub(super) fn delay(lab: &mut Lab) -> Result<(), Lack> {
    let bench = Bench::new(lab)?;
    bench.switch.set(&[1], &Conditions { delay_ms: 60, jitter_ms: 40, ..Conditions::default() });
    let mut times = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        if bench.pair.arrive(0, 1)? == 0 {
            return lack("what is to be late does not arrive");
        }
        times.push(began.elapsed().as_millis());
    }
    match (times.iter().min(), times.iter().max()) {
        (Some(60..), Some(most)) if *most >= 66 => Ok(()),
        _ => lack(format!("60 to 100 ms are {times:?}")),
    }
}

pub(super) fn loss_and_rate(lab: &mut Lab) -> Result<(), Lack> {
    let bench = Bench::new(lab)?;
    let arrived = bench.arrive(&Conditions { loss_percent: PERCENT, ..Conditions::default() })?.len();
    if !is_about(arrived, 100 - PERCENT) {
        return lack(format!("{arrived} of {SAMPLES} arrive at {PERCENT} % loss"));
    }
    // Each of them is 46 bytes on the wire.
    let limited = bench.arrive(&Conditions { rate_kib: 4, ..Conditions::default() })?.len();
    if limited >= SAMPLES as usize { lack("4 KiB/s carry more") } else { Ok(()) }
}

pub(super) fn duplication(lab: &mut Lab) -> Result<(), Lack> {
    let bench = Bench::new(lab)?;
    let arrived = bench.arrive(&Conditions { duplicate_percent: PERCENT, ..Conditions::default() })?;
    let doubled = arrived.windows(2).filter(|pair| pair[0] == pair[1]).count();
    if is_about(doubled, PERCENT) { Ok(()) } else { lack(format!("{doubled} of {SAMPLES} are doubled")) }
}

pub(super) fn reordering(lab: &mut Lab) -> Result<(), Lack> {
    let bench = Bench::new(lab)?;
    if !bench.arrive(&Conditions { delay_ms: 2, ..Conditions::default() })?.is_sorted() {
        return lack("what is only late is out of order");
    }
    let arrived = bench.arrive(&Conditions { reorder_percent: PERCENT, ..Conditions::default() })?;
    if arrived.is_sorted() { lack("nothing is overtaken") } else { Ok(()) }
}

/// Behind checksums a damaged frame is a lost one, or one with another number where it came through.
pub(super) fn corruption(lab: &mut Lab) -> Result<(), Lack> {
    let bench = Bench::new(lab)?;
    let arrived = bench.arrive(&Conditions { corrupt_percent: PERCENT, ..Conditions::default() })?;
    let sound = arrived.windows(2).filter(|pair| pair[0] < pair[1]).count();
    if sound < SAMPLES as usize * 95 / 100 { Ok(()) } else { lack("nothing is damaged") }
}
