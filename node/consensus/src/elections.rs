//! Drives the elections of all groups of a node: the shell around [`node_core::election`].
//!
//! One task ticks every group, so that a hundred groups cost one timer. The questions of a pre-vote
//! go out in tasks of their own, and the answers come back to the same task through a queue: the
//! drivers have one owner.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use node_core::election::{Driver, Effect, Patience, View, consents};
use proto::ids::{GroupId, NodeId};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::group::Core;
use crate::groups::Shared;
use crate::settings::Settings;
use crate::transport::Transport;
use crate::types::{LogId, node};
use crate::wire::{self, PreVoteAnswer, PreVoteRequest, Request};

const TICK: Duration = Duration::from_millis(50);
/// The commit index goes to disk this often when nothing else does.
const FLUSH_EVERY_TICKS: u32 = 20;
/// Answers to pre-votes that wait: every group's, from every voter.
const ANSWERS_MAX: usize = 1_024;

struct Answer {
    group: GroupId,
    round: u64,
    from: NodeId,
}

pub fn patience(settings: &Settings) -> Patience {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Patience {
        // A little more than the others' lease, so that they consent at the first question.
        lease_ms: ms(settings.lease) + ms(TICK),
        jitter_ms: ms(settings.vote_timeout) / 3,
        ask_ms: ms(settings.vote_timeout),
        elect_ms: 2 * ms(settings.vote_timeout),
    }
}

pub async fn run(shared: Arc<Shared>, tracker: TaskTracker, stop: CancellationToken) {
    let mut drivers: BTreeMap<GroupId, Driver> = BTreeMap::new();
    let (tell, mut told) = mpsc::channel::<Answer>(ANSWERS_MAX);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0u32;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            answer = told.recv() => {
                let Some(answer) = answer else { return };
                if let (Some(core), Some(driver)) = (shared.core(answer.group), drivers.get_mut(&answer.group)) {
                    let configs = configs(&core);
                    let view = view(&core, &configs, &shared);
                    let effect = driver.consented(core.now_ms(), answer.round, answer.from, view);
                    act(effect, &core, &configs, &shared, &tell, &tracker);
                }
            }
            _ = ticks.tick() => {
                count = count.wrapping_add(1);
                for core in shared.cores() {
                    let driver = drivers
                        .entry(core.id)
                        .or_insert_with(|| Driver::new(patience(&core.settings), rand::random()));
                    let configs = configs(&core);
                    let effect = driver.tick(core.now_ms(), view(&core, &configs, &shared));
                    core.set_searching(driver.is_searching());
                    act(effect, &core, &configs, &shared, &tell, &tracker);
                    if count.is_multiple_of(FLUSH_EVERY_TICKS) {
                        core.log.flush_committed();
                    }
                }
                drivers.retain(|group, _| shared.core(*group).is_some());
            }
        }
    }
}

/// Whether this replica consents that another calls an election.
pub fn answer(core: &Core, request: &PreVoteRequest, leader_suspect: bool) -> PreVoteAnswer {
    let leads = core.leads();
    let heard_ms_ago = (!leads).then(|| core.now_ms().saturating_sub(core.heard_ms()));
    // What raft itself holds against a vote is the lease, so the driver's margin does not count here.
    let patience = Patience {
        lease_ms: u64::try_from(core.settings.lease.as_millis()).unwrap_or(0),
        ..patience(&core.settings)
    };
    let mine: Option<LogId> = core.log.last_log_id();
    PreVoteAnswer { consents: consents(&patience, heard_ms_ago, leader_suspect, &mine, &request.last_log) }
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

fn act(
    effect: Option<Effect>,
    core: &Arc<Core>,
    configs: &[BTreeSet<NodeId>],
    shared: &Arc<Shared>,
    tell: &mpsc::Sender<Answer>,
    tracker: &TaskTracker,
) {
    match effect {
        None => {}
        Some(Effect::Elect) => {
            let core = Arc::clone(core);
            tracker.spawn(async move {
                if let Err(error) = core.raft.trigger().elect().await {
                    tracing::warn!(group = %core.id, %error, "can not call an election");
                }
            });
        }
        Some(Effect::Ask { round }) => {
            let others: BTreeSet<NodeId> =
                configs.iter().flatten().copied().filter(|id| *id != core.me).collect();
            for to in others {
                let ask = ask(Arc::clone(core), Arc::clone(&shared.transport), to, round, tell.clone());
                tracker.spawn(ask);
            }
        }
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
    let Ok(payload) = wire::encode(&request) else { return };
    // Who does not answer does not consent; the driver asks again.
    let Ok(answer) = transport.call(to, core.id, payload, core.settings.vote_timeout).await else { return };
    if wire::decode::<PreVoteAnswer>(&answer).is_ok_and(|answer| answer.consents) {
        let _stopping = tell.send(Answer { group: core.id, round, from: to }).await;
    }
}
