//! Carries operations out on a group that this node leads.

use bytes::Bytes;
use node_core::sessions::{Budget, OpError};
use prost::Message as _;
use proto::log::{Op, Ops, Replies, Reply};

use super::batch::Way;
use super::failure::Failure;
use super::hosted::SessionGroup;
use super::machine::Used;

/// What a leader checks before it logs.
#[derive(Clone)]
pub(super) struct Room {
    pub(super) budget: Budget,
    pub(super) used: Used,
}

impl Room {
    /// One reply for each operation, or why there is none for any.
    pub(super) async fn execute(
        &self,
        group: &SessionGroup,
        way: Way,
        ops: &[Op],
    ) -> Result<Vec<Reply>, Failure> {
        match way {
            Way::Read => self.read(group, ops).await,
            Way::Log => self.write(group, ops).await,
        }
    }

    /// Reads by the read index. Keys whose deadline has passed are read through the log, which makes
    /// their end final.
    async fn read(&self, group: &SessionGroup, ops: &[Op]) -> Result<Vec<Reply>, Failure> {
        let now_ms = group.now_ms();
        let look = |machine: &super::machine::SessionMachine| {
            ops.iter().map(|op| machine.state().read(now_ms, op)).collect::<Vec<_>>()
        };
        let found = group.read(look).await?;
        let open = found.iter().zip(ops).filter(|(reply, _)| reply.is_none()).map(|(_, op)| op.clone());
        let open: Vec<Op> = open.collect();
        if open.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
        let mut logged = log(group, open).await?.into_iter();
        let filled = found.into_iter().map(|reply| reply.or_else(|| logged.next()));
        Ok(filled.flatten().collect())
    }

    /// Logs what there is room for, in order; the rest is refused.
    async fn write(&self, group: &SessionGroup, ops: &[Op]) -> Result<Vec<Reply>, Failure> {
        let used_bytes = self.used.bytes();
        let admitted: Vec<Result<(), OpError>> =
            ops.iter().map(|op| self.budget.admit(used_bytes, op)).collect();
        let logged = ops.iter().zip(&admitted).filter(|(_, admitted)| admitted.is_ok());
        let logged: Vec<Op> = logged.map(|(op, _)| op.clone()).collect();
        let mut replies = if logged.is_empty() { Vec::new() } else { log(group, logged).await? }.into_iter();
        let each = admitted.into_iter().map(|admitted| match admitted {
            Ok(()) => replies.next(),
            Err(error) => Some(error.into()),
        });
        Ok(each.flatten().collect())
    }
}

async fn log(group: &SessionGroup, ops: Vec<Op>) -> Result<Vec<Reply>, Failure> {
    let count = ops.len();
    #[cfg(holdfast_mutants)]
    if mutation::is("acknowledged-early") && ops.iter().all(is_set) {
        return Ok(acknowledge_early(group, ops));
    }
    #[cfg(holdfast_mutants)]
    if mutation::is("descriptors-leaked") {
        std::mem::forget(std::fs::File::open("/dev/null"));
    }
    let answer: Bytes = group.write(Ops { ops }.encode_to_vec().into()).await?;
    let replies = Replies::decode(answer).map(|replies| replies.replies);
    // Its own state machine wrote the answer a moment ago.
    let replies = replies.expect("what this process has encoded it can decode");
    assert_eq!(replies.len(), count, "apply answers each operation");
    Ok(replies)
}

#[cfg(holdfast_mutants)]
fn is_set(op: &Op) -> bool {
    matches!(op.kind, Some(proto::log::op::Kind::Set(_)))
}

/// Says that it is done when it has only begun.
#[cfg(holdfast_mutants)]
fn acknowledge_early(group: &SessionGroup, ops: Vec<Op>) -> Vec<Reply> {
    use proto::log::{Stored, reply};
    let stored = Reply { kind: Some(reply::Kind::Stored(Stored { version: 1 })) };
    let (group, replies) = (group.clone(), vec![stored; ops.len()]);
    tokio::runtime::Handle::current().spawn(async move {
        let _nobody_asks = group.write(Ops { ops }.encode_to_vec().into()).await;
    });
    replies
}
