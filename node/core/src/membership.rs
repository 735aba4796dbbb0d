//! Who is here and what each says of itself, as plain data.
//!
//! The gossip says who is alive ([`MemberStatus`]); each node says of itself what it runs
//! ([`proto::peer::NodeState`]). A node state has one author and a version, (generation, sequence), so
//! merging is taking the newer one: it may arrive late, twice, in any order and by any way, and all
//! who have heard the same know the same.
//!
//! Both are hints. They may stop traffic to a node; nobody acts as controller or leader by them.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use proto::ids::{Generation, NodeId};
use proto::limits::{MEMBERS_MAX, NODE_STATE_BYTES_MAX};
use proto::peer::{NodeState, Phase, StateDigest};

/// What the gossip says of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberStatus {
    Alive,
    /// No new requests go there; nothing else follows from it.
    Suspect,
    Down,
    /// It said goodbye. Not a failure.
    Left,
}

/// The generation of an agent that starts now: larger than any before it on this disk, and than any
/// that started earlier by the wall clock. A clock that was set back can not make it smaller.
pub fn next_generation(persisted: Generation, now_ms: u64) -> Generation {
    Generation(now_ms.max(persisted.0.saturating_add(1)))
}

/// Whether requests may be sent to a member's instances.
pub fn takes_traffic(status: MemberStatus, state: &NodeState) -> bool {
    #[cfg(holdfast_mutants)]
    if mutation::is("draining-asked") {
        return status != MemberStatus::Down;
    }
    status == MemberStatus::Alive && state.phase() == Phase::Ready && !state.draining
}

/// Why a node state was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("the state is as old as the known one, or older")]
    NotNewer,
    #[error("the state is larger than {NODE_STATE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("there are states of {MEMBERS_MAX} nodes already")]
    TooMany,
    #[error("the state names no node")]
    NoNode,
}

/// The newest state of every node that was heard of.
#[derive(Debug, Clone, Default)]
pub struct NodeStates {
    states: BTreeMap<NodeId, Arc<NodeState>>,
}

impl NodeStates {
    /// Takes a state if it is newer than the known one.
    ///
    /// # Errors
    /// Why it was not taken; [`Rejected::NotNewer`] is the ordinary case.
    pub fn merge(&mut self, state: NodeState) -> Result<Arc<NodeState>, Rejected> {
        let node = NodeId(state.node);
        if node.0 == 0 {
            return Err(Rejected::NoNode);
        }
        if state.encoded_len() > NODE_STATE_BYTES_MAX {
            return Err(Rejected::TooLarge);
        }
        match self.states.get(&node) {
            Some(known) if version(known) >= version(&state) => return Err(Rejected::NotNewer),
            None if self.states.len() >= MEMBERS_MAX => return Err(Rejected::TooMany),
            Some(_) | None => {}
        }
        let state = Arc::new(state);
        self.states.insert(node, Arc::clone(&state));
        Ok(state)
    }

    /// Drops the state of a node that is no member any more.
    pub fn forget(&mut self, node: NodeId) {
        self.states.remove(&node);
    }

    pub fn get(&self, node: NodeId) -> Option<&Arc<NodeState>> {
        self.states.get(&node)
    }

    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Arc<NodeState>)> {
        self.states.iter().map(|(node, state)| (*node, state))
    }

    /// What this side has, for the other to compare.
    pub fn digest(&self) -> Vec<StateDigest> {
        let digest = |(node, state): (&NodeId, &Arc<NodeState>)| StateDigest {
            node: node.0,
            generation: state.generation,
            sequence: state.sequence,
        };
        self.states.iter().map(digest).collect()
    }

    /// What this side has that is newer than the other's digest, and the nodes of which the other knows
    /// more.
    pub fn compare(&self, theirs: &[StateDigest]) -> (Vec<Arc<NodeState>>, Vec<NodeId>) {
        let theirs: BTreeMap<NodeId, (u64, u64)> = theirs
            .iter()
            .take(MEMBERS_MAX)
            .map(|digest| (NodeId(digest.node), (digest.generation, digest.sequence)))
            .collect();
        let newer = self
            .states
            .iter()
            .filter(|(node, state)| theirs.get(node).is_none_or(|known| *known < version(state)));
        let newer = newer.map(|(_, state)| Arc::clone(state)).collect();
        let wanted = theirs
            .iter()
            .filter(|(node, known)| self.states.get(node).is_none_or(|state| version(state) < **known));
        (newer, wanted.map(|(node, _)| *node).collect())
    }
}

fn version(state: &NodeState) -> (u64, u64) {
    (state.generation, state.sequence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(node: u64, generation: u64, sequence: u64) -> NodeState {
        NodeState { node, generation, sequence, ..NodeState::default() }
    }

    #[test]
    fn a_generation_is_never_given_twice_whatever_the_clock_says() {
        assert_eq!(next_generation(Generation(0), 5_000), Generation(5_000));
        assert_eq!(next_generation(Generation(9_000), 5_000), Generation(9_001));
        assert_eq!(next_generation(Generation(9_000), 9_000), Generation(9_001));
    }

    #[test]
    fn only_a_ready_member_that_is_alive_and_not_draining_takes_traffic() {
        let mut ready = state(1, 1, 1);
        ready.set_phase(Phase::Ready);
        assert!(takes_traffic(MemberStatus::Alive, &ready));
        for status in [MemberStatus::Suspect, MemberStatus::Down, MemberStatus::Left] {
            assert!(!takes_traffic(status, &ready));
        }
        assert!(!takes_traffic(MemberStatus::Alive, &NodeState { draining: true, ..ready.clone() }));
        ready.set_phase(Phase::Syncing);
        assert!(!takes_traffic(MemberStatus::Alive, &ready));
    }

    #[test]
    fn an_older_life_never_replaces_a_newer_one() {
        let mut states = NodeStates::default();
        states.merge(state(1, 2, 1)).unwrap();
        assert_eq!(states.merge(state(1, 1, 99)), Err(Rejected::NotNewer));
        assert_eq!(states.merge(state(1, 2, 1)), Err(Rejected::NotNewer));
        assert!(states.merge(state(1, 2, 2)).is_ok());
    }

    #[test]
    fn a_state_that_is_too_large_is_refused() {
        let mut states = NodeStates::default();
        let large = NodeState { name: "x".repeat(NODE_STATE_BYTES_MAX), ..state(1, 1, 1) };
        assert_eq!(states.merge(large), Err(Rejected::TooLarge));
    }

    fn histories() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
        proptest::collection::vec((1u64..6, 1u64..4, 1u64..6), 0..40)
    }

    proptest! {
        #[test]
        fn the_order_and_the_repetition_of_news_make_no_difference(
            (news, shuffled) in histories().prop_flat_map(|news| (Just(news.clone()), Just(news).prop_shuffle())),
        ) {
            let (mut one, mut other) = (NodeStates::default(), NodeStates::default());
            for (node, generation, sequence) in &news {
                let _older = one.merge(state(*node, *generation, *sequence));
            }
            for (node, generation, sequence) in shuffled.iter().chain(&shuffled) {
                let _older = other.merge(state(*node, *generation, *sequence));
            }
            prop_assert_eq!(one.digest(), other.digest());
        }

        #[test]
        fn one_exchange_makes_two_sides_equal(left in histories(), right in histories()) {
            let (mut asker, mut answerer) = (NodeStates::default(), NodeStates::default());
            for (node, generation, sequence) in left {
                let _older = asker.merge(state(node, generation, sequence));
            }
            for (node, generation, sequence) in right {
                let _older = answerer.merge(state(node, generation, sequence));
            }
            let (newer, wanted) = answerer.compare(&asker.digest());
            for node in wanted {
                let sent = asker.get(node).unwrap().as_ref().clone();
                answerer.merge(sent).unwrap();
            }
            for state in newer {
                asker.merge(state.as_ref().clone()).unwrap();
            }
            prop_assert_eq!(asker.digest(), answerer.digest());
        }
    }
}
