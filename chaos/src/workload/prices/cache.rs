//! A cache at a host, as an app has one: filled from the store, emptied by what its agent says is stale.
//!
//! A subscriber can not ask whether anything is on its way to it. But its agent writes events to its queue
//! in order, so it makes one itself, a mark, and reads until it sees it: whatever was in the queue before
//! the mark was asked for has been read by then.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use proto::v1::cache_service_client::CacheServiceClient;
use proto::v1::subscribe_response::Event;
use proto::v1::{InvalidateRequest, SubscribeRequest, SubscribeResponse};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::workload::socket::{connect, within};

/// An agent that does not give a mark back for so long stands still, or is lost in work.
const CONFIRM_MAX: Duration = Duration::from_secs(2);

pub struct Cache {
    runtime: Runtime,
    socket: PathBuf,
    number: usize,
    marks: u64,
    subscription: Option<Subscription>,
    known: BTreeMap<String, i64>,
}

struct Subscription {
    client: CacheServiceClient<Channel>,
    events: Streaming<SubscribeResponse>,
    /// Requests for marks, most of which have been seen long before their answer comes.
    asked: JoinSet<Result<(), String>>,
}

impl Cache {
    /// # Errors
    /// When there can be no runtime.
    pub fn new(socket: PathBuf, number: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, socket, number, marks: 0, subscription: None, known: BTreeMap::new() })
    }

    pub fn is_subscribed(&self) -> bool {
        self.subscription.is_some()
    }

    pub fn get(&self, key: &str) -> Option<i64> {
        self.known.get(key).copied()
    }

    pub fn fill(&mut self, key: String, value: i64) {
        self.known.insert(key, value);
    }

    /// Reads whatever has been told up to now. Where that can not be, the cache is empty afterwards, and
    /// subscribes anew the next time.
    ///
    /// # Errors
    /// Why it can not be known.
    pub fn confirm(&mut self) -> Result<(), String> {
        self.marks += 1;
        let mark = format!("price-mark-{}-{}", self.number, self.marks);
        let Self { runtime, socket, subscription, known, .. } = self;
        let confirmed = runtime.block_on(async {
            let confirming = async {
                let open = match subscription {
                    Some(open) => open,
                    None => {
                        known.clear();
                        let channel = connect(socket).await.map_err(|error| error.to_string())?;
                        subscription.insert(subscribe(channel).await?)
                    }
                };
                open.read_up_to(mark, known).await
            };
            let timely = tokio::time::timeout(CONFIRM_MAX, confirming).await;
            timely.unwrap_or_else(|_| Err("the agent does not answer".to_owned()))
        });
        if confirmed.is_err() {
            self.subscription = None;
            self.known.clear();
        }
        confirmed
    }
}

async fn subscribe(channel: Channel) -> Result<Subscription, String> {
    let mut client = CacheServiceClient::new(channel);
    // The agent answers once it has registered the subscriber: from here on nothing is missed.
    let answer = client.subscribe(SubscribeRequest::default()).await;
    let events = answer.map_err(|status| status.message().to_owned())?.into_inner();
    Ok(Subscription { client, events, asked: JoinSet::new() })
}

impl Subscription {
    async fn read_up_to(&mut self, mark: String, known: &mut BTreeMap<String, i64>) -> Result<(), String> {
        let Self { client, events, asked } = self;
        let request = InvalidateRequest { keys: vec![mark.clone().into()], ..InvalidateRequest::default() };
        let mut client = client.clone();
        // That the other members confirm the mark is nobody's business here, and would take longer than what
        // is to be caught: it is left to itself.
        while asked.try_join_next().is_some() {}
        asked.spawn(async move {
            let answer = client.invalidate(within(CONFIRM_MAX, request)).await;
            answer.map(drop).map_err(|status| status.message().to_owned())
        });
        let heard = async {
            while let Some(message) = events.message().await.map_err(|status| status.message().to_owned())? {
                match message.event {
                    Some(Event::Invalidation(stale)) => {
                        if stale.keys.iter().any(|key| key.as_ref() == mark.as_bytes()) {
                            return Ok(());
                        }
                        for key in &stale.keys {
                            known.remove(String::from_utf8_lossy(key).as_ref());
                        }
                    }
                    // An event of a later version could be anything.
                    Some(Event::Flush(_)) | None => known.clear(),
                }
            }
            Err("the agent ended the stream".to_owned())
        };
        tokio::select! {
            heard = heard => heard,
            Some(Ok(Err(refused))) = asked.join_next() => Err(refused),
        }
    }
}
