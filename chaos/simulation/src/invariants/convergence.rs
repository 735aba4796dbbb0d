//! When the faults are over everybody knows everybody, what each says of itself, and serves nothing stale.

use node_core::membership::MemberStatus;

use super::{Invariant, World};
use crate::caches::KEYS;
use crate::node::{Life, is_live};

pub struct EverybodyKnowsEverything;

impl Invariant for EverybodyKnowsEverything {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn rest(&mut self, world: &World<'_>) -> Option<String> {
        unrest(world)
    }
}

/// The first thing found that is not as it should be at rest.
pub fn unrest(world: &World<'_>) -> Option<String> {
    world.lives.iter().flatten().find_map(|life| {
        let strange = stranger(life, world);
        strange.or_else(|| {
            let others = world.nodes.iter().enumerate().filter(|(_, node)| **node != life.node);
            others.map(|(host, _)| host).find_map(|host| difference(life, host, world))
        })
    })
}

/// One that it takes for alive and that is nowhere; and what it serves.
fn stranger(life: &Life, world: &World<'_>) -> Option<String> {
    let nowhere =
        life.members.values().find(|member| is_live(member.state) && !world.nodes.contains(&member.node));
    if let Some(member) = nowhere {
        return Some(format!("node {} sees node {}, which is gone for good", life.node, member.node));
    }
    let stale = (0..KEYS).find(|key| life.cache.is_older(*key, world.store.version(*key)))?;
    Some(format!("node {} serves an old version of value {stale}", life.node))
}

/// What one node has wrong about the node of a host.
fn difference(life: &Life, host: usize, world: &World<'_>) -> Option<String> {
    let (me, node) = (life.node, world.nodes[host]);
    let member = life.members.get(&node);
    let Some(other) = &world.lives[host] else {
        let lives = member.is_some_and(|member| is_live(member.state));
        return lives.then(|| format!("node {me} takes node {node} for alive, which is dead"));
    };
    let Some(member) = member else { return Some(format!("node {me} does not know node {node}")) };
    if member.state != MemberStatus::Alive || member.generation != other.generation {
        return Some(format!(
            "node {me} sees node {node} in generation {} {:?}; it lives in {}",
            member.generation, member.state, other.generation
        ));
    }
    let own = (other.own.generation, other.own.sequence);
    let known = life.states.get(node).map(|state| (state.generation, state.sequence));
    if known != Some(own) {
        return Some(format!("node {me} has {known:?} of node {node}, which says {own:?}"));
    }
    let position = life.streams.vector().into_iter().find(|position| position.node == node);
    let applied = position.filter(|position| position.generation == other.generation);
    let applied = applied.map_or(0, |position| position.sequence);
    let highest = other.streams.own_sequence();
    (applied != highest).then(|| {
        format!("node {me} has applied {applied} invalidations of node {node}, which has told {highest}")
    })
}
