//! Getting invalidations to the others, and getting what was missed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use node_core::invalidation::{Delivery, Event, Gap, Outcome, Position, Pulled};
use proto::ids::NodeId;

use super::{Context, Effect, Life, Message, Seen, Timer};

/// As the product's: see `node/src/invalidate`.
pub const PULL_EVENTS_MAX: usize = 256;
const RETRY_US: u64 = 50_000;
const CALL_TIMEOUT_US: u64 = 1_000_000;
const FILL_TRIES: u32 = 20;
/// What who waits for a confirmation waits at most.
const WAIT_US: u64 = 2_000_000;

/// An invalidation that somebody waits for.
pub struct Wait {
    event: Event,
    key: usize,
    version: u64,
    /// The attempts that are under way.
    asked: BTreeMap<NodeId, u64>,
    applied: BTreeSet<NodeId>,
}

/// A stretch that is being asked for.
pub struct Fill {
    gap: Gap,
    tries: u32,
}

impl Life {
    /// A value has changed: everybody is told, and when nobody serves the old one, that is told.
    pub fn invalidate(&mut self, key: usize, version: u64, cx: &mut Context<'_>) {
        let bytes = Bytes::from(vec![u8::try_from(key).unwrap_or(u8::MAX)]);
        let event = self.streams.append("shop".to_owned(), vec![bytes]);
        let sequence = event.position.sequence;
        self.tell(Delivery::Event(event.clone()), cx);
        self.publish(cx, |state| {
            state.invalidation_sequence = state.invalidation_sequence.max(sequence);
        });
        let wait = Wait { event, key, version, asked: BTreeMap::new(), applied: BTreeSet::new() };
        self.waits.insert(sequence, wait);
        for (node, _) in self.told() {
            self.push(sequence, node, cx);
        }
        cx.later(WAIT_US, Timer::Report { sequence });
        self.report_if_all_have_it(sequence, cx);
    }

    pub(super) fn push(&mut self, sequence: u64, node: NodeId, cx: &mut Context<'_>) {
        let Some(to) = self.address_of(node) else { return };
        let Some(wait) = self.waits.get_mut(&sequence) else { return };
        self.next_attempt += 1;
        let attempt = self.next_attempt;
        wait.asked.insert(node, attempt);
        let message = Message::Invalidate { attempt, event: wait.event.clone() };
        cx.effects.push(Effect::Call { node, to, message });
        cx.later(CALL_TIMEOUT_US, Timer::PushTimeout { sequence, node, attempt });
    }

    pub(super) fn push_timeout(&mut self, sequence: u64, node: NodeId, attempt: u64, cx: &mut Context<'_>) {
        let is_under_way = |wait: &Wait| wait.asked.get(&node) == Some(&attempt);
        if self.waits.get(&sequence).is_some_and(is_under_way) {
            cx.later(RETRY_US, Timer::Push { sequence, node });
        }
    }

    pub(super) fn applied(
        &mut self,
        from: NodeId,
        attempt: u64,
        sequence: u64,
        position: Option<Position>,
        cx: &mut Context<'_>,
    ) {
        let (me, generation) = (self.node, self.generation);
        let Some(wait) = self.waits.get_mut(&sequence) else { return };
        // An answer that comes after its call was given up is not heard.
        if wait.asked.get(&from) != Some(&attempt) {
            return;
        }
        wait.asked.remove(&from);
        let has_it = |position: Position| {
            position.node == me && position.generation == generation && position.sequence >= sequence
        };
        if position.is_some_and(has_it) {
            wait.applied.insert(from);
            self.report_if_all_have_it(sequence, cx);
        } else {
            cx.later(RETRY_US, Timer::Push { sequence, node: from });
        }
    }

    fn report_if_all_have_it(&mut self, sequence: u64, cx: &mut Context<'_>) {
        let told = self.told();
        let all = |wait: &Wait| told.iter().all(|(node, _)| wait.applied.contains(node));
        if self.waits.get(&sequence).is_some_and(all) {
            self.report(sequence, cx);
        }
    }

    /// Tells who waits who has it.
    pub(super) fn report(&mut self, sequence: u64, cx: &mut Context<'_>) {
        let Some(wait) = self.waits.remove(&sequence) else { return };
        let missing = self.serving().into_iter().filter(|node| !wait.applied.contains(node)).count();
        cx.saw(if missing == 0 {
            let members = self.admitted.keys().copied().collect();
            Seen::Complete { key: wait.key, version: wait.version, members }
        } else {
            Seen::Incomplete { missing }
        });
    }

    /// The others that may serve from a cache, whether they are heard or not.
    fn serving(&self) -> BTreeSet<NodeId> {
        let all = self.members.keys().chain(self.admitted.keys()).copied();
        all.filter(|node| *node != self.node && !self.gone.contains(node)).collect()
    }

    /// Whom news goes to: the live ones, and who has not been heard of in this life.
    fn told(&self) -> Vec<(NodeId, SocketAddr)> {
        let unheard = self.admitted.iter().filter(|(node, _)| {
            **node != self.node && !self.members.contains_key(*node) && !self.gone.contains(*node)
        });
        self.live().into_iter().chain(unheard.map(|(node, address)| (*node, *address))).collect()
    }

    pub(super) fn deliver(&mut self, outcome: Outcome, cx: &mut Context<'_>) {
        for delivery in outcome.deliveries {
            self.tell(delivery, cx);
        }
        // One at a time asks; what it does not get is noticed again within a second.
        let is_asked = |gap: &Gap| self.fills.values().any(|fill| fill.gap.node == gap.node);
        if let Some(gap) = outcome.gap.filter(|gap| !is_asked(gap)) {
            let fill = self.next_fill;
            self.next_fill += 1;
            self.fills.insert(fill, Fill { gap, tries: 0 });
            self.pull(fill, cx);
        }
    }

    fn tell(&mut self, delivery: Delivery, cx: &mut Context<'_>) {
        match delivery {
            Delivery::Event(event) => {
                for key in event.keys.iter().filter_map(|key| key.first()) {
                    self.cache.drop(usize::from(*key));
                }
                cx.saw(Seen::Delivered(event.position));
            }
            Delivery::Flush { .. } => {
                self.cache.flush();
                cx.saw(Seen::Flushed);
            }
        }
    }

    pub(super) fn pull(&mut self, fill: u64, cx: &mut Context<'_>) {
        let Some(Fill { gap, tries }) = self.fills.get(&fill) else { return };
        let (gap, tries) = (*gap, *tries);
        if tries >= FILL_TRIES {
            self.fills.remove(&fill);
            if !self.told().iter().any(|(node, _)| *node == gap.node) {
                let told = self.states.get(gap.node).filter(|state| state.generation == gap.generation.0);
                let highest = told.map_or(gap.from, |state| state.invalidation_sequence);
                let outcome = self.streams.abandon(gap, highest);
                self.deliver(outcome, cx);
            }
            return;
        }
        if let Some(to) = self.members.get(&gap.node).map(|member| member.peer) {
            cx.effects.push(Effect::Call { node: gap.node, to, message: Message::Pull { fill, gap } });
        }
        cx.later(CALL_TIMEOUT_US, Timer::FillTimeout { fill, tries });
    }

    pub(super) fn fill_timeout(&mut self, fill: u64, tries: u32, cx: &mut Context<'_>) {
        if let Some(pending) = self.fills.get_mut(&fill).filter(|pending| pending.tries == tries) {
            pending.tries += 1;
            cx.later(RETRY_US, Timer::Fill { fill });
        }
    }

    pub(super) fn pulled(&mut self, fill: u64, gap: Gap, pulled: Pulled, cx: &mut Context<'_>) {
        let Some(pending) = self.fills.get_mut(&fill).filter(|pending| pending.gap == gap) else { return };
        pending.tries += 1;
        let outcome = self.streams.fill(gap, pulled);
        match outcome.gap {
            Some(rest) => {
                pending.gap = rest;
                self.pull(fill, cx);
            }
            None => drop(self.fills.remove(&fill)),
        }
        self.deliver(Outcome { gap: None, ..outcome }, cx);
    }

    fn address_of(&self, node: NodeId) -> Option<SocketAddr> {
        self.told().into_iter().find(|(one, _)| *one == node).map(|(_, address)| address)
    }
}
