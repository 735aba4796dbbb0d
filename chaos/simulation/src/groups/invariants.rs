//! What may never happen in a group, one promise a file.

mod agreement;
mod convergence;
mod durability;
mod leadership;
mod recency;
mod refusal;
mod soundness;
mod time;

use std::collections::BTreeMap;

use proto::ids::GroupId;

use super::ledger::State;
use super::scene::Seen;

/// What is left when every fault has been over for long.
pub struct Rest {
    /// What keeps the groups from it.
    pub unrest: Option<String>,
    pub finals: BTreeMap<GroupId, State>,
}

/// A promise, and what has to be remembered to judge it.
pub trait Invariant: Send {
    fn name(&self) -> &'static str;

    /// What is wrong with what was seen, if anything.
    fn see(&mut self, _seen: &Seen) -> Option<String> {
        None
    }

    fn rest(&mut self, _rest: &Rest) -> Option<String> {
        None
    }
}

pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(agreement::EverybodyAppliesTheSame::default()),
        Box::new(convergence::EverybodyComesToRest),
        Box::new(durability::WhatWasAcknowledgedStays::default()),
        Box::new(leadership::OneLeaderATerm::default()),
        Box::new(recency::NobodyReadsWhatWas::default()),
        Box::new(refusal::WhatWasRefusedIsNotExecuted::default()),
        Box::new(soundness::NobodyGivesUp),
        Box::new(time::TimeGoesOn::default()),
    ]
}
