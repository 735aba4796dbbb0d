//! Operations on their way to a group's leader on another node.
//!
//! There is a lane to each (peer, group), one for reads and one for what goes through the log. What
//! comes while its messages are under way gathers, and goes together with the next: the batch grows
//! with the load by itself, as the leader's own.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::ids::{GroupId, NodeId};
use proto::log::{Op, Replies, Reply};
use proto::peer::execute_response::Result as Answer;
use proto::peer::{ExecuteRequest, ExecuteResponse, NotLeader};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::{Code, ConnectError, Status};

use super::batch::{Load, Way};
use super::failure::Failure;
use crate::mesh::Mesh;
use crate::tasks::Tasks;

/// Callers that wait in one lane: more than a peer can answer in the time that they wait.
const QUEUE_MAX: usize = 1_024;
/// Messages of one lane under way. One would leave the peer idle while an answer travels; with many
/// nothing would gather.
const IN_FLIGHT_MAX: usize = 4;
/// Longer than the leader itself waits for a commit (3 s) or a proof of its leadership (2 s): its word
/// is better than none.
const ANSWER_MAX: Duration = Duration::from_millis(3_500);

type Outcome = Result<Vec<Reply>, Failure>;

#[derive(Clone)]
pub(super) struct Lanes {
    mesh: Mesh,
    tasks: Tasks,
    lanes: Arc<Mutex<BTreeMap<Route, mpsc::Sender<Job>>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    to: NodeId,
    group: GroupId,
    way: Way,
}

struct Job {
    ops: Vec<Op>,
    load: Load,
    reply: oneshot::Sender<Outcome>,
}

impl Lanes {
    pub(super) fn new(mesh: Mesh, tasks: Tasks) -> Self {
        Self { mesh, tasks, lanes: Arc::default() }
    }

    /// Has a peer carry operations out. The replies of reads may be fewer than the operations: those
    /// of the first ones.
    pub(super) async fn send(&self, to: NodeId, group: GroupId, way: Way, ops: Vec<Op>) -> Outcome {
        let (reply, answer) = oneshot::channel();
        let job = Job { load: Load::of(&ops), ops, reply };
        self.lane(Route { to, group, way }).try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Failure::Busy,
            TrySendError::Closed(_) => Failure::Stopped,
        })?;
        // The lane ends with the agent: what was under way then may have arrived.
        answer.await.unwrap_or_else(|_| Err(Failure::Unknown(Failure::Stopped.to_string())))
    }

    fn lane(&self, route: Route) -> mpsc::Sender<Job> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(route).or_insert_with(|| {
            let (jobs, queue) = mpsc::channel(QUEUE_MAX);
            self.tasks.tracker().spawn(run(route, queue, self.mesh.clone(), self.tasks.clone()));
            jobs
        });
        lane.clone()
    }
}

async fn run(route: Route, mut queue: mpsc::Receiver<Job>, mesh: Mesh, tasks: Tasks) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let stop = tasks.stop();
    let mut waiting: Option<Job> = None;
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = Arc::clone(&in_flight).acquire_owned() => permit.expect("nobody closes it"),
        };
        let first = match waiting.take() {
            Some(job) => job,
            None => tokio::select! {
                () = stop.cancelled() => return,
                job = queue.recv() => match job {
                    Some(job) => job,
                    None => return,
                },
            },
        };
        let mut load = first.load;
        let mut jobs = vec![first];
        while let Ok(job) = queue.try_recv() {
            if !load.with(job.load).fits(route.way) {
                waiting = Some(job);
                break;
            }
            load = load.with(job.load);
            jobs.push(job);
        }
        tasks.tracker().spawn(deliver(route, jobs, mesh.clone(), permit));
    }
}

/// Sends one message and hands its answer out.
async fn deliver(route: Route, mut jobs: Vec<Job>, mesh: Mesh, _permit: OwnedSemaphorePermit) {
    // Whoever gave up has been told that nothing is known; doing it now would only make that worse.
    jobs.retain(|job| !job.reply.is_closed());
    if jobs.is_empty() {
        return;
    }
    let lengths: Vec<usize> = jobs.iter().map(|job| job.ops.len()).collect();
    let ops: Vec<Op> = jobs.iter_mut().flat_map(|job| std::mem::take(&mut job.ops)).collect();
    let count = ops.len();
    let outcome = call(route, ops, &mesh).await.and_then(|replies| {
        let complete = replies.len() == count || (route.way == Way::Read && replies.len() < count);
        let reason = || format!("{} replies to {count} operations", replies.len());
        if complete { Ok(replies) } else { Err(Failure::Lost { node: route.to, reason: reason() }) }
    });
    match outcome {
        Err(failure) => {
            for job in jobs {
                let _gone = job.reply.send(Err(failure.clone()));
            }
        }
        Ok(replies) => {
            let mut replies = replies.into_iter();
            for (job, length) in jobs.into_iter().zip(lengths) {
                let _gone = job.reply.send(Ok(replies.by_ref().take(length).collect()));
            }
        }
    }
}

async fn call(route: Route, ops: Vec<Op>, mesh: &Mesh) -> Outcome {
    let node = route.to;
    let mut client =
        mesh.peer(node).map_err(|error| Failure::Unreachable { node, reason: error.to_string() })?;
    let request = ExecuteRequest { group: route.group.0.into(), ops };
    match tokio::time::timeout(ANSWER_MAX, client.execute(request)).await {
        Err(_) => Err(Failure::Lost { node, reason: "no answer in time".to_owned() }),
        Ok(Err(status)) => Err(failed(node, &status)),
        Ok(Ok(response)) => read(node, response.into_inner()),
    }
}

fn read(node: NodeId, response: ExecuteResponse) -> Outcome {
    match response.result {
        Some(Answer::Replies(Replies { replies })) => Ok(replies),
        Some(Answer::NotLeader(NotLeader { leader })) => {
            Err(Failure::NotLeader { leader: (leader != 0).then_some(NodeId(leader)) })
        }
        Some(Answer::Refused(reason)) => Err(Failure::NotNow(reason)),
        Some(Answer::Unknown(reason)) => Err(Failure::Unknown(reason)),
        None => Err(Failure::Lost { node, reason: "an empty answer".to_owned() }),
    }
}

/// Tells what provably was not executed from what may have been.
fn failed(node: NodeId, status: &Status) -> Failure {
    let reason = status.message().to_owned();
    if is_connect_error(status) {
        return Failure::Unreachable { node, reason };
    }
    match status.code() {
        // Said by the other side's guards and checks, before it did anything.
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
            Failure::Rejected { node, reason }
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Failure::Lost { node, reason },
    }
}

/// Whether no connection came about, so that nothing can have been sent.
fn is_connect_error(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
