//! Tells every cache of the farm that a value is stale, and knows who has heard it.
//!
//! ```text
//!   invalidate(keys) ─▶ own stream ─▶ subscribers here
//!                          └─ pushed to every live node at once; each answers how far it has applied
//!   handle_push ─▶ Streams ─▶ subscribers here      a gap ─▶ pull from the origin
//!   node states carry the highest number ─▶ a lost tail is a gap, too
//! ```
//!
//! An agent has applied an event when it has written it to its subscribers' queues, in order. A
//! subscriber whose queue is full is cut off: its stream ends, and when it comes back with what it
//! has seen, it is told what it missed or to flush.

mod push;
pub mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use node_core::invalidation::{Delivery, Event, Gap, Life, Outcome, Position, Pulled, Streams};
use node_core::membership::MemberStatus;
use proto::ids::{Generation, NodeId};
use proto::limits::{INVALIDATION_KEYS_MAX, KEY_BYTES_MAX, NAME_BYTES_MAX};
use proto::peer::{
    AppliedPosition, InvalidationEvent, PullInvalidationsRequest, PullInvalidationsResponse,
    PushInvalidationsRequest, PushInvalidationsResponse,
};
use proto::v1::{InvalidateResponse, MissingNode};
use tokio::sync::mpsc;
use tonic::Status;

use crate::members::Members;
use crate::mesh::Mesh;
use crate::tasks::Tasks;

/// What a subscriber may be behind before it is cut off.
const SUBSCRIBER_QUEUE: usize = 1_024;
/// Streams to applications that are open at once on one node.
const SUBSCRIBERS_MAX: usize = 4_096;
/// Events of one answer to a pull; at a hundred keys each, some hundred kilobytes.
const PULL_EVENTS_MAX: usize = 256;

/// What the invalidation is made from.
pub struct InvalidationParts {
    pub generation: Generation,
    pub life: Life,
    pub mesh: Mesh,
    pub members: Members,
    pub tasks: Tasks,
}

/// Why an invalidation is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidateError {
    #[error("it names no key")]
    NoKeys,
    #[error("it names {0} keys; {INVALIDATION_KEYS_MAX} are the most")]
    TooManyKeys(usize),
    #[error("a key has {0} bytes; {KEY_BYTES_MAX} are the most")]
    KeyTooLong(usize),
}

/// A handle to the invalidation. Clones share it.
#[derive(Clone)]
pub struct Invalidation {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    mesh: Mesh,
    members: Members,
    tasks: Tasks,
}

struct State {
    streams: Streams,
    subscribers: BTreeMap<u64, Subscriber>,
    next_subscriber: u64,
    /// Streams of which something missing is being asked for.
    filling: BTreeSet<NodeId>,
}

struct Subscriber {
    keyspace: String,
    queue: mpsc::Sender<Delivery>,
}

/// The one who asks for what is missing of a stream. However it ends, another may ask after it.
struct Filling {
    invalidation: Invalidation,
    node: NodeId,
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.invalidation.state().filling.remove(&self.node);
    }
}

/// A subscriber's end: what becomes stale, until it is cut off.
pub struct Subscription {
    pub deliveries: mpsc::Receiver<Delivery>,
    /// Where the stream goes on from when it was told to flush.
    pub vector: Vec<Position>,
    /// What the subscriber missed before.
    pub missed: Missed,
}

/// What a subscriber missed between its last stream and this one.
pub enum Missed {
    Events(Vec<Event>),
    Unknown,
}

impl Invalidation {
    pub fn start(parts: InvalidationParts) -> Self {
        let InvalidationParts { generation, life, mesh, members, tasks } = parts;
        let state = State {
            streams: Streams::new(mesh.me(), generation, life),
            subscribers: BTreeMap::new(),
            next_subscriber: 0,
            filling: BTreeSet::new(),
        };
        let invalidation =
            Self { inner: Arc::new(Inner { state: Mutex::new(state), mesh, members, tasks: tasks.clone() }) };
        tasks.essential("invalidation tails", push::watch_tails(invalidation.clone(), tasks.stop()));
        invalidation
    }

    /// Makes keys stale everywhere. With `wait`, returns when every live node has applied it, or
    /// after that time; without, as soon as it has been sent, and the answer says who had it by then.
    ///
    /// # Errors
    /// When the keys are none, too many or too long.
    pub async fn invalidate(
        &self,
        keyspace: &str,
        keys: Vec<Bytes>,
        wait: Option<Duration>,
    ) -> Result<InvalidateResponse, InvalidateError> {
        check(&keys)?;
        let event = {
            let mut state = self.state();
            let event = state.streams.append(keyspace.to_owned(), keys);
            state.deliver(vec![Delivery::Event(event.clone())]);
            event
        };
        let highest = event.position.sequence;
        self.inner.members.publish(|state| {
            state.invalidation_sequence = state.invalidation_sequence.max(highest);
        });
        #[cfg(holdfast_mutants)]
        let wait = if mutation::is("confirmed-early") { Some(Duration::from_millis(1)) } else { wait };
        let applied = push::to_all(self, &event, wait).await;
        Ok(self.report(&event, &applied))
    }

    /// Opens a stream of what becomes stale in a keyspace, for somebody who has seen this much.
    ///
    /// # Errors
    /// When there are too many subscribers.
    pub fn subscribe(&self, keyspace: String, seen: &[Position]) -> Result<Subscription, Status> {
        let mut state = self.state();
        state.subscribers.retain(|_, subscriber| !subscriber.queue.is_closed());
        if state.subscribers.len() >= SUBSCRIBERS_MAX {
            return Err(Status::resource_exhausted("too many subscribers on this node"));
        }
        let (queue, deliveries) = mpsc::channel(SUBSCRIBER_QUEUE);
        // Under one lock: no event falls between what was missed and what comes.
        let missed = state.streams.missed_since(seen).map_or(Missed::Unknown, Missed::Events);
        let vector = state.streams.vector();
        let id = state.next_subscriber;
        state.next_subscriber += 1;
        state.subscribers.insert(id, Subscriber { keyspace, queue });
        Ok(Subscription { deliveries, vector, missed })
    }

    /// Applies what a peer has pushed, and answers how far its stream has been applied.
    ///
    /// # Errors
    /// When an event is beyond the bounds, or of another node's stream: each tells its own.
    pub async fn handle_push(
        &self,
        from: NodeId,
        request: PushInvalidationsRequest,
    ) -> Result<PushInvalidationsResponse, Status> {
        for event in request.events {
            let event = parse(event)?;
            if event.position.node != from {
                return Err(Status::invalid_argument("an event is pushed by its origin"));
            }
            self.change(|streams| streams.receive(event));
        }
        let vector = self.state().streams.vector();
        let applied = vector.into_iter().filter(|position| position.node == from).map(applied_position);
        Ok(PushInvalidationsResponse { applied: applied.collect() })
    }

    /// Answers with a stretch of this node's own stream.
    ///
    /// # Errors
    /// When another node's stream is asked for: every node keeps its own.
    pub async fn handle_pull(
        &self,
        _from: NodeId,
        request: PullInvalidationsRequest,
    ) -> Result<PullInvalidationsResponse, Status> {
        if NodeId(request.node) != self.inner.mesh.me() {
            return Err(Status::not_found("a stream is pulled from its origin"));
        }
        let pulled = self.state().streams.pull(Generation(request.generation), request.from, PULL_EVENTS_MAX);
        let events = pulled.events.into_iter().map(event_message).collect();
        Ok(PullInvalidationsResponse { events, oldest: pulled.oldest })
    }

    /// Changes the streams, delivers what comes of it, and fills a gap in the background.
    ///
    /// Under one lock: else two changes at once could be delivered in the other order, and an event that is
    /// pushed again be answered for before it is in any subscriber's queue.
    fn change(&self, change: impl FnOnce(&mut Streams) -> Outcome) {
        let asked = {
            let mut state = self.state();
            let outcome = change(&mut state.streams);
            state.deliver(outcome.deliveries);
            // One at a time asks; what it does not get is noticed again within a second.
            outcome.gap.filter(|gap| state.filling.insert(gap.node))
        };
        if let Some(gap) = asked {
            let filling = Filling { invalidation: self.clone(), node: gap.node };
            self.inner.tasks.tracker().spawn(push::fill(filling, gap));
        }
    }

    fn heard(&self, node: NodeId, generation: Generation, highest: u64) {
        self.change(|streams| streams.heartbeat(node, generation, highest));
    }

    fn filled(&self, gap: Gap, pulled: Pulled) -> Option<Gap> {
        let mut state = self.state();
        let outcome = state.streams.fill(gap, pulled);
        state.deliver(outcome.deliveries);
        outcome.gap
    }

    fn report(&self, event: &Event, applied: &[NodeId]) -> InvalidateResponse {
        let view = self.inner.members.view().borrow().clone();
        let position = event.position;
        let mut response = InvalidateResponse {
            id: format!("{}.{}.{}", position.node, position.generation, position.sequence),
            ..InvalidateResponse::default()
        };
        for (node, member) in view.members.iter().filter(|(node, _)| !view.gone.contains(*node)) {
            let name =
                member.state.as_ref().map_or_else(|| format!("node {node}"), |state| state.name.clone());
            #[cfg(holdfast_mutants)]
            let applied = if mutation::is("confirmed-early") { &[*node] } else { applied };
            if *node == view.me || applied.contains(node) {
                response.applied.push(name);
                continue;
            }
            let before = || push::rfc3339_before(member.member.since.elapsed());
            let (reason, seen) = match member.member.state {
                MemberStatus::Down => ("it is down", before()),
                // It may be back already, with caches, where it is not heard yet.
                MemberStatus::Left => ("it has stopped", before()),
                MemberStatus::Alive | MemberStatus::Suspect => {
                    ("it has not confirmed in time", push::rfc3339_before(Duration::ZERO))
                }
            };
            response.missing.push(MissingNode { node: name, reason: reason.to_owned(), last_seen: seen });
        }
        for node in view.unheard.iter().filter(|node| !applied.contains(*node)) {
            let reason = "nothing has been heard of it since this agent started".to_owned();
            response.missing.push(MissingNode {
                node: format!("node {node}"),
                reason,
                last_seen: String::new(),
            });
        }
        response
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in it is ever left half done.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes to the subscribers' queues. Who is full or gone is cut off.
    fn deliver(&mut self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            self.subscribers.retain(|_, subscriber| match &delivery {
                Delivery::Event(event) if event.keyspace != subscriber.keyspace => {
                    !subscriber.queue.is_closed()
                }
                Delivery::Event(_) | Delivery::Flush { .. } => {
                    subscriber.queue.try_send(delivery.clone()).is_ok()
                }
            });
        }
    }
}

fn check(keys: &[Bytes]) -> Result<(), InvalidateError> {
    if keys.is_empty() {
        return Err(InvalidateError::NoKeys);
    }
    if keys.len() > INVALIDATION_KEYS_MAX {
        return Err(InvalidateError::TooManyKeys(keys.len()));
    }
    match keys.iter().find(|key| key.len() > KEY_BYTES_MAX) {
        Some(key) => Err(InvalidateError::KeyTooLong(key.len())),
        None => Ok(()),
    }
}

fn parse(message: InvalidationEvent) -> Result<Event, Status> {
    check(&message.keys).map_err(|error| Status::invalid_argument(error.to_string()))?;
    // An app's name, and the number of its database.
    if message.keyspace.len() > NAME_BYTES_MAX + 8 {
        return Err(Status::invalid_argument("no such keyspace"));
    }
    let position = Position {
        node: NodeId(message.node),
        generation: Generation(message.generation),
        sequence: message.sequence,
    };
    Ok(Event { position, keyspace: message.keyspace, keys: message.keys })
}

fn event_message(event: Event) -> InvalidationEvent {
    InvalidationEvent {
        node: event.position.node.0,
        generation: event.position.generation.0,
        sequence: event.position.sequence,
        keyspace: event.keyspace,
        keys: event.keys,
    }
}

fn applied_position(position: Position) -> AppliedPosition {
    AppliedPosition { node: position.node.0, generation: position.generation.0, sequence: position.sequence }
}

#[cfg(test)]
mod tests;
