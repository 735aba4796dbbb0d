//! What goes wrong, decided by the seed before anything happens.

use std::collections::BTreeMap;

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::network::{Conditions, Cut};

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// kill -9; it comes back with its disk.
    Crash {
        host: usize,
    },
    /// It says goodbye, and comes back with its disk.
    Restart {
        host: usize,
    },
    /// Its disk is lost with it; a new node takes its place.
    Wipe {
        host: usize,
    },
    /// SIGSTOP: everything that it would do it does afterwards.
    Pause {
        host: usize,
    },
    Cut(Cut),
    Rough(Conditions),
    /// Its wall clock jumps, which its next life sees.
    Clock {
        host: usize,
        by_ms: i64,
    },
}

/// When, and for how long.
#[derive(Debug, Clone)]
pub struct Planned {
    pub at_us: u64,
    pub for_us: u64,
    pub fault: Fault,
}

/// How bad it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Up to 5 % loss and stalls of up to 900 ms, which nobody may be declared dead for.
    Mild,
    /// Everything.
    Wild,
}

const FAULTS_MIN: usize = 4;
const FAULTS_MAX: usize = 20;
/// Longer than everything that waits for somebody by itself.
const LONGEST_US: u64 = 25_000_000;
const SHORTEST_US: u64 = 300_000;
const STALL_MAX_US: u64 = 900_000;
/// One that stalls again sooner has hardly had the time to hear of a suspicion and to answer, which is all
/// one stall, of more than that.
const BETWEEN_STALLS_US: u64 = 1_000_000;
const HOUR_MS: i64 = 3_600_000;

/// The faults of a safety phase, in the order in which they begin. All end with it.
pub fn plan(hosts: usize, weather: Weather, phase_us: u64, random: &mut StdRng) -> Vec<Planned> {
    let count = random.random_range(FAULTS_MIN..=FAULTS_MAX);
    let mut plan: Vec<Planned> = (0..count)
        .map(|_| {
            let at_us = random.random_range(0..phase_us * 9 / 10);
            let for_us = random.random_range(SHORTEST_US..LONGEST_US).min(phase_us - at_us);
            match weather {
                Weather::Mild => mild(hosts, at_us, for_us, random),
                Weather::Wild => Planned { at_us, for_us, fault: wild(hosts, random) },
            }
        })
        .collect();
    plan.sort_by_key(|planned| planned.at_us);
    if weather == Weather::Mild { apart(plan) } else { plan }
}

/// Without the stalls that would make a longer one of the one before.
fn apart(plan: Vec<Planned>) -> Vec<Planned> {
    let mut rested_us = BTreeMap::new();
    let mut is_apart = |planned: &Planned| {
        let Fault::Pause { host } = planned.fault else { return true };
        let rested_us = rested_us.entry(host).or_insert(0);
        let is_apart = planned.at_us >= *rested_us;
        if is_apart {
            *rested_us = planned.at_us + planned.for_us + BETWEEN_STALLS_US;
        }
        is_apart
    };
    plan.into_iter().filter(|planned| is_apart(planned)).collect()
}

fn mild(hosts: usize, at_us: u64, for_us: u64, random: &mut StdRng) -> Planned {
    if random.random_bool(0.5) {
        let fault = Fault::Pause { host: random.random_range(0..hosts) };
        return Planned { at_us, for_us: for_us.min(random.random_range(1..STALL_MAX_US)), fault };
    }
    let conditions = Conditions {
        delay_us: random.random_range(100..10_000),
        jitter_us: random.random_range(100..10_000),
        lost: random.random_range(0..=50),
        doubled: random.random_range(0..=50),
        corrupted: 0,
    };
    Planned { at_us, for_us, fault: Fault::Rough(conditions) }
}

fn wild(hosts: usize, random: &mut StdRng) -> Fault {
    let host = random.random_range(0..hosts);
    match random.random_range(0..12) {
        0 | 1 => Fault::Crash { host },
        2 => Fault::Restart { host },
        3 => Fault::Wipe { host },
        4 | 5 => Fault::Pause { host },
        6 => Fault::Clock { host, by_ms: random.random_range(-HOUR_MS..=HOUR_MS) },
        7 => Fault::Rough(Conditions {
            delay_us: random.random_range(100..100_000),
            jitter_us: random.random_range(100..200_000),
            lost: random.random_range(0..=300),
            doubled: random.random_range(0..=300),
            corrupted: random.random_range(0..=200),
        }),
        8 => {
            // One link, one way.
            let other = (host + random.random_range(1..hosts.max(2))) % hosts;
            Fault::Cut(Cut { from: only(hosts, host), to: only(hosts, other) })
        }
        9 => Fault::Cut(Cut { from: only(hosts, host), to: vec![true; hosts] }),
        10 => Fault::Cut(Cut { from: vec![true; hosts], to: only(hosts, host) }),
        _ => {
            let side: Vec<bool> = (0..hosts).map(|_| random.random_bool(0.5)).collect();
            let rest = side.iter().map(|there| !there).collect();
            Fault::Cut(Cut { from: side, to: rest })
        }
    }
}

fn only(hosts: usize, host: usize) -> Vec<bool> {
    (0..hosts).map(|one| one == host).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn every_kind_is_planned_and_ends_with_its_phase() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..50 {
            for planned in plan(5, Weather::Wild, 60_000_000, &mut StdRng::seed_from_u64(seed)) {
                assert!(planned.at_us + planned.for_us <= 60_000_000);
                let told = format!("{:?}", planned.fault);
                kinds.insert(told.split([' ', '(']).next().unwrap_or_default().to_owned());
            }
        }
        let wanted = ["Clock", "Crash", "Cut", "Pause", "Restart", "Rough", "Wipe"];
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn mild_weather_stays_within_what_is_promised() {
        for seed in 0..50 {
            let mut stalled_until_us = [None; 5];
            for planned in plan(5, Weather::Mild, 60_000_000, &mut StdRng::seed_from_u64(seed)) {
                if let Fault::Pause { host } = planned.fault {
                    let before = stalled_until_us[host].replace(planned.at_us + planned.for_us);
                    assert!(before.is_none_or(|until_us| planned.at_us >= until_us + BETWEEN_STALLS_US));
                }
                let is_mild = match planned.fault {
                    Fault::Pause { .. } => planned.for_us <= STALL_MAX_US,
                    Fault::Rough(conditions) => conditions.lost <= 50 && conditions.corrupted == 0,
                    Fault::Crash { .. }
                    | Fault::Restart { .. }
                    | Fault::Wipe { .. }
                    | Fault::Cut(_)
                    | Fault::Clock { .. } => false,
                };
                assert!(is_mild, "{planned:?}");
            }
        }
    }
}
