//! Batched read index (Raft thesis, 6.4): one round of heartbeats proves the leadership for all
//! reads that had queued when it began. No clock is trusted.

use std::sync::Arc;

use openraft::EmptyNode;
use openraft::error::{CheckIsLeaderError, Fatal, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::group::ReadError;
use crate::replica::Replica;
use crate::types::{Metrics, node};

type Waiter = oneshot::Sender<Result<(), ReadError>>;
type NotProved = RaftError<u64, CheckIsLeaderError<u64, EmptyNode>>;

/// Runs until nobody can read any more.
pub async fn run(replica: Arc<Replica>, mut waiters: mpsc::Receiver<Waiter>, stop: CancellationToken) {
    loop {
        let first = tokio::select! {
            () = stop.cancelled() => return,
            waiter = waiters.recv() => match waiter {
                Some(waiter) => waiter,
                None => return,
            },
        };
        let mut batch = vec![first];
        while let Ok(waiter) = waiters.try_recv() {
            batch.push(waiter);
        }
        let proved = tokio::select! {
            () = stop.cancelled() => return,
            proved = prove(&replica) => proved,
        };
        for waiter in batch {
            // Whoever asked may have gone away.
            let _gone = waiter.send(proved.clone());
        }
    }
}

async fn prove(replica: &Replica) -> Result<(), ReadError> {
    #[cfg(holdfast_mutants)]
    if mutation::is("stale-read") && replica.leads() {
        return Ok(());
    }
    match tokio::time::timeout(replica.settings.read_timeout, lead_and_be_level(replica)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
            let leader = forward.leader_id.map(node).filter(|leader| *leader != replica.me);
            Err(ReadError::NotLeader { leader })
        }
        Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) | Err(_) => {
            Err(ReadError::NoQuorum)
        }
        Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
    }
}

/// Proves that this node leads, and that it has applied all that was acknowledged before the call.
///
/// A leader that was restarted goes on in its term, as openraft starts it, and then knows neither which of
/// its entries were committed nor that it has answered for them: its read index is that of its term's first
/// entry. All of them are in its log as it was opened. In a later term they need not be waited for, and can
/// not: another leader may have cut the log short, and what is left of it is below the entry with which
/// this one began.
async fn lead_and_be_level(replica: &Replica) -> Result<(), NotProved> {
    let mut metrics = replica.raft.metrics();
    let term_before = metrics.borrow().current_term;
    replica.raft.ensure_linearizable().await?;
    #[cfg(holdfast_mutants)]
    if mutation::is("unproved-read") {
        return Ok(());
    }
    let Some(resumed) = replica.resumed.filter(|resumed| term_before <= resumed.term) else { return Ok(()) };
    let is_level = |now: &Metrics| now.last_applied.is_some_and(|applied| applied.index >= resumed.log_end);
    let level = metrics.wait_for(|now| now.current_term > resumed.term || is_level(now)).await;
    let later = level.map_err(|_| RaftError::Fatal(Fatal::Stopped))?.current_term > resumed.term;
    if later {
        // What was proved may be of the term that is over.
        replica.raft.ensure_linearizable().await?;
    }
    Ok(())
}
