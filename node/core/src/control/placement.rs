//! Who holds which session group: a pure function of the nodes and of what is held already.
//!
//! In this order of weight: three replicas (or as many as there are nodes), in as many zones as can be,
//! with as few replicas moved as that needs, and then the same number on every node. What is placed
//! well stays where it is, so placing twice changes nothing the second time. Consistent hashing was
//! the alternative; it spreads 16 groups badly, and it knows nothing of zones.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{GroupId, NodeId};

/// A node that may hold replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub zone: String,
    /// Whether it may be given more than it holds. A node that has just died keeps what it has and
    /// gets nothing.
    pub accepts: bool,
}

/// Places the groups `1..=groups` on `nodes`, starting from `current`.
///
/// A group has `replicas` members where there are so many nodes. A group that nobody can hold is
/// absent from the answer.
pub fn place(
    groups: u16,
    replicas: usize,
    nodes: &BTreeMap<NodeId, Holder>,
    current: &BTreeMap<GroupId, Vec<NodeId>>,
) -> BTreeMap<GroupId, Vec<NodeId>> {
    let mut board = Board::new(groups, nodes, current);
    let wanted = replicas.min(nodes.len());
    for group in (1..=groups).map(GroupId) {
        board.trim(group, wanted);
        board.fill(group, wanted);
        board.spread(group);
    }
    board.even_out();
    board.groups.retain(|_, members| !members.is_empty());
    board.groups
}

struct Board<'a> {
    nodes: &'a BTreeMap<NodeId, Holder>,
    groups: BTreeMap<GroupId, Vec<NodeId>>,
    load: BTreeMap<NodeId, usize>,
}

impl<'a> Board<'a> {
    fn new(
        groups: u16,
        nodes: &'a BTreeMap<NodeId, Holder>,
        current: &BTreeMap<GroupId, Vec<NodeId>>,
    ) -> Self {
        let mut board = Self {
            nodes,
            groups: (1..=groups).map(|group| (GroupId(group), Vec::new())).collect(),
            load: nodes.keys().map(|node| (*node, 0)).collect(),
        };
        for (group, members) in current {
            for member in members.iter().filter(|member| nodes.contains_key(*member)) {
                if board.groups.get(group).is_some_and(|held| !held.contains(member)) {
                    board.add(*group, *member);
                }
            }
        }
        board
    }

    fn add(&mut self, group: GroupId, node: NodeId) {
        self.groups.entry(group).or_default().push(node);
        *self.load.entry(node).or_default() += 1;
    }

    fn replace(&mut self, group: GroupId, old: NodeId, new: NodeId) {
        for member in self.groups.entry(group).or_default() {
            if *member == old {
                *member = new;
            }
        }
        *self.load.entry(old).or_default() -= 1;
        *self.load.entry(new).or_default() += 1;
    }

    fn members(&self, group: GroupId) -> &[NodeId] {
        self.groups.get(&group).map_or(&[], Vec::as_slice)
    }

    fn load_of(&self, node: NodeId) -> usize {
        self.load.get(&node).copied().unwrap_or_default()
    }

    fn zone(&self, node: NodeId) -> &'a str {
        self.nodes.get(&node).map_or("", |holder| holder.zone.as_str())
    }

    /// How many of a group's members are in a zone.
    fn in_zone(&self, group: GroupId, zone: &str) -> usize {
        self.members(group).iter().filter(|member| self.zone(**member) == zone).count()
    }

    /// Drops what a group has too many of: first where a zone holds two, then from the busiest node.
    fn trim(&mut self, group: GroupId, wanted: usize) {
        while self.members(group).len() > wanted {
            let key = |node: &NodeId| (self.in_zone(group, self.zone(*node)), self.load_of(*node), *node);
            let Some(surplus) = self.members(group).iter().copied().max_by_key(key) else { return };
            self.groups.entry(group).or_default().retain(|member| *member != surplus);
            *self.load.entry(surplus).or_default() -= 1;
        }
    }

    /// Adds what a group has too few of: first where it has no zone yet, then on the idlest node.
    fn fill(&mut self, group: GroupId, wanted: usize) {
        let is_new = self.members(group).is_empty();
        while self.members(group).len() < wanted {
            let candidates = self
                .nodes
                .iter()
                .filter(|(node, holder)| holder.accepts && !self.members(group).contains(*node));
            let key = |(node, holder): &(&NodeId, &Holder)| {
                (self.in_zone(group, &holder.zone), self.load_of(**node), lot(group, **node), **node)
            };
            let Some((node, _)) = candidates.min_by_key(key) else { break };
            self.add(group, *node);
        }
        if is_new {
            self.take_turns(group);
        }
    }

    /// The first member forms a new group and leads it first: let it be one that does so least.
    fn take_turns(&mut self, group: GroupId) {
        let firsts = |node: &NodeId| self.groups.values().filter(|held| held.first() == Some(node)).count();
        let members = self.members(group).iter().enumerate().skip(1);
        let current = self.members(group).first().map_or(0, |node| firsts(node).saturating_sub(1));
        let better = members.map(|(at, node)| (firsts(node), at)).min().filter(|(count, _)| *count < current);
        if let (Some((_, at)), Some(members)) = (better, self.groups.get_mut(&group)) {
            members.swap(0, at);
        }
    }

    /// Moves a group's members out of a zone that holds two of them, while there is a zone with none.
    fn spread(&mut self, group: GroupId) {
        loop {
            let crowded = self.members(group).iter().copied();
            let crowded = crowded.filter(|node| self.in_zone(group, self.zone(*node)) > 1);
            let Some(old) = crowded.max_by_key(|node| (self.load_of(*node), *node)) else { return };
            let free = self.nodes.iter().filter(|(_, to)| to.accepts && self.in_zone(group, &to.zone) == 0);
            let Some((new, _)) = free.min_by_key(|(node, _)| (self.load_of(**node), **node)) else { return };
            let new = *new;
            self.replace(group, old, new);
        }
    }

    /// Moves replicas from busy nodes to idle ones while a move brings two nodes nearer together. Every
    /// move lowers the sum of the squared loads, so this ends.
    fn even_out(&mut self) {
        while let Some((group, busy, idle)) = self.best_move() {
            self.replace(group, busy, idle);
        }
    }

    fn best_move(&self) -> Option<(GroupId, NodeId, NodeId)> {
        let mut by_load: Vec<(usize, NodeId)> = self.load.iter().map(|(node, load)| (*load, *node)).collect();
        by_load.sort_unstable();
        for (high, busy) in by_load.iter().rev() {
            for (_, idle) in by_load.iter().take_while(|(low, _)| low + 2 <= *high) {
                let accepts = self.nodes.get(idle).is_some_and(|holder| holder.accepts);
                let group = self.groups.keys().find(|group| accepts && self.may_move(**group, *busy, *idle));
                if let Some(group) = group {
                    return Some((*group, *busy, *idle));
                }
            }
        }
        None
    }

    /// Whether a group could swap one member for another without losing a zone.
    fn may_move(&self, group: GroupId, old: NodeId, new: NodeId) -> bool {
        let members = self.members(group);
        if !members.contains(&old) || members.contains(&new) {
            return false;
        }
        let zones = |members: &mut dyn Iterator<Item = NodeId>| -> usize {
            members.map(|node| self.zone(node)).collect::<BTreeSet<_>>().len()
        };
        let before = zones(&mut members.iter().copied());
        let after = zones(&mut members.iter().map(|member| if *member == old { new } else { *member }));
        after >= before
    }
}

/// Decides between equals, differently for each group: else the same few nodes would hold the same
/// groups together, and the death of one would fall on its companions alone. (SplitMix64's last steps.)
fn lot(group: GroupId, node: NodeId) -> u64 {
    let mut mixed = node.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(group.0).rotate_right(16);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Placement = BTreeMap<GroupId, Vec<NodeId>>;

    fn nodes(zones: &[(u64, &str)]) -> BTreeMap<NodeId, Holder> {
        let holder = |zone: &str| Holder { zone: zone.to_owned(), accepts: true };
        zones.iter().map(|(id, zone)| (NodeId(*id), holder(zone))).collect()
    }

    fn loads(nodes: &BTreeMap<NodeId, Holder>, placement: &Placement) -> BTreeMap<NodeId, usize> {
        let count = |node: &NodeId| placement.values().filter(|members| members.contains(node)).count();
        nodes.keys().map(|node| (*node, count(node))).collect()
    }

    /// Replicas that are in `after` and were not in `before`.
    fn moved(before: &Placement, after: &Placement) -> usize {
        let old = |group: &GroupId| before.get(group).cloned().unwrap_or_default();
        let new = |(group, members): (&GroupId, &Vec<NodeId>)| {
            members.iter().filter(|member| !old(group).contains(member)).count()
        };
        after.iter().map(new).sum()
    }

    #[test]
    fn three_nodes_hold_everything_and_take_turns_at_forming_the_groups() {
        let nodes = nodes(&[(1, "a"), (2, "a"), (3, "a")]);
        let placement = place(15, 3, &nodes, &BTreeMap::new());
        assert!(placement.values().all(|members| members.len() == 3));
        for node in nodes.keys() {
            assert_eq!(placement.values().filter(|members| members[0] == *node).count(), 5);
        }
    }

    #[test]
    fn a_farm_that_grows_from_one_node_gets_its_replicas_without_losing_one() {
        let one = place(16, 3, &nodes(&[(1, "a")]), &BTreeMap::new());
        let three = place(16, 3, &nodes(&[(1, "a"), (5, "a"), (6, "a")]), &one);
        assert!(one.iter().all(|(group, members)| three[group].contains(&members[0])));
        assert!(three.values().all(|members| members.len() == 3));
    }

    #[test]
    fn a_dead_node_keeps_what_it_has_and_gets_nothing() {
        let mut farm = nodes(&[(1, "a"), (2, "a"), (3, "a"), (4, "a")]);
        let before = place(16, 3, &farm, &BTreeMap::new());
        farm.get_mut(&NodeId(4)).unwrap().accepts = false;
        assert_eq!(place(16, 3, &farm, &before), before);
        farm.remove(&NodeId(3));
        let after = place(16, 3, &farm, &before);
        let held = |placement: &Placement| loads(&farm, placement)[&NodeId(4)];
        assert_eq!(held(&after), held(&before));
    }

    fn farms() -> impl Strategy<Value = BTreeMap<NodeId, Holder>> {
        let node = (prop::sample::select(vec!["a", "b", "c", "d"]), prop::bool::weighted(0.9));
        let node = node.prop_map(|(zone, accepts)| Holder { zone: zone.to_owned(), accepts });
        prop::collection::btree_map((1u64..40).prop_map(NodeId), node, 0..12)
    }

    fn zones_of<'a>(farm: &'a BTreeMap<NodeId, Holder>, members: &[NodeId]) -> BTreeSet<&'a str> {
        members.iter().filter_map(|node| Some(farm.get(node)?.zone.as_str())).collect()
    }

    proptest! {
        #[test]
        fn replicas_are_distinct_in_distinct_zones_where_possible_and_even_within_a_zone(
            farms in prop::collection::vec(farms(), 1..6), groups in 1u16..40,
        ) {
            let mut placement = Placement::new();
            for mut farm in farms {
                farm.values_mut().for_each(|holder| holder.accepts = true);
                placement = place(groups, 3, &farm, &placement);
                let replicas = farm.len().min(3);
                let all_zones: BTreeSet<&str> = farm.values().map(|holder| holder.zone.as_str()).collect();
                prop_assert_eq!(placement.len(), if farm.is_empty() { 0 } else { usize::from(groups) });
                for members in placement.values() {
                    prop_assert_eq!(members.iter().collect::<BTreeSet<_>>().len(), replicas);
                    prop_assert_eq!(members.len(), replicas);
                    prop_assert_eq!(zones_of(&farm, members).len(), replicas.min(all_zones.len()));
                }
                let loads = loads(&farm, &placement);
                for zone in all_zones {
                    let loads = loads.iter().filter(|(node, _)| farm[node].zone == zone).map(|(_, load)| *load);
                    prop_assert!(loads.clone().max().unwrap() - loads.min().unwrap() <= 1);
                }
            }
        }

        #[test]
        fn placing_again_moves_nothing(farms in prop::collection::vec(farms(), 1..5), groups in 1u16..40) {
            let mut placement = Placement::new();
            for farm in farms {
                placement = place(groups, 3, &farm, &placement);
                prop_assert_eq!(&place(groups, 3, &farm, &placement), &placement);
            }
        }

        #[test]
        fn a_node_that_leaves_moves_what_it_held_and_hardly_more(
            count in 4u64..12, groups in 1u16..65, leaver in 0usize..12,
        ) {
            let mut farm: BTreeMap<NodeId, Holder> =
                (1..=count).map(|id| (NodeId(id), Holder { zone: "a".to_owned(), accepts: true })).collect();
            let before = place(groups, 3, &farm, &BTreeMap::new());
            let leaver = *farm.keys().nth(leaver % farm.len()).unwrap();
            let held = loads(&farm, &before)[&leaver];
            farm.remove(&leaver);
            let after = place(groups, 3, &farm, &before);
            // A replica can not go to a node that holds the group already, which costs a few swaps.
            prop_assert!(moved(&before, &after) <= held + farm.len(), "{} for {held}", moved(&before, &after));
        }

        #[test]
        fn a_node_that_comes_takes_its_share_and_nobody_else_moves(count in 3u64..12, groups in 1u16..65) {
            let farm: BTreeMap<NodeId, Holder> =
                (1..=count).map(|id| (NodeId(id), Holder { zone: "a".to_owned(), accepts: true })).collect();
            let before = place(groups, 3, &farm, &BTreeMap::new());
            let mut grown = farm.clone();
            grown.insert(NodeId(100), Holder { zone: "a".to_owned(), accepts: true });
            let after = place(groups, 3, &grown, &before);
            let share = usize::from(groups) * 3 / grown.len();
            prop_assert_eq!(moved(&before, &after), loads(&grown, &after)[&NodeId(100)]);
            prop_assert!(loads(&grown, &after)[&NodeId(100)] <= share + 1);
        }
    }
}
