//! Servers under a controller, from the first one to their rest.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_consensus::{Group, Settings as GroupSettings};
use node_core::control::{
    Command, ControlState, Fingerprint, NewNode, Plan, Role, TokenRecord, demand, plan, voters_wanted,
};
use proto::ids::{ClusterId, GroupId, NodeId, ReleaseId};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::agent::{APPS, Agent, Facts};
use super::controller::{self, POLICY};
use super::faults::{self, Fault};
use super::invariants::{self, Jury, Rest, Seen};
use super::log::Log;
use super::members::Members;
use super::operator;
use crate::Settings;
use crate::servers::faults::{self as server_faults, Planned, steps};
use crate::servers::scene::Scene;
use crate::servers::{self, Servers, soundness};

/// The control log, as the product numbers it.
const GROUP: GroupId = GroupId(0);
const SESSION_GROUPS: u16 = 4;
/// For all servers to be admitted and for the voters to be as many as they should be.
const FORM_MAX: Duration = Duration::from_secs(60);
const SAFETY: Duration = Duration::from_secs(40);
/// For rollouts to come to their deadlines, one after the other, and the farm to come to rest.
const REST_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What a node says of itself is spread so often.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// A supervisor starts what can not be joined again.
const JOINS_WITHIN: Duration = Duration::from_secs(90);
/// Few, so that followers that were away need one.
const SNAPSHOT_ENTRIES: u64 = 40;
const LOG_KEPT_ENTRIES: u64 = 20;
pub const TOKEN: Fingerprint = Fingerprint([200; 32]);

/// One life of an agent.
#[derive(Clone)]
pub struct Life {
    pub on: servers::Life,
    pub group: Group<Log>,
    pub state: watch::Receiver<Arc<ControlState>>,
    pub agent: Arc<Agent>,
    pub members: Arc<Members>,
    /// An entry names a node, an epoch or an attempt by its index, so it holds one command.
    pub writes: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Host {
    /// Who lives here, once he is admitted.
    node: Option<NodeId>,
    facts: Arc<Facts>,
    /// Of those that lived here, to tell their keys apart.
    identities: u8,
    /// It may be over: its server knows.
    life: Option<Life>,
}

pub struct Farm {
    pub scene: Arc<Scene>,
    pub jury: Arc<Jury>,
    pub servers: Arc<Servers>,
    hosts: Mutex<Vec<Host>>,
}

/// Returns how long it took to come to rest, in milliseconds.
pub async fn run(settings: &Settings, scene: Arc<Scene>) -> u64 {
    let safety_us = u64::try_from(SAFETY.as_micros()).unwrap_or(u64::MAX);
    let plan = scene.draw(|random| faults::plan(settings.nodes, safety_us, random));
    let farm = Farm::new(&scene, settings.nodes);
    let mut rested_ms = 0;
    match farm.form().await {
        Some(unrest) => farm.jury.rest(&Rest { unrest: Some(format!("it does not form: {unrest}")) }),
        None => {
            let stop = CancellationToken::new();
            let operator = tokio::spawn(operator::run(Arc::clone(&farm), stop.clone()));
            farm.suffer(&plan).await;
            stop.cancel();
            // It has told of its panic itself.
            let _ended = operator.await;
            rested_ms = farm.come_to_rest().await;
        }
    }
    rested_ms
}

impl Farm {
    fn new(scene: &Arc<Scene>, hosts: usize) -> Arc<Self> {
        Arc::new(Self {
            scene: Arc::clone(scene),
            jury: Arc::new(Jury::new(scene, invariants::all())),
            servers: Arc::new(Servers::new(scene, hosts)),
            hosts: Mutex::new((0..hosts).map(|_| Host::default()).collect()),
        })
    }

    fn hosts(&self) -> MutexGuard<'_, Vec<Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever lives now, in the hosts' order.
    pub fn living(&self) -> Vec<Life> {
        let hosts = self.hosts();
        let lives = hosts.iter().filter_map(|host| host.life.as_ref());
        lives.filter(|life| self.servers.links.is_living(life.on.me, life.on.number)).cloned().collect()
    }

    pub fn life(&self, node: NodeId) -> Option<Life> {
        self.living().into_iter().find(|life| life.on.me == node)
    }

    pub fn host_of(&self, node: NodeId) -> Option<usize> {
        self.hosts().iter().position(|host| host.node == Some(node))
    }

    /// Some time goes by.
    pub async fn pass(&self, range_us: RangeInclusive<u64>) {
        let us = self.scene.draw(|random| random.random_range(range_us));
        sleep(Duration::from_micros(us)).await;
    }

    /// Who could be asked for a release.
    pub fn somebody_with(&self, release: ReleaseId, but: NodeId) -> Option<NodeId> {
        let living = self.living();
        let holders: Vec<NodeId> = living
            .iter()
            .filter(|life| life.on.me != but && life.agent.facts.has(release))
            .map(|life| life.on.me)
            .collect();
        self.scene.draw(|random| holders.choose(random).copied())
    }

    /// How a server introduces itself; a new disk has a new key.
    pub fn newcomer(&self, host: usize) -> NewNode {
        let [high, low] = u16::try_from(host).unwrap_or(u16::MAX).to_be_bytes();
        let identity = self.hosts()[host].identities;
        let mut key = [0; 32];
        (key[0], key[1], key[2]) = (low, identity, high);
        NewNode {
            name: format!("host-{host}"),
            zone: ["a", "b", "c"][host % 3].to_owned(),
            region: "r".to_owned(),
            peer_addr: ([10, 0, high, low], 7_402).into(),
            gossip_addr: ([10, 0, high, low], 7_401).into(),
            roles: ["apps", "sessions", "voter"].map(str::to_owned).into(),
            csr_hash: Fingerprint(key),
        }
    }

    /// What the first node has to write, until it has.
    pub fn genesis(&self, me: NodeId) -> Option<Command> {
        let is_founded = self.life(me)?.agent.state().cluster.is_some();
        if me != server_faults::node(0) || is_founded {
            return None;
        }
        let token = TokenRecord { hash: TOKEN, role: Role::Server, expires_ms: u64::MAX, uses_left: None };
        Some(Command::Genesis {
            cluster: ClusterId([9; 16]),
            groups: SESSION_GROUPS,
            first: self.newcomer(0),
            token: Some(("first".to_owned(), token)),
        })
    }

    /// One node, then the others. What it lacks to be a farm in the end, if anything.
    async fn form(self: &Arc<Self>) -> Option<String> {
        let first = server_faults::node(0);
        self.hosts()[0].node = Some(first);
        self.start(0, first).await;
        if let Some(life) = self.life(first)
            && let Err(error) = life.group.initialize(BTreeSet::from([first])).await
        {
            return Some(error.to_string());
        }
        for host in 1..self.servers.count() {
            tokio::spawn(Arc::clone(self).come(host));
        }
        self.wait(FORM_MAX, Self::unrest).await
    }

    /// A server's agent begins to run; without an identity it joins first.
    async fn come(self: Arc<Self>, host: usize) {
        let known = self.hosts()[host].node;
        let node = match known {
            Some(node) => node,
            None => {
                let Some(node) = operator::join(&self, host, JOINS_WITHIN).await else { return };
                self.hosts()[host].node = Some(node);
                node
            }
        };
        // It may have been hit again while it joined.
        if self.servers.is_up(host) && self.servers.life(host).is_none() {
            self.start(host, node).await;
        }
    }

    async fn start(self: &Arc<Self>, host: usize, me: NodeId) {
        let on = self.servers.start(host, me);
        self.jury.see(&Seen::Starts { node: me });
        let opened = Arc::clone(&on.opened);
        let (log, state) = Log::new(Arc::clone(&self.jury), me);
        let settings = GroupSettings {
            snapshot_entries: SNAPSHOT_ENTRIES,
            log_kept_entries: LOG_KEPT_ENTRIES,
            ..GroupSettings::default()
        };
        let group = match on.groups.open(GROUP, opened.clone(), opened, settings, log).await {
            Ok(group) => group,
            Err(error) => return soundness::gives_up(&self.scene, &on, &error.to_string()),
        };
        group.local(Log::opened);
        // A later life of this server may be there already.
        if !self.servers.links.is_living(me, on.number) {
            return;
        }
        let facts = Arc::clone(&self.hosts()[host].facts);
        let agent = Arc::new(Agent::new(me, facts, state.clone()));
        let members = Arc::new(Members::new(me));
        let life = Life { on, group, state, agent, members, writes: Arc::default() };
        self.hosts()[host].life = Some(life.clone());
        let tasks = [
            tokio::spawn(within(life.on.stop.clone(), Arc::clone(&life.agent).work(Arc::clone(self)))),
            tokio::spawn(within(life.on.stop.clone(), tell(Arc::clone(self), life.clone()))),
            tokio::spawn(within(life.on.stop.clone(), controller::run(Arc::clone(self), life))),
        ];
        drop(tasks);
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
            let troubled: Vec<NodeId> = {
                let hosts = self.hosts();
                fault.troubles(hosts.len()).into_iter().filter_map(|host| hosts[host].node).collect()
            };
            if begins {
                self.jury.see(&Seen::Troubled { fault: number, nodes: troubled });
                self.begin(number, fault);
            } else {
                self.over(number, fault);
                self.jury.see(&Seen::Relieved { fault: number, at_ms: self.jury.now_ms() });
            }
        }
    }

    fn begin(self: &Arc<Self>, number: usize, fault: &Fault) {
        match fault {
            Fault::Server(fault) => {
                self.servers.begin(number, fault);
                if let server_faults::Fault::Suspect { host, suspects } = fault {
                    self.suspect(*host, suspects);
                }
            }
            Fault::Wipe { host } => {
                self.servers.down(*host);
                self.servers.wipe(*host);
                let lost = {
                    let there = &mut self.hosts()[*host];
                    let identities = there.identities + 1;
                    std::mem::replace(there, Host { identities, ..Host::default() }).node
                };
                if let Some(node) = lost {
                    self.jury.see(&Seen::Lost { node });
                }
            }
        }
    }

    fn over(self: &Arc<Self>, number: usize, fault: &Fault) {
        let up = match fault {
            Fault::Server(fault) => {
                if let server_faults::Fault::Suspect { host, .. } = fault {
                    self.suspect(*host, &BTreeSet::new());
                }
                self.servers.over(number, fault)
            }
            Fault::Wipe { host } => Vec::from_iter(self.servers.up(*host).then_some(*host)),
        };
        for host in up {
            tokio::spawn(Arc::clone(self).come(host));
        }
    }

    /// The plan names whoever lived there first.
    fn suspect(&self, host: usize, suspects: &BTreeSet<NodeId>) {
        let now = |first: &NodeId| {
            let host = usize::try_from(first.0 - 1).ok()?;
            self.hosts().get(host)?.node
        };
        let suspects: BTreeSet<NodeId> = suspects.iter().filter_map(now).collect();
        if let Some(life) = self.hosts()[host].life.clone() {
            life.members.suspect(suspects);
        }
    }

    /// Every fault is over. A release is made that is as it should be, and has to be everywhere. Returns
    /// how long it took.
    async fn come_to_rest(self: &Arc<Self>) -> u64 {
        let begun = Instant::now();
        let mut unrest = self.wait(REST_MAX, Self::unrest).await;
        for (app, last) in operator::LAST {
            if unrest.is_none() && !self.scene.is_broken() {
                unrest = self.bring_the_last(app, last).await;
            }
        }
        let rested_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.jury.rest(&Rest { unrest });
        self.scene.note(format_args!("rests after {rested_ms} ms"));
        rested_ms
    }

    /// What keeps a good release from being everywhere, if anything.
    async fn bring_the_last(self: &Arc<Self>, app: &str, last: ReleaseId) -> Option<String> {
        let lacks = |farm: &Self| {
            let living = farm.living();
            let lacks = living.iter().find(|life| life.agent.serving(app) != Some(last));
            let lacks = lacks.map(|life| format!("{} does not serve the last {app}", life.on.me));
            farm.unrest().or(lacks)
        };
        operator::deploy_last(self, app, last).await;
        let unrest = self.wait(REST_MAX, lacks).await;
        if unrest.is_none() || self.unrest().is_some() {
            return unrest;
        }
        // Several servers can not run what has become stable without them, and serve what was stable
        // before: another release would be a third one. An operator goes back to theirs first.
        operator::roll_back(self, app).await;
        self.wait(REST_MAX, Self::unrest).await;
        operator::deploy_last(self, app, last).await;
        self.wait(REST_MAX, lacks).await
    }

    /// What there still is after so long, if anything.
    async fn wait(&self, limit: Duration, unrest: impl Fn(&Self) -> Option<String>) -> Option<String> {
        let begun = Instant::now();
        loop {
            sleep(LOOK_EVERY).await;
            let left = unrest(self);
            if left.is_none() || begun.elapsed() > limit || self.scene.is_broken() {
                return left;
            }
        }
    }

    /// What keeps the farm from rest, if anything.
    fn unrest(&self) -> Option<String> {
        let living = self.living();
        if let Some(host) = (0..self.servers.count()).find(|host| self.hosts()[*host].node.is_none()) {
            return Some(format!("host {host} is not admitted"));
        }
        if living.len() < self.servers.count() {
            return Some("somebody is down".to_owned());
        }
        let leads = |life: &&Life| life.group.watch().borrow().is_leader;
        let Some(leader) = living.iter().filter(leads).max_by_key(|life| life.group.watch().borrow().term)
        else {
            return Some("nobody leads".to_owned());
        };
        let state = leader.agent.state();
        if state.controller != Some(leader.on.me) {
            return Some(format!("{} leads and is not the controller", leader.on.me));
        }
        if let Some(other) = living.iter().find(|life| *life.agent.state() != *state) {
            return Some(format!("{} does not know what {} knows", other.on.me, leader.on.me));
        }
        self.is_as_told(&living, &state)
            .or_else(|| is_placed(&living, &state))
            .or_else(|| votes(&living, leader))
            .or_else(|| {
                let inventory =
                    leader.members.inventory(&leader.group.watch().borrow().clone(), leader.group.now_ms());
                let left = plan(&state, &inventory, leader.group.now_ms(), &POLICY);
                (left != Plan::default()).then(|| format!("the controller still wants {left:?}"))
            })
    }

    fn is_as_told(&self, living: &[Life], state: &ControlState) -> Option<String> {
        for app in APPS {
            let Some(record) = state.apps.get(app) else { continue };
            if record.rollout.is_some() {
                return Some(format!("a rollout of {app} goes on"));
            }
            let is_astray = |life: &&Life| {
                let wanted = demand(state, app, life.on.me).and_then(|demand| demand.release);
                // What became stable while this server was away may be what can not run here.
                life.agent.serving(app) != wanted
                    && !wanted.is_some_and(|release| life.agent.fails(self, release))
            };
            let astray = living.iter().find(is_astray);
            if let Some(life) = astray {
                return Some(format!("{} serves another {app} than it should", life.on.me));
            }
        }
        None
    }
}

/// Each session group is on as many living nodes as it should be.
fn is_placed(living: &[Life], state: &ControlState) -> Option<String> {
    let living: BTreeSet<NodeId> = living.iter().map(|life| life.on.me).collect();
    let wanted = POLICY.replicas.min(living.len());
    (1..=SESSION_GROUPS).map(GroupId).find_map(|group| {
        let nodes: BTreeSet<NodeId> = state.placement.get(&group).into_iter().flatten().copied().collect();
        let is_whole = nodes.len() == wanted && nodes.is_subset(&living);
        (!is_whole).then(|| format!("{group} is placed on {nodes:?}"))
    })
}

/// As many vote as should, and all of them live.
fn votes(living: &[Life], leader: &Life) -> Option<String> {
    let view = leader.group.watch().borrow().clone();
    let nodes: BTreeSet<NodeId> = living.iter().map(|life| life.on.me).collect();
    let is_whole = view.voters.len() == voters_wanted(nodes.len())
        && view.voters.is_subset(&nodes)
        && view.becoming.is_none();
    (!is_whole).then(|| format!("{:?} vote, on the way to {:?}", view.voters, view.becoming))
}

async fn within(stop: CancellationToken, task: impl Future<Output = ()>) {
    let _stopped = stop.run_until_cancelled(task).await;
}

/// Spreads what a node says of itself.
async fn tell(farm: Arc<Farm>, life: Life) {
    loop {
        let state = life.agent.tells(life.on.number);
        life.members.hear(state.clone());
        for other in farm.living().into_iter().map(|other| other.on.me).filter(|other| *other != life.on.me) {
            let (farm, state, me) = (Arc::clone(&farm), state.clone(), life.on.me);
            tokio::spawn(async move {
                farm.servers.links.cross(me, other).await;
                if let Some(other) = farm.life(other) {
                    other.members.hear(state);
                }
            });
        }
        sleep(TELL_EVERY).await;
    }
}
