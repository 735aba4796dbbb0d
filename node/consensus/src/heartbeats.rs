//! The heartbeats of all groups to one peer, in one message.
//!
//! openraft would send one message per group, peer and interval: with sixteen groups an idle farm is
//! busy saying nothing. So its own heartbeats are off; one timer triggers those of all groups at the
//! same moment, and what then goes to the same peer gathers here for two milliseconds.
//!
//! ```text
//!   elections' tick ──trigger().heartbeat()──▶ every idle group that leads here
//!      its replication to peer 7 ──empty append──▶ ┐
//!      another's ─────────────────empty append──▶ ┴─ lane 7 ──one message──▶ peer 7
//! ```
//!
//! Only heartbeats wait like that. An append without entries is also how openraft announces a commit
//! and proves its leadership to a reader, and those go out at once (see `network`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::raft::AppendEntriesRequest;
use proto::ids::{GroupId, NodeId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::transport::{Transport, TransportError};
use crate::types::Types;
use crate::wire::{self, AppendAnswer, Heartbeat, HeartbeatsAnswer, Request};

/// All groups are triggered by the same timer, so this is longer than they need.
const GATHER: Duration = Duration::from_millis(2);
/// Groups in one message. More go into the next one.
pub const SHARED_MAX: usize = 1_024;
/// The receiver answers for a group that is busy on its disk with nothing after this time: the other
/// groups' answers are not to wait for it.
pub const ANSWER_MAX: Duration = Duration::from_millis(100);

struct Waiting {
    heartbeat: Heartbeat,
    limit: Duration,
    answer: oneshot::Sender<Result<AppendAnswer, TransportError>>,
}

/// Sends heartbeats for all groups of a node.
pub struct Heartbeats {
    transport: Arc<dyn Transport>,
    tracker: TaskTracker,
    stop: CancellationToken,
    lanes: Mutex<BTreeMap<NodeId, mpsc::Sender<Waiting>>>,
}

impl Heartbeats {
    pub fn new(transport: Arc<dyn Transport>, tracker: TaskTracker, stop: CancellationToken) -> Self {
        Self { transport, tracker, stop, lanes: Mutex::default() }
    }

    /// # Errors
    /// When the peer did not answer for this group.
    pub async fn send(
        &self,
        to: NodeId,
        group: GroupId,
        rpc: AppendEntriesRequest<Types>,
        limit: Duration,
    ) -> Result<AppendAnswer, TransportError> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { heartbeat: Heartbeat { group: group.0, rpc }, limit, answer };
        let nobody = || TransportError::Failed("nobody has answered for this group".to_owned());
        self.lane(to).send(waiting).await.map_err(|_| nobody())?;
        answered.await.unwrap_or_else(|_| Err(nobody()))
    }

    fn lane(&self, to: NodeId) -> mpsc::Sender<Waiting> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(to).or_insert_with(|| {
            // A group waits for its last heartbeat before it sends the next.
            let (sender, queue) = mpsc::channel(SHARED_MAX);
            let (transport, stop) = (Arc::clone(&self.transport), self.stop.clone());
            self.tracker.spawn(run_lane(transport, to, queue, self.tracker.clone(), stop));
            sender
        });
        lane.clone()
    }
}

async fn run_lane(
    transport: Arc<dyn Transport>,
    to: NodeId,
    mut queue: mpsc::Receiver<Waiting>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            () = stop.cancelled() => return,
            waiting = queue.recv() => match waiting {
                Some(waiting) => waiting,
                None => return,
            },
        };
        tokio::time::sleep(GATHER).await;
        let mut batch = vec![first];
        while batch.len() < SHARED_MAX
            && let Ok(waiting) = queue.try_recv()
        {
            batch.push(waiting);
        }
        tracker.spawn(exchange(Arc::clone(&transport), to, batch));
    }
}

async fn exchange(transport: Arc<dyn Transport>, to: NodeId, batch: Vec<Waiting>) {
    let limit = batch.iter().map(|waiting| waiting.limit).max().unwrap_or_default();
    let group = batch.first().map_or(GroupId(0), |waiting| GroupId(waiting.heartbeat.group));
    let mut heartbeats = Vec::with_capacity(batch.len());
    let mut answers = Vec::with_capacity(batch.len());
    for waiting in batch {
        heartbeats.push(waiting.heartbeat);
        answers.push(waiting.answer);
    }
    let results: Vec<_> = match call(&*transport, to, group, heartbeats, limit).await {
        Ok(found) => found.into_iter().map(|answer| answer.ok_or(TransportError::Timeout)).collect(),
        Err(error) => answers.iter().map(|_| Err(error.clone())).collect(),
    };
    // Whose answer is missing sees that its sender is gone. A group may have been stopped meanwhile.
    for (answer, result) in answers.into_iter().zip(results) {
        let _gone = answer.send(result);
    }
}

async fn call(
    transport: &dyn Transport,
    to: NodeId,
    group: GroupId,
    heartbeats: Vec<Heartbeat>,
    limit: Duration,
) -> Result<HeartbeatsAnswer, TransportError> {
    let failed = |error: String| TransportError::Failed(error);
    let payload = wire::encode_request(to, &Request::Heartbeats(heartbeats));
    let payload = payload.map_err(|error| failed(error.to_string()))?;
    let answer = transport.call(to, group, payload, limit).await?;
    wire::decode(&answer).map_err(|error| failed(error.to_string()))
}
