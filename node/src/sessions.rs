//! The session store of this node: replicas of some groups, and a way to the leader of each.
//!
//! ```text
//!   Redis port, gRPC ─▶ execute(ops) ── by slot ──▶ group ──▶ leader here? ─ yes ─▶ leader::Room ─▶ Group
//!                                                      │                              ▲   read index, log
//!                                                      no                             │
//!                                                      ▼                              │
//!                                                    Lanes ── PeerService.Execute ──▶ handle_execute
//!                                                    (batched for each peer, group)   on the leader
//!
//!   keeper: opens and forms groups    reconcile: a led group's voters towards the placement
//!   report: tells who leads           sweep: deletes what has expired
//! ```
//!
//! An operation is tried again for as long as it provably has not been executed and its caller has
//! patience; reads are tried again in any case. What may have been executed is said to be unknown.
//!
//! Architecture Invariant: nothing here waits for the controller. Groups elect their leaders, and a
//! placement that does not change is all that they need.

mod batch;
mod failure;
mod hosted;
mod keeper;
mod lanes;
mod leader;
pub mod logins;
mod machine;
mod reconcile;
pub mod redis;
mod report;
pub mod service;
mod sweep;
mod whereabouts;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use node_consensus::Groups;
use node_core::sessions::{Budget, check, group_of, slot};
use node_storage::Database;
use proto::ids::{GroupId, NodeId};
use proto::log::{Op, Replies, Reply};
use proto::peer::execute_response::Result as Answer;
use proto::peer::{ExecuteRequest, ExecuteResponse, NotLeader};
use tokio::time::Instant;
use tonic::Status;

use crate::config::Config;
use crate::control::Control;
use crate::members::Members;
use crate::mesh::Mesh;
use crate::tasks::Tasks;

use batch::{Load, Way};
use failure::Failure;
use hosted::Hosted;
use keeper::Keeper;
use lanes::Lanes;
use leader::Room;
use machine::Used;
use whereabouts::Whereabouts;

pub use keeper::KeepError;

/// How long an operation is tried while its group has a living majority: several elections.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long where the membership says that it has none. The membership may be wrong for a moment.
const PATIENCE_WITHOUT_MAJORITY: Duration = Duration::from_secs(1);
/// Between two attempts. An election takes some hundred milliseconds.
const PAUSE: Duration = Duration::from_millis(40);

/// What the session store is made from.
pub struct SessionsParts {
    pub groups: Groups,
    pub database: Arc<Database>,
    /// Folder of snapshot files.
    pub snapshots: PathBuf,
    pub mesh: Mesh,
    pub control: Control,
    pub members: Members,
    pub config: Config,
    pub tasks: Tasks,
}

/// A handle to the session store. Clones share it.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    whereabouts: Whereabouts,
    hosted: Hosted,
    room: Room,
    lanes: Lanes,
}

/// How the store is, for INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionsInfo {
    /// Groups of the farm.
    pub groups: u16,
    pub replicas_here: usize,
    pub leaders_here: usize,
    /// Groups that have a leader, as far as this node has heard.
    pub led: usize,
    pub used_bytes: u64,
    pub max_bytes: u64,
}

impl Sessions {
    /// Opens the groups that this disk holds and starts following the placement.
    ///
    /// # Errors
    /// When a group on this disk can not be opened.
    pub async fn start(parts: SessionsParts) -> Result<Self, KeepError> {
        let SessionsParts { groups, database, snapshots, mesh, control, members, config, tasks } = parts;
        let (hosted, used, me) = (Hosted::new(), Used::default(), mesh.me());
        let keeper = Keeper {
            me,
            groups,
            database,
            snapshots,
            hosted: hosted.clone(),
            used: used.clone(),
            tasks: tasks.clone(),
        };
        keeper.start().await?;
        let placement = control.watch();
        let whereabouts = Whereabouts { me, control, members: members.clone(), hosted: hosted.clone() };
        tasks.essential("session replicas", keeper.run(placement, tasks.stop()));
        let reconcile = reconcile::run(hosted.clone(), whereabouts.clone(), tasks.stop());
        tasks.essential("session voters", reconcile);
        tasks.essential("session leaders", report::run(hosted.clone(), members, tasks.stop()));
        tasks.essential("session expiry", sweep::run(hosted.clone(), tasks.stop()));
        let room = Room { budget: Budget { max_bytes: config.sessions.memory_max }, used };
        let lanes = Lanes::new(mesh, tasks);
        Ok(Self { inner: Arc::new(Inner { whereabouts, hosted, room, lanes }) })
    }

    /// Carries operations out, each on its group, and answers each. Those of one group take effect in
    /// the order given.
    pub async fn execute(&self, ops: Vec<Op>) -> Vec<Reply> {
        let groups = self.inner.whereabouts.control.state().groups;
        let mut replies: Vec<Option<Reply>> = vec![None; ops.len()];
        let mut by_group: BTreeMap<GroupId, (Vec<usize>, Vec<Op>)> = BTreeMap::new();
        for (index, op) in ops.into_iter().enumerate() {
            if let Err(error) = check(&op) {
                replies[index] = Some(error.into());
            } else if groups == 0 {
                replies[index] = Some(Failure::NoGroups.reply(false, 0, 0));
            } else {
                let (places, ops) = by_group.entry(group_of(slot(&op.key), groups)).or_default();
                places.push(index);
                ops.push(op);
            }
        }
        let answers = by_group.into_iter().map(|(group, (places, ops))| async move {
            let answers = self.execute_in(group, ops).await;
            places.into_iter().zip(answers).collect::<Vec<_>>()
        });
        for (index, reply) in join_all(answers).await.into_iter().flatten() {
            replies[index] = Some(reply);
        }
        replies.into_iter().map(|reply| reply.unwrap_or(Reply { kind: None })).collect()
    }

    /// Carries out what a peer was asked for, on a group that this node leads.
    ///
    /// # Errors
    /// When the request breaks a bound; then nothing was executed.
    pub async fn handle_execute(
        &self,
        from: NodeId,
        request: ExecuteRequest,
    ) -> Result<ExecuteResponse, Status> {
        let ExecuteRequest { group, ops } = request;
        let group =
            u16::try_from(group).map(GroupId).map_err(|_| Status::invalid_argument("no such group"))?;
        let way = Way::of(&ops);
        if ops.len() > 1 && !Load::of(&ops).fits(way) {
            return Err(Status::invalid_argument("more operations than one message may hold"));
        }
        for op in &ops {
            check(op).map_err(|error| Status::invalid_argument(error.to_string()))?;
        }
        let executed = match self.inner.hosted.get(group) {
            Some(group) => self.inner.room.execute(&group, way, &ops).await,
            None => Err(Failure::NotLeader { leader: None }),
        };
        let answer = match executed {
            Ok(replies) if way == Way::Read => Answer::Replies(Replies { replies: batch::cut(replies) }),
            Ok(replies) => Answer::Replies(Replies { replies }),
            Err(Failure::NotLeader { leader }) => {
                Answer::NotLeader(NotLeader { leader: leader.map_or(0, |leader| leader.0) })
            }
            Err(failure) if failure.may_be_executed() => Answer::Unknown(failure.to_string()),
            Err(failure) => Answer::Refused(failure.to_string()),
        };
        tracing::trace!(%from, %group, ops = ops.len(), "executed for a peer");
        Ok(ExecuteResponse { result: Some(answer) })
    }

    pub fn info(&self) -> SessionsInfo {
        let whereabouts = &self.inner.whereabouts;
        let groups = whereabouts.control.state().groups;
        SessionsInfo {
            groups,
            replicas_here: self.inner.hosted.all().len(),
            leaders_here: self.inner.hosted.led().len(),
            led: (1..=groups).filter(|group| whereabouts.leader(GroupId(*group)).is_some()).count(),
            used_bytes: self.inner.room.used.bytes(),
            max_bytes: self.inner.room.budget.max_bytes,
        }
    }

    /// Whether an app's keyspace exists; the operator's always does.
    fn has_keyspace(&self, keyspace: &str) -> bool {
        keyspace.is_empty() || self.inner.whereabouts.control.state().apps.contains_key(keyspace)
    }

    /// One reply for each operation of one group, chunk by chunk: the next waits for the one before.
    async fn execute_in(&self, group: GroupId, ops: Vec<Op>) -> Vec<Reply> {
        let started = Instant::now();
        let way = Way::of(&ops);
        let mut replies = Vec::with_capacity(ops.len());
        while replies.len() < ops.len() {
            let rest = &ops[replies.len()..];
            let chunk = &rest[..batch::next_len(rest, way)];
            match self.try_until_late(group, way, chunk, started).await {
                Ok(some) => replies.extend(some),
                Err(failure) => {
                    let (live, of) = self.inner.whereabouts.census(group);
                    let wrote = way == Way::Log;
                    replies.extend(chunk.iter().map(|_| failure.reply(wrote, live, of)));
                    // What comes after a chunk that failed would only wait for the same end.
                    let left = ops.len() - replies.len();
                    replies.extend((0..left).map(|_| Failure::Skipped.reply(wrote, live, of)));
                }
            }
        }
        replies
    }

    /// The replies to the first operations at least, or the last failure.
    async fn try_until_late(
        &self,
        group: GroupId,
        way: Way,
        ops: &[Op],
        started: Instant,
    ) -> Result<Vec<Reply>, Failure> {
        let mut hint = None;
        let mut turn = 0;
        loop {
            let asked = hint.take().or_else(|| self.inner.whereabouts.leader(group));
            let asked = asked.or_else(|| self.inner.whereabouts.replica(group, turn));
            turn += 1;
            let failure = match self.attempt(group, asked, way, ops).await {
                Ok(replies) if !replies.is_empty() => return Ok(replies),
                Ok(_) => Failure::Crowded,
                Err(failure) => failure,
            };
            let repeatable = way == Way::Read || !failure.may_be_executed();
            let (live, replicas) = self.inner.whereabouts.census(group);
            let patience = if live * 2 > replicas { PATIENCE } else { PATIENCE_WITHOUT_MAJORITY };
            if !repeatable || !failure.may_pass() || started.elapsed() + PAUSE >= patience {
                return Err(failure);
            }
            match failure {
                Failure::NotLeader { leader: Some(leader) } if Some(leader) != asked => hint = Some(leader),
                Failure::Crowded => {}
                Failure::NotLeader { .. }
                | Failure::NoGroups
                | Failure::NoLeader
                | Failure::NoQuorum
                | Failure::Busy
                | Failure::TooLarge
                | Failure::NotNow(_)
                | Failure::Unreachable { .. }
                | Failure::Rejected { .. }
                | Failure::Lost { .. }
                | Failure::Unknown(_)
                | Failure::Skipped
                | Failure::Stopped => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn attempt(
        &self,
        group: GroupId,
        leader: Option<NodeId>,
        way: Way,
        ops: &[Op],
    ) -> Result<Vec<Reply>, Failure> {
        match leader {
            None => Err(Failure::NoLeader),
            Some(node) if node == self.inner.whereabouts.me => match self.inner.hosted.get(group) {
                Some(group) => self.inner.room.execute(&group, way, ops).await,
                None => Err(Failure::NotLeader { leader: None }),
            },
            Some(node) => self.inner.lanes.send(node, group, way, ops.to_vec()).await,
        }
    }
}

#[cfg(test)]
mod tests;
