//! A history in as many parts as can be drawn.

use std::collections::BTreeMap;

use serde::Serialize;

use super::markup::in_script;
use crate::history::{History, Op, Outcome};

/// More can not be told apart.
const BINS_MAX: i64 = 400;
const BIN_US_MIN: i64 = 100_000;

/// All operations, in bins of the same length.
pub struct Bins {
    pub bin_us: i64,
    pub count: usize,
    pub kinds: Vec<Kind>,
    /// Of all kinds: those that were refused and those of unknown end, by bin.
    pub refused: Vec<u32>,
    pub unknown: Vec<u32>,
    /// By bin, in milliseconds: the median, the 99th percentile, the longest. `None`: nothing was answered.
    pub latency: Vec<Option<[f64; 3]>>,
}

/// One kind of operation.
pub struct Kind {
    pub name: &'static str,
    /// By bin, of when they were answered.
    pub bins: Vec<u32>,
    pub answered: u64,
    pub refused: u64,
    pub unknown: u64,
    pub latency_ms: [f64; 3],
    /// The longest time between two answers.
    pub gap_ms: Option<i64>,
}

#[derive(Default)]
struct Tally {
    answered_us: Vec<i64>,
    took_us: Vec<i64>,
    refused: u64,
    unknown: u64,
}

impl Bins {
    pub fn of(history: &History) -> Self {
        let ends =
            history.operations.iter().map(|one| one.returned.as_ref().map_or(one.called_us, |(at, _)| *at));
        let end = ends.chain(history.events.iter().map(|(at, _)| *at)).max().unwrap_or(0).max(1);
        let bin_us = (end / BINS_MAX + 1).max(BIN_US_MIN);
        let place = |at: i64| usize::try_from(at.max(0) / bin_us).unwrap_or(0);
        let count = place(end) + 1;
        let (mut refused, mut unknown) = (vec![0; count], vec![0; count]);
        let mut took: Vec<Vec<i64>> = vec![Vec::new(); count];
        let mut tallies: BTreeMap<&'static str, Tally> = BTreeMap::new();
        for operation in &history.operations {
            let tally = tallies.entry(name(&operation.op)).or_default();
            match &operation.returned {
                Some((at, Outcome::Ok { .. })) => {
                    tally.answered_us.push(*at);
                    tally.took_us.push(at - operation.called_us);
                    took[place(*at)].push(at - operation.called_us);
                }
                Some((at, Outcome::Refused { .. })) => {
                    tally.refused += 1;
                    refused[place(*at)] += 1;
                }
                Some((at, Outcome::Unknown { .. })) => {
                    tally.unknown += 1;
                    unknown[place(*at)] += 1;
                }
                None => {
                    tally.unknown += 1;
                    unknown[place(operation.called_us)] += 1;
                }
            }
        }
        let kinds = tallies.into_iter().map(|(name, tally)| tally.kind(name, count, place)).collect();
        let latency = took.into_iter().map(percentiles).collect();
        Self { bin_us, count, kinds, refused, unknown, latency }
    }

    /// For the page's script: what there is to tell of each bin.
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Told<'a> {
            bin_us: i64,
            kinds: Vec<(&'static str, &'a [u32])>,
            refused: &'a [u32],
            unknown: &'a [u32],
            latency: &'a [Option<[f64; 3]>],
        }
        let told = Told {
            bin_us: self.bin_us,
            kinds: self.kinds.iter().map(|kind| (kind.name, kind.bins.as_slice())).collect(),
            refused: &self.refused,
            unknown: &self.unknown,
            latency: &self.latency,
        };
        in_script(&serde_json::to_string(&told).expect("plain data always serialises"))
    }

    pub fn seconds(&self) -> f64 {
        self.count as f64 * self.bin_us as f64 / 1e6
    }
}

impl Tally {
    fn kind(mut self, name: &'static str, count: usize, place: impl Fn(i64) -> usize) -> Kind {
        let mut bins = vec![0; count];
        for at in &self.answered_us {
            bins[place(*at)] += 1;
        }
        self.answered_us.sort_unstable();
        let gap_us = self.answered_us.windows(2).map(|pair| pair[1] - pair[0]).max();
        Kind {
            name,
            bins,
            answered: self.answered_us.len() as u64,
            refused: self.refused,
            unknown: self.unknown,
            latency_ms: percentiles(self.took_us).unwrap_or_default(),
            gap_ms: gap_us.map(|gap| gap / 1_000),
        }
    }
}

fn percentiles(mut took_us: Vec<i64>) -> Option<[f64; 3]> {
    took_us.sort_unstable();
    let last = took_us.len().checked_sub(1)?;
    Some([last / 2, last * 99 / 100, last].map(|at| took_us[at] as f64 / 1e3))
}

fn name(op: &Op) -> &'static str {
    match op {
        Op::LedgerAdd { .. } => "ledger add",
        Op::LedgerRead {} => "ledger read",
        Op::RegisterRead { .. } => "register read",
        Op::RegisterWrite { .. } => "register write",
        Op::CounterAdd { .. } => "counter add",
        Op::Request { .. } => "request",
        Op::PriceSet { .. } => "price set",
        Op::PriceRead { .. } => "price read",
        Op::Deploy { .. } => "deploy",
    }
}
