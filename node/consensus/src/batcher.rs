//! The leader's batcher: many operations, one log entry.
//!
//! It takes one operation, adds what has queued meanwhile up to a bound of bytes, writes, and waits.
//! One entry is in flight at a time: while it is on its way the next batch gathers, so the batch
//! grows with the load by itself and no timer is needed.

use std::sync::Arc;

use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use proto::limits::BATCH_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::ambient::Ambient;
use crate::clock::SlewedClock;
use crate::group::WriteError;
use crate::replica::Replica;
use crate::types::Proposal;

/// An operation that waits.
pub struct Job {
    pub op: Bytes,
    pub reply: oneshot::Sender<Result<Bytes, WriteError>>,
    /// Its share of the queue's bytes, held until it is answered.
    pub room: OwnedSemaphorePermit,
}

/// One group's batcher.
pub struct Batcher {
    pub replica: Arc<Replica>,
    pub clock: Arc<SlewedClock>,
    pub ambient: Arc<dyn Ambient>,
}

impl Batcher {
    /// Runs until nobody can write any more.
    pub async fn run(self, mut jobs: mpsc::Receiver<Job>, stop: CancellationToken) {
        self.write_until(&stop, &mut jobs).await;
        // What waits has not been begun. What has been is dropped unanswered, as nobody knows.
        jobs.close();
        while let Some(job) = jobs.recv().await {
            answer(job, Err(WriteError::Stopped));
        }
    }

    async fn write_until(&self, stop: &CancellationToken, jobs: &mut mpsc::Receiver<Job>) {
        let mut waiting: Option<Job> = None;
        loop {
            let first = match waiting.take() {
                Some(job) => job,
                None => tokio::select! {
                    () = stop.cancelled() => return,
                    job = jobs.recv() => match job {
                        Some(job) => job,
                        None => return,
                    },
                },
            };
            let mut bytes = first.op.len();
            let mut batch = vec![first];
            while let Ok(job) = jobs.try_recv() {
                if bytes + job.op.len() > BATCH_BYTES_MAX {
                    waiting = Some(job);
                    break;
                }
                bytes += job.op.len();
                batch.push(job);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.write(batch) => {}
            }
        }
    }

    async fn write(&self, batch: Vec<Job>) {
        let replica = &self.replica;
        if !replica.leads() {
            return fail(batch, &WriteError::NotLeader { leader: replica.known_leader() });
        }
        if replica.lacks_quorum() {
            return fail(batch, &WriteError::NoQuorum);
        }
        let clock_ms = match self.stamp().await {
            Ok(clock_ms) => clock_ms,
            Err(error) => return fail(batch, &error),
        };
        let ops = batch.iter().map(|job| job.op.clone()).collect();
        let proposal = Proposal { clock_ms, seed: self.ambient.random(), ops };
        // openraft's client_write can hang for ever after this node was removed.
        let written =
            tokio::time::timeout(replica.settings.write_timeout, replica.raft.client_write(proposal)).await;
        match written {
            Ok(Ok(response)) => {
                let replies = response.data.0;
                assert_eq!(replies.len(), batch.len(), "apply answers each operation of an entry");
                for (job, reply) in batch.into_iter().zip(replies) {
                    answer(job, Ok(reply));
                }
            }
            // Also what openraft says of an entry that it had appended and then had to truncate: a third
            // replica may still have that entry, and lead next.
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                fail(batch, &WriteError::Unknown)
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_)))) => {
                unreachable!("a proposal of operations changes no membership")
            }
            #[cfg(holdfast_mutants)]
            Err(_) if mutation::is("refused-and-executed") => fail(batch, &WriteError::NoQuorum),
            // The entry may have been appended, and a later leader may commit it.
            Ok(Err(RaftError::Fatal(_))) | Err(_) => fail(batch, &WriteError::Unknown),
        }
    }

    /// The time of the next entry, drawn by the leader alone: only it bends the group's time. It waits until
    /// it may (see [`crate::timekeeping`]): what is stamped too early would be over when time jumps.
    async fn stamp(&self) -> Result<u64, WriteError> {
        let replica = &self.replica;
        // What is left of the write's time is the commit's. Nothing was appended yet.
        let waited = tokio::time::timeout(replica.settings.write_timeout / 2, replica.may_stamp()).await;
        waited.unwrap_or(Err(WriteError::NoQuorum))?;
        Ok(replica.clock.stamp_ms(self.clock.now_ms()))
    }
}

fn fail(batch: Vec<Job>, error: &WriteError) {
    for job in batch {
        answer(job, Err(error.clone()));
    }
}

fn answer(job: Job, result: Result<Bytes, WriteError>) {
    drop(job.room);
    // Whoever asked may have gone away.
    let _gone = job.reply.send(result);
}
