//! Opens the groups that belong on this node, and forms those that nobody has formed yet.
//!
//! A replica is opened where the controller has placed one, and wherever one has ever been: a node
//! that is to be replaced still votes until its group has changed its members, also after a restart.
//! Which groups these are is noted durably before a group is opened for the first time.
//!
//! A group must be formed by exactly one node, once: two that formed it apart would acknowledge
//! writes apart. Being first in a placement that changes does not make a node that one. The cluster's
//! first node is that one by its id alone: the id is never given again, and it goes with its disk. So it
//! forms every group that its disk knows nothing of, whoever is to hold it in the end, and as the
//! group's leader hands it on to those.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use node_consensus::{Groups, OpenError, ReconfigureError, Settings};
use node_core::control::ControlState;
use node_storage::{Database, Facts, SnapshotFiles, StorageError};
use proto::ids::{GroupId, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::hosted::{Hosted, SessionGroup};
use super::machine::{SessionMachine, Used};
use crate::tasks::Tasks;

/// The node that was initialised.
const FIRST: NodeId = NodeId(1);
/// The fact that lists the groups, two bytes each.
const FACT: &str = "session-groups";

/// Why a replica can not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error("can not open a session group: {0}")]
    Open(#[from] OpenError),
    #[error("can not form group {group}: {source}")]
    Form { group: GroupId, source: ReconfigureError },
    #[error("can not note which session groups are here: {0}")]
    Note(#[from] StorageError),
    #[error("the note of which session groups are here is damaged")]
    Damaged,
}

pub(super) struct Keeper {
    pub(super) me: NodeId,
    pub(super) groups: Groups,
    pub(super) database: Arc<Database>,
    pub(super) snapshots: PathBuf,
    pub(super) hosted: Hosted,
    pub(super) used: Used,
    pub(super) tasks: Tasks,
}

impl Keeper {
    /// Opens what this disk holds, before anything is asked of this node.
    pub(super) async fn start(&self) -> Result<(), KeepError> {
        for group in self.noted()? {
            self.open(group).await?;
        }
        Ok(())
    }

    /// Follows the placement until the agent ends.
    pub(super) async fn run(self, mut control: watch::Receiver<Arc<ControlState>>, stop: CancellationToken) {
        loop {
            let state = Arc::clone(&control.borrow_and_update());
            if let Err(error) = self.keep(&state).await {
                // Like a damaged control log: a replica that forgot what it acknowledged must not go on.
                self.tasks.fail(error.to_string());
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = control.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn keep(&self, state: &ControlState) -> Result<(), KeepError> {
        let wanted = belonging(state, self.me);
        let new: BTreeSet<GroupId> =
            wanted.iter().copied().filter(|group| self.hosted.get(*group).is_none()).collect();
        if !new.is_empty() {
            self.note(&new).await?;
        }
        for group in new {
            self.open(group).await?;
        }
        if self.me == FIRST {
            for group in wanted.iter().filter_map(|group| self.hosted.get(*group)) {
                self.form(&group).await?;
            }
        }
        Ok(())
    }

    async fn form(&self, group: &SessionGroup) -> Result<(), KeepError> {
        if group.is_pristine() {
            tracing::info!(group = %group.id(), "forming a session group");
            let formed = group.initialize([self.me].into()).await;
            formed.map_err(|source| KeepError::Form { group: group.id(), source })?;
        }
        Ok(())
    }

    async fn open(&self, id: GroupId) -> Result<(), KeepError> {
        let snapshots = Arc::new(SnapshotFiles::new(self.snapshots.clone()));
        let machine = SessionMachine::new(self.used.clone());
        let database = Arc::clone(&self.database);
        let group = self.groups.open(id, database, snapshots, Settings::default(), machine).await?;
        let tracker = self.tasks.tracker();
        tracker.spawn(tell_of_leadership(group.clone(), self.hosted.clone(), self.tasks.stop()));
        self.hosted.add(group);
        Ok(())
    }

    fn noted(&self) -> Result<BTreeSet<GroupId>, KeepError> {
        let note = Facts::new(Arc::clone(&self.database)).get(FACT)?.unwrap_or_default();
        let (ids, rest) = note.as_chunks::<2>();
        if rest.is_empty() {
            Ok(ids.iter().map(|id| GroupId(u16::from_be_bytes(*id))).collect())
        } else {
            Err(KeepError::Damaged)
        }
    }

    async fn note(&self, new: &BTreeSet<GroupId>) -> Result<(), KeepError> {
        let all = self.noted()?.into_iter().chain(new.iter().copied()).collect::<BTreeSet<_>>();
        let note: Vec<u8> = all.iter().flat_map(|group| group.0.to_be_bytes()).collect();
        let facts = Facts::new(Arc::clone(&self.database));
        // It waits for the disk, which a thread of the runtime must not.
        let noted = tokio::task::spawn_blocking(move || facts.put(FACT, &note)).await;
        noted.map_err(|error| StorageError::Stopped(error.to_string()))??;
        Ok(())
    }
}

/// The groups that a node should have open: those placed on it and, on the first node, all of them
/// until they are formed.
fn belonging(state: &ControlState, me: NodeId) -> BTreeSet<GroupId> {
    let here = state.placement.iter().filter(|(_, nodes)| me == FIRST || nodes.contains(&me));
    here.map(|(group, _)| *group).collect()
}

/// Tells of changes that matter to others; what a view says besides changes with every entry.
async fn tell_of_leadership(group: SessionGroup, hosted: Hosted, stop: CancellationToken) {
    let mut views = group.watch();
    let mut known = None;
    loop {
        let now = {
            let view = views.borrow_and_update();
            let members = (view.voters.clone(), view.becoming.clone(), view.learners.clone());
            (view.leader, view.is_leader, view.term, members)
        };
        if known.as_ref() != Some(&now) {
            known = Some(now);
            hosted.tell();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_opens_what_is_placed_on_it_and_the_first_node_all_that_are_placed() {
        let mut state = ControlState::default();
        state.placement.insert(GroupId(1), vec![NodeId(5), NodeId(6)]);
        state.placement.insert(GroupId(2), vec![NodeId(6), NodeId(7)]);
        assert_eq!(belonging(&state, NodeId(5)), [GroupId(1)].into());
        assert_eq!(belonging(&state, NodeId(6)), [GroupId(1), GroupId(2)].into());
        assert_eq!(belonging(&state, FIRST), [GroupId(1), GroupId(2)].into());
        assert!(belonging(&ControlState::default(), FIRST).is_empty());
    }
}
