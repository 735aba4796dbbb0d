//! The planner against a farm of simulated agents that die, come back and get old messages.
//!
//! The farm keeps its promises in every step (at most two releases of an app among the agents that are
//! up; what fails never becomes stable; a deposed controller's messages do nothing), and comes to rest
//! when the faults stop: every rollout ended, every agent running what it should.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::ids::{Epoch, NodeId, ReleaseId};
use proto::peer::Phase;

use super::super::*;
use super::{Log, TOKEN, newcomer, release};

const APP: &str = "shop";
/// Releases from here on fail on nodes with an even id.
const FIRST_FLAKY: u8 = 4;
/// Releases from here on fail wherever they are started.
const FIRST_BAD: u8 = 6;

fn fails_on(node: NodeId, release: ReleaseId) -> bool {
    release.0[0] >= FIRST_BAD || (release.0[0] >= FIRST_FLAKY && node.0.is_multiple_of(2))
}

/// An agent as far as the planner can tell it from a real one.
#[derive(Default)]
struct Agent {
    up: bool,
    /// It runs on and nobody reaches it.
    cut_off: bool,
    /// It was cut off and has not been told yet what it missed.
    estranged: bool,
    /// Steps in which it does nothing.
    stalled: u8,
    /// When it came up or went down.
    since_ms: u64,
    epoch_seen: Epoch,
    /// Survives a restart, as the disk does.
    releases: BTreeSet<ReleaseId>,
    /// What it was told last, or read in the log when it started.
    told: Option<(Option<ReleaseId>, u64)>,
    status: Option<AppStatus>,
    /// The instance that takes requests: the old one until the new one is ready.
    serving: Option<ReleaseId>,
}

impl Agent {
    fn die(&mut self, now_ms: u64) {
        *self = Self {
            since_ms: now_ms,
            epoch_seen: self.epoch_seen,
            releases: std::mem::take(&mut self.releases),
            ..Self::default()
        };
    }

    /// Comes up and runs what the log says, as an agent does that has caught up with it.
    fn start(&mut self, demand: Option<Demand>, now_ms: u64) {
        self.up = true;
        self.since_ms = now_ms;
        if let Some(demand) = demand.filter(|demand| demand.release.is_some()) {
            self.releases.extend(demand.release);
            self.run(demand.release, demand.attempt);
        }
    }

    fn act(&mut self, epoch: Epoch, act: &Act) {
        if !self.up || self.cut_off || epoch < self.epoch_seen {
            return;
        }
        self.epoch_seen = epoch;
        match act {
            Act::Fetch { release, .. } => {
                self.releases.insert(*release);
            }
            Act::Run { release, attempt, .. } => self.run(*release, *attempt),
        }
    }

    fn run(&mut self, release: Option<ReleaseId>, attempt: u64) {
        let (now, known) =
            self.told.map_or((None, None), |(release, attempt)| (Some(release), Some(attempt)));
        if known.is_some_and(|known| attempt < known) {
            return;
        }
        self.told = Some((release, attempt));
        if now != Some(release) || (known != Some(attempt) && self.status == Some(AppStatus::Failed)) {
            self.status = Some(if release.is_some() { AppStatus::Starting } else { AppStatus::Stopping });
        }
    }

    /// One step of what an agent does by itself.
    fn go_on(&mut self, id: NodeId) {
        let Some((release, _)) = self.told.filter(|_| self.up) else { return };
        if self.stalled > 0 {
            self.stalled -= 1;
            return;
        }
        match (self.status, release) {
            (Some(AppStatus::Starting), Some(release)) if fails_on(id, release) => {
                self.status = Some(AppStatus::Failed);
            }
            (Some(AppStatus::Starting), Some(release)) => {
                self.status = Some(AppStatus::Ready);
                self.serving = Some(release);
            }
            (Some(AppStatus::Stopping), None) => {
                self.status = Some(AppStatus::Stopped);
                self.serving = None;
            }
            (_, _) => {}
        }
    }

    fn report(&self) -> NodeReport {
        let here = self.up && !self.cut_off;
        let mut report = NodeReport::new(here, self.since_ms, here, None);
        report.phase = Phase::Ready;
        report.releases.clone_from(&self.releases);
        if let (Some((release, attempt)), Some(state)) = (self.told, self.status) {
            let app = AppReport { release, state, message: "it fell over".to_owned(), attempt };
            report.apps.insert(APP.to_owned(), app);
        }
        report.serving.entry(APP.to_owned()).or_default().extend(self.serving);
        report
    }
}

#[derive(Debug, Clone)]
enum Event {
    Kill(usize),
    Revive(usize),
    CutOff(usize),
    Stall(usize, u8),
    Join,
    Deploy(u8),
    RollBack,
    NewController,
    /// So many messages of the next plan are lost or late.
    Lossy(u8),
    Deliver(usize),
    Pass,
}

struct World {
    log: Log,
    agents: BTreeMap<NodeId, Agent>,
    electorate: Electorate,
    becoming: Option<BTreeSet<NodeId>>,
    late_acts: Vec<(Epoch, NodeId, Act)>,
    late_commands: Vec<Command>,
    lossy: u8,
}

impl World {
    fn new(nodes: u8) -> Self {
        let mut world = Self {
            log: Log::started(),
            agents: BTreeMap::new(),
            electorate: Electorate { voters: [NodeId(1)].into(), learners: BTreeSet::new() },
            becoming: None,
            late_acts: Vec::new(),
            late_commands: Vec::new(),
            lossy: 0,
        };
        world.agents.insert(NodeId(1), Agent { up: true, ..Agent::default() });
        (1..nodes).for_each(|_| world.join());
        world.log.start_controller(NodeId(1));
        world
    }

    fn join(&mut self) {
        let key = u8::try_from(self.agents.len() + 1).unwrap();
        let node = newcomer(&format!("node-{key}"), key);
        let outcome = self.log.write(&Command::AdmitNode { token_hash: TOKEN, node, replaces: None });
        let Outcome::Admitted { node, .. } = outcome else { panic!("{outcome:?}") };
        let mut agent = Agent::default();
        agent.start(demand(&self.log.state, APP, node), self.log.now_ms);
        self.agents.insert(node, agent);
    }

    fn nth(&self, n: usize) -> NodeId {
        *self.agents.keys().nth(n % self.agents.len()).unwrap()
    }

    fn happen(&mut self, event: &Event) {
        let now_ms = self.log.now_ms;
        match event {
            Event::Kill(n) => {
                let node = self.nth(*n);
                self.agents.get_mut(&node).unwrap().die(now_ms);
            }
            Event::Revive(n) => self.revive(self.nth(*n)),
            Event::CutOff(n) => {
                let node = self.nth(*n);
                let agent = self.agents.get_mut(&node).unwrap();
                (agent.cut_off, agent.since_ms) = (agent.up, now_ms);
            }
            Event::Stall(n, steps) => {
                let node = self.nth(*n);
                self.agents.get_mut(&node).unwrap().stalled = *steps;
            }
            Event::Join if self.agents.len() < 8 => self.join(),
            Event::Deploy(n) => {
                self.log.register(APP, *n, Route::default());
                self.log.target(APP, release(*n));
            }
            Event::RollBack => {
                self.log.write(&Command::Rollback { app: APP.to_owned(), to: None });
            }
            Event::NewController => {
                self.log.start_controller(NodeId(1));
            }
            Event::Lossy(n) => self.lossy = *n,
            Event::Deliver(n) => self.deliver_late(*n),
            Event::Join | Event::Pass => {}
        }
    }

    fn revive(&mut self, node: NodeId) {
        let demand = demand(&self.log.state, APP, node);
        let agent = self.agents.get_mut(&node).unwrap();
        if !agent.up {
            agent.start(demand, self.log.now_ms);
        }
        if agent.cut_off {
            (agent.cut_off, agent.estranged, agent.since_ms) = (false, true, self.log.now_ms);
        }
    }

    /// Something that was on its way for long arrives, perhaps from a controller that is no more.
    fn deliver_late(&mut self, n: usize) {
        if !self.late_acts.is_empty() {
            let (epoch, node, act) = self.late_acts.swap_remove(n % self.late_acts.len());
            self.agents.get_mut(&node).unwrap().act(epoch, &act);
        }
        if !self.late_commands.is_empty() {
            let command = self.late_commands.swap_remove(n % self.late_commands.len());
            self.log.write(&command);
        }
    }

    fn plan(&self) -> Plan {
        let nodes = self.agents.iter().map(|(node, agent)| (*node, agent.report())).collect();
        let (electorate, becoming) = (self.electorate.clone(), self.becoming.clone());
        let inventory = Inventory { nodes, electorate, becoming };
        plan(&self.log.state, &inventory, self.log.now_ms, &Policy::default())
    }

    /// Plans and carries out, then lets the agents go on. Whether there was anything to do.
    fn tick(&mut self) -> bool {
        self.log.now_ms += 1_000;
        let plan = self.plan();
        let idle = plan == Plan::default();
        let epoch = self.log.state.epoch;
        for command in plan.commands {
            if self.is_lost() { self.late_commands.push(command) } else { self.carry_out(&command) }
        }
        for (node, act) in plan.acts {
            if self.is_lost() {
                self.late_acts.push((epoch, node, act));
            } else {
                self.agents.get_mut(&node).unwrap().act(epoch, &act);
            }
        }
        if let Some(electorate) = plan.electorate {
            (self.electorate, self.becoming) = (electorate, None);
        }
        for (node, agent) in &mut self.agents {
            agent.go_on(*node);
            let demanded = demand(&self.log.state, APP, *node).map(|demand| demand.release);
            agent.estranged &= agent.serving.is_some() && agent.serving != demanded.flatten();
        }
        !idle
    }

    fn carry_out(&mut self, command: &Command) {
        if let Command::Order { order: Order::Assign { node, .. }, .. } = command {
            let record = &self.log.state.apps[APP];
            let reached = self.agents.values().filter(|agent| agent.up && !agent.cut_off);
            let serving = reached.filter_map(|agent| agent.serving).chain(record.target());
            assert!(serving.collect::<BTreeSet<_>>().len() <= 2, "{node} would serve a third release");
        }
        let outcome = self.log.write(command);
        assert!(
            !matches!(outcome, Outcome::Refused(_)),
            "a planner decides what holds: {command:?} {outcome:?}"
        );
    }

    fn is_lost(&mut self) -> bool {
        let lost = self.lossy > 0;
        self.lossy = self.lossy.saturating_sub(1);
        lost
    }

    /// What must hold in every step.
    fn check(&self) {
        let reached = self.agents.values().filter(|agent| !agent.cut_off && !agent.estranged);
        let serving: BTreeSet<ReleaseId> = reached.filter_map(|agent| agent.serving).collect();
        assert!(serving.len() <= 2, "{serving:?} serve at a time");
        if let Some(record) = self.log.state.apps.get(APP) {
            let stable = record.stable.into_iter().chain(record.history.iter().copied());
            assert!(stable.clone().all(|release| release.0[0] < FIRST_BAD), "a failed release is stable");
            assert!(record.history.len() <= RELEASES_KEPT);
            let kept = stable.chain(record.target());
            assert!(kept.clone().all(|release| self.log.state.releases.contains_key(&release)));
        }
        assert!(self.agents.values().all(|agent| agent.epoch_seen <= self.log.state.epoch));
    }

    /// Heals everything, and waits until the controller has nothing left to do.
    fn come_to_rest(&mut self) {
        self.lossy = 0;
        let nodes: Vec<NodeId> = self.agents.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.revive(node));
        self.agents.values_mut().for_each(|agent| agent.stalled = 0);
        // A rollout takes some steps a node, and at most its deadline of 600 steps.
        for _ in 0..800 {
            let busy = self.tick();
            self.check();
            let rolling = self.log.state.apps.get(APP).is_some_and(|record| record.rollout.is_some());
            if !busy && !rolling {
                return;
            }
        }
        panic!("not at rest: {:?}", self.log.state.apps.get(APP));
    }

    fn rollout(&self) -> RolloutRecord {
        self.log.state.apps[APP].rollout.clone().unwrap()
    }

    fn outcome(&self) -> &RolloutOutcome {
        self.log.state.apps[APP].last_outcome.as_ref().unwrap()
    }

    fn running(&self) -> BTreeMap<NodeId, Option<ReleaseId>> {
        self.agents.iter().map(|(node, agent)| (*node, agent.serving)).collect()
    }
}

#[test]
fn a_release_is_rolled_out_one_node_after_the_other() {
    let mut world = World::new(3);
    world.happen(&Event::Deploy(1));
    world.come_to_rest();
    world.happen(&Event::Deploy(2));
    let mut counts = Vec::new();
    while world.log.state.apps[APP].rollout.is_some() {
        world.tick();
        world.check();
        let moving = world.agents.values().filter(|agent| agent.status == Some(AppStatus::Starting)).count();
        assert!(moving <= 1, "one at a time");
        counts.push(world.agents.values().filter(|agent| agent.serving == Some(release(2))).count());
    }
    assert!(counts.contains(&1) && counts.contains(&2) && counts.last() == Some(&3), "{counts:?}");
    assert_eq!(world.outcome().result, RolloutResult::Done);
}

#[test]
fn a_release_that_fails_on_one_node_reaches_no_other_and_the_farm_goes_back() {
    let mut world = World::new(3);
    world.happen(&Event::Deploy(1));
    world.come_to_rest();
    world.happen(&Event::Deploy(FIRST_BAD));
    let mut told = BTreeSet::new();
    while let Some(rollout) = world.log.state.apps[APP].rollout.clone() {
        told.extend(rollout.assigned);
        world.tick();
        world.check();
    }
    assert_eq!(told.len(), 1);
    assert_eq!(world.outcome().result, RolloutResult::RolledBack);
    assert_eq!(world.outcome().reason, "failed on node-1: it fell over");
    world.come_to_rest();
    assert!(world.running().values().all(|running| *running == Some(release(1))));
}

#[test]
fn a_node_that_is_down_is_named_as_behind_and_catches_up() {
    let mut world = World::new(3);
    world.happen(&Event::Kill(2));
    world.happen(&Event::Deploy(1));
    while world.log.state.apps.get(APP).is_none_or(|record| record.rollout.is_some()) {
        world.tick();
    }
    let behind = &world.outcome().behind;
    assert_eq!(behind.values().map(String::as_str).collect::<Vec<_>>(), ["down"]);
    let node = *behind.keys().next().unwrap();
    world.come_to_rest();
    assert_eq!(world.running()[&node], Some(release(1)));
}

#[test]
fn a_rollout_that_nobody_can_carry_out_ends_at_its_deadline() {
    let mut world = World::new(1);
    world.happen(&Event::Kill(0));
    world.happen(&Event::Deploy(1));
    world.log.now_ms += 600_000;
    world.tick();
    world.tick();
    assert_eq!(world.outcome().result, RolloutResult::Failed);
    assert!(world.outcome().reason.contains("deadline"), "{}", world.outcome().reason);
}

#[test]
fn a_successor_goes_on_where_the_log_says() {
    let mut world = World::new(3);
    world.happen(&Event::Deploy(1));
    while world.agents.values().all(|agent| agent.serving.is_none()) {
        world.tick();
    }
    let attempt = world.log.state.apps[APP].rollout.as_ref().unwrap().attempt;
    world.happen(&Event::NewController);
    world.come_to_rest();
    assert_eq!((world.outcome().attempt, world.outcome().result), (attempt, RolloutResult::Done));
}

/// A farm of three on release 1, of which a rollout of `n` has reached the stage `Rolling`.
fn rolling(n: u8) -> World {
    let mut world = World::new(3);
    world.happen(&Event::Deploy(1));
    world.come_to_rest();
    world.happen(&Event::Deploy(n));
    while world.rollout().stage == Stage::Distribute {
        world.tick();
    }
    world
}

#[test]
fn while_a_node_serves_a_third_release_no_other_node_is_told_to_change() {
    let mut world = rolling(2);
    let odd = world.nth(2);
    world.agents.get_mut(&odd).unwrap().serving = Some(release(3));
    world.tick();
    assert!(world.rollout().assigned.is_empty(), "it is on its way back, as far as anybody knows");
    // Where nobody serves the stable one there are two with the one to come.
    for agent in world.agents.values_mut() {
        agent.serving = Some(release(3));
    }
    world.tick();
    assert_eq!(world.rollout().assigned.len(), 1);
}

#[test]
fn a_change_of_voters_that_was_left_half_done_is_asked_for_again_and_goes_where_it_led() {
    let mut world = World::new(4);
    world.come_to_rest();
    let wanted = world.electorate.clone();
    assert_eq!(wanted.voters.len(), 3);
    // Grown: both configurations together are those that are wanted.
    world.becoming = Some(wanted.voters.clone());
    assert_eq!(world.plan().electorate, Some(wanted.clone()));
    // One replaced: the one that was to leave is among them, and there are four.
    world.electorate.voters.extend(&wanted.learners);
    world.electorate.learners.clear();
    assert_eq!(world.plan().electorate, Some(wanted.clone()));
    world.tick();
    assert_eq!((&world.electorate, world.plan().electorate), (&wanted, None));
}

#[test]
fn going_back_is_not_over_while_a_node_still_serves_the_failed_release() {
    let mut world = rolling(2);
    let first = world.nth(0);
    while world.agents[&first].serving != Some(release(2)) {
        world.tick();
    }
    world.happen(&Event::Stall(0, 100));
    let attempt = world.rollout().attempt;
    world.log.order(Order::TurnBack { app: APP.to_owned(), attempt, reason: "enough".to_owned() });
    for _ in 0..10 {
        world.tick();
        assert_eq!(world.rollout().stage, Stage::RollingBack);
    }
    world.agents.get_mut(&first).unwrap().serving = None;
    world.agents.get_mut(&first).unwrap().status = Some(AppStatus::Failed);
    world.tick();
    assert_eq!((world.outcome().result, world.outcome().behind.len()), (RolloutResult::RolledBack, 0));
}

#[test]
fn nodes_that_can_not_go_back_are_named_and_what_comes_next_takes_them_out_first() {
    let mut world = rolling(2);
    let stuck = [world.nth(0), world.nth(1)];
    while stuck.iter().any(|node| world.agents[node].serving != Some(release(2))) {
        world.tick();
    }
    let attempt = world.rollout().attempt;
    world.log.order(Order::TurnBack { app: APP.to_owned(), attempt, reason: "enough".to_owned() });
    world.happen(&Event::Stall(0, 2));
    world.happen(&Event::Stall(1, 2));
    world.tick();
    // The stable release does not start there any more, and the old instances go on.
    for node in &stuck {
        world.agents.get_mut(node).unwrap().status = Some(AppStatus::Failed);
        assert_eq!(world.agents[node].serving, Some(release(2)));
    }
    world.tick();
    assert_eq!(world.outcome().result, RolloutResult::RolledBack);
    let behind = "still on the release that was turned back, as the stable one fails there";
    assert_eq!(world.outcome().behind, stuck.map(|node| (node, behind.to_owned())).into());
    world.happen(&Event::Deploy(3));
    let mut first = None;
    while let Some(rollout) = world.log.state.apps[APP].rollout.clone() {
        first = first.or(rollout.assigned.first().copied());
        world.tick();
        world.check();
    }
    assert!(first.is_some_and(|node| stuck.contains(&node)), "who serves nothing comes first: {first:?}");
    assert_eq!(world.outcome().result, RolloutResult::Done);
    assert!(world.running().values().all(|running| *running == Some(release(3))));
}

#[test]
fn what_a_node_said_of_an_earlier_attempt_says_nothing_of_this_one() {
    for said in [AppStatus::Failed, AppStatus::Ready] {
        let mut world = rolling(2);
        let first = world.nth(0);
        let attempt = world.rollout().attempt;
        world.log.order(Order::Assign { app: APP.to_owned(), attempt, node: first });
        let agent = world.agents.get_mut(&first).unwrap();
        (agent.told, agent.status) = (Some((Some(release(2)), attempt - 1)), Some(said));
        let plan = world.plan();
        assert_eq!(plan.commands, [], "{said:?} is neither a failure nor a success yet");
        let again = Act::Run { app: APP.to_owned(), release: Some(release(2)), attempt };
        assert_eq!(plan.acts, [(first, again)]);
    }
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0usize..8).prop_map(Event::Kill),
        4 => (0usize..8).prop_map(Event::Revive),
        2 => (0usize..8).prop_map(Event::CutOff),
        2 => (0usize..8, 1u8..10).prop_map(|(node, steps)| Event::Stall(node, steps)),
        1 => Just(Event::Join),
        3 => (1u8..=FIRST_BAD + 1).prop_map(Event::Deploy),
        1 => Just(Event::RollBack),
        1 => Just(Event::NewController),
        2 => (1u8..4).prop_map(Event::Lossy),
        3 => (0usize..50).prop_map(Event::Deliver),
        8 => Just(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn under_deaths_losses_and_late_messages_the_farm_keeps_its_promises_and_comes_to_rest(
        nodes in 1u8..6, events in prop::collection::vec(events(), 1..120),
    ) {
        let mut world = World::new(nodes);
        for event in &events {
            world.happen(event);
            world.check();
            world.tick();
            world.check();
        }
        world.come_to_rest();
        let stable = world.log.state.apps.get(APP).and_then(|record| record.stable);
        for (node, agent) in &world.agents {
            let failed = stable.is_some_and(|release| fails_on(*node, release));
            prop_assert_eq!(agent.told.and_then(|(release, _)| release), stable);
            prop_assert!(agent.serving == stable || failed, "{} serves {:?}", node, agent.serving);
        }
        let voters = if world.agents.len() < 3 { 1 } else if world.agents.len() < 7 { 3 } else { 5 };
        // A fourth and fifth voter wait until they have been up for a while.
        prop_assert!(world.electorate.voters.len() <= voters && !world.electorate.voters.is_empty());
        prop_assert!(world.log.state.placement.values().all(|held| held.len() == world.agents.len().min(3)));
    }
}
