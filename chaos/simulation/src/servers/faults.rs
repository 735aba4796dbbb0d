//! What goes wrong with servers and between them, decided by the seed before anything happens.

use std::collections::BTreeSet;

use proto::ids::NodeId;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::scene::WRONG_MS;
use crate::network::{Conditions, Cut};

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// kill -9, or the power: it comes back with what was synced.
    Crash {
        host: usize,
    },
    /// All of them at one moment.
    PowerCut,
    /// It ends in order.
    Restart {
        host: usize,
    },
    Cut(Cut),
    Rough(Conditions),
    /// Each sync takes its time.
    SlowDisk {
        host: usize,
    },
    /// Its wall clock jumps, and stays there.
    Clock {
        host: usize,
        by_ms: i64,
    },
    /// The membership is wrong about these.
    Suspect {
        host: usize,
        suspects: BTreeSet<NodeId>,
    },
}

/// When, and for how long.
#[derive(Debug, Clone)]
pub struct Planned<F> {
    pub at_us: u64,
    pub for_us: u64,
    pub fault: F,
}

const FAULTS: std::ops::RangeInclusive<usize> = 4..=20;
/// Longer than every time-out of a group.
const LONGEST_US: u64 = 12_000_000;
const SHORTEST_US: u64 = 100_000;

/// The faults of a safety phase, in the order in which they begin. All end with it.
pub fn plan<F>(phase_us: u64, random: &mut StdRng, mut one: impl FnMut(&mut StdRng) -> F) -> Vec<Planned<F>> {
    let count = random.random_range(FAULTS);
    let mut plan: Vec<Planned<F>> = (0..count)
        .map(|_| {
            let at_us = random.random_range(0..phase_us * 9 / 10);
            let for_us = random.random_range(SHORTEST_US..LONGEST_US).min(phase_us - at_us);
            Planned { at_us, for_us, fault: one(random) }
        })
        .collect();
    plan.sort_by_key(|planned| planned.at_us);
    plan
}

/// What of a plan begins and ends, in order: when, whether it begins, and the place of its fault.
pub fn steps<F>(plan: &[Planned<F>]) -> Vec<(u64, bool, usize)> {
    let mut steps: Vec<(u64, bool, usize)> = Vec::new();
    for (number, planned) in plan.iter().enumerate() {
        steps.push((planned.at_us, true, number));
        steps.push((planned.at_us + planned.for_us, false, number));
    }
    steps.sort_by_key(|(at_us, begins, number)| (*at_us, !begins, *number));
    steps
}

/// How many kinds [`kind`] knows.
pub const KINDS: u32 = 12;

/// A fault of one of the kinds, about a host.
pub fn kind(kind: u32, host: usize, hosts: usize, random: &mut StdRng) -> Fault {
    let all = || vec![true; hosts];
    let only = |host: usize| (0..hosts).map(|one| one == host).collect::<Vec<bool>>();
    match kind {
        0 | 1 => Fault::Crash { host },
        2 => Fault::PowerCut,
        3 => Fault::Restart { host },
        4 => Fault::SlowDisk { host },
        5 => Fault::Clock { host, by_ms: random.random_range(-WRONG_MS..=WRONG_MS) },
        6 => {
            let suspects = (0..hosts).filter(|_| random.random_bool(0.5)).map(node).collect();
            Fault::Suspect { host, suspects }
        }
        7 => Fault::Rough(Conditions {
            delay_us: random.random_range(100..150_000),
            jitter_us: random.random_range(100..300_000),
            lost: random.random_range(0..=300),
            doubled: 0,
            corrupted: 0,
        }),
        8 => Fault::Cut(Cut { from: only(host), to: all() }),
        9 => Fault::Cut(Cut { from: all(), to: only(host) }),
        10 => {
            let other = (host + random.random_range(1..hosts.max(2))) % hosts;
            Fault::Cut(Cut { from: only(host), to: only(other) })
        }
        _ => {
            let side: Vec<bool> = (0..hosts).map(|_| random.random_bool(0.5)).collect();
            let rest = side.iter().map(|there| !there).collect();
            Fault::Cut(Cut { from: side, to: rest })
        }
    }
}

/// Who lives on a host from the beginning.
pub fn node(host: usize) -> NodeId {
    NodeId(host as u64 + 1)
}
