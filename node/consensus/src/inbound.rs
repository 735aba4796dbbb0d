//! What peers send to a node's groups, and what they are answered.
//!
//! The sender is who its certificate says, but it may be compromised or mad. So what it sends is
//! checked for what would make raft panic, allocate without bound, or believe that somebody else
//! has spoken.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest};
use proto::ids::{GroupId, NodeId};

use crate::clock::CLOCK_MS_MAX;
use crate::elections::Question;
use crate::groups::{HandleError, Shared};
use crate::heartbeats;
use crate::replica::Replica;
use crate::types::{Entry, LogId, Types, Vote};
use crate::wire::{
    self, AppendAnswer, Heartbeat, HeartbeatsAnswer, PreVoteAnswer, PreVoteRequest, Request, SnapshotAnswer,
};

/// A snapshot is one group's state, which is in memory.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
/// Terms and indexes grow one by one. What is above was not reached that way, and would overflow.
const COUNT_MAX: u64 = 1 << 60;

/// Who has sent something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    pub node: NodeId,
    /// The group that it may not vote in or lead. It may ask for its time.
    pub outside: Option<GroupId>,
}

/// # Errors
/// See [`HandleError`].
pub(crate) async fn handle(
    shared: &Arc<Shared>,
    sender: Sender,
    group: GroupId,
    payload: &[u8],
) -> Result<Bytes, HandleError> {
    let from = sender.node;
    let request = wire::decode_request(shared.me, payload)
        .map_err(|error| HandleError::Malformed(error.to_string()))?;
    if sender.outside == Some(group) && !only_asks(&request) {
        return Err(HandleError::Outsider { node: from, group });
    }
    let replica = || shared.replica(group).ok_or(HandleError::UnknownGroup(group));
    let encoded = match request {
        Request::Heartbeats(heartbeats) => wire::encode(&all_heartbeats(shared, sender, heartbeats).await?),
        Request::Append(rpc) => wire::encode(&append(&*replica()?, from, rpc).await?),
        Request::Vote(rpc) => {
            let replica = replica()?;
            check_vote(from, &rpc)?;
            wire::encode(&replica.raft.vote(rpc).await)
        }
        Request::Snapshot(rpc) => wire::encode(&snapshot(&*replica()?, from, rpc).await?),
        Request::Time => wire::encode(&replica()?.clock.told(shared.clock.now_ms())),
        Request::PreVote(request) => {
            replica()?;
            check_ids(request.last_log.iter())?;
            wire::encode(&pre_vote(shared, group, from, request).await?)
        }
    };
    encoded.map_err(|error| HandleError::Malformed(error.to_string()))
}

/// Whether it changes nothing here. An outsider may follow the group, and has to know its time.
fn only_asks(request: &Request) -> bool {
    match request {
        Request::Time => true,
        Request::Append(_)
        | Request::Vote(_)
        | Request::Snapshot(_)
        | Request::PreVote(_)
        | Request::Heartbeats(_) => false,
    }
}

async fn all_heartbeats(
    shared: &Shared,
    sender: Sender,
    heartbeats: Vec<Heartbeat>,
) -> Result<HeartbeatsAnswer, HandleError> {
    if heartbeats.len() > heartbeats::SHARED_MAX {
        return Err(malformed("too many heartbeats"));
    }
    let answers = heartbeats.into_iter().map(async |heartbeat| {
        let group = GroupId(heartbeat.group);
        let replica = shared.replica(group).filter(|_| sender.outside != Some(group))?;
        let answer = append(&replica, sender.node, heartbeat.rpc);
        tokio::time::timeout(heartbeats::ANSWER_MAX, answer).await.ok()?.ok()
    });
    Ok(join_all(answers).await)
}

async fn append(
    replica: &Replica,
    from: NodeId,
    rpc: AppendEntriesRequest<Types>,
) -> Result<AppendAnswer, HandleError> {
    check_sender(from, &rpc.vote)?;
    check_ids(rpc.prev_log_id.iter().chain(&rpc.leader_commit).chain(rpc.entries.iter().map(|e| &e.log_id)))?;
    let first = rpc.prev_log_id.map_or(0, |previous| previous.index + 1);
    if !(first..).zip(&rpc.entries).all(|(index, entry)| entry.log_id.index == index) {
        return Err(malformed("entries that do not follow one another"));
    }
    if !rpc.entries.iter().all(is_of_this_age) {
        return Err(malformed("a time that can not be"));
    }
    let answer = replica.raft.append_entries(rpc).await;
    match &answer {
        Ok(
            AppendEntriesResponse::Success
            | AppendEntriesResponse::PartialSuccess(_)
            | AppendEntriesResponse::Conflict,
        ) => replica.leader_heard(),
        Ok(AppendEntriesResponse::HigherVote(_)) | Err(_) => {}
    }
    Ok(answer)
}

async fn snapshot(
    replica: &Replica,
    from: NodeId,
    rpc: InstallSnapshotRequest<Types>,
) -> Result<SnapshotAnswer, HandleError> {
    check_sender(from, &rpc.vote)?;
    check_ids(rpc.meta.last_log_id.iter())?;
    let end = rpc.offset.saturating_add(rpc.data.len() as u64);
    // openraft would fill a gap with zeros, however wide it is.
    if end > SNAPSHOT_BYTES_MAX || !replica.continues_snapshot(&rpc.meta.snapshot_id, rpc.offset, end) {
        return Err(malformed("a part of a snapshot that does not follow the one before"));
    }
    let answer = replica.raft.install_snapshot(rpc).await;
    if answer.is_ok() {
        replica.leader_heard();
    }
    Ok(answer)
}

/// Asks the election driver, which is another task's.
async fn pre_vote(
    shared: &Shared,
    group: GroupId,
    from: NodeId,
    request: PreVoteRequest,
) -> Result<PreVoteAnswer, HandleError> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    let question = Question { group, from, last_log: request.last_log, reply };
    shared.questions.send(question).await.map_err(|_| HandleError::Stopped)?;
    let consents = answer.await.map_err(|_| HandleError::Stopped)?;
    Ok(PreVoteAnswer { consents })
}

fn check_vote(from: NodeId, rpc: &VoteRequest<u64>) -> Result<(), HandleError> {
    check_sender(from, &rpc.vote)?;
    check_ids(rpc.last_log_id.iter())
}

/// Only the sender itself may vote or lead by its message: a member must not move another leader
/// aside by writing in its name.
fn check_sender(from: NodeId, vote: &Vote) -> Result<(), HandleError> {
    if vote.leader_id.node_id != from.0 {
        return Err(HandleError::Malformed(format!("node {from} speaks in another's name")));
    }
    if vote.leader_id.term > COUNT_MAX {
        return Err(malformed("a term that can not be"));
    }
    Ok(())
}

fn check_ids<'a>(mut ids: impl Iterator<Item = &'a LogId>) -> Result<(), HandleError> {
    let possible = ids.all(|id| id.index <= COUNT_MAX && id.leader_id.term <= COUNT_MAX);
    if possible { Ok(()) } else { Err(malformed("a log position that can not be")) }
}

/// Whoever applies an entry computes deadlines from its time.
fn is_of_this_age(entry: &Entry) -> bool {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.clock_ms <= CLOCK_MS_MAX,
        EntryPayload::Blank | EntryPayload::Membership(_) => true,
    }
}

fn malformed(reason: &str) -> HandleError {
    HandleError::Malformed(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::types::Proposal;

    #[test]
    fn an_entry_of_a_time_that_can_not_be_is_not_taken() {
        let entry = |clock_ms| Entry {
            log_id: LogId::new(CommittedLeaderId::new(1, 1), 1),
            payload: EntryPayload::Normal(Proposal { clock_ms, ..Proposal::default() }),
        };
        assert!(is_of_this_age(&entry(CLOCK_MS_MAX)));
        assert!(!is_of_this_age(&entry(CLOCK_MS_MAX + 1)) && !is_of_this_age(&entry(u64::MAX)));
    }
}
