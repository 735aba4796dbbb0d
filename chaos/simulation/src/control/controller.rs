//! The controller, as `node/src/control/controller.rs` has it: what the leader of the log does besides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use node_consensus::WriteError;
use node_core::control::{
    Act, Applied, Command, Electorate, Outcome, Plan, Policy, Refusal, VoterPolicy, plan,
};
use proto::ids::{Epoch, NodeId};
use rand::Rng as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::farm::{Farm, Life};
use super::invariants::Seen;

const TICK: Duration = Duration::from_millis(200);
const COALESCE: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_millis(500);
const SETTLE_MAX: Duration = Duration::from_secs(3);
const AGAIN_AFTER: Duration = Duration::from_secs(2);
const CHANGE_AGAIN: Duration = Duration::from_secs(1);
/// Of a hundred acts: so late that its controller may be one no more.
const LATE_PERCENT: u32 = 5;
const LATE_US: std::ops::RangeInclusive<u64> = 0..=15_000_000;

/// Less patient than the product's, so that what waits for patience comes about in a simulation.
pub const POLICY: Policy =
    Policy { replicas: 3, holder_dead_ms: 6_000, voters: VoterPolicy { dead_ms: 5_000, stable_ms: 2_000 } };

/// Reigns whenever this life leads.
pub async fn run(farm: Arc<Farm>, life: Life) {
    let mut view = life.group.watch();
    while view.wait_for(|view| view.is_leader).await.is_ok() {
        match begin(&farm, &life).await {
            Some(epoch) => Reign::new(&farm, &life, epoch).last().await,
            None => sleep(RETRY).await,
        }
    }
}

async fn begin(farm: &Farm, life: &Life) -> Option<Epoch> {
    if let Some(genesis) = farm.genesis(life.on.me) {
        let outcome = write(life, &genesis).await.ok()?;
        if outcome != Outcome::Done && outcome != Outcome::Refused(Refusal::AlreadyInitialised) {
            return None;
        }
    }
    let started = Command::ControllerStarted { node: life.on.me };
    let Outcome::Started { epoch } = write(life, &started).await.ok()? else { return None };
    farm.jury.see(&Seen::Reigns { node: life.on.me, epoch });
    Some(epoch)
}

/// Has a command written by the group's leader, if that is this life.
///
/// # Errors
/// As the group's.
pub async fn write(life: &Life, command: &Command) -> Result<Outcome, WriteError> {
    let _turn = life.writes.lock().await;
    let answer = life.group.write(command.encode().into()).await?;
    Ok(Applied::decode(&answer).map_or(Outcome::Refused(Refusal::Unreadable), |applied| applied.outcome))
}

struct Reign<'a> {
    farm: &'a Arc<Farm>,
    life: &'a Life,
    epoch: Epoch,
    began: Instant,
    sent: BTreeMap<(NodeId, Act), Instant>,
    change: JoinSet<bool>,
    not_before: Instant,
}

impl<'a> Reign<'a> {
    fn new(farm: &'a Arc<Farm>, life: &'a Life, epoch: Epoch) -> Self {
        let now = Instant::now();
        Self { farm, life, epoch, began: now, sent: BTreeMap::new(), change: JoinSet::new(), not_before: now }
    }

    /// Lasts until somebody else leads or reigns.
    async fn last(mut self) {
        let mut state = self.life.state.clone();
        let mut group = self.life.group.watch();
        while group.borrow().is_leader && state.borrow_and_update().epoch == self.epoch {
            let now_ms = self.life.group.now_ms();
            let seen = self.life.agent.state();
            let inventory = self.life.members.inventory(&group.borrow_and_update().clone(), now_ms);
            if self.life.members.is_settled(&seen) || self.began.elapsed() > SETTLE_MAX {
                let plan = plan(&seen, &inventory, now_ms, &POLICY);
                if self.carry_out(plan).await.is_err() {
                    break;
                }
            }
            sleep(COALESCE).await;
            tokio::select! {
                changed = state.changed() => if changed.is_err() { break },
                changed = group.changed() => if changed.is_err() { break },
                Some(changed) = self.change.join_next() => if !matches!(changed, Ok(true)) {
                    self.not_before = Instant::now() + CHANGE_AGAIN;
                },
                () = sleep(TICK) => {}
            }
        }
    }

    async fn carry_out(&mut self, plan: Plan) -> Result<(), WriteError> {
        for command in &plan.commands {
            if let Outcome::Refused(refusal) = write(self.life, command).await? {
                self.farm.scene.note(format_args!("{} is refused {command:?}: {refusal}", self.life.on.me));
            }
        }
        self.sent.retain(|act, _| plan.acts.contains(act));
        for act in plan.acts {
            if self.sent.get(&act).is_none_or(|sent| sent.elapsed() >= AGAIN_AFTER) {
                self.sent.insert(act.clone(), Instant::now());
                self.send(act);
            }
        }
        if let Some(next) = plan.electorate {
            self.reconfigure(next);
        }
        Ok(())
    }

    /// It arrives, or does not, whatever becomes of this reign.
    fn send(&self, (to, act): (NodeId, Act)) {
        let (farm, from, epoch) = (Arc::clone(self.farm), self.life.on.me, self.epoch);
        let late = farm.scene.draw(|random| {
            (random.random_range(0..100) < LATE_PERCENT).then(|| random.random_range(LATE_US))
        });
        tokio::spawn(async move {
            farm.servers.links.cross(from, to).await;
            sleep(Duration::from_micros(late.unwrap_or(0))).await;
            let Some(life) = farm.life(to) else { return };
            let heard = life.agent.act(&farm, from, epoch, &act);
            life.on.stop.run_until_cancelled(heard).await;
        });
    }

    fn reconfigure(&mut self, next: Electorate) {
        if !self.change.is_empty() || Instant::now() < self.not_before {
            return;
        }
        self.farm.scene.note(format_args!("{} wants {next:?}", self.life.on.me));
        let group = self.life.group.clone();
        let (farm, me) = (Arc::clone(self.farm), self.life.on.me);
        self.change.spawn(async move {
            let changed = group.reconfigure(next.voters, next.learners).await;
            if let Err(error) = &changed {
                farm.scene.note(format_args!("{me} does not get it: {error}"));
            }
            changed.is_ok()
        });
    }
}
