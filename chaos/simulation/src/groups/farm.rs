//! Servers with groups on them, from the first election to their rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_consensus::{Group, Settings as GroupSettings};
use proto::ids::{GroupId, NodeId};
use rand::Rng as _;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clients;
use super::faults::{self, Fault};
use super::invariants::{self, Jury, Rest, Seen};
use super::ledger::Ledger;
use crate::Settings;
use crate::servers::disk::Opened;
use crate::servers::faults::{Planned, node, steps};
use crate::servers::scene::Scene;
use crate::servers::{self, Servers, soundness};

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
const CLIENTS: usize = 4;
/// Few, so that followers that were away need one.
const SNAPSHOT_ENTRIES: u64 = 60;
const LOG_KEPT_ENTRIES: u64 = 20;

/// One life of an agent, as far as it concerns groups.
#[derive(Clone)]
pub struct Life {
    pub ledgers: BTreeMap<GroupId, Group<Ledger>>,
    on: servers::Life,
}

impl Life {
    pub fn number(&self) -> u64 {
        self.on.number
    }
}

pub struct Farm {
    pub scene: Arc<Scene>,
    pub jury: Arc<Jury>,
    pub servers: Arc<Servers>,
    pub ids: Vec<GroupId>,
    /// Some of them may be over: their server knows.
    lives: Mutex<BTreeMap<NodeId, Life>>,
    /// What the control log wants the voters to be.
    wanted: Mutex<BTreeSet<NodeId>>,
}

/// Returns how long it took to come to rest, in milliseconds.
pub async fn run(settings: &Settings, scene: Arc<Scene>) -> u64 {
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
    farm.jury.rest(&Rest { unrest, finals: farm.finals() });
    scene.note(format_args!("rests after {rested_ms} ms"));
    rested_ms
}

impl Farm {
    fn new(scene: &Arc<Scene>, hosts: usize, ids: Vec<GroupId>) -> Arc<Self> {
        Arc::new(Self {
            scene: Arc::clone(scene),
            jury: Arc::new(Jury::new(scene, invariants::all())),
            servers: Arc::new(Servers::new(scene, hosts)),
            ids,
            lives: Mutex::default(),
            wanted: Mutex::default(),
        })
    }

    fn living(&self) -> BTreeMap<NodeId, Life> {
        let mut lives = self.lives().clone();
        lives.retain(|_, life| self.servers.links.is_living(life.on.me, life.on.number));
        lives
    }

    pub fn life(&self, node: NodeId) -> Option<Life> {
        let life = self.lives().get(&node).cloned();
        life.filter(|life| self.servers.links.is_living(node, life.on.number))
    }

    fn lives(&self) -> MutexGuard<'_, BTreeMap<NodeId, Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
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

    async fn form(self: &Arc<Self>, voters: BTreeSet<NodeId>) {
        for host in 0..self.servers.count() {
            Arc::clone(self).start(host).await;
        }
        self.want(voters.clone());
        let Some(first) = self.life(node(0)) else { return };
        for group in first.ledgers.values() {
            if let Err(error) = group.initialize(voters.clone()).await {
                soundness::gives_up(&self.scene, &first.on, &error.to_string());
            }
        }
    }

    async fn start(self: Arc<Self>, host: usize) {
        let on = self.servers.start(host, node(host));
        let (me, opened) = (on.me, Arc::clone(&on.opened));
        if on.number > 1 {
            self.jury.see(&Seen::Restarts { node: me, at_ms: self.jury.now_ms() });
        }
        let mut ledgers = BTreeMap::new();
        for id in &self.ids {
            let settings = GroupSettings {
                snapshot_entries: SNAPSHOT_ENTRIES,
                log_kept_entries: LOG_KEPT_ENTRIES,
                ..GroupSettings::default()
            };
            let ledger = Ledger::new(Arc::clone(&self.jury), *id, me);
            match on.groups.open(*id, opened.clone(), opened.clone(), settings, ledger).await {
                Ok(group) => {
                    group.local(Ledger::opened);
                    tokio::spawn(tell_leaders(Arc::clone(&self.jury), group.clone(), me, opened.clone()));
                    ledgers.insert(*id, group);
                }
                Err(error) => return soundness::gives_up(&self.scene, &on, &error.to_string()),
            }
        }
        // A later life of this server may be there already.
        if self.servers.links.is_living(me, on.number) {
            self.lives().insert(me, Life { ledgers, on });
        }
    }

    /// Begins and ends what is planned, each at its time.
    async fn suffer(self: &Arc<Self>, plan: &[Planned<Fault>]) {
        let begun = Instant::now();
        for (at_us, begins, number) in steps(plan) {
            sleep_until(begun + Duration::from_micros(at_us)).await;
            if self.scene.is_broken() {
                return;
            }
            let fault = &plan[number].fault;
            self.scene.note(format_args!("{} {fault:?}", if begins { "begins" } else { "is over" }));
            match (fault, begins) {
                (Fault::Server(fault), true) => self.servers.begin(number, fault),
                (Fault::Server(fault), false) => {
                    for host in self.servers.over(number, fault) {
                        tokio::spawn(Arc::clone(self).start(host));
                    }
                }
                (Fault::Reconfigure { voters }, true) => {
                    self.want(voters.clone());
                    tokio::spawn(Arc::clone(self).reconfigure());
                }
                (Fault::Reconfigure { .. }, false) => {}
            }
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
        let lives: Vec<Life> = self.living().into_values().collect();
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
                if let Some(becoming) = group.watch().borrow().becoming.clone() {
                    return Some(format!("{id} is still on its way to {becoming:?}"));
                }
                states.push((*node, group.local(|ledger| ledger.state.clone())));
            }
            if let Some((other, _)) = states.iter().find(|(_, state)| *state != states[0].1) {
                return Some(format!("{other} has another {id} than {}", states[0].0));
            }
        }
        None
    }

    /// What each group has come to, at whichever of its voters that live has applied most.
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

async fn tell_leaders(jury: Arc<Jury>, group: Group<Ledger>, node: NodeId, opened: Arc<Opened>) {
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
            jury.see(&Seen::Leads { group: group.id(), node, term });
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}
