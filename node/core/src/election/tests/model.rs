//! Drivers, their replicas and a network that loses, delays and lies, in virtual time.
//!
//! The replicas vote as openraft 0.9 does: a vote is (term, id, committed) in total order, a committed
//! one is not exchanged for another within its lease, and a refused candidate has raised its term all
//! the same. That is what a driver has to live with.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng as _};

use super::super::*;

const PATIENCE: Patience =
    Patience { lease_ms: 400, silence_ms: 600, jitter_ms: 80, ask_ms: 350, elect_ms: 700 };
const STEP_MS: u64 = 10;
const TICK_MS: u64 = 50;
const HEARTBEAT_MS: u64 = 150;
/// A vote is on disk before it is answered.
const DISK_MS: u64 = 20;

type Vote = (u64, u64, bool);
type Last = (u64, u64);

#[derive(Debug, Clone, Copy)]
enum Message {
    Heartbeat { vote: Vote, last: Last },
    Deposed { vote: Vote },
    MayI { round: u64, last: Last },
    YouMay { round: u64 },
    VoteForMe { vote: Vote, last: Last },
    Granted { vote: Vote },
    Refused { vote: Vote },
}

struct Replica {
    driver: Driver,
    vote: Vote,
    voted_ms: u64,
    heard_ms: u64,
    last: Last,
    granted: BTreeSet<NodeId>,
    leading: bool,
    suspects: bool,
}

struct Model {
    now_ms: u64,
    random: SmallRng,
    configs: Vec<BTreeSet<NodeId>>,
    replicas: BTreeMap<u64, Replica>,
    cut: BTreeSet<(u64, u64)>,
    under_way: Vec<(u64, u64, u64, Message)>,
    /// Who really consented, by candidate and round.
    consents: BTreeMap<(u64, u64), BTreeSet<NodeId>>,
    elections: u32,
}

impl Model {
    fn new(size: u64, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let replicas = (1..=size).map(|id| {
            let replica = Replica {
                driver: Driver::new(PATIENCE, random.random()),
                vote: (0, 0, false),
                voted_ms: 0,
                heard_ms: 0,
                last: (0, 0),
                granted: BTreeSet::new(),
                leading: false,
                suspects: false,
            };
            (id, replica)
        });
        let replicas = replicas.collect();
        let configs = vec![(1..=size).map(NodeId).collect()];
        let (cut, under_way) = (BTreeSet::new(), Vec::new());
        Self { now_ms: 0, random, configs, replicas, cut, under_way, consents: BTreeMap::new(), elections: 0 }
    }

    fn send(&mut self, from: u64, to: u64, disk_ms: u64, message: Message) {
        if !self.cut.contains(&(from, to)) {
            let way_ms = self.random.random_range(0..=30);
            self.under_way.push((self.now_ms + disk_ms + way_ms, from, to, message));
        }
    }

    fn tell_others(&mut self, from: u64, disk_ms: u64, message: Message) {
        for to in self.replicas.keys().copied().filter(|to| *to != from).collect::<Vec<_>>() {
            self.send(from, to, disk_ms, message);
        }
    }

    fn with_driver<T>(&mut self, id: u64, act: impl FnOnce(&mut Driver, u64, View<'_>, Last) -> T) -> T {
        let replica = self.replicas.get_mut(&id).unwrap();
        let view = View {
            me: NodeId(id),
            configs: &self.configs,
            leading: replica.leading,
            heard_ms: replica.heard_ms,
            leader_suspect: replica.suspects,
        };
        act(&mut replica.driver, self.now_ms, view, replica.last)
    }

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        let now_ms = self.now_ms;
        let (due, later) =
            std::mem::take(&mut self.under_way).into_iter().partition(|(at, ..)| *at <= now_ms);
        self.under_way = later;
        let mut due: Vec<_> = due;
        due.sort_by_key(|(at, from, to, _)| (*at, *from, *to));
        for (_, from, to, message) in due {
            if !self.cut.contains(&(from, to)) {
                self.receive(from, to, message);
            }
        }
        for id in self.replicas.keys().copied().collect::<Vec<_>>() {
            if (now_ms + id * STEP_MS).is_multiple_of(TICK_MS) {
                let effect = self.with_driver(id, |driver, now, view, _| driver.tick(now, view));
                self.act(id, effect);
            }
            let replica = &self.replicas[&id];
            if replica.leading && now_ms.is_multiple_of(HEARTBEAT_MS) {
                let message = Message::Heartbeat { vote: replica.vote, last: replica.last };
                self.tell_others(id, 0, message);
            }
        }
    }

    fn act(&mut self, id: u64, effect: Option<Effect>) {
        match effect {
            None => {}
            Some(Effect::Ask { round }) => {
                self.consents.insert((id, round), BTreeSet::from([NodeId(id)]));
                let last = self.replicas[&id].last;
                self.tell_others(id, 0, Message::MayI { round, last });
            }
            Some(Effect::Elect) => {
                self.elections += 1;
                let round =
                    self.consents.keys().filter(|(asker, _)| *asker == id).map(|(_, round)| *round).max();
                let granted = round.map_or_else(BTreeSet::new, |round| self.consents[&(id, round)].clone());
                assert!(has_majority(&self.configs, &granted), "{id} elects with {granted:?}");
                let replica = self.replicas.get_mut(&id).unwrap();
                replica.vote = (replica.vote.0 + 1, id, false);
                replica.voted_ms = self.now_ms;
                replica.granted = BTreeSet::from([NodeId(id)]);
                let message = Message::VoteForMe { vote: replica.vote, last: replica.last };
                self.tell_others(id, DISK_MS, message);
            }
        }
    }

    fn receive(&mut self, from: u64, to: u64, message: Message) {
        let now_ms = self.now_ms;
        let replica = self.replicas.get_mut(&to).unwrap();
        match message {
            Message::Heartbeat { vote, last } => {
                if vote < replica.vote {
                    let vote = replica.vote;
                    return self.send(to, from, 0, Message::Deposed { vote });
                }
                replica.accept(vote, now_ms);
                replica.heard_ms = now_ms;
                replica.last = last;
            }
            Message::Deposed { vote } | Message::Refused { vote } => {
                let vote = (vote.0, vote.1, false);
                if vote > replica.vote {
                    replica.accept(vote, now_ms);
                }
            }
            Message::MayI { round, last } => {
                let consents = self.with_driver(to, |driver, now, view, my_last| {
                    let question = Question { from: NodeId(from), my_last: &my_last, their_last: &last };
                    driver.consents(now, question, view)
                });
                if consents {
                    self.consents.get_mut(&(from, round)).unwrap().insert(NodeId(to));
                    self.send(to, from, 0, Message::YouMay { round });
                }
            }
            Message::YouMay { round } => {
                let effect = self
                    .with_driver(to, |driver, now, view, _| driver.consented(now, round, NodeId(from), view));
                self.act(to, effect);
            }
            Message::VoteForMe { vote, last } => {
                let leased = replica.vote.2 && now_ms <= replica.voted_ms + PATIENCE.lease_ms;
                let answer = if leased || last < replica.last || vote < replica.vote {
                    Message::Refused { vote: replica.vote }
                } else {
                    replica.accept(vote, now_ms);
                    Message::Granted { vote }
                };
                self.send(to, from, DISK_MS, answer);
            }
            Message::Granted { vote } => {
                if replica.vote == vote && !replica.leading {
                    replica.granted.insert(NodeId(from));
                    if has_majority(&self.configs, &replica.granted) {
                        replica.leading = true;
                        replica.vote.2 = true;
                        replica.last = (vote.0, replica.last.1 + 1);
                    }
                }
            }
        }
    }

    fn run(&mut self, for_ms: u64) {
        let until = self.now_ms + for_ms;
        while self.now_ms < until {
            self.step();
        }
    }

    /// The leader that all of these hear.
    fn leader_of(&self, ids: &BTreeSet<u64>) -> Option<u64> {
        let leader = ids.iter().find(|id| self.replicas[id].leading)?;
        let vote = self.replicas[leader].vote;
        ids.iter().all(|id| self.replicas[id].vote == vote).then_some(*leader)
    }

    /// Cuts every way but those among `ids`, each with an even chance.
    fn disturb(&mut self, spare: &BTreeSet<u64>) {
        let all: Vec<u64> = self.replicas.keys().copied().collect();
        self.cut.clear();
        for from in &all {
            for to in &all {
                let spared = spare.contains(from) && spare.contains(to);
                if !spared && self.random.random_bool(0.5) {
                    self.cut.insert((*from, *to));
                }
            }
        }
        for replica in self.replicas.values_mut() {
            replica.suspects = self.random.random_bool(0.3);
        }
    }

    fn some_majority(&mut self) -> BTreeSet<u64> {
        let mut ids: Vec<u64> = self.replicas.keys().copied().collect();
        while ids.len() > self.replicas.len() / 2 + 1 {
            let place = self.random.random_range(0..ids.len());
            ids.swap_remove(place);
        }
        ids.into_iter().collect()
    }
}

impl Replica {
    fn accept(&mut self, vote: Vote, now_ms: u64) {
        self.vote = vote;
        self.voted_ms = now_ms;
        self.leading = false;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// After any disturbance, a majority that is connected has a leader within some rounds, and does
    /// not need many elections for it.
    #[test]
    fn a_connected_majority_finds_a_leader_without_a_duel(seed in any::<u64>(), size in 2u64..6) {
        let mut model = Model::new(size, seed);
        for _ in 0..10 {
            model.disturb(&BTreeSet::new());
            let for_ms = model.random.random_range(50..2_000);
            model.run(for_ms);
        }
        let majority = model.some_majority();
        let all: Vec<u64> = model.replicas.keys().copied().collect();
        model.cut.clear();
        for id in all.iter().filter(|id| !majority.contains(id)) {
            for other in &all {
                model.cut.extend([(*id, *other), (*other, *id)]);
            }
        }
        model.elections = 0;
        let begun_ms = model.now_ms;
        while model.leader_of(&majority).is_none() {
            model.step();
            prop_assert!(model.now_ms - begun_ms < 10_000, "{} elections and no leader", model.elections);
        }
        prop_assert!(model.elections <= 2, "{} elections", model.elections);
    }

    /// A leader that a majority hears stays, whatever the others and the membership do.
    #[test]
    fn a_leader_that_a_majority_hears_is_never_deposed(seed in any::<u64>(), size in 2u64..6) {
        let mut model = Model::new(size, seed);
        let all: BTreeSet<u64> = (1..=size).collect();
        while model.leader_of(&all).is_none() {
            model.step();
            prop_assert!(model.now_ms < 10_000);
        }
        model.run(1_000);
        let leader = model.leader_of(&all).unwrap();
        let vote = model.replicas[&leader].vote;
        let mut majority = model.some_majority();
        if majority.insert(leader) {
            majority.pop_first();
            majority.insert(leader);
        }
        for _ in 0..20 {
            model.disturb(&majority);
            let for_ms = model.random.random_range(50..2_000);
            model.run(for_ms);
            prop_assert!(model.replicas[&leader].leading);
        }
        model.cut.clear();
        model.run(1_000);
        prop_assert_eq!(model.replicas[&leader].vote, vote);
        prop_assert_eq!(model.leader_of(&all), Some(leader));
    }
}
