//! What the network does with what is sent.

use std::collections::BTreeMap;

use rand::Rng as _;
use rand::rngs::StdRng;

/// How rough it is on every link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    pub delay_us: u64,
    /// On top, up to so much: what has more of it than the next one is overtaken.
    pub jitter_us: u64,
    /// Of a thousand datagrams.
    pub lost: u32,
    pub doubled: u32,
    pub corrupted: u32,
}

impl Conditions {
    /// A network of one building.
    pub const CALM: Self = Self { delay_us: 200, jitter_us: 300, lost: 0, doubled: 0, corrupted: 0 };

    /// The worse of both in each respect.
    fn and(self, other: Self) -> Self {
        Self {
            delay_us: self.delay_us.max(other.delay_us),
            jitter_us: self.jitter_us.max(other.jitter_us),
            lost: self.lost.max(other.lost),
            doubled: self.doubled.max(other.doubled),
            corrupted: self.corrupted.max(other.corrupted),
        }
    }
}

/// Nothing goes from any of these to any of those.
#[derive(Debug, Clone)]
pub struct Cut {
    pub from: Vec<bool>,
    pub to: Vec<bool>,
}

/// TCP sends again what was lost, after this at the earliest (RFC 6298, Linux' minimum).
const RETRANSMIT_US: u64 = 200_000;
/// Of a thousand messages over connections that are late, and by how much at most: a queue somewhere.
const LATE: u32 = 10;
const LATE_US: u64 = 3_000_000;

/// One way that a datagram arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub after_us: u64,
    pub corrupted: bool,
}

/// The links between all hosts.
#[derive(Default)]
pub struct Network {
    /// By the fault that has made them so.
    rough: BTreeMap<usize, Conditions>,
    cuts: BTreeMap<usize, Cut>,
}

impl Network {
    pub fn cut(&mut self, fault: usize, cut: Cut) {
        self.cuts.insert(fault, cut);
    }

    pub fn roughen(&mut self, fault: usize, conditions: Conditions) {
        self.rough.insert(fault, conditions);
    }

    /// Ends what a fault has done.
    pub fn heal(&mut self, fault: usize) {
        self.cuts.remove(&fault);
        self.rough.remove(&fault);
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.values().any(|cut| cut.from[from] && cut.to[to])
    }

    fn conditions(&self) -> Conditions {
        self.rough.values().fold(Conditions::CALM, |all, one| all.and(*one))
    }

    /// How often a datagram arrives, and when: never, once or twice.
    pub fn datagram(&self, from: usize, to: usize, random: &mut StdRng) -> Vec<Arrival> {
        let conditions = self.conditions();
        if self.is_cut(from, to) || happens(conditions.lost, random) {
            return Vec::new();
        }
        let copies = if happens(conditions.doubled, random) { 2 } else { 1 };
        let mut arrival = || Arrival {
            after_us: conditions.delay_us + random.random_range(0..=conditions.jitter_us),
            corrupted: happens(conditions.corrupted, random),
        };
        (0..copies).map(|_| arrival()).collect()
    }

    /// When a message over a connection arrives, if it does. Its sender may have given up by then.
    pub fn message(&self, from: usize, to: usize, random: &mut StdRng) -> Option<u64> {
        // A connection is made both ways.
        if self.is_cut(to, from) { None } else { self.segment(from, to, random) }
    }

    /// The same over a connection that was made before the way back was cut: what is sent arrives, though
    /// nobody can acknowledge it.
    pub fn segment(&self, from: usize, to: usize, random: &mut StdRng) -> Option<u64> {
        if self.is_cut(from, to) {
            return None;
        }
        let conditions = self.conditions();
        let mut after_us = conditions.delay_us + random.random_range(0..=conditions.jitter_us);
        let mut wait_us = RETRANSMIT_US;
        while happens(conditions.lost + conditions.corrupted, random) {
            after_us += wait_us;
            wait_us *= 2;
        }
        if happens(LATE, random) {
            after_us += random.random_range(0..=LATE_US);
        }
        Some(after_us)
    }
}

fn happens(of_thousand: u32, random: &mut StdRng) -> bool {
    of_thousand > 0 && random.random_range(0..1_000) < of_thousand
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_cut_has_a_direction_and_ends() {
        let mut random = StdRng::seed_from_u64(1);
        let mut network = Network::default();
        network.cut(7, Cut { from: vec![true, false], to: vec![false, true] });
        assert_eq!(network.datagram(0, 1, &mut random), []);
        assert_eq!(network.datagram(1, 0, &mut random).len(), 1);
        assert_eq!(network.message(1, 0, &mut random), None);
        assert_eq!(network.segment(0, 1, &mut random), None);
        assert!(network.segment(1, 0, &mut random).is_some());
        network.heal(7);
        assert_eq!(network.datagram(0, 1, &mut random).len(), 1);
        assert!(network.message(1, 0, &mut random).is_some());
    }

    #[test]
    fn what_is_rough_bites() {
        let mut random = StdRng::seed_from_u64(1);
        let mut network = Network::default();
        let rough = Conditions { lost: 300, doubled: 300, corrupted: 300, ..Conditions::CALM };
        network.roughen(1, rough);
        let arrivals: Vec<Vec<Arrival>> = (0..1_000).map(|_| network.datagram(0, 1, &mut random)).collect();
        let count = |wanted: usize| arrivals.iter().filter(|one| one.len() == wanted).count();
        assert!((200..400).contains(&count(0)), "{}", count(0));
        assert!((100..350).contains(&count(2)), "{}", count(2));
        assert!(arrivals.iter().flatten().any(|arrival| arrival.corrupted));
    }
}
