//! Drives the elections and the heartbeats of all groups of a node: the shell around
//! [`node_core::election`].
//!
//! ```text
//!   peers' questions ──▶ ┌───────────┐ ──Ask──▶ a task per peer ──▶ transport
//!   answers ───────────▶ │ this task │ ──Elect─▶ raft.trigger().elect()
//!   timer, 50 ms ──────▶ └───────────┘ ──every third tick─▶ raft.trigger().heartbeat()
//! ```
//!
//! One task ticks every group, so that a hundred groups cost one timer, and the drivers have one
//! owner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use node_core::election::{self, Driver, Effect, Patience, View};
use proto::ids::{GroupId, NodeId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::groups::Shared;
use crate::replica::{Members, Replica};
use crate::settings::{Settings, millis};
use crate::transport::Transport;
use crate::types::LogId;
use crate::wire::{self, PreVoteAnswer, PreVoteRequest, Request};

const TICK: Duration = Duration::from_millis(50);
/// The commit index goes to disk this often when nothing else does.
const FLUSH_EVERY_TICKS: u32 = 20;
/// Answers to pre-votes that wait: every group's, from every voter.
const ANSWERS_MAX: usize = 1_024;
/// Peers' questions that wait. Who gets no answer asks again.
pub const QUESTIONS_MAX: usize = 1_024;

/// A peer would like to lead a group.
pub struct Question {
    pub group: GroupId,
    pub from: NodeId,
    pub last_log: Option<LogId>,
    pub reply: oneshot::Sender<bool>,
}

/// A peer consents to this node's question.
struct Answer {
    group: GroupId,
    round: u64,
    from: NodeId,
}

/// Runs until `stop`.
pub async fn run(
    shared: Arc<Shared>,
    mut questions: mpsc::Receiver<Question>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    let _guard = shared.fault.guard("the election driver");
    let (tell, mut answers) = mpsc::channel(ANSWERS_MAX);
    let mut elections = Elections { shared, drivers: BTreeMap::new(), tell, tracker };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0u32;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(answer) = answers.recv() => elections.answered(&answer),
            Some(question) = questions.recv() => elections.asked(question),
            _ = ticks.tick() => {
                count = count.wrapping_add(1);
                elections.tick(count).await;
            }
        }
    }
}

struct Elections {
    shared: Arc<Shared>,
    drivers: BTreeMap<GroupId, Driver>,
    tell: mpsc::Sender<Answer>,
    tracker: TaskTracker,
}

impl Elections {
    async fn tick(&mut self, count: u32) {
        for replica in self.shared.replicas() {
            let members = replica.members();
            let view = view(&replica, &members, &self.shared);
            let driver = self.driver(&replica);
            let effect = driver.tick(replica.now_ms(), view);
            replica.set_searching(driver.is_searching());
            self.act(effect, &replica, &members);
            let heartbeat_ticks = (millis(replica.settings.heartbeat) / millis(TICK)).max(1);
            if u64::from(count).is_multiple_of(heartbeat_ticks) && view.leading && replica.was_idle() {
                // It only queues. A group that has stopped has told so itself.
                let _stopped = replica.raft.trigger().heartbeat().await;
            }
            if count.is_multiple_of(FLUSH_EVERY_TICKS) {
                replica.log.flush_committed();
            }
        }
    }

    fn asked(&mut self, question: Question) {
        let Some(replica) = self.shared.replica(question.group) else { return };
        let members = replica.members();
        let view = view(&replica, &members, &self.shared);
        let my_last = replica.log.last_log_id();
        let compared =
            election::Question { from: question.from, my_last: &my_last, their_last: &question.last_log };
        let consents = self.driver(&replica).consents(replica.now_ms(), compared, view);
        // Whoever asked may have waited too long.
        let _gone = question.reply.send(consents);
    }

    fn answered(&mut self, answer: &Answer) {
        let Some(replica) = self.shared.replica(answer.group) else { return };
        let members = replica.members();
        let view = view(&replica, &members, &self.shared);
        let effect = self.driver(&replica).consented(replica.now_ms(), answer.round, answer.from, view);
        self.act(effect, &replica, &members);
    }

    fn driver(&mut self, replica: &Replica) -> &mut Driver {
        let ambient = &self.shared.ambient;
        let made = || Driver::new(patience(&replica.settings), ambient.random());
        self.drivers.entry(replica.id).or_insert_with(made)
    }

    fn act(&self, effect: Option<Effect>, replica: &Arc<Replica>, members: &Members) {
        match effect {
            None => {}
            Some(Effect::Elect) => {
                let replica = Arc::clone(replica);
                self.tracker.spawn(async move {
                    if let Err(error) = replica.raft.trigger().elect().await {
                        tracing::warn!(group = %replica.id, %error, "can not call an election");
                    }
                });
            }
            Some(Effect::Ask { round }) => {
                let voters: BTreeSet<NodeId> = members.configs.iter().flatten().copied().collect();
                for to in voters.into_iter().filter(|id| *id != replica.me) {
                    let transport = Arc::clone(&self.shared.transport);
                    self.tracker.spawn(ask(Arc::clone(replica), transport, to, round, self.tell.clone()));
                }
            }
        }
    }
}

fn patience(settings: &Settings) -> Patience {
    Patience {
        lease_ms: millis(settings.lease),
        silence_ms: millis(settings.silence),
        jitter_ms: millis(settings.vote_timeout) / 4,
        ask_ms: millis(settings.vote_timeout),
        elect_ms: 2 * millis(settings.vote_timeout),
    }
}

fn view<'a>(replica: &Replica, members: &'a Members, shared: &Shared) -> View<'a> {
    View {
        me: replica.me,
        configs: &members.configs,
        leading: replica.leads(),
        heard_ms: replica.heard_ms(),
        leader_suspect: shared.leader_suspect(replica),
    }
}

async fn ask(
    replica: Arc<Replica>,
    transport: Arc<dyn Transport>,
    to: NodeId,
    round: u64,
    tell: mpsc::Sender<Answer>,
) {
    let request = Request::PreVote(PreVoteRequest { last_log: replica.log.last_log_id() });
    let Ok(payload) = wire::encode_request(to, &request) else { return };
    // Who does not answer does not consent; the driver asks again.
    let Ok(answer) = transport.call(to, replica.id, payload, replica.settings.vote_timeout).await else {
        return;
    };
    if wire::decode::<PreVoteAnswer>(&answer).is_ok_and(|answer| answer.consents) {
        let _stopping = tell.send(Answer { group: replica.id, round, from: to }).await;
    }
}
