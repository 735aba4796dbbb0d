//! The groups that have a replica on this node.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use node_consensus::{Group, GroupView};
use proto::ids::GroupId;
use tokio::sync::watch;

use super::machine::SessionMachine;

pub(super) type SessionGroup = Group<SessionMachine>;

/// Opened groups; a replica that was opened stays until the agent ends. Clones share them.
#[derive(Clone)]
pub(super) struct Hosted {
    groups: Arc<RwLock<BTreeMap<GroupId, SessionGroup>>>,
    changes: watch::Sender<u64>,
}

impl Hosted {
    pub(super) fn new() -> Self {
        Self { groups: Arc::default(), changes: watch::Sender::new(0) }
    }

    pub(super) fn get(&self, group: GroupId) -> Option<SessionGroup> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    pub(super) fn all(&self) -> Vec<SessionGroup> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The groups that this node leads, as far as it knows.
    pub(super) fn led(&self) -> Vec<(SessionGroup, GroupView)> {
        let views = self.all().into_iter().map(|group| {
            let view = group.watch().borrow().clone();
            (group, view)
        });
        views.filter(|(_, view)| view.is_leader).collect()
    }

    pub(super) fn add(&self, group: SessionGroup) {
        self.groups.write().unwrap_or_else(PoisonError::into_inner).insert(group.id(), group);
        self.tell();
    }

    /// Says that some group has another leader or other members.
    pub(super) fn tell(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes when a group is opened, or has another leader or other members.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
