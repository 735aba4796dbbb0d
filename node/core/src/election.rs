//! When a replica should ask to lead, decided without a clock of its own.
//!
//! ```text
//!          leader heard, or I lead
//!        ┌─────────────────────────────────────────────────┐
//!        ▼                                                 │
//!      Calm ──unheard──▶ Waiting ──▶ Asking ──majority consents──▶ Electing
//!                         ▲  ▲      (pre-vote)                        │
//!      I consent to       │  └───────── nobody leads after a while ───┘
//!      another's asking ──┘
//! ```
//!
//! Raft alone lets a replica that was cut off come back with a higher term and depose a healthy
//! leader (Ongaro's thesis, 9.6). So a replica first asks the others whether they would vote for it:
//! they consent when they have not heard a leader for the lease either and their log is not ahead.
//! Only with the consent of a majority of every configuration does it call an election. Safety is
//! Raft's; this is about not disturbing, and about getting a leader soon.
//!
//! Two replicas with equally good logs could take turns at spoiling each other's elections. So a
//! consent is also a promise: who gave it asks nobody itself and consents to no other for a while,
//! and of two that ask at the same time the one with the higher id is let pass.
//!
//! A replica that was itself stalled (a paused machine, a starved processor) has missed the leader's
//! words and not the leader: it begins to wait when it wakes up.
//!
//! The membership may say that the leader's node is gone. That shortens the wait to the lease, inside
//! which raft refuses to vote whatever anybody says; the others are asked all the same, and they
//! refuse while they hear the leader.

use std::collections::BTreeSet;

use proto::ids::NodeId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng as _};

/// How patient a driver is, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The silence inside which raft refuses to vote for another leader.
    pub lease_ms: u64,
    /// The leader's silence after which it is taken for gone, when nothing else speaks against it.
    /// Longer than the lease: a stalled disk or processor is not a death.
    pub silence_ms: u64,
    /// An upper bound of the wait before asking, so that replicas do not all ask at once.
    pub jitter_ms: u64,
    /// How long answers to a pre-vote are waited for, and how long a consent binds.
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
    /// The membership says that the leader's node is gone, or its connection was reset.
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

/// Another replica's question, and what it is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a, L> {
    pub from: NodeId,
    pub my_last: &'a L,
    pub their_last: &'a L,
}

/// One group's driver on one replica.
#[derive(Debug)]
pub struct Driver {
    patience: Patience,
    random: SmallRng,
    round: u64,
    state: State,
    ticked_ms: Option<u64>,
    /// When it was found to have been stalled last.
    awake_ms: u64,
}

#[derive(Debug)]
enum State {
    Calm,
    /// With somebody else's election in view, if `promised` is set.
    Waiting {
        until_ms: u64,
        promised: Option<NodeId>,
    },
    Asking {
        until_ms: u64,
        consents: BTreeSet<NodeId>,
    },
    Electing {
        until_ms: u64,
    },
}

impl Driver {
    pub fn new(patience: Patience, seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self { patience, random, round: 0, state: State::Calm, ticked_ms: None, awake_ms: 0 }
    }

    /// Whether this replica misses a leader.
    pub fn is_searching(&self) -> bool {
        !matches!(self.state, State::Calm)
    }

    /// Time passes. To be called a few times in every lease.
    pub fn tick(&mut self, now_ms: u64, view: View<'_>) -> Option<Effect> {
        let ticked_ms = self.ticked_ms.replace(now_ms).unwrap_or(now_ms);
        if now_ms.saturating_sub(ticked_ms) >= self.patience.lease_ms {
            self.awake_ms = now_ms;
        }
        if !may_lead(&view) || view.leading || self.hears(now_ms, &view) {
            self.state = State::Calm;
            return None;
        }
        match self.state {
            State::Calm if alone(&view) => Some(self.elect(now_ms)),
            State::Calm => {
                self.wait(now_ms, 0, None);
                None
            }
            State::Waiting { until_ms, .. }
            | State::Asking { until_ms, .. }
            | State::Electing { until_ms }
                if now_ms < until_ms =>
            {
                None
            }
            State::Waiting { .. } if alone(&view) => Some(self.elect(now_ms)),
            #[cfg(holdfast_mutants)]
            State::Waiting { .. } if mutation::is("prevote-skipped") => Some(self.elect(now_ms)),
            State::Waiting { .. } => Some(self.ask(now_ms, view.me)),
            State::Asking { .. } | State::Electing { .. } => {
                self.wait(now_ms, 0, None);
                None
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
        enough.then(|| self.elect(now_ms))
    }

    /// Whether this replica would vote for the one that asks. If so, it holds its own questions back
    /// for as long as the other may take.
    pub fn consents<L: PartialOrd>(
        &mut self,
        now_ms: u64,
        question: Question<'_, L>,
        view: View<'_>,
    ) -> bool {
        let unheard = self.silence_ms(now_ms, &view) >= self.patience.lease_ms;
        #[cfg(holdfast_mutants)]
        if mutation::is("consent-always") {
            return true;
        }
        if view.leading || !unheard || question.their_last < question.my_last {
            return false;
        }
        let promised_elsewhere = match &self.state {
            State::Calm | State::Waiting { promised: None, .. } => false,
            State::Waiting { promised: Some(to), until_ms } => *to != question.from && now_ms < *until_ms,
            // Its log is as good as this one's: the higher id goes on.
            State::Asking { until_ms, .. } => {
                now_ms < *until_ms && question.their_last == question.my_last && view.me > question.from
            }
            State::Electing { until_ms } => now_ms < *until_ms,
        };
        if promised_elsewhere {
            return false;
        }
        self.wait(now_ms, self.patience.ask_ms, Some(question.from));
        true
    }

    fn hears(&self, now_ms: u64, view: &View<'_>) -> bool {
        if alone(view) {
            // There is nobody else to hear.
            return false;
        }
        // Once it is missed only its own word ends the search.
        let missed = view.leader_suspect || self.is_searching();
        let patience_ms = if missed { self.patience.lease_ms } else { self.patience.silence_ms };
        self.silence_ms(now_ms, view) < patience_ms
    }

    fn silence_ms(&self, now_ms: u64, view: &View<'_>) -> u64 {
        now_ms.saturating_sub(view.heard_ms.max(self.awake_ms))
    }

    fn wait(&mut self, now_ms: u64, least_ms: u64, promised: Option<NodeId>) {
        let jitter_ms = self.random.random_range(0..=self.patience.jitter_ms);
        self.state = State::Waiting { until_ms: now_ms + least_ms + jitter_ms, promised };
    }

    fn ask(&mut self, now_ms: u64, me: NodeId) -> Effect {
        self.round += 1;
        let consents = BTreeSet::from([me]);
        self.state = State::Asking { until_ms: now_ms + self.patience.ask_ms, consents };
        Effect::Ask { round: self.round }
    }

    fn elect(&mut self, now_ms: u64) -> Effect {
        let jitter_ms = self.random.random_range(0..=self.patience.jitter_ms);
        self.state = State::Electing { until_ms: now_ms + self.patience.elect_ms + jitter_ms };
        Effect::Elect
    }
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
