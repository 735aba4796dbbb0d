//! When a replica should ask to lead, decided without a clock of its own.
//!
//! ```text
//!           leader heard within the lease
//!         ┌──────────────────────────────┐
//!         ▼                              │
//!       Calm ──unheard──▶ Waiting ──▶ Asking ──majority consents──▶ Electing
//!         ▲               (jitter)   (pre-vote)                        │
//!         └────────────── a leader is heard, or I lead ◀──────────────┤
//!                              Waiting ◀── nobody leads after a while ─┘
//! ```
//!
//! Raft alone lets a replica that was cut off come back with a higher term and depose a healthy
//! leader (Ongaro's thesis, 9.6). So a replica first asks the others whether they would vote for it:
//! they consent when they have not heard a leader for the lease either and their log is not ahead.
//! Only with the consent of a majority of every configuration does it call an election. Safety is
//! Raft's; this is about not disturbing, and about getting a leader soon.
//!
//! The membership may say that the leader's node is gone. That only ends the wait: the others are
//! asked all the same, and they refuse while they hear the leader.

use std::collections::BTreeSet;

use proto::ids::NodeId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng as _};

/// How patient a driver is, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The leader's silence after which it is taken for gone. Not less than the time for which the
    /// others refuse to vote.
    pub lease_ms: u64,
    /// An upper bound of the wait before asking, so that replicas do not all ask at once.
    pub jitter_ms: u64,
    /// How long answers to a pre-vote are waited for.
    pub ask_ms: u64,
    /// How long an election may take before it is taken for failed.
    pub elect_ms: u64,
}

/// What the driver is told about the group at each step.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub me: NodeId,
    /// The voters of the configuration, both of them while it is joint.
    pub configs: &'a [BTreeSet<NodeId>],
    pub leading: bool,
    /// When the leader was heard last (or this replica started).
    pub heard_ms: u64,
    /// The membership says that the leader's node is gone or its agent's connection was reset.
    pub leader_suspect: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Ask every other voter for its consent, and hand answers to [`Driver::consented`].
    Ask { round: u64 },
    /// Call the election.
    Elect,
}

/// One group's driver on one replica.
#[derive(Debug)]
pub struct Driver {
    patience: Patience,
    random: SmallRng,
    round: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Calm,
    Waiting { until_ms: u64 },
    Asking { until_ms: u64, consents: BTreeSet<NodeId> },
    Electing { until_ms: u64 },
}

impl Driver {
    pub fn new(patience: Patience, seed: u64) -> Self {
        Self { patience, random: SmallRng::seed_from_u64(seed), round: 0, state: State::Calm }
    }

    /// Whether this replica looks for a leader.
    pub fn is_searching(&self) -> bool {
        !matches!(self.state, State::Calm)
    }

    /// Time passes. To be called a few times in every lease.
    pub fn tick(&mut self, now_ms: u64, view: View<'_>) -> Option<Effect> {
        if !may_lead(&view) || view.leading || self.hears(now_ms, &view) {
            self.state = State::Calm;
            return None;
        }
        match self.state {
            State::Calm => self.wait(now_ms, &view),
            State::Waiting { until_ms } | State::Asking { until_ms, .. } | State::Electing { until_ms } => {
                if now_ms < until_ms {
                    return None;
                }
                match self.state {
                    State::Waiting { .. } => self.ask(now_ms, &view),
                    State::Calm | State::Asking { .. } | State::Electing { .. } => self.wait(now_ms, &view),
                }
            }
        }
    }

    /// Another voter would vote for this replica. Answers to earlier rounds count for nothing.
    pub fn consented(&mut self, now_ms: u64, round: u64, from: NodeId, view: View<'_>) -> Option<Effect> {
        if round != self.round || !may_lead(&view) || view.leading || self.hears(now_ms, &view) {
            return None;
        }
        let State::Asking { until_ms, consents } = &mut self.state else { return None };
        if now_ms >= *until_ms {
            return None;
        }
        consents.insert(from);
        let enough = has_majority(view.configs, consents);
        if enough { Some(self.elect(now_ms)) } else { None }
    }

    /// While it asks, silence that began before this step is not made worse by its own lateness.
    fn hears(&self, now_ms: u64, view: &View<'_>) -> bool {
        !view.leader_suspect && now_ms.saturating_sub(view.heard_ms) < self.patience.lease_ms
    }

    fn wait(&mut self, now_ms: u64, view: &View<'_>) -> Option<Effect> {
        if alone(view) {
            return Some(self.elect(now_ms));
        }
        let jitter_ms = self.random.random_range(0..=self.patience.jitter_ms);
        self.state = State::Waiting { until_ms: now_ms + jitter_ms };
        None
    }

    fn ask(&mut self, now_ms: u64, view: &View<'_>) -> Option<Effect> {
        self.round += 1;
        let consents = BTreeSet::from([view.me]);
        self.state = State::Asking { until_ms: now_ms + self.patience.ask_ms, consents };
        Some(Effect::Ask { round: self.round })
    }

    fn elect(&mut self, now_ms: u64) -> Effect {
        let jitter_ms = self.random.random_range(0..=self.patience.jitter_ms);
        self.state = State::Electing { until_ms: now_ms + self.patience.elect_ms + jitter_ms };
        Effect::Elect
    }
}

/// Whether a replica consents that another one calls an election.
///
/// `heard_ms_ago` is `None` on a replica that leads: it hears itself.
pub fn consents<L: PartialOrd>(
    patience: &Patience,
    heard_ms_ago: Option<u64>,
    leader_suspect: bool,
    my_last: &L,
    their_last: &L,
) -> bool {
    let unheard = heard_ms_ago.is_some_and(|ago| leader_suspect || ago >= patience.lease_ms);
    unheard && their_last >= my_last
}

fn may_lead(view: &View<'_>) -> bool {
    view.configs.iter().any(|config| config.contains(&view.me))
}

fn alone(view: &View<'_>) -> bool {
    has_majority(view.configs, &BTreeSet::from([view.me]))
}

/// A majority of every configuration (joint consensus needs both).
fn has_majority(configs: &[BTreeSet<NodeId>], granted: &BTreeSet<NodeId>) -> bool {
    !configs.is_empty()
        && configs.iter().all(|config| config.intersection(granted).count() * 2 > config.len())
}

#[cfg(test)]
mod tests;
