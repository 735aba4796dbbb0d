//! From the replicas that a group has to those that it should have, one safe change at a time.

use std::collections::BTreeSet;

use proto::ids::NodeId;

/// The voters that a group's leader should change to now; `None` when there is nothing to do, or
/// nothing that would help.
///
/// `placed` is the controller's decision. A replica that is not alive can not catch up, and a change
/// that waits for it would hold the others up. So while one is missing, those that are there are added
/// as far as that makes the group no larger than it should be, and nobody is taken away: a replica that
/// is on its way out still counts for a majority.
///
/// `becoming` is where a change that was left half done leads to. It is gone on from, and finished even if
/// nothing else is to do: until then the old voters are needed as well as the new ones.
pub fn next_voters(
    placed: &BTreeSet<NodeId>,
    voters: &BTreeSet<NodeId>,
    becoming: Option<&BTreeSet<NodeId>>,
    learners: &BTreeSet<NodeId>,
    alive: &BTreeSet<NodeId>,
) -> Option<BTreeSet<NodeId>> {
    step(placed, becoming.unwrap_or(voters), learners, alive).or_else(|| becoming.cloned())
}

fn step(
    placed: &BTreeSet<NodeId>,
    voters: &BTreeSet<NodeId>,
    learners: &BTreeSet<NodeId>,
    alive: &BTreeSet<NodeId>,
) -> Option<BTreeSet<NodeId>> {
    if placed.is_empty() || (placed == voters && learners.is_empty()) {
        return None;
    }
    let (there, missing): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        placed.difference(voters).partition(|node| alive.contains(node));
    if missing.is_empty() {
        return Some(placed.clone());
    }
    let room = placed.len().saturating_sub(voters.len());
    let grown: BTreeSet<NodeId> = voters.iter().chain(there.iter().take(room)).copied().collect();
    (grown != *voters).then_some(grown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn next(placed: &[u64], voters: &[u64], alive: &[u64]) -> Option<BTreeSet<NodeId>> {
        next_voters(&nodes(placed), &nodes(voters), None, &nodes(&[]), &nodes(alive))
    }

    #[test]
    fn a_group_grows_in_one_change_when_all_are_there() {
        assert_eq!(next(&[1, 5, 6], &[1], &[1, 5, 6]), Some(nodes(&[1, 5, 6])));
    }

    #[test]
    fn a_group_that_is_as_it_should_be_is_left_alone() {
        assert_eq!(next(&[1, 5, 6], &[1, 5, 6], &[1]), None);
        assert_eq!(next(&[], &[1, 5, 6], &[1, 5, 6]), None, "nobody has decided anything");
    }

    #[test]
    fn a_learner_that_was_left_over_is_taken_away() {
        let placed = nodes(&[1, 2, 3]);
        assert_eq!(next_voters(&placed, &placed, None, &nodes(&[4]), &placed), Some(placed.clone()));
    }

    #[test]
    fn a_change_that_was_left_half_done_is_finished_and_gone_on_from() {
        let half = |placed: &[u64], both: &[u64], becoming: &[u64], alive: &[u64]| {
            let (none, becoming) = (nodes(&[]), nodes(becoming));
            next_voters(&nodes(placed), &nodes(both), Some(&becoming), &none, &nodes(alive))
        };
        assert_eq!(half(&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], &[1]), Some(nodes(&[1, 2, 3])));
        // The one that is placed now is dead; of the old and the new voters it is gone on with the new.
        assert_eq!(half(&[1, 2, 5], &[1, 2, 3, 4], &[1, 2, 4], &[1, 2]), Some(nodes(&[1, 2, 4])));
        assert_eq!(half(&[1, 2, 5], &[1, 2, 3, 4], &[1, 2, 4], &[1, 2, 5]), Some(nodes(&[1, 2, 5])));
    }

    #[test]
    fn a_group_grows_by_whom_there_is_and_shrinks_by_nobody_meanwhile() {
        assert_eq!(next(&[1, 5, 6], &[1], &[1, 5]), Some(nodes(&[1, 5])));
        assert_eq!(next(&[1, 2, 4], &[1, 2, 3], &[1, 2, 3]), None);
        assert_eq!(next(&[1, 4, 5], &[1, 2, 3], &[1, 2, 3, 4]), None);
    }

    #[test]
    fn a_dead_replica_is_replaced_by_one_that_is_there() {
        assert_eq!(next(&[1, 2, 4], &[1, 2, 3], &[1, 2, 4]), Some(nodes(&[1, 2, 4])));
    }

    fn any_nodes() -> impl Strategy<Value = BTreeSet<NodeId>> {
        prop::collection::btree_set((1u64..8).prop_map(NodeId), 0..5)
    }

    proptest! {
        #[test]
        fn only_live_nodes_are_added_and_none_is_removed_for_nothing(
            placed in any_nodes(), voters in any_nodes(), alive in any_nodes(),
        ) {
            if let Some(next) = next_voters(&placed, &voters, None, &BTreeSet::new(), &alive) {
                prop_assert!(next.difference(&voters).all(|node| alive.contains(node) && placed.contains(node)));
                prop_assert!(next == placed || next.is_superset(&voters));
                prop_assert!(next != voters);
                // The same farm, asked again, comes to an end.
                let after = next_voters(&placed, &next, None, &BTreeSet::new(), &alive);
                prop_assert!(after.is_none());
            }
        }
    }
}
