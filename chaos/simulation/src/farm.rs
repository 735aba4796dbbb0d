//! A farm in virtual time, from its first agent to its rest.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use node_core::invalidation;
use node_core::membership::next_generation;
use proto::ids::{Generation, NodeId};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::caches::{KEYS, Store};
use crate::faults::{self, Fault, Planned, Weather};
use crate::invariants::{self, Invariant, World};
use crate::network::Network;
use crate::node::{self, Context, Disk, Effect, Life, Message, Seen, Timer};
use crate::schedule::{Class, Schedule};
use crate::{Outcome, Settings, Trace, Violation};

/// From the first agent's start until faults begin.
const FORM_US: u64 = 5_000_000;
const SAFETY_US: u64 = 60_000_000;
/// For the farm to come to rest without any fault: longer than anything that heals by itself needs.
const REST_MAX_US: u64 = 60_000_000;
const LOOK_FOR_REST_US: u64 = 1_000_000;
/// Clients of the whole farm.
const WRITE_EVERY_US: u64 = 400_000;
const READ_EVERY_US: u64 = 20_000;
/// What nodes say of themselves changes, besides what they write.
const CHANGE_EVERY_US: u64 = 700_000;
/// An agent that has stopped is started again by its supervisor after this at the earliest.
const RESTART_US: u64 = 500_000;
/// The wall clock when the simulation begins, in milliseconds since 1970: any will do.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// How soon an entry of the control log is everywhere.
const FOLLOW_US: u64 = 500_000;
/// How long a refused connection takes to be noticed.
const REFUSED_US: u64 = 1_000;
/// The same promise broken again and again says nothing new.
const VIOLATIONS_MAX: usize = 5;
/// Members are admitted one after the other.
const FIRST_NODE: u64 = 1;

enum Event {
    Datagram {
        to: usize,
        bytes: Vec<u8>,
    },
    Message {
        from: (NodeId, SocketAddr),
        to: usize,
        node: NodeId,
        message: Message,
    },
    Refused {
        to: usize,
        life: u64,
        node: NodeId,
    },
    Timer {
        host: usize,
        life: u64,
        timer: Timer,
    },
    Start {
        host: usize,
    },
    Begin {
        fault: usize,
    },
    End {
        fault: usize,
    },
    Write,
    Read,
    Change,
    /// The control log has reached who can be reached.
    Follow,
}

struct Host {
    disk: Disk,
    clock_ms: i64,
    paused_until_us: u64,
    /// Counts the agents that ran here, so that nobody gets what was meant for the one before.
    life: u64,
}

pub struct Farm<'a> {
    now_us: u64,
    base: Instant,
    weather: Weather,
    random: StdRng,
    schedule: Schedule<Event>,
    network: Network,
    hosts: Vec<Host>,
    lives: Vec<Option<Life>>,
    nodes: Vec<NodeId>,
    next_node: u64,
    /// The control log's: who belongs to the farm.
    admitted: BTreeMap<NodeId, SocketAddr>,
    plan: Vec<Planned>,
    store: Store,
    is_busy: bool,
    invariants: Vec<Box<dyn Invariant>>,
    violations: Vec<Violation>,
    trace: Trace<'a>,
}

/// Runs one seed.
pub fn run(settings: &Settings, trace: Trace<'_>) -> io::Result<Outcome> {
    let mut farm = Farm::new(settings, trace);
    farm.go_on_until(FORM_US + SAFETY_US);
    let broken = |farm: &Farm<'_>| farm.violations.len() >= VIOLATIONS_MAX;
    // Liveness: no fault, and nobody writes any more.
    farm.is_busy = false;
    farm.end_faults();
    let begun_us = farm.now_us;
    loop {
        farm.go_on_until(farm.now_us + LOOK_FOR_REST_US);
        let unrest = invariants::unrest(&farm.world());
        if unrest.is_none() || broken(&farm) || farm.now_us - begun_us >= REST_MAX_US {
            break;
        }
    }
    let rested_ms = (farm.now_us - begun_us) / 1_000;
    if !broken(&farm) {
        farm.judge_rest();
    }
    farm.trace.note(farm.now_us / 1_000, format_args!("rests after {rested_ms} ms"));
    let outcome = Outcome {
        seed: settings.seed,
        nodes: settings.nodes,
        trace: farm.trace.hash(),
        events: farm.trace.events(),
        rested_ms,
        violations: farm.violations,
    };
    farm.trace.finish().map(|()| outcome)
}

impl<'a> Farm<'a> {
    fn new(settings: &Settings, trace: Trace<'a>) -> Self {
        let mut random = StdRng::seed_from_u64(settings.seed);
        let weather = if random.random_bool(0.25) { Weather::Mild } else { Weather::Wild };
        let hosts = settings.nodes;
        let plan = faults::plan(hosts, weather, SAFETY_US, &mut random);
        let mut farm = Self {
            now_us: 0,
            base: Instant::now(),
            weather,
            random,
            schedule: Schedule::default(),
            network: Network::default(),
            hosts: Vec::new(),
            lives: (0..hosts).map(|_| None).collect(),
            nodes: Vec::new(),
            next_node: FIRST_NODE,
            admitted: BTreeMap::new(),
            plan,
            store: Store::default(),
            is_busy: true,
            invariants: invariants::all(),
            violations: Vec::new(),
            trace,
        };
        for host in 0..hosts {
            let disk = farm.admit(host);
            farm.nodes.push(disk.node);
            farm.hosts.push(Host { disk, clock_ms: 0, paused_until_us: 0, life: 0 });
            let at_us = if host == 0 { 0 } else { farm.random.random_range(100_000..FORM_US / 2) };
            farm.schedule.put(at_us, Class::Timer, Event::Start { host });
        }
        for (fault, planned) in farm.plan.iter().enumerate() {
            let at_us = FORM_US + planned.at_us;
            farm.schedule.put(at_us, Class::Timer, Event::Begin { fault });
            farm.schedule.put(at_us + planned.for_us, Class::Timer, Event::End { fault });
        }
        for (at_us, event) in [(0, Event::Follow), (1, Event::Write), (2, Event::Read), (3, Event::Change)] {
            farm.schedule.put(at_us, Class::Timer, event);
        }
        farm
    }

    /// A new node for a host, as the control log admits it.
    fn admit(&mut self, host: usize) -> Disk {
        let node = NodeId(self.next_node);
        self.next_node += 1;
        let address = node::address(host);
        self.admitted.retain(|_, known| *known != address);
        self.admitted.insert(node, address);
        // It is told of the others when it joins.
        let members = self.admitted.clone();
        Disk { node, generation: Generation(0), life: invalidation::Life::First, members }
    }

    fn go_on_until(&mut self, until_us: u64) {
        while let Some((at_us, class, event)) = self.schedule.take(until_us) {
            self.now_us = at_us;
            if self.violations.len() >= VIOLATIONS_MAX {
                return;
            }
            self.happen(class, event);
        }
        self.now_us = until_us;
    }

    fn happen(&mut self, class: Class, event: Event) {
        if let Some(host) = host_of(&event)
            && self.hosts[host].paused_until_us > self.now_us
        {
            // It waits in the kernel, or for its process to go on.
            return self.schedule.put(self.hosts[host].paused_until_us, class, event);
        }
        match event {
            Event::Datagram { to, bytes } => self.with(to, |life, cx| life.datagram(&bytes, cx)),
            Event::Message { from: (from, address), to, node, message } => {
                // The certificate names the node: a connection to another one is not made.
                if self.lives[to].as_ref().is_some_and(|life| life.node == node) {
                    self.with(to, |life, cx| life.message(from, address, message, cx));
                }
            }
            Event::Refused { to, life, node } if self.hosts[to].life == life => {
                self.with(to, |life, cx| life.refused(node, cx));
            }
            Event::Timer { host, life, timer } if self.hosts[host].life == life => {
                self.with(host, |life, cx| life.timer(timer, cx));
            }
            Event::Refused { .. } | Event::Timer { .. } => {}
            Event::Start { host } => self.start(host),
            Event::Begin { fault } => self.begin(fault),
            Event::End { fault } => self.end(fault),
            Event::Write => self.write(),
            Event::Read => self.read(),
            Event::Change => self.change(),
            Event::Follow => self.follow(),
        }
    }

    /// Lets an agent do something, and does what it wants done.
    fn with(&mut self, host: usize, act: impl FnOnce(&mut Life, &mut Context<'_>)) {
        let Some(life) = self.lives[host].as_mut() else { return };
        let now = self.base + Duration::from_micros(self.now_us);
        let mut cx = Context { now, random: &mut self.random, effects: Vec::new() };
        act(life, &mut cx);
        let effects = cx.effects;
        let by = (life.node, life.generation);
        self.carry_out(host, by, effects);
    }

    fn carry_out(&mut self, host: usize, by: (NodeId, Generation), effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Datagram { to, bytes } => self.send(host, to, bytes),
                Effect::Call { node, to, message } => self.call(host, by.0, node, to, message),
                Effect::Later { after_us, timer } => {
                    let life = self.hosts[host].life;
                    let event = Event::Timer { host, life, timer };
                    self.schedule.put(self.now_us.saturating_add(after_us), Class::Timer, event);
                }
                Effect::Saw(seen) => self.saw(by, &seen),
            }
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        let Some(to) = node::host(to).filter(|host| *host < self.hosts.len()) else { return };
        self.trace.note(self.now_us, format_args!("{from} > {to} {}", bytes.len()));
        for arrival in self.network.datagram(from, to, &mut self.random) {
            let mut bytes = bytes.clone();
            if arrival.corrupted {
                let at = self.random.random_range(0..bytes.len());
                bytes[at] ^= 1 << self.random.random_range(0..8);
            }
            self.schedule.put(self.now_us + arrival.after_us, Class::Arrival, Event::Datagram { to, bytes });
        }
    }

    fn call(&mut self, from: usize, by: NodeId, node: NodeId, to: SocketAddr, message: Message) {
        let Some(to) = node::host(to).filter(|host| *host < self.hosts.len()) else { return };
        let Some(after_us) = self.network.message(from, to, &mut self.random) else { return };
        if self.lives[to].is_none() {
            let life = self.hosts[from].life;
            let event = Event::Refused { to: from, life, node };
            return self.schedule.put(self.now_us + REFUSED_US, Class::Arrival, event);
        }
        let event = Event::Message { from: (by, node::address(from)), to, node, message };
        self.schedule.put(self.now_us + after_us, Class::Arrival, event);
    }

    fn saw(&mut self, by: (NodeId, Generation), seen: &Seen) {
        self.trace.note(self.now_us, format_args!("{} {}", by.0, told(seen)));
        let mut invariants = std::mem::take(&mut self.invariants);
        let world = self.world();
        let broken: Vec<(&'static str, String)> = invariants
            .iter_mut()
            .filter_map(|invariant| Some((invariant.name(), invariant.see(by, seen, &world)?)))
            .collect();
        self.invariants = invariants;
        self.break_all(broken);
    }

    fn judge_rest(&mut self) {
        let mut invariants = std::mem::take(&mut self.invariants);
        let world = self.world();
        let broken: Vec<(&'static str, String)> = invariants
            .iter_mut()
            .filter_map(|invariant| Some((invariant.name(), invariant.rest(&world)?)))
            .collect();
        self.invariants = invariants;
        self.break_all(broken);
    }

    fn break_all(&mut self, broken: Vec<(&'static str, String)>) {
        for (invariant, what) in broken {
            self.trace.note(self.now_us, format_args!("BROKEN {invariant}: {what}"));
            self.violations.push(Violation { invariant, at_ms: self.now_us / 1_000, what });
        }
    }

    fn world(&self) -> World<'_> {
        World { weather: self.weather, lives: &self.lives, nodes: &self.nodes, store: &self.store }
    }

    fn start(&mut self, host: usize) {
        if self.lives[host].is_some() {
            return;
        }
        let there = &mut self.hosts[host];
        let wall_ms = EPOCH_MS.saturating_add(self.now_us / 1_000).saturating_add_signed(there.clock_ms);
        there.disk.generation = next_generation(there.disk.generation, wall_ms);
        there.life += 1;
        let disk = there.disk.clone();
        self.trace
            .note(self.now_us, format_args!("host {host} starts node {} {}", disk.node, disk.generation));
        let now = self.base + Duration::from_micros(self.now_us);
        let mut cx = Context { now, random: &mut self.random, effects: Vec::new() };
        let life = Life::start(&disk, node::address(0), self.hosts.len(), &mut cx);
        let effects = cx.effects;
        self.lives[host] = Some(life);
        self.carry_out(host, (disk.node, disk.generation), effects);
    }

    /// The agent is no more.
    fn stop(&mut self, host: usize) {
        if let Some(life) = self.lives[host].take() {
            self.hosts[host].disk.life = invalidation::Life::Later;
            self.trace.note(self.now_us, format_args!("host {host} has no agent"));
            self.hosts[host].disk.members = life.admitted;
        }
    }

    fn begin(&mut self, fault: usize) {
        let Planned { for_us, fault: kind, .. } = self.plan[fault].clone();
        self.trace.note(self.now_us, format_args!("{kind:?} begins"));
        match kind {
            Fault::Crash { host } => self.stop(host),
            Fault::Restart { host } => {
                self.with(host, |life, cx| life.leave(cx));
                self.stop(host);
            }
            Fault::Wipe { host } => {
                self.stop(host);
                let disk = self.admit(host);
                self.nodes[host] = disk.node;
                self.hosts[host].disk = disk;
            }
            Fault::Pause { host } => {
                let until_us = self.now_us + for_us;
                self.hosts[host].paused_until_us = self.hosts[host].paused_until_us.max(until_us);
            }
            Fault::Cut(cut) => self.network.cut(fault, cut),
            Fault::Rough(conditions) => self.network.roughen(fault, conditions),
            Fault::Clock { host, by_ms } => self.hosts[host].clock_ms += by_ms,
        }
    }

    fn end(&mut self, fault: usize) {
        self.network.heal(fault);
        match self.plan[fault].fault {
            Fault::Crash { host } | Fault::Restart { host } | Fault::Wipe { host } => {
                self.schedule.put(self.now_us + RESTART_US, Class::Timer, Event::Start { host });
            }
            Fault::Pause { .. } | Fault::Cut(_) | Fault::Rough(_) | Fault::Clock { .. } => {}
        }
    }

    fn end_faults(&mut self) {
        for fault in 0..self.plan.len() {
            self.network.heal(fault);
        }
        for host in 0..self.hosts.len() {
            if self.lives[host].is_none() {
                self.schedule.put(self.now_us + RESTART_US, Class::Timer, Event::Start { host });
            }
        }
    }

    /// A host whose agent runs.
    fn someone(&mut self) -> Option<usize> {
        let running = self.lives.iter().enumerate().filter(|(_, life)| life.is_some());
        running.map(|(host, _)| host).choose(&mut self.random)
    }

    /// A value changes, and the caches are told.
    fn write(&mut self) {
        self.schedule.put(self.now_us + WRITE_EVERY_US, Class::Timer, Event::Write);
        let key = self.random.random_range(0..KEYS);
        if let Some(host) = self.someone().filter(|host| self.is_busy && !self.is_paused(*host)) {
            let version = self.store.change(key);
            self.with(host, |life, cx| life.invalidate(key, version, cx));
        }
    }

    fn read(&mut self) {
        self.schedule.put(self.now_us + READ_EVERY_US, Class::Timer, Event::Read);
        let key = self.random.random_range(0..KEYS);
        if let Some(host) = self.someone().filter(|host| !self.is_paused(*host))
            && let Some(life) = self.lives[host].as_mut()
        {
            life.cache.read(key, &self.store);
        }
    }

    fn change(&mut self) {
        self.schedule.put(self.now_us + CHANGE_EVERY_US, Class::Timer, Event::Change);
        if let Some(host) = self.someone().filter(|host| self.is_busy && !self.is_paused(*host)) {
            self.with(host, |life, cx| life.publish(cx, |state| state.draining = !state.draining));
        }
    }

    fn is_paused(&self, host: usize) -> bool {
        self.hosts[host].paused_until_us > self.now_us
    }

    /// Who reaches a majority of the hosts, and they it, follows the control log.
    fn follow(&mut self) {
        self.schedule.put(self.now_us + FOLLOW_US, Class::Timer, Event::Follow);
        let hosts = self.hosts.len();
        for host in 0..hosts {
            let reaches = |other: &usize| {
                self.lives[*other].is_some()
                    && !self.network.is_cut(host, *other)
                    && !self.network.is_cut(*other, host)
            };
            let reached = (0..hosts).filter(reaches).count();
            if reached * 2 > hosts && !self.is_paused(host) {
                let admitted = self.admitted.clone();
                self.with(host, |life, cx| life.admit(&admitted, cx));
            }
        }
    }
}

fn host_of(event: &Event) -> Option<usize> {
    match event {
        Event::Datagram { to, .. } | Event::Message { to, .. } | Event::Refused { to, .. } => Some(*to),
        Event::Timer { host, .. } => Some(*host),
        Event::Start { .. }
        | Event::Begin { .. }
        | Event::End { .. }
        | Event::Write
        | Event::Read
        | Event::Change
        | Event::Follow => None,
    }
}

/// In a line of the trace. A member's `since` is a moment of this process, so it is left out.
fn told(seen: &Seen) -> String {
    match seen {
        Seen::Members(members) => {
            let all: Vec<String> = members
                .iter()
                .map(|member| format!("{}.{} {:?}", member.node, member.generation, member.state))
                .collect();
            format!("sees {}", all.join(", "))
        }
        Seen::Published(state) => format!("says {}.{}", state.generation, state.sequence),
        Seen::Took(state) => format!("hears {}.{}.{}", state.node, state.generation, state.sequence),
        Seen::Delivered(position) => {
            format!("delivers {}.{}.{}", position.node, position.generation, position.sequence)
        }
        Seen::Flushed => "flushes".to_owned(),
        Seen::Complete { key, version, .. } => format!("has confirmed {key} {version}"),
        Seen::Incomplete { missing } => format!("misses {missing}"),
    }
}
