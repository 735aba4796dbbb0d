//! What an agent does about releases: it obeys the newest controller, fetches, starts and stops.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_core::control::{Act, ControlState, Goal, Goals};
use proto::ids::{Epoch, NodeId, ReleaseId};
use proto::peer::{AppState, InstanceState, NodeState, Phase};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::farm::Farm;
use super::invariants::Seen;
use super::{Quality, quality};

pub const APPS: [&str; 2] = ["blog", "shop"];
/// An agent that does not follow the log so far in this time refuses.
const FOLLOW_MAX: Duration = Duration::from_secs(3);
const FETCH_US: std::ops::RangeInclusive<u64> = 50_000..=1_500_000;
const START_US: std::ops::RangeInclusive<u64> = 50_000..=1_500_000;
/// The old instance finishes what it is at.
const STOP_US: std::ops::RangeInclusive<u64> = 20_000..=400_000;
const FETCH_AGAIN: Duration = Duration::from_millis(300);

/// What is on a server's disk besides the log. It is there when a call returns.
#[derive(Default)]
pub struct Facts {
    inner: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    epoch_seen: Epoch,
    releases: BTreeSet<ReleaseId>,
}

impl Facts {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn has(&self, release: ReleaseId) -> bool {
        self.kept().releases.contains(&release)
    }

    pub fn keep(&self, release: ReleaseId) {
        self.kept().releases.insert(release);
    }

    /// Whether an epoch is not older than the newest that was seen, which is noted.
    fn admit(&self, given: Epoch) -> bool {
        let mut kept = self.kept();
        let is_new = given >= kept.epoch_seen;
        kept.epoch_seen = kept.epoch_seen.max(given);
        is_new
    }
}

/// One app here.
#[derive(Debug, Clone, Default)]
struct Run {
    goal: Goal,
    status: Option<&'static str>,
    /// It takes requests.
    serving: Option<ReleaseId>,
    /// It may at any moment.
    starting: Option<ReleaseId>,
}

/// One life's.
pub struct Agent {
    pub me: NodeId,
    pub facts: Arc<Facts>,
    state: watch::Receiver<Arc<ControlState>>,
    goals: Mutex<Goals>,
    woken: Notify,
    runs: Mutex<BTreeMap<&'static str, Run>>,
    told: Mutex<u64>,
}

impl Agent {
    pub fn new(me: NodeId, facts: Arc<Facts>, state: watch::Receiver<Arc<ControlState>>) -> Self {
        Self {
            me,
            facts,
            state,
            goals: Mutex::default(),
            woken: Notify::new(),
            runs: Mutex::default(),
            told: Mutex::default(),
        }
    }

    pub fn state(&self) -> Arc<ControlState> {
        Arc::clone(&self.state.borrow())
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<&'static str, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goals(&self) -> MutexGuard<'_, Goals> {
        self.goals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, app: &'static str, change: impl FnOnce(&mut Run)) {
        change(self.runs().entry(app).or_default());
    }

    /// What takes requests here.
    pub fn serving(&self, app: &str) -> Option<ReleaseId> {
        self.runs().get(app)?.serving
    }

    /// Does what a controller says, if it is the newest.
    pub async fn act(&self, farm: &Farm, from: NodeId, epoch: Epoch, act: &Act) {
        let mut followed = self.state.clone();
        let reached = timeout(FOLLOW_MAX, followed.wait_for(|state| state.epoch >= epoch)).await;
        let Ok(Ok(state)) = reached.map(|state| state.map(|state| Arc::clone(&state))) else { return };
        if state.epoch > epoch || state.controller != Some(from) || !self.facts.admit(epoch) {
            return;
        }
        farm.jury.see(&Seen::Obeyed { node: self.me, controller: from, epoch, act: act.clone() });
        match act {
            // Whoever is to run it fetches it by himself; this is so that it is here before.
            Act::Fetch { release, .. } => {
                self.fetch(farm, *release).await;
            }
            Act::Run { app, release, attempt } => {
                let goal = Goal { release: *release, attempt: *attempt };
                if self.goals().told(app, goal) {
                    self.woken.notify_one();
                }
            }
        }
    }

    /// Follows the log and its own controller's word, until its life is over.
    pub async fn work(self: Arc<Self>, farm: Arc<Farm>) {
        let mut state = self.state.clone();
        let mut apps: BTreeMap<&'static str, watch::Sender<Goal>> = BTreeMap::new();
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let goals = {
                let now = Arc::clone(&state.borrow_and_update());
                let mut goals = self.goals();
                goals.follow(&now, self.me);
                goals.all()
            };
            for app in APPS {
                let Some(goal) = goals.get(app) else { continue };
                if let Some(sender) = apps.get(app) {
                    sender.send_if_modified(|known| std::mem::replace(known, *goal) != *goal);
                    continue;
                }
                let (sender, receiver) = watch::channel(*goal);
                tasks.spawn(Arc::clone(&self).run(app, Arc::clone(&farm), receiver));
                apps.insert(app, sender);
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = self.woken.notified() => {}
            }
        }
    }

    /// One app, goal after goal.
    async fn run(self: Arc<Self>, app: &'static str, farm: Arc<Farm>, mut goals: watch::Receiver<Goal>) {
        loop {
            let goal = *goals.borrow_and_update();
            let towards = self.reach(app, goal, &farm);
            tokio::select! {
                () = towards => if goals.changed().await.is_err() { return },
                changed = goals.changed() => if changed.is_err() { return },
            }
            self.change(app, |run| run.starting = None);
        }
    }

    async fn reach(&self, app: &'static str, goal: Goal, farm: &Farm) {
        let set =
            |status: &'static str| self.change(app, |run| (run.goal, run.status) = (goal, Some(status)));
        let Some(release) = goal.release else {
            set("stopping");
            farm.pass(STOP_US).await;
            self.serve(app, None, farm);
            return set("stopped");
        };
        if self.serving(app) == Some(release) {
            return set("ready");
        }
        set("fetching");
        while !self.fetch(farm, release).await {
            sleep(FETCH_AGAIN).await;
        }
        self.change(app, |run| run.starting = Some(release));
        set("starting");
        farm.pass(START_US).await;
        if quality(release) == Quality::Hangs {
            return std::future::pending().await;
        }
        if self.fails(farm, release) {
            return self.fail(app, goal);
        }
        self.change(app, |run| run.starting = None);
        self.serve(app, Some(release), farm);
        set("ready");
    }

    /// Whether a release fails on this server.
    pub fn fails(&self, farm: &Farm, release: ReleaseId) -> bool {
        match quality(release) {
            Quality::Bad => true,
            Quality::Flaky => farm.host_of(self.me).is_some_and(|host| host % 4 == 1),
            Quality::Good | Quality::Hangs => false,
        }
    }

    fn fail(&self, app: &'static str, goal: Goal) {
        self.change(app, |run| (run.goal, run.status, run.starting) = (goal, Some("failed"), None));
    }

    /// The old instance gives way to the new one.
    fn serve(&self, app: &'static str, release: Option<ReleaseId>, farm: &Farm) {
        self.change(app, |run| run.serving = release);
        farm.jury.see(&Seen::Serves { node: self.me, app, release, at_ms: farm.jury.now_ms() });
    }

    /// Whether the release is here, after one try to get it from somebody who has it.
    async fn fetch(&self, farm: &Farm, release: ReleaseId) -> bool {
        if self.facts.has(release) {
            return true;
        }
        let Some(source) = farm.somebody_with(release, self.me) else { return false };
        let links = &farm.servers.links;
        let fetched = timeout(FOLLOW_MAX, async {
            links.cross(self.me, source).await;
            farm.pass(FETCH_US).await;
            links.cross(source, self.me).await;
        });
        // Who has died in the meantime has sent half of it.
        let is_here = fetched.await.is_ok() && farm.somebody_with(release, self.me).is_some();
        if is_here {
            self.facts.keep(release);
        }
        is_here
    }

    /// What it says of itself.
    pub fn tells(&self, generation: u64) -> NodeState {
        let sequence = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            *told += 1;
            *told
        };
        let bytes = |release: ReleaseId| release.0.to_vec().into();
        let runs = self.runs().clone();
        let app = |(app, run): (&&str, &Run)| AppState {
            app: (*app).to_owned(),
            release: run.goal.release.map(bytes).unwrap_or_default(),
            state: run.status.unwrap_or_default().to_owned(),
            message: "it fell over".to_owned(),
            action: run.goal.attempt,
            ..AppState::default()
        };
        let instance = |app: &str, release: Option<ReleaseId>, state: &str| {
            let release = bytes(release?);
            let (app, state) = (app.to_owned(), state.to_owned());
            Some(InstanceState { app, release, state, ..InstanceState::default() })
        };
        let instances = runs.iter().flat_map(|(app, run)| {
            [instance(app, run.serving, "ready"), instance(app, run.starting, "starting")]
        });
        let is_member = self.state.borrow().member(self.me).is_some();
        let phase = if is_member { Phase::Ready } else { Phase::Joining };
        NodeState {
            node: self.me.0,
            generation,
            sequence,
            phase: phase.into(),
            releases: self.facts.kept().releases.iter().map(|release| bytes(*release)).collect(),
            apps: runs.iter().filter(|(_, run)| run.status.is_some()).map(app).collect(),
            instances: instances.flatten().collect(),
            ..NodeState::default()
        }
    }
}
