//! What an agent knows of the others: what they say of themselves, and whether they still do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_consensus::GroupView;
use node_core::control::{ControlState, Electorate, Inventory, NodeReport};
use proto::ids::NodeId;
use proto::peer::NodeState;
use tokio::time::Instant;

/// Who was not heard for so long is dead: the membership's goal for a host that is gone.
const DEAD_AFTER: Duration = Duration::from_secs(2);

pub struct Members {
    me: NodeId,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    heard: BTreeMap<NodeId, Heard>,
    /// Whom the membership wrongly has for dead.
    suspects: BTreeSet<NodeId>,
}

struct Heard {
    state: NodeState,
    at: Instant,
    alive: bool,
    since: Instant,
}

impl Members {
    pub fn new(me: NodeId) -> Self {
        Self { me, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node tells of itself. What is older than what it has told already is no news.
    pub fn hear(&self, state: NodeState) {
        let now = Instant::now();
        let mut inner = self.inner();
        let node = NodeId(state.node);
        let known = inner.heard.get(&node);
        let is_old = known.is_some_and(|known| {
            (known.state.generation, known.state.sequence) > (state.generation, state.sequence)
        });
        if is_old {
            return;
        }
        let (alive, since) = known.map_or((true, now), |known| (known.alive, known.since));
        inner.heard.insert(node, Heard { state, at: now, alive, since });
    }

    pub fn suspect(&self, suspects: BTreeSet<NodeId>) {
        self.inner().suspects = suspects;
    }

    pub fn is_alive(&self, node: NodeId) -> bool {
        self.look();
        node == self.me || self.inner().heard.get(&node).is_some_and(|heard| heard.alive)
    }

    /// Gives the verdicts of this moment.
    fn look(&self) {
        let now = Instant::now();
        let inner = &mut *self.inner();
        for (node, heard) in &mut inner.heard {
            let alive = now - heard.at < DEAD_AFTER && !inner.suspects.contains(node);
            if alive != heard.alive {
                (heard.alive, heard.since) = (alive, now);
            }
        }
    }

    /// Whether every member was heard of. A controller that plans before takes whom it has not heard of
    /// for absent.
    pub fn is_settled(&self, state: &ControlState) -> bool {
        let inner = self.inner();
        state.members().all(|(node, _)| inner.heard.contains_key(&node))
    }

    /// The farm at this moment; `now_ms` is the group's time.
    pub fn inventory(&self, group: &GroupView, now_ms: u64) -> Inventory {
        self.look();
        let report = |(node, heard): (&NodeId, &Heard)| {
            let for_ms = u64::try_from(heard.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            let alive = *node == self.me || heard.alive;
            let caught_up = *node == self.me || group.caught_up.contains(node);
            (*node, NodeReport::new(alive, now_ms.saturating_sub(for_ms), caught_up, Some(&heard.state)))
        };
        Inventory {
            nodes: self.inner().heard.iter().map(report).collect(),
            electorate: Electorate { voters: group.voters.clone(), learners: group.learners.clone() },
            becoming: group.becoming.clone(),
        }
    }
}
