//! The session store behind the Redis port.

use std::time::Duration;

use bytes::Bytes;
use node_resp::{Refusal, Store, StoreInfo};
use proto::log::{Op, Reply};
use proto::v1::InvalidateResponse;

use super::Sessions;
use super::logins::Logins;
use crate::invalidate::Invalidation;

/// What serves the Redis port.
#[derive(Clone)]
pub struct RedisStore {
    sessions: Sessions,
    invalidation: Invalidation,
    logins: Logins,
    node: String,
}

impl RedisStore {
    pub fn new(sessions: Sessions, invalidation: Invalidation, logins: Logins, node: String) -> Self {
        Self { sessions, invalidation, logins, node }
    }
}

impl Store for RedisStore {
    fn authenticate(&self, user: &str, password: &str) -> Option<String> {
        self.logins.keyspace_of(user, password)
    }

    fn default_keyspace(&self) -> Option<String> {
        self.logins.default_keyspace()
    }

    async fn execute(&self, ops: Vec<Op>) -> Vec<Reply> {
        self.sessions.execute(ops).await
    }

    async fn invalidate(
        &self,
        keyspace: &str,
        keys: Vec<Bytes>,
        wait: Option<Duration>,
    ) -> Result<InvalidateResponse, Refusal> {
        let invalidated = self.invalidation.invalidate(keyspace, keys, wait).await;
        invalidated.map_err(|error| Refusal(format!("ERR not invalidated: {error}")))
    }

    fn info(&self) -> StoreInfo {
        let info = self.sessions.info();
        let whole = info.groups > 0 && info.led == usize::from(info.groups);
        StoreInfo {
            used_bytes: info.used_bytes,
            max_bytes: info.max_bytes,
            holdfast: vec![
                ("node", self.node.clone()),
                ("groups", info.groups.to_string()),
                ("replicas_here", info.replicas_here.to_string()),
                ("leaders_here", info.leaders_here.to_string()),
                ("groups_led", info.led.to_string()),
                ("quorum", if whole { "yes" } else { "no" }.to_owned()),
            ],
        }
    }
}
