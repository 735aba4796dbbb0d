//! Sequenced invalidations: what has been heard of, and what is missing.
//!
//! Each life of a node has a stream of its own with numbers that begin at 1 and have no gaps. Every
//! node keeps, for each other, how far it has applied that stream without a gap, so it knows when it
//! has missed something: by the next event, or, for the last one, by the highest number that the
//! origin says of itself. What is missing is pulled from a ring that every node keeps of its own
//! stream; what has left the ring can not be had, and then everything cached may be stale: a flush.
//!
//! ```text
//!   applied = 4   event 5 ─▶ applied         event 4 ─▶ nothing (doubled)
//!                 event 7 ─▶ gap: pull 5..   origin says 9 ─▶ gap: pull 5..
//!                 pull 5.., ring begins at 8 ─▶ flush, applied = 7, then 8, 9
//!                 another life of the origin ─▶ flush: the tail of the old one may be lost
//!
//!   a stream that is new here: event 1 ─▶ applied: its origin has told nothing before
//!                              event 5 ─▶ flush, applied = 5
//!                              origin says 5 ─▶ gap: pull 1.., ring begins at 2 ─▶ flush, as above
//! ```
//!
//! Who takes up a stream can not know whether its origin has had a life before this one, in which it told
//! what was never heard here. So a later life begins at 2: its number 1 stands for what the earlier ones
//! told, is in no ring, and makes a flush of every first contact but that with a server that is new.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use proto::ids::{Generation, NodeId};

/// Events of the own stream that can still be pulled. A node that misses more has been away for
/// longer than a blip, and starts with empty caches.
const RING_EVENTS_MAX: usize = 4_096;
const RING_BYTES_MAX: usize = 4 << 20;
/// Numbers grow one by one. What is above was not reached that way, and would overflow.
const SEQUENCE_MAX: u64 = 1 << 60;
/// Streams that are followed: every member's, and room for those that have gone.
const STREAMS_MAX: usize = 2 * proto::limits::MEMBERS_MAX;

/// Which of a node's lives one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// The node has not been there before, and has told nothing.
    First,
    Later,
}

impl Life {
    /// The number after which the life's stream begins.
    pub const fn begins_after(self) -> u64 {
        match self {
            Self::First => 0,
            Self::Later => 1,
        }
    }
}

/// One event's place: whose stream, which life of it, which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub node: NodeId,
    pub generation: Generation,
    pub sequence: u64,
}

/// These keys of this keyspace are stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub position: Position,
    pub keyspace: String,
    pub keys: Vec<Bytes>,
}

impl Event {
    fn size(&self) -> usize {
        // What the allocations around the bytes cost, roughly.
        64 + self.keyspace.len() + self.keys.iter().map(|key| key.len() + 32).sum::<usize>()
    }
}

/// What subscribers are told, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    Event(Event),
    /// Everything cached may be stale.
    Flush {
        reason: &'static str,
    },
}

/// A stretch that was missed: ask the origin for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub node: NodeId,
    pub generation: Generation,
    pub from: u64,
}

/// What came of some news.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub deliveries: Vec<Delivery>,
    pub gap: Option<Gap>,
}

/// The answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    pub events: Vec<Event>,
    /// The first number that the ring holds, when it no longer holds the one asked for.
    pub oldest: Option<u64>,
}

/// How far one stream has been applied.
#[derive(Debug, Clone, Copy)]
struct Applied {
    generation: Generation,
    /// No more than [`SEQUENCE_MAX`].
    sequence: u64,
}

/// All streams, as one node knows them.
#[derive(Debug)]
pub struct Streams {
    me: NodeId,
    generation: Generation,
    own: u64,
    ring: VecDeque<Event>,
    ring_bytes: usize,
    others: BTreeMap<NodeId, Applied>,
    /// Those whose word counts no more. Ids are not used again.
    gone: BTreeSet<NodeId>,
}

impl Streams {
    pub fn new(me: NodeId, generation: Generation, life: Life) -> Self {
        Self {
            me,
            generation,
            own: life.begins_after(),
            ring: VecDeque::new(),
            ring_bytes: 0,
            others: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }

    /// A new event of this node's own stream.
    pub fn append(&mut self, keyspace: String, keys: Vec<Bytes>) -> Event {
        self.own += 1;
        let position = Position { node: self.me, generation: self.generation, sequence: self.own };
        let event = Event { position, keyspace, keys };
        self.ring_bytes += event.size();
        self.ring.push_back(event.clone());
        while self.ring.len() > RING_EVENTS_MAX || (self.ring_bytes > RING_BYTES_MAX && self.ring.len() > 1) {
            if let Some(old) = self.ring.pop_front() {
                self.ring_bytes -= old.size();
            }
        }
        event
    }

    /// The highest number of the own stream, for others to compare.
    pub fn own_sequence(&self) -> u64 {
        self.own
    }

    /// An event of another node's stream has come, from that node itself.
    pub fn receive(&mut self, event: Event) -> Outcome {
        let Position { node, generation, sequence } = event.position;
        let mut outcome = Outcome::default();
        if sequence == 0 || sequence > SEQUENCE_MAX {
            return outcome;
        }
        let Some(applied) = self.follow(node, generation, sequence - 1, &mut outcome) else {
            return outcome;
        };
        if sequence == applied.sequence + 1 {
            applied.sequence = sequence;
            outcome.deliveries.push(Delivery::Event(event));
        } else if sequence > applied.sequence {
            #[cfg(holdfast_mutants)]
            if mutation::is("gap-ignored") {
                applied.sequence = sequence;
                outcome.deliveries.push(Delivery::Event(event));
                return outcome;
            }
            outcome.gap = Some(Gap { node, generation, from: applied.sequence + 1 });
        }
        outcome
    }

    /// A node has said how long its stream is. Others relay it, and one that is broken may say anything.
    pub fn heartbeat(&mut self, node: NodeId, generation: Generation, highest: u64) -> Outcome {
        let mut outcome = Outcome::default();
        // The flush for the life before makes up for the number that stands for it. What else it is said to
        // have told, and everything when it is not known at all, only the origin knows for certain.
        let told = if self.others.contains_key(&node) { highest.min(Life::Later.begins_after()) } else { 0 };
        if highest <= SEQUENCE_MAX
            && let Some(applied) = self.follow(node, generation, told, &mut outcome)
            && highest > applied.sequence
        {
            outcome.gap = Some(Gap { node, generation, from: applied.sequence + 1 });
        }
        outcome
    }

    /// The origin's answer about a gap.
    pub fn fill(&mut self, gap: Gap, pulled: Pulled) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(applied) = self.followed(gap) else { return outcome };
        // Of a life that is over the oldest is above all numbers.
        if let Some(oldest) = pulled.oldest.map(|oldest| oldest.min(SEQUENCE_MAX + 1))
            && oldest > applied.sequence + 1
        {
            applied.sequence = oldest - 1;
            outcome
                .deliveries
                .push(Delivery::Flush { reason: "invalidations were missed and can not be had any more" });
        }
        for event in pulled.events {
            if event.position.node == gap.node && event.position.generation == gap.generation {
                let mut one = self.receive(event);
                outcome.deliveries.append(&mut one.deliveries);
                outcome.gap = one.gap;
            }
        }
        outcome
    }

    /// Nobody can be asked for a stretch any more: whoever had it is dead, or cut off for longer than one
    /// may wait. `highest` is the last number that is known to have been given.
    pub fn abandon(&mut self, gap: Gap, highest: u64) -> Outcome {
        let mut outcome = Outcome::default();
        // An impossible number, if it were taken, would make old of all that comes later.
        let last = if highest > SEQUENCE_MAX { gap.from } else { highest.max(gap.from) };
        let last = last.min(SEQUENCE_MAX);
        if let Some(applied) = self.followed(gap)
            && applied.sequence < last
        {
            applied.sequence = last;
            outcome
                .deliveries
                .push(Delivery::Flush { reason: "invalidations of a server that is dead can not be had" });
        }
        outcome
    }

    /// Nodes are no members any more, and nobody will ever tell what they told last. What still comes of
    /// them, late or from one that does not know, is not taken: nothing that they tell is confirmed here.
    pub fn forget(&mut self, nodes: impl Iterator<Item = NodeId>) -> Outcome {
        for node in nodes {
            self.others.remove(&node);
            self.gone.insert(node);
        }
        // Ids ascend: of the lowest nothing is under way any more.
        while self.gone.len() > STREAMS_MAX {
            self.gone.pop_first();
        }
        let reason = "a server is gone for good, and its last invalidations may be lost";
        Outcome { deliveries: vec![Delivery::Flush { reason }], gap: None }
    }

    /// The own stream from a number on, a bounded number of events.
    pub fn pull(&self, generation: Generation, from: u64, events_max: usize) -> Pulled {
        if generation != self.generation {
            // A life that is over: nothing of it can be had.
            return Pulled { events: Vec::new(), oldest: Some(u64::MAX) };
        }
        let first = self.ring.front().map_or(self.own + 1, |event| event.position.sequence);
        let events = self.ring.iter().filter(|event| event.position.sequence >= from).take(events_max);
        Pulled { events: events.cloned().collect(), oldest: (from < first).then_some(first) }
    }

    /// How far every stream has been applied, the own one included.
    pub fn vector(&self) -> Vec<Position> {
        let own = Position { node: self.me, generation: self.generation, sequence: self.own };
        let others = self.others.iter().map(|(node, applied)| Position {
            node: *node,
            generation: applied.generation,
            sequence: applied.sequence,
        });
        std::iter::once(own).chain(others).collect()
    }

    /// Whether a subscriber that has seen this much has missed anything that this node has applied.
    /// What it missed of the own stream can be told; anything else can not, and least of all what came last
    /// in a life that is over or in a stream that is followed no more.
    ///
    /// `None` means flush.
    pub fn missed_since(&self, seen: &[Position]) -> Option<Vec<Event>> {
        let mut newest: BTreeMap<NodeId, Position> = BTreeMap::new();
        for position in seen {
            let known = newest.entry(position.node).or_insert(*position);
            *known = (*known).max(*position);
        }
        let now: BTreeMap<NodeId, Position> =
            self.vector().into_iter().map(|position| (position.node, position)).collect();
        let goes_on = |before: &Position| {
            let now = now.get(&before.node).filter(|now| now.generation == before.generation);
            // Nobody has seen more of the own stream than there is.
            now.is_some_and(|now| now.node != self.me || before.sequence <= now.sequence)
        };
        if !newest.values().all(goes_on) {
            return None;
        }
        for now in now.values() {
            let sequence = newest.get(&now.node).map_or(0, |before| before.sequence);
            let ring_has_it = now.node == self.me
                && self.pull(self.generation, sequence.saturating_add(1), 0).oldest.is_none();
            if sequence < now.sequence && !ring_has_it {
                return None;
            }
        }
        let own = newest.get(&self.me).map_or(0, |position| position.sequence);
        Some(self.pull(self.generation, own + 1, RING_EVENTS_MAX).events)
    }

    /// The state of the stream that the news is about. `None` for the own stream, one of a node that is
    /// gone, an older life, and more streams than there can be.
    ///
    /// A life that is new here is taken up after the number that has been told already: a flush makes up for
    /// that, and for the lives before.
    fn follow(
        &mut self,
        node: NodeId,
        generation: Generation,
        told: u64,
        outcome: &mut Outcome,
    ) -> Option<&mut Applied> {
        if node == self.me || self.gone.contains(&node) {
            return None;
        }
        let reason = match self.others.get(&node) {
            Some(known) if known.generation > generation => return None,
            Some(known) if known.generation == generation => return self.others.get_mut(&node),
            Some(_) => Some("a server was restarted and its last invalidations may be lost"),
            None if self.others.len() >= STREAMS_MAX => return None,
            None => (told > 0).then_some("a server has been heard of that may have told something before"),
        };
        outcome.deliveries.extend(reason.map(|reason| Delivery::Flush { reason }));
        self.others.insert(node, Applied { generation, sequence: told });
        self.others.get_mut(&node)
    }

    /// The stream of which something is missing, if it is still followed in that life.
    fn followed(&mut self, gap: Gap) -> Option<&mut Applied> {
        self.others.get_mut(&gap.node).filter(|applied| applied.generation == gap.generation)
    }
}

#[cfg(test)]
mod tests;
