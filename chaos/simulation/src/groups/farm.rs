//! Servers with groups on them, from the first election to their rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_consensus::{Group, Groups, Settings as GroupSettings};
use proto::ids::{GroupId, NodeId};
use rand::Rng as _;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clients;
use super::disk::{Disk, Opened};
use super::faults::{self, Fault, Planned, node};
use super::invariants::Rest;
use super::ledger::Ledger;
use super::links::{Links, Port};
use super::scene::{Scene, Seen, Wall};
use crate::{Settings, Violation};

/// From the start until faults begin.
const FORM: Duration = Duration::from_secs(3);
const SAFETY: Duration = Duration::from_secs(30);
/// For the groups to come to rest without any fault: longer than every time-out.
const REST_MAX: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// For followers to hear what was committed last.
const LEVEL: Duration = Duration::from_secs(1);
/// Between two attempts to change a group's voters, as the controller makes them.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// A supervisor kills who does not end.
const END_MAX: Duration = Duration::from_secs(10);
const CLIENTS: usize = 4;
/// Few, so that followers that were away need one.
const SNAPSHOT_ENTRIES: u64 = 60;

/// What a simulation was.
pub struct Ended {
    pub lines: Vec<(u64, String)>,
    pub rested_ms: u64,
    pub violations: Vec<Violation>,
}

/// One life of an agent, as far as it concerns groups.
#[derive(Clone)]
pub struct Life {
    pub number: u64,
    pub ledgers: BTreeMap<GroupId, Group<Ledger>>,
    groups: Groups,
    opened: Arc<Opened>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

struct Host {
    disk: Arc<Disk>,
    wall: Arc<Wall>,
    lives: u64,
    /// Faults for which it is down.
    down: usize,
}

pub struct Farm {
    pub scene: Arc<Scene>,
    pub links: Arc<Links>,
    pub ids: Vec<GroupId>,
    hosts: Mutex<Vec<Host>>,
    living: Mutex<BTreeMap<NodeId, Life>>,
    /// What the control log wants the voters to be.
    wanted: Mutex<BTreeSet<NodeId>>,
}

pub async fn run(settings: &Settings) -> Ended {
    let scene = Arc::new(Scene::new(settings.seed));
    let voters = scene.draw(|random| if settings.nodes >= 5 && random.random() { 5 } else { 3 });
    let voters = voters.min(settings.nodes);
    let count: u16 = scene.draw(|random| random.random_range(1..=3));
    let safety_us = u64::try_from(SAFETY.as_micros()).unwrap_or(u64::MAX);
    let plan = scene.draw(|random| faults::plan(settings.nodes, voters, safety_us, random));
    let farm = Farm::new(&scene, settings.nodes, (1..=count).map(GroupId).collect());
    farm.form((0..voters).map(node).collect()).await;
    let stop = CancellationToken::new();
    for client in 0..CLIENTS {
        tokio::spawn(clients::run(Arc::clone(&farm), client, stop.clone()));
    }
    sleep(FORM).await;
    farm.suffer(&plan).await;
    stop.cancel();
    let begun = Instant::now();
    let mut unrest = None;
    while begun.elapsed() < REST_MAX && !scene.is_broken() {
        sleep(LOOK_EVERY).await;
        unrest = farm.unrest().await;
        if unrest.is_none() {
            break;
        }
    }
    let rested_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    scene.rest(&Rest { unrest, finals: farm.finals() });
    scene.note(format_args!("rests after {rested_ms} ms"));
    let (lines, violations) = scene.take();
    Ended { lines, rested_ms, violations }
}

impl Farm {
    fn new(scene: &Arc<Scene>, hosts: usize, ids: Vec<GroupId>) -> Arc<Self> {
        let host =
            || Host { disk: Arc::default(), wall: Arc::new(Wall::new(Arc::clone(scene))), lives: 0, down: 0 };
        Arc::new(Self {
            scene: Arc::clone(scene),
            links: Arc::new(Links::new(Arc::clone(scene))),
            ids,
            hosts: Mutex::new((0..hosts).map(|_| host()).collect()),
            living: Mutex::default(),
            wanted: Mutex::default(),
        })
    }

    fn hosts(&self) -> MutexGuard<'_, Vec<Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn living(&self) -> MutexGuard<'_, BTreeMap<NodeId, Life>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn life(&self, node: NodeId) -> Option<Life> {
        self.living().get(&node).cloned()
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.living().keys().copied().collect()
    }

    fn wanted(&self) -> BTreeSet<NodeId> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn want(&self, voters: BTreeSet<NodeId>) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = voters;
    }

    async fn form(&self, voters: BTreeSet<NodeId>) {
        let hosts = self.hosts().len();
        for host in 0..hosts {
            self.start(host).await;
        }
        self.want(voters.clone());
        let Some(first) = self.life(node(0)) else { return };
        for group in first.ledgers.values() {
            if let Err(error) = group.initialize(voters.clone()).await {
                self.scene.see(&Seen::Faulted { node: node(0), reason: error.to_string() });
            }
        }
    }

    async fn start(&self, host: usize) {
        let me = node(host);
        let (number, opened, wall) = {
            let mut hosts = self.hosts();
            let host = &mut hosts[host];
            host.lives += 1;
            let opened = Arc::new(Opened::new(Arc::clone(&host.disk)));
            (host.lives, opened, Arc::clone(&host.wall))
        };
        self.scene.note(format_args!("{me} starts, life {number}"));
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        tokio::spawn(Arc::clone(&opened).sync(Arc::clone(&self.scene)));
        let port = Arc::new(Port { me, life: number, links: Arc::clone(&self.links) });
        let groups = Groups::within(wall, me, port, tracker.clone(), stop.clone());
        tokio::spawn(tell_faults(Arc::clone(&self.scene), groups.clone(), Arc::clone(&opened)));
        self.links.born(me, number, groups.clone());
        let mut ledgers = BTreeMap::new();
        for id in &self.ids {
            let settings = GroupSettings { snapshot_entries: SNAPSHOT_ENTRIES, ..GroupSettings::default() };
            let ledger = Ledger::new(Arc::clone(&self.scene), *id, me);
            match groups.open(*id, opened.clone(), opened.clone(), settings, ledger).await {
                Ok(group) => {
                    tokio::spawn(tell_leaders(Arc::clone(&self.scene), group.clone(), me, opened.clone()));
                    ledgers.insert(*id, group);
                }
                Err(error) => self.scene.see(&Seen::Faulted { node: me, reason: error.to_string() }),
            }
        }
        self.living().insert(me, Life { number, ledgers, groups, opened, tracker, stop });
    }

    fn crash(&self, host: usize) {
        let Some(life) = self.living().remove(&node(host)) else { return };
        self.scene.note(format_args!("{} crashes", node(host)));
        self.links.died(node(host));
        life.opened.crash(&self.scene);
        life.stop.cancel();
    }

    /// In order: it is asked to, and has time.
    async fn end(&self, host: usize) {
        let Some(life) = self.life(node(host)) else { return };
        self.scene.note(format_args!("{} ends", node(host)));
        life.stop.cancel();
        life.tracker.close();
        if timeout(END_MAX, life.tracker.wait()).await.is_err() {
            self.scene.note(format_args!("{} does not end", node(host)));
        }
        // A crash may have come first, and another life after it.
        if self.life(node(host)).is_some_and(|now| now.number == life.number) {
            self.living().remove(&node(host));
            self.links.died(node(host));
            life.opened.crash(&self.scene);
        }
    }

    /// Begins and ends what is planned, each at its time.
    async fn suffer(self: &Arc<Self>, plan: &[Planned]) {
        let begun = Instant::now();
        let mut steps: Vec<(u64, bool, usize)> = Vec::new();
        for (number, planned) in plan.iter().enumerate() {
            steps.push((planned.at_us, true, number));
            steps.push((planned.at_us + planned.for_us, false, number));
        }
        steps.sort_by_key(|(at_us, begins, number)| (*at_us, !begins, *number));
        for (at_us, begins, number) in steps {
            sleep_until(begun + Duration::from_micros(at_us)).await;
            if self.scene.is_broken() {
                return;
            }
            let fault = &plan[number].fault;
            self.scene.note(format_args!("{} {fault:?}", if begins { "begins" } else { "is over" }));
            if begins {
                self.begin(number, fault).await;
            } else {
                self.over(number, fault).await;
            }
        }
    }

    async fn begin(self: &Arc<Self>, number: usize, fault: &Fault) {
        match fault {
            Fault::Crash { host } => {
                self.hosts()[*host].down += 1;
                self.crash(*host);
            }
            Fault::PowerCut => {
                let count = self.hosts().len();
                for host in 0..count {
                    self.hosts()[host].down += 1;
                    self.crash(host);
                }
            }
            Fault::Restart { host } => {
                self.hosts()[*host].down += 1;
                let (farm, host) = (Arc::clone(self), *host);
                tokio::spawn(async move { farm.end(host).await });
            }
            Fault::Cut(cut) => self.links.change(|network| network.cut(number, cut.clone())),
            Fault::Rough(rough) => self.links.change(|network| network.roughen(number, *rough)),
            Fault::SlowDisk { host } => self.hosts()[*host].disk.slow(true),
            Fault::Clock { host, by_ms } => self.hosts()[*host].wall.jump(*by_ms),
            Fault::Suspect { host, suspects } => self.suspect(*host, suspects.clone()),
            Fault::Reconfigure { voters } => {
                self.want(voters.clone());
                tokio::spawn(Arc::clone(self).reconfigure());
            }
        }
    }

    async fn over(&self, number: usize, fault: &Fault) {
        match fault {
            Fault::Crash { host } | Fault::Restart { host } => self.up(*host).await,
            Fault::PowerCut => {
                let count = self.hosts().len();
                for host in 0..count {
                    self.up(host).await;
                }
            }
            Fault::Cut(_) | Fault::Rough(_) => self.links.change(|network| network.heal(number)),
            Fault::SlowDisk { host } => self.hosts()[*host].disk.slow(false),
            Fault::Suspect { host, .. } => self.suspect(*host, BTreeSet::new()),
            Fault::Clock { .. } | Fault::Reconfigure { .. } => {}
        }
    }

    async fn up(&self, host: usize) {
        let is_down = {
            let mut hosts = self.hosts();
            hosts[host].down -= 1;
            hosts[host].down > 0
        };
        if is_down {
            return;
        }
        // One that was asked to end and has not is killed.
        self.crash(host);
        self.start(host).await;
    }

    fn suspect(&self, host: usize, suspects: BTreeSet<NodeId>) {
        if let Some(life) = self.life(node(host)) {
            life.groups.set_suspects(suspects);
        }
    }

    /// As the controller does: asks whoever leads, until it is as it is wanted.
    async fn reconfigure(self: Arc<Self>) {
        for _ in 0..20 {
            if self.ask_for_voters().await {
                return;
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn ask_for_voters(&self) -> bool {
        let wanted = self.wanted();
        let lives: Vec<Life> = self.living().values().cloned().collect();
        let mut done = 0;
        for id in &self.ids {
            let leader = lives.iter().filter_map(|life| life.ledgers.get(id)).find(|group| {
                let view = group.watch();
                view.borrow().is_leader
            });
            let Some(leader) = leader else { continue };
            match leader.reconfigure(wanted.clone(), BTreeSet::new()).await {
                Ok(()) => done += 1,
                Err(error) => self.scene.note(format_args!("voters of {id}: {error}")),
            }
        }
        done == self.ids.len()
    }

    /// What keeps the groups from rest, if anything.
    async fn unrest(self: &Arc<Self>) -> Option<String> {
        if !self.ask_for_voters().await {
            return Some("the voters are not as they are wanted".to_owned());
        }
        for at in self.nodes() {
            for id in &self.ids {
                if !clients::is_served(self, at, *id).await {
                    return Some(format!("nobody takes a write to {id} at {at}"));
                }
            }
        }
        sleep(LEVEL).await;
        let wanted = self.wanted();
        for id in &self.ids {
            let mut states = Vec::new();
            for node in &wanted {
                let Some(life) = self.life(*node) else { return Some(format!("{node} is down")) };
                let Some(group) = life.ledgers.get(id) else { return Some(format!("{node} lacks {id}")) };
                states.push((*node, group.local(|ledger| ledger.state.clone())));
            }
            if let Some((other, _)) = states.iter().find(|(_, state)| *state != states[0].1) {
                return Some(format!("{other} has another {id} than {}", states[0].0));
            }
        }
        None
    }

    /// What each group has come to, at the first of its voters that is there.
    fn finals(&self) -> BTreeMap<GroupId, super::ledger::State> {
        let wanted = self.wanted();
        let living = self.living();
        let state = |id: &GroupId| {
            let lives = living.iter().filter(|(node, _)| wanted.contains(node));
            lives
                .filter_map(|(_, life)| life.ledgers.get(id))
                .map(|group| group.local(|ledger| ledger.state.clone()))
                .max_by_key(|state| state.applied.len())
        };
        self.ids.iter().filter_map(|id| Some((*id, state(id)?))).collect()
    }

    /// Some node that lives, by chance.
    pub fn some_node(&self) -> Option<NodeId> {
        let nodes = self.nodes();
        if nodes.is_empty() {
            return None;
        }
        Some(nodes[self.scene.draw(|random| random.random_range(0..nodes.len()))])
    }

    /// Where a node would send a client of a group. One that is no voter asks one of them.
    pub fn leader(&self, at: NodeId, id: GroupId) -> Option<NodeId> {
        let wanted: Vec<NodeId> = self.wanted().into_iter().collect();
        let asked = if wanted.contains(&at) {
            at
        } else {
            wanted[self.scene.draw(|random| random.random_range(0..wanted.len()))]
        };
        let view = self.life(asked)?.ledgers.get(&id)?.watch();
        view.borrow().leader
    }
}

async fn tell_faults(scene: Arc<Scene>, groups: Groups, opened: Arc<Opened>) {
    let mut fault = groups.fault();
    let Ok(reason) = fault.wait_for(Option::is_some).await.map(|reason| reason.clone()) else { return };
    if !opened.is_dead() {
        scene.see(&Seen::Faulted { node: groups.me(), reason: reason.unwrap_or_default() });
    }
}

async fn tell_leaders(scene: Arc<Scene>, group: Group<Ledger>, node: NodeId, opened: Arc<Opened>) {
    let mut view = group.watch();
    let mut told = 0;
    loop {
        let (leads, term) = {
            let view = view.borrow_and_update();
            (view.is_leader, view.term)
        };
        if opened.is_dead() {
            return;
        }
        if leads && term > told {
            told = term;
            scene.see(&Seen::Leads { group: group.id(), node, term });
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}
