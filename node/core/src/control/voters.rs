//! Who votes in the control group.
//!
//! One voter for a farm of one or two, three up to six, five from seven on: an even number would only
//! need a larger majority. The set is stable: a flap changes nothing, a dead voter is replaced only by a
//! learner that has caught up, and a change always leaves a majority of live voters. It never shrinks:
//! nothing in this version makes a farm smaller for good, and a smaller electorate would not survive
//! what the larger one does.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::NodeId;

/// What choosing needs to know of a member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub zone: String,
    /// By its token and its configured roles.
    pub may_vote: bool,
    pub alive: bool,
    /// How long it has been alive, or dead.
    pub for_ms: u64,
    /// It follows the log closely enough to vote from the first moment.
    pub caught_up: bool,
}

/// How patient the choice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoterPolicy {
    /// A voter that has been dead for so long is replaced: longer than a restart of its server's agent.
    pub dead_ms: u64,
    /// A fourth and fifth voter has been alive for so long. The second and third are not kept waiting,
    /// since until they vote the farm survives nothing.
    pub stable_ms: u64,
}

impl Default for VoterPolicy {
    fn default() -> Self {
        Self { dead_ms: 30_000, stable_ms: 10_000 }
    }
}

/// Voters that a farm with so many electable members should have.
pub fn voters_wanted(electable: usize) -> usize {
    match electable {
        0..=2 => 1,
        3..=6 => 3,
        7.. => 5,
    }
}

/// The next set of voters: `current`, or one joint change away from it.
pub fn choose_voters(
    current: &BTreeSet<NodeId>,
    candidates: &BTreeMap<NodeId, Candidate>,
    policy: VoterPolicy,
) -> BTreeSet<NodeId> {
    let electable = candidates.values().filter(|candidate| candidate.may_vote).count();
    let next = grown(current, candidates, voters_wanted(electable), policy)
        .or_else(|| with_one_replaced(current, candidates, policy))
        .filter(|next| has_live_majority(next, candidates));
    next.unwrap_or_else(|| current.clone())
}

fn grown(
    current: &BTreeSet<NodeId>,
    candidates: &BTreeMap<NodeId, Candidate>,
    wanted: usize,
    policy: VoterPolicy,
) -> Option<BTreeSet<NodeId>> {
    // By two, so that the number stays odd.
    if current.is_empty() || current.len() + 2 > wanted {
        return None;
    }
    let patience_ms = if current.len() == 1 { 0 } else { policy.stable_ms };
    let mut next = current.clone();
    for _ in 0..2 {
        let newcomer = best_newcomer(&next, candidates, patience_ms)?;
        next.insert(newcomer);
    }
    Some(next)
}

fn with_one_replaced(
    current: &BTreeSet<NodeId>,
    candidates: &BTreeMap<NodeId, Candidate>,
    policy: VoterPolicy,
) -> Option<BTreeSet<NodeId>> {
    let lost = current.iter().find(|voter| match candidates.get(*voter) {
        // Removed, or no longer a voter by its roles: it is not coming back to this.
        None => true,
        Some(candidate) => !candidate.may_vote || (!candidate.alive && candidate.for_ms >= policy.dead_ms),
    })?;
    let mut next = current.clone();
    next.remove(lost);
    let newcomer = best_newcomer(&next, candidates, 0)?;
    assert!(!current.contains(&newcomer), "a newcomer is none that votes already");
    next.insert(newcomer);
    Some(next)
}

/// The one whose zone has the fewest voters, then the oldest member.
fn best_newcomer(
    voters: &BTreeSet<NodeId>,
    candidates: &BTreeMap<NodeId, Candidate>,
    patience_ms: u64,
) -> Option<NodeId> {
    let in_zone =
        |zone: &str| voters.iter().filter(|voter| zone_of(candidates, **voter) == Some(zone)).count();
    candidates
        .iter()
        .filter(|(node, candidate)| {
            !voters.contains(*node)
                && candidate.may_vote
                && candidate.alive
                && candidate.caught_up
                && candidate.for_ms >= patience_ms
        })
        .min_by_key(|(node, candidate)| (in_zone(&candidate.zone), **node))
        .map(|(node, _)| *node)
}

fn zone_of(candidates: &BTreeMap<NodeId, Candidate>, node: NodeId) -> Option<&str> {
    candidates.get(&node).map(|candidate| candidate.zone.as_str())
}

fn has_live_majority(voters: &BTreeSet<NodeId>, candidates: &BTreeMap<NodeId, Candidate>) -> bool {
    let live = voters.iter().filter(|voter| candidates.get(*voter).is_some_and(|candidate| candidate.alive));
    live.count() * 2 > voters.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alive(zone: &str) -> Candidate {
        Candidate { zone: zone.to_owned(), may_vote: true, alive: true, for_ms: 60_000, caught_up: true }
    }

    fn dead(for_ms: u64) -> Candidate {
        Candidate { alive: false, for_ms, caught_up: false, ..alive("a") }
    }

    fn farm(members: &[Candidate]) -> BTreeMap<NodeId, Candidate> {
        members.iter().cloned().zip(1u64..).map(|(member, id)| (NodeId(id), member)).collect()
    }

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn choose(current: &[u64], members: &[Candidate]) -> BTreeSet<NodeId> {
        choose_voters(&ids(current), &farm(members), VoterPolicy::default())
    }

    #[test]
    fn one_becomes_three_in_one_change_as_soon_as_three_are_healthy() {
        let young = Candidate { for_ms: 0, ..alive("a") };
        assert_eq!(choose(&[1], &[alive("a"), young.clone()]), ids(&[1]));
        assert_eq!(choose(&[1], &[alive("a"), young.clone(), young.clone()]), ids(&[1, 2, 3]));
        let behind = Candidate { caught_up: false, ..young.clone() };
        assert_eq!(choose(&[1], &[alive("a"), young, behind]), ids(&[1]));
    }

    #[test]
    fn three_become_five_when_two_more_have_been_stable() {
        let mut members = vec![alive("a"); 7];
        assert_eq!(choose(&[1, 2, 3], &members), ids(&[1, 2, 3, 4, 5]));
        for young in &mut members[3..] {
            young.for_ms = 9_000;
        }
        assert_eq!(choose(&[1, 2, 3], &members), ids(&[1, 2, 3]));
    }

    #[test]
    fn voters_are_taken_from_zones_that_have_none() {
        assert_eq!(choose(&[1], &[alive("a"), alive("a"), alive("b"), alive("c")]), ids(&[1, 3, 4]));
    }

    #[test]
    fn a_dead_voter_is_replaced_only_after_its_time_and_by_a_learner_that_has_caught_up() {
        let behind = Candidate { caught_up: false, ..alive("a") };
        assert_eq!(choose(&[1, 2, 3], &[alive("a"), alive("a"), dead(1_000), alive("a")]), ids(&[1, 2, 3]));
        assert_eq!(choose(&[1, 2, 3], &[alive("a"), alive("a"), dead(60_000), alive("a")]), ids(&[1, 2, 4]));
        assert_eq!(choose(&[1, 2, 3], &[alive("a"), alive("a"), dead(60_000), behind]), ids(&[1, 2, 3]));
    }

    #[test]
    fn a_removed_voter_is_replaced_at_once() {
        let mut members = farm(&[alive("a"), alive("a"), alive("a"), alive("a")]);
        members.remove(&NodeId(2));
        assert_eq!(choose_voters(&ids(&[1, 2, 3]), &members, VoterPolicy::default()), ids(&[1, 3, 4]));
    }

    #[test]
    fn a_worker_never_votes() {
        let worker = Candidate { may_vote: false, ..alive("b") };
        assert_eq!(choose(&[1], &[alive("a"), worker.clone(), worker.clone(), alive("a")]), ids(&[1]));
        assert_eq!(choose(&[1], &[alive("a"), worker, alive("a"), alive("a")]), ids(&[1, 3, 4]));
    }

    fn candidates() -> impl Strategy<Value = Candidate> {
        let zone = prop::sample::select(vec!["a", "b", "c"]);
        (zone, prop::bool::weighted(0.9), any::<bool>(), 0u64..60_000, any::<bool>()).prop_map(
            |(zone, may_vote, alive, for_ms, caught_up)| Candidate {
                zone: zone.to_owned(),
                may_vote,
                alive,
                for_ms,
                caught_up,
            },
        )
    }

    proptest! {
        #[test]
        fn whatever_happens_the_set_is_odd_electable_and_alive_in_its_majority(
            farms in prop::collection::vec(prop::collection::vec(candidates(), 1..12), 1..8),
        ) {
            let mut voters = ids(&[1]);
            for members in farms {
                let members = farm(&members);
                let next = choose_voters(&voters, &members, VoterPolicy::default());
                if next != voters {
                    prop_assert!(has_live_majority(&next, &members));
                    prop_assert!(next.len() == voters.len() || next.len() == voters.len() + 2);
                    prop_assert!(voters.difference(&next).count() <= 1, "at most one is replaced at a time");
                    for newcomer in next.difference(&voters) {
                        let newcomer = &members[newcomer];
                        prop_assert!(newcomer.may_vote && newcomer.alive && newcomer.caught_up);
                    }
                }
                prop_assert!([1, 3, 5].contains(&next.len()));
                voters = next;
            }
        }

        #[test]
        fn choosing_reaches_a_fixed_point(members in prop::collection::vec(candidates(), 1..12)) {
            let members = farm(&members);
            let mut voters = ids(&[1]);
            // Each step grows the set or replaces somebody who is lost: there are not many.
            for _ in 0..10 {
                voters = choose_voters(&voters, &members, VoterPolicy::default());
            }
            prop_assert_eq!(&choose_voters(&voters, &members, VoterPolicy::default()), &voters);
        }
    }
}
