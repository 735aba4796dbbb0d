//! CacheService: invalidations for operators and apps.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use node_core::invalidation::{Delivery, Event, Position};
use proto::ids::{Generation, NodeId};
use proto::limits::MEMBERS_MAX;
use proto::v1::cache_service_server::CacheService;
use proto::v1::subscribe_response::Event as Told;
use proto::v1::{
    Flush, InvalidateRequest, InvalidateResponse, StreamPosition, SubscribeRequest, SubscribeResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Invalidation, Missed, Subscription};
use crate::api::guard::Scope;

const WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// Nobody waits longer for a node than its suspicion takes by far.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Between the subscriber's queue and its connection; what it does not read waits in the former.
const STREAM_QUEUE: usize = 16;

/// Implements the service.
pub struct CacheApi {
    invalidation: Invalidation,
}

impl CacheApi {
    pub fn new(invalidation: Invalidation) -> Self {
        Self { invalidation }
    }
}

#[tonic::async_trait]
impl CacheService for CacheApi {
    async fn invalidate(
        &self,
        request: Request<InvalidateRequest>,
    ) -> Result<Response<InvalidateResponse>, Status> {
        Scope::check(&request, &request.get_ref().keyspace)?;
        let request = request.into_inner();
        let wait = match request.timeout_ms {
            0 => WAIT_DEFAULT,
            ms => Duration::from_millis(ms).min(WAIT_MAX),
        };
        let wait = request.wait.then_some(wait);
        self.invalidation
            .invalidate(&request.keyspace, request.keys, wait)
            .await
            .map(Response::new)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Scope::check(&request, &request.get_ref().keyspace)?;
        let request = request.into_inner();
        if request.resume.len() > 2 * MEMBERS_MAX {
            return Err(Status::invalid_argument("the resume vector has more streams than there can be"));
        }
        let seen: Vec<Position> = request.resume.into_iter().map(position).collect();
        let subscription = self.invalidation.subscribe(request.keyspace.clone(), &seen)?;
        let (send, receive) = mpsc::channel(STREAM_QUEUE);
        let stop = self.invalidation.inner.tasks.stop();
        let fresh = seen.is_empty();
        self.invalidation.inner.tasks.tracker().spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = feed(subscription, request.keyspace, fresh, send) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

type Sender = mpsc::Sender<Result<SubscribeResponse, Status>>;

/// Writes one subscriber's stream until it, or this side, ends it.
async fn feed(mut subscription: Subscription, keyspace: String, fresh: bool, send: Sender) {
    let vector: Vec<StreamPosition> = subscription.vector.iter().copied().map(stream_position).collect();
    let first: Vec<Told> = match subscription.missed {
        // Who comes for the first time has nothing cached; it learns where it begins.
        _ if fresh => vec![flush("where this stream begins", vector)],
        Missed::Unknown => vec![flush("what was missed can not be told", vector)],
        Missed::Events(events) => {
            events.into_iter().filter(|event| event.keyspace == keyspace).map(told).collect()
        }
    };
    for event in first {
        if send.send(Ok(SubscribeResponse { event: Some(event) })).await.is_err() {
            return;
        }
    }
    while let Some(delivery) = subscription.deliveries.recv().await {
        let event = match delivery {
            Delivery::Event(event) => told(event),
            Delivery::Flush { reason } => flush(reason, Vec::new()),
        };
        if send.send(Ok(SubscribeResponse { event: Some(event) })).await.is_err() {
            return;
        }
    }
    let cut = Status::resource_exhausted("the subscriber did not read: flush, and subscribe again");
    // It may be gone altogether.
    let _gone = send.send(Err(cut)).await;
}

fn told(event: Event) -> Told {
    Told::Invalidation(proto::v1::Invalidation {
        position: Some(stream_position(event.position)),
        keys: event.keys,
    })
}

fn flush(reason: &str, resume: Vec<StreamPosition>) -> Told {
    Told::Flush(Flush { reason: reason.to_owned(), resume })
}

fn position(position: StreamPosition) -> Position {
    Position {
        node: NodeId(position.node),
        generation: Generation(position.generation),
        sequence: position.sequence,
    }
}

fn stream_position(position: Position) -> StreamPosition {
    StreamPosition { node: position.node.0, generation: position.generation.0, sequence: position.sequence }
}
