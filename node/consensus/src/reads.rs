//! Batched read index (Raft thesis, 6.4): one round of heartbeats proves the leadership for all
//! reads that had queued when it began. No clock is trusted.

use std::sync::Arc;

use openraft::error::{CheckIsLeaderError, Fatal, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::group::ReadError;
use crate::replica::Replica;
use crate::types::node;

type Waiter = oneshot::Sender<Result<(), ReadError>>;

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
    let proof = tokio::time::timeout(replica.settings.read_timeout, async {
        replica.raft.ensure_linearizable().await?;
        // A leader that was restarted goes on in its term, as openraft starts it, and then knows neither
        // which of its entries were committed nor that it has answered for them: its read index is that of
        // its term's first entry. All of them are in its log as it was opened.
        let mut metrics = replica.raft.metrics();
        let level = metrics.wait_for(|now| now.last_applied.map(|id| id.index) >= replica.opened_at).await;
        level.map(|_| ()).map_err(|_| RaftError::Fatal(Fatal::Stopped))
    });
    match proof.await {
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
