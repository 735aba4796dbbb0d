//! In mild weather (up to 5 % loss, stalls of up to 900 ms) nobody who lives is declared dead.

use node_core::membership::MemberStatus;
use proto::ids::{Generation, NodeId};

use super::{Invariant, World};
use crate::faults::Weather;
use crate::node::Seen;

pub struct NobodyAliveIsDeclaredDead;

impl Invariant for NobodyAliveIsDeclaredDead {
    fn name(&self) -> &'static str {
        "accusation"
    }

    fn see(&mut self, by: (NodeId, Generation), seen: &Seen, world: &World<'_>) -> Option<String> {
        let Seen::Members(members) = seen else { return None };
        if world.weather != Weather::Mild {
            return None;
        }
        let wrongly = members.iter().find(|member| {
            let life = world.life_of(member.node);
            member.state == MemberStatus::Down
                && life.is_some_and(|life| life.generation == member.generation)
        })?;
        Some(format!("node {} declares node {} dead, which lives", by.0, wrongly.node))
    }
}
