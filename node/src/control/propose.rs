//! Getting a command into the log, wherever its leader is.
//!
//! The leader is asked directly; who it is comes from this node's own view of the group or, on a node
//! that has none yet, from whoever can be reached. An attempt of which nobody knows how it ended is
//! made again only where a second time does no harm.

use std::time::Duration;

use bytes::Bytes;
use node_consensus::WriteError;
use node_core::control::{Applied, COMMAND_BYTES_MAX, Command, Outcome, Refusal};
use proto::ids::NodeId;
use proto::peer::propose_response::Result as Answer;
use proto::peer::{NotLeader, ProposeRequest, ProposeResponse};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Control, access, inventory};

/// An election takes about a second; several may be needed after a bad moment.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where most voters are dead nobody will be elected: an operator is told so sooner.
const PATIENCE_WITHOUT_MAJORITY: Duration = Duration::from_secs(3);
/// One attempt at one node. A commit takes milliseconds, or a while on a busy disk.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// How long an answer waits for this node's replica to show the effect.
const OWN_REPLICA_MAX: Duration = Duration::from_secs(1);
/// Before the next attempt, when nobody leads.
const PAUSE: Duration = Duration::from_millis(100);

/// Why a command had no effect, or may have had one.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was committed, and says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The leader did not take it from this node.
    #[error("the leader of the control log refused: {0}")]
    Forbidden(String),
    #[error("there is no quorum for the control log: {0}")]
    NoQuorum(String),
    #[error("the command may or may not have been carried out: {0}")]
    Unknown(String),
    #[error("the command has {bytes} bytes, more than the {COMMAND_BYTES_MAX} that the log takes")]
    TooLarge { bytes: usize },
    #[error("the leader's answer can not be read: {0}")]
    BadAnswer(#[from] serde_json::Error),
    #[error("the agent is stopping")]
    Stopped,
}

impl From<ProposeError> for Status {
    fn from(error: ProposeError) -> Self {
        let code = match &error {
            ProposeError::Refused(_) => Code::FailedPrecondition,
            ProposeError::Forbidden(_) => Code::PermissionDenied,
            ProposeError::NoQuorum(_) | ProposeError::Stopped => Code::Unavailable,
            ProposeError::Unknown(_) => Code::DeadlineExceeded,
            ProposeError::TooLarge { .. } => Code::InvalidArgument,
            ProposeError::BadAnswer(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl Control {
    /// Has a command written and applied; a refusal is an error. Afterwards this node's own state shows
    /// the effect, unless its log is far behind.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, command: &Command) -> Result<Outcome, ProposeError> {
        let now = Instant::now();
        let patience = Patience { until: now + PATIENCE, without_majority: now + PATIENCE_WITHOUT_MAJORITY };
        let applied = write_anywhere(self, command, patience).await?;
        let mut view = self.group_view();
        let here = view.wait_for(|view| view.applied >= applied.index);
        // It is committed in any case: whoever asked need not wait for this replica for long.
        let _late_or_here = tokio::time::timeout(OWN_REPLICA_MAX, here).await;
        Ok(applied.outcome)
    }

    /// Takes a command from a member, if this node leads.
    ///
    /// # Errors
    /// The request is no command.
    pub async fn handle_propose(
        &self,
        from: NodeId,
        request: ProposeRequest,
    ) -> Result<ProposeResponse, Status> {
        if request.command.len() > COMMAND_BYTES_MAX {
            return Err(Status::invalid_argument("the command is larger than the log takes"));
        }
        let command = Command::decode(&request.command)
            .map_err(|error| Status::invalid_argument(format!("not a command: {error}")))?;
        let answer = match self.checked_write(from, &command).await {
            Ok(response) => Answer::Response(response),
            Err(Failure::Elsewhere(leader)) => {
                Answer::NotLeader(NotLeader { leader: leader.map_or(0, |leader| leader.0) })
            }
            Err(Failure::Forbidden(words)) => Answer::Refused(words),
            Err(Failure::Unknown(words)) => Answer::Unknown(words),
            Err(Failure::Stopped) => return Err(Status::unavailable("the agent is stopping")),
        };
        Ok(ProposeResponse { result: Some(answer) })
    }

    async fn checked_write(&self, from: NodeId, command: &Command) -> Result<Bytes, Failure> {
        if access::check(from, command, &self.state()).is_err() {
            // A leader that has just been elected may not have applied yet who was admitted.
            self.inner.group.read(|_| ()).await.map_err(|error| Failure::Unknown(error.to_string()))?;
            access::check(from, command, &self.state())
                .map_err(|error| Failure::Forbidden(error.to_string()))?;
        }
        self.write(command).await
    }

    /// Writes as the leader, one command after the other: an entry names a node, an epoch or an attempt
    /// by its index, so it should hold one command. Control commands are too few to gain from batches.
    async fn write(&self, command: &Command) -> Result<Bytes, Failure> {
        let _turn = self.inner.turn.lock().await;
        self.inner.group.write(command.encode().into()).await.map_err(|error| match error {
            WriteError::NotLeader { leader } => Failure::Elsewhere(leader),
            WriteError::Unknown => Failure::Unknown("its commit was not confirmed in time".to_owned()),
            WriteError::NoQuorum | WriteError::Busy => Failure::Elsewhere(None),
            WriteError::Stopped => Failure::Stopped,
            WriteError::TooLarge => Failure::Forbidden("it is larger than the log takes".to_owned()),
        })
    }

    /// Writes as the leader and reads the answer; for the controller.
    pub(super) async fn write_here(&self, command: &Command) -> Result<Outcome, ProposeError> {
        let response = self.write(command).await.map_err(|failure| match failure {
            Failure::Elsewhere(_) => ProposeError::NoQuorum("this node no longer leads".to_owned()),
            Failure::Forbidden(words) => ProposeError::Forbidden(words),
            Failure::Unknown(words) => ProposeError::Unknown(words),
            Failure::Stopped => ProposeError::Stopped,
        })?;
        Ok(Applied::decode(&response)?.outcome)
    }
}

/// How one attempt failed.
enum Failure {
    /// Nothing was written; another node leads, if any.
    Elsewhere(Option<NodeId>),
    Forbidden(String),
    Unknown(String),
    Stopped,
}

/// How long to try.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub until: Instant,
    /// Where the membership, too, holds most voters for dead.
    pub without_majority: Instant,
}

/// [`Control::propose`] with the caller's own patience, and with the entry's index.
pub(super) async fn write_anywhere(
    control: &Control,
    command: &Command,
    patience: Patience,
) -> Result<Applied, ProposeError> {
    let bytes = command.encode();
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(ProposeError::TooLarge { bytes: bytes.len() });
    }
    let (mut hint, mut turn) = (None, 0);
    loop {
        let target = hint.take().or_else(|| target(control, turn));
        turn += 1;
        let failure = match target {
            None => Failure::Elsewhere(None),
            Some(node) => match attempt(control, node, command, &bytes, patience.until).await {
                Ok(response) => {
                    let applied = Applied::decode(&response)?;
                    match applied.outcome.clone().accepted() {
                        // Nothing is wrong with the command: its moment had not come.
                        Err(Refusal::Crowded | Refusal::NotInitialised) => Failure::Elsewhere(None),
                        accepted => return Ok(Applied { outcome: accepted?, ..applied }),
                    }
                }
                Err(failure) => failure,
            },
        };
        let end = if has_live_majority(control) { patience.until } else { patience.without_majority };
        let late = Instant::now() + PAUSE >= end;
        match failure {
            Failure::Elsewhere(Some(leader)) if !late && target != Some(leader) => hint = Some(leader),
            Failure::Elsewhere(_) if !late => tokio::time::sleep(PAUSE).await,
            Failure::Elsewhere(_) => return Err(ProposeError::NoQuorum(no_quorum(control))),
            Failure::Unknown(_) if !late && is_repeatable(command) => tokio::time::sleep(PAUSE).await,
            Failure::Unknown(words) => return Err(ProposeError::Unknown(words)),
            Failure::Forbidden(words) => return Err(ProposeError::Forbidden(words)),
            Failure::Stopped => return Err(ProposeError::Stopped),
        }
    }
}

/// Whom to ask: the leader that this node knows, or else every node that may know it, in turn.
fn target(control: &Control, turn: usize) -> Option<NodeId> {
    if let Some(leader) = control.inner.group.watch().borrow().leader {
        return Some(leader);
    }
    let state = control.state();
    let admitted = state.members().map(|(node, _)| node);
    let known = control.inner.identity.peers.iter().map(|peer| peer.node);
    let mut others: Vec<NodeId> = admitted.chain(known).filter(|node| *node != control.me()).collect();
    others.sort_unstable();
    others.dedup();
    others.get(turn.checked_rem(others.len())?).copied()
}

/// Whether most voters live, as far as this node has heard. A node that has not heard of the group yet
/// has no reason to doubt it.
fn has_live_majority(control: &Control) -> bool {
    let voters = control.inner.group.watch().borrow().voters.clone();
    let alive = voters.iter().filter(|voter| inventory::is_alive(control, **voter)).count();
    voters.is_empty() || alive * 2 > voters.len()
}

fn no_quorum(control: &Control) -> String {
    let view = control.inner.group.watch().borrow().clone();
    let alive = view.voters.iter().filter(|voter| inventory::is_alive(control, **voter)).count();
    let leads = view.leader.map_or("no node leads it".to_owned(), |leader| format!("node {leader} led it"));
    format!("{leads}, and {alive} of its {} voters are alive", view.voters.len())
}

async fn attempt(
    control: &Control,
    node: NodeId,
    command: &Command,
    bytes: &[u8],
    until: Instant,
) -> Result<Bytes, Failure> {
    if node == control.me() {
        return control.write(command).await;
    }
    let Ok(mut client) = control.inner.mesh.peer(node) else { return Err(Failure::Elsewhere(None)) };
    let request = ProposeRequest { command: bytes.to_vec().into() };
    let deadline = until.min(Instant::now() + ATTEMPT_MAX);
    match tokio::time::timeout_at(deadline, client.propose(request)).await {
        Err(_) => Err(Failure::Unknown(format!("node {node} did not answer in time"))),
        Ok(Err(status)) if was_not_sent(&status) => Err(Failure::Elsewhere(None)),
        // The connection may have broken after the request.
        Ok(Err(status)) => Err(Failure::Unknown(format!("node {node}: {}", status.message()))),
        Ok(Ok(response)) => match response.into_inner().result {
            Some(Answer::Response(response)) => Ok(response),
            Some(Answer::NotLeader(NotLeader { leader: 0 })) | None => Err(Failure::Elsewhere(None)),
            Some(Answer::NotLeader(NotLeader { leader })) => Err(Failure::Elsewhere(Some(NodeId(leader)))),
            Some(Answer::Refused(words)) => Err(Failure::Forbidden(words)),
            Some(Answer::Unknown(words)) => Err(Failure::Unknown(words)),
        },
    }
}

/// Whether no connection came about at all.
fn was_not_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether to apply a command a second time gives the same state and the same answer.
fn is_repeatable(command: &Command) -> bool {
    match command {
        // Known again by its key; by its id; by its content; by the rollout that it began.
        Command::AdmitNode { .. }
        | Command::CreateToken { .. }
        | Command::UpdateNode { .. }
        | Command::RegisterRelease { .. }
        | Command::SetTarget { .. } => true,
        // A second rollback would go back from where the first one led.
        Command::Rollback { .. }
        | Command::RevokeToken { .. }
        | Command::Genesis { .. }
        | Command::ControllerStarted { .. }
        | Command::Order { .. } => false,
    }
}
