//! What the farm says is stale, as it says it: CacheService.Subscribe on the apps' socket.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use proto::v1::cache_service_client::CacheServiceClient;
use proto::v1::subscribe_response::Event;
use proto::v1::{StreamPosition, SubscribeRequest};
use redis::IntoConnectionInfo as _;
use tonic::metadata::{Ascii, MetadataValue};

use super::prices::Prices;
use crate::local;

/// The agent is on this machine: it is there again soon or this app is not.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Where the stream is, and as whom to ask for it.
pub struct Source {
    pub socket: PathBuf,
    pub keyspace: String,
    pub login: Login,
}

/// The user and the password of `REDIS_URL`, as the apps' socket wants them: Basic authorization.
pub struct Login(MetadataValue<Ascii>);

impl Login {
    /// # Errors
    /// The text is no URL of a Redis server.
    pub fn from_url(redis_url: &str) -> Result<Self, redis::RedisError> {
        let info = redis_url.into_connection_info()?;
        let settings = info.redis_settings();
        let pair = format!(
            "{}:{}",
            settings.username().unwrap_or_default(),
            settings.password().unwrap_or_default()
        );
        let value = format!("Basic {}", BASE64.encode(pair.as_bytes()));
        let mut value = MetadataValue::try_from(value).expect("Base64 is ASCII");
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// Follows for ever. Every gap drops all that is cached, since a change may have fallen into it.
pub async fn follow(from: Source, prices: Arc<Prices>) {
    let mut seen = Seen::default();
    let mut pause = PAUSE_FIRST;
    let mut told = String::new();
    loop {
        let before = seen.heard;
        let ended = follow_once(&from, &prices, &mut seen).await;
        let reason = ended.err().unwrap_or_else(|| "the agent ended the stream".to_owned());
        // Once for each reason: an agent that is away stays away for many attempts.
        if reason != told {
            eprintln!("prices are not cached for now: {reason}");
            told = reason;
        }
        prices.cut_off();
        pause = if seen.heard > before { PAUSE_FIRST } else { (pause * 2).min(PAUSE_MAX) };
        tokio::time::sleep(pause).await;
    }
}

async fn follow_once(from: &Source, prices: &Prices, seen: &mut Seen) -> Result<(), String> {
    let channel = local::connect(&from.socket).await.map_err(|failure| failure.to_string())?;
    let request = SubscribeRequest { keyspace: from.keyspace.clone(), resume: seen.vector() };
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("authorization", from.login.0.clone());
    let answer = CacheServiceClient::new(channel).subscribe(request).await;
    let mut stream = answer.map_err(|status| status.message().to_owned())?.into_inner();
    // The agent answers once it has registered the subscriber: from here on nothing is missed.
    prices.subscribed();
    seen.heard += 1;
    while let Some(message) = stream.message().await.map_err(|status| status.message().to_owned())? {
        match message.event {
            Some(Event::Invalidation(invalidation)) => {
                prices.drop_keys(invalidation.keys.iter().map(AsRef::as_ref));
                seen.note(invalidation.position);
            }
            Some(Event::Flush(flush)) => {
                prices.flush();
                seen.start_from(flush.resume);
            }
            // An event of a later version could be anything.
            None => prices.flush(),
        }
    }
    Ok(())
}

/// How far each node's stream was heard, to go on from after a gap.
#[derive(Debug, Default)]
struct Seen {
    /// Subscriptions that came about.
    heard: u64,
    positions: BTreeMap<u64, (u64, u64)>,
}

impl Seen {
    fn note(&mut self, position: Option<StreamPosition>) {
        let Some(StreamPosition { node, generation, sequence }) = position else { return };
        let known = self.positions.entry(node).or_default();
        *known = (*known).max((generation, sequence));
    }

    fn start_from(&mut self, resume: Vec<StreamPosition>) {
        self.positions.clear();
        for position in resume {
            self.note(Some(position));
        }
    }

    fn vector(&self) -> Vec<StreamPosition> {
        let positions = self.positions.iter();
        positions
            .map(|(node, (generation, sequence))| StreamPosition {
                node: *node,
                generation: *generation,
                sequence: *sequence,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(node: u64, generation: u64, sequence: u64) -> StreamPosition {
        StreamPosition { node, generation, sequence }
    }

    #[test]
    fn a_new_life_of_a_node_counts_for_more_than_a_long_old_one() {
        let mut seen = Seen::default();
        seen.note(Some(at(1, 1, 900)));
        seen.note(Some(at(1, 2, 3)));
        seen.note(Some(at(1, 1, 901)));
        assert_eq!(seen.vector(), [at(1, 2, 3)]);
    }

    #[test]
    fn a_flush_replaces_the_whole_vector() {
        let mut seen = Seen::default();
        seen.note(Some(at(1, 1, 9)));
        seen.start_from(vec![at(2, 1, 4)]);
        assert_eq!(seen.vector(), [at(2, 1, 4)]);
    }
}
