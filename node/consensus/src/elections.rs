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

use crate::group::Core;
use crate::groups::Shared;
use crate::settings::{Settings, millis};
use crate::transport::Transport;
use crate::types::{LogId, node};
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
        for core in self.shared.cores() {
            let configs = configs(&core);
            let view = view(&core, &configs, &self.shared);
            let driver = self.driver(&core);
            let effect = driver.tick(core.now_ms(), view);
            core.set_searching(driver.is_searching());
            self.act(effect, &core, &configs);
            let heartbeat_ticks = (millis(core.settings.heartbeat) / millis(TICK)).max(1);
            if u64::from(count).is_multiple_of(heartbeat_ticks) && view.leading && core.was_idle() {
                // It only queues. A group that has stopped has told so itself.
                let _stopped = core.raft.trigger().heartbeat().await;
            }
            if count.is_multiple_of(FLUSH_EVERY_TICKS) {
                core.log.flush_committed();
            }
        }
    }

    fn asked(&mut self, question: Question) {
        let Some(core) = self.shared.core(question.group) else { return };
        let configs = configs(&core);
        let view = view(&core, &configs, &self.shared);
        let my_last = core.log.last_log_id();
        let compared =
            election::Question { from: question.from, my_last: &my_last, their_last: &question.last_log };
        let consents = self.driver(&core).consents(core.now_ms(), compared, view);
        // Whoever asked may have waited too long.
        let _gone = question.reply.send(consents);
    }

    fn answered(&mut self, answer: &Answer) {
        let Some(core) = self.shared.core(answer.group) else { return };
        let configs = configs(&core);
        let view = view(&core, &configs, &self.shared);
        let effect = self.driver(&core).consented(core.now_ms(), answer.round, answer.from, view);
        self.act(effect, &core, &configs);
    }

    fn driver(&mut self, core: &Core) -> &mut Driver {
        self.drivers.entry(core.id).or_insert_with(|| Driver::new(patience(&core.settings), rand::random()))
    }

    fn act(&self, effect: Option<Effect>, core: &Arc<Core>, configs: &[BTreeSet<NodeId>]) {
        match effect {
            None => {}
            Some(Effect::Elect) => {
                let core = Arc::clone(core);
                self.tracker.spawn(async move {
                    if let Err(error) = core.raft.trigger().elect().await {
                        tracing::warn!(group = %core.id, %error, "can not call an election");
                    }
                });
            }
            Some(Effect::Ask { round }) => {
                let voters: BTreeSet<NodeId> = configs.iter().flatten().copied().collect();
                for to in voters.into_iter().filter(|id| *id != core.me) {
                    let transport = Arc::clone(&self.shared.transport);
                    self.tracker.spawn(ask(Arc::clone(core), transport, to, round, self.tell.clone()));
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

fn configs(core: &Core) -> Vec<BTreeSet<NodeId>> {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow();
    let joint = metrics.membership_config.membership().get_joint_config();
    joint.iter().map(|config| config.iter().copied().map(node).collect()).collect()
}

fn view<'a>(core: &Core, configs: &'a [BTreeSet<NodeId>], shared: &Shared) -> View<'a> {
    View {
        me: core.me,
        configs,
        leading: core.leads(),
        heard_ms: core.heard_ms(),
        leader_suspect: shared.leader_suspect(core),
    }
}

async fn ask(
    core: Arc<Core>,
    transport: Arc<dyn Transport>,
    to: NodeId,
    round: u64,
    tell: mpsc::Sender<Answer>,
) {
    let request = Request::PreVote(PreVoteRequest { last_log: core.log.last_log_id() });
    let Ok(payload) = wire::encode_request(to, &request) else { return };
    // Who does not answer does not consent; the driver asks again.
    let Ok(answer) = transport.call(to, core.id, payload, core.settings.vote_timeout).await else { return };
    if wire::decode::<PreVoteAnswer>(&answer).is_ok_and(|answer| answer.consents) {
        let _stopping = tell.send(Answer { group: core.id, round, from: to }).await;
    }
}
