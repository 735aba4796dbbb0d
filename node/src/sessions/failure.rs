//! Why operations have no reply, and what the client is told of it.
//!
//! Everything turns on one question: may it have been executed? What was not is tried again until the
//! caller's patience ends. What may have been is reported as such and never repeated: a SET that ran
//! twice could undo somebody's write in between.

use node_consensus::{ReadError, WriteError};
use proto::ids::NodeId;
use proto::log::{Reply, reply};

/// Why one attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("the control log has not told this node of any session groups yet")]
    NoGroups,
    #[error("no replica leads it")]
    NoLeader,
    #[error("the node that was asked does not lead it")]
    NotLeader { leader: Option<NodeId> },
    #[error("no majority of its replicas can be reached")]
    NoQuorum,
    #[error("too many operations are waiting")]
    Busy,
    #[error("the operations are larger than a log entry may be")]
    TooLarge,
    /// The leader says so; it may be otherwise in a moment.
    #[error("{0}")]
    NotNow(String),
    #[error("node {node} can not be reached: {reason}")]
    Unreachable { node: NodeId, reason: String },
    #[error("node {node} will not do it: {reason}")]
    Rejected { node: NodeId, reason: String },
    /// The request or its answer got lost.
    #[error("node {node} did not answer: {reason}")]
    Lost { node: NodeId, reason: String },
    #[error("{0}")]
    Unknown(String),
    /// The message of an answer was full before this caller's part; it is asked for again.
    #[error("the answer did not fit one message")]
    Crowded,
    #[error("an operation before it, of the same request, failed")]
    Skipped,
    #[error("the agent is stopping")]
    Stopped,
}

impl Failure {
    /// Whether what was asked for may have happened, or may happen yet.
    pub(super) fn may_be_executed(&self) -> bool {
        #[cfg(holdfast_mutants)]
        if mutation::is("write-repeated") {
            return false;
        }
        match self {
            Self::Lost { .. } | Self::Unknown(_) => true,
            Self::NoGroups
            | Self::NoLeader
            | Self::NotLeader { .. }
            | Self::NoQuorum
            | Self::Busy
            | Self::TooLarge
            | Self::NotNow(_)
            | Self::Unreachable { .. }
            | Self::Rejected { .. }
            | Self::Crowded
            | Self::Skipped
            | Self::Stopped => false,
        }
    }

    /// Whether another attempt may go better; for reads and for what was not executed.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NoGroups
            | Self::NoLeader
            | Self::NotLeader { .. }
            | Self::NoQuorum
            | Self::Busy
            | Self::NotNow(_)
            | Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Unknown(_)
            | Self::Crowded => true,
            Self::TooLarge | Self::Rejected { .. } | Self::Skipped | Self::Stopped => false,
        }
    }

    /// The reply in Redis's form; `live` and `replicas` say how many of the group's replicas live.
    pub(super) fn reply(&self, wrote: bool, live: usize, replicas: usize) -> Reply {
        let text = match self {
            Self::Lost { .. } | Self::Unknown(_) if wrote => format!("TRYAGAIN outcome unknown: {self}"),
            Self::Busy | Self::Crowded | Self::Skipped | Self::Stopped => {
                format!("TRYAGAIN not executed: {self}")
            }
            Self::TooLarge | Self::Rejected { .. } => format!("ERR not executed: {self}"),
            Self::NoGroups => format!("CLUSTERDOWN not executed: {self}"),
            Self::NoLeader
            | Self::NotLeader { .. }
            | Self::NoQuorum
            | Self::NotNow(_)
            | Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Unknown(_) => format!(
                "CLUSTERDOWN no quorum for this key's group: {self} ({live} of {replicas} replicas are alive)"
            ),
        };
        Reply { kind: Some(reply::Kind::Error(text)) }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotLeader { leader } => Self::NotLeader { leader },
            WriteError::NoQuorum => Self::NoQuorum,
            WriteError::TooLarge => Self::TooLarge,
            WriteError::Busy => Self::Busy,
            // A group that has stopped executed nothing of what it refuses so. It is told as unknown all the
            // same: the agent is ending, and who looks before he repeats it loses nothing.
            WriteError::Unknown | WriteError::Stopped => Self::Unknown(error.to_string()),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotLeader { leader } => Self::NotLeader { leader },
            ReadError::NoQuorum => Self::NoQuorum,
            ReadError::Stopped => Self::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(failure: &Failure, wrote: bool) -> String {
        match failure.reply(wrote, 1, 3).kind {
            Some(reply::Kind::Error(text)) => text,
            other => panic!("no error: {other:?}"),
        }
    }

    #[test]
    fn a_write_that_may_have_happened_is_never_called_refused() {
        let lost = Failure::Lost { node: NodeId(2), reason: "reset".to_owned() };
        assert!(lost.may_be_executed());
        assert!(text(&lost, true).starts_with("TRYAGAIN outcome unknown: node 2 did not answer"));
        assert!(text(&lost, false).starts_with("CLUSTERDOWN no quorum for this key's group: "));
        assert!(Failure::from(WriteError::Stopped).may_be_executed());
    }

    #[test]
    fn a_refusal_says_how_many_replicas_live() {
        assert_eq!(
            text(&Failure::NoQuorum, true),
            "CLUSTERDOWN no quorum for this key's group: no majority of its replicas can be reached \
             (1 of 3 replicas are alive)"
        );
    }
}
