//! The store, through the Redis port of the local agent and a stock client library.
//!
//! A refusal is something to tell a customer in words, not a reason to end: without a quorum nothing
//! can be written, and the catalogue is still a catalogue.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, FromRedisValue, Pipeline, RedisError};
use tokio::time::timeout;

/// For what a page can do without: the page is shown with what was known.
pub const READ_TIMEOUT: Duration = Duration::from_millis(2_500);

/// For what somebody has asked for: longer than the pause when a group's leader dies.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(8);

/// An invalidation waits 5 s at most for the other servers; with room for the way.
const INVALIDATE_TIMEOUT: Duration = Duration::from_secs(7);

/// A local port answers at once or the agent is away, and then so is this app soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the store did not do it, for people.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}", in_words(.0))]
    Refused(#[source] RedisError),
    #[error("the store did not answer in {} ms", .0.as_millis())]
    TimedOut(Duration),
}

/// The reason once: a pipeline is refused command by command, mostly for one and the same.
fn in_words(error: &RedisError) -> String {
    match error.clone().into_server_errors() {
        Some(errors) => match errors.first().and_then(|(_, error)| error.details().map(str::to_owned)) {
            Some(reason) => format!("the store refused: {reason}"),
            None => "the store refused".to_owned(),
        },
        None => format!("the store can not be reached: {error}"),
    }
}

/// A handle; clones share one connection, which comes back by itself.
#[derive(Clone)]
pub struct Store {
    connection: ConnectionManager,
}

impl Store {
    /// Connects when it is first used. Needs a tokio runtime.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let settings = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(WRITE_TIMEOUT))
            .set_number_of_retries(2);
        let connection = Client::open(url)
            .and_then(|client| ConnectionManager::new_lazy_with_config(client, settings))
            .map_err(StoreError::Refused)?;
        Ok(Self { connection })
    }

    /// Sends commands in one go; the first refusal is the answer.
    pub async fn query<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
        limit: Duration,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection.clone();
        let answer = timeout(limit, commands.query_async(&mut connection)).await;
        answer.map_err(|_| StoreError::TimedOut(limit))?.map_err(StoreError::Refused)
    }

    /// Writes `key` and makes every cache of the farm drop it. When this returns, no server that
    /// is in touch shows the old value.
    pub async fn set_and_invalidate(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let mut set = Pipeline::new();
        set.cmd("SET").arg(key).arg(value).ignore();
        self.query::<()>(&set, WRITE_TIMEOUT).await?;
        let mut command = Cmd::new();
        command.arg("INVALIDATE").arg("KEY").arg(key).arg("WAIT").arg(5_000);
        let mut connection = self.connection.clone();
        let answer = timeout(INVALIDATE_TIMEOUT, command.query_async::<redis::Value>(&mut connection)).await;
        answer.map_err(|_| StoreError::TimedOut(INVALIDATE_TIMEOUT))?.map_err(StoreError::Refused)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redis::{RedisError, parse_redis_value};

    use super::*;

    #[test]
    fn a_refusal_is_told_once_and_in_the_stores_own_words() {
        let refused = parse_redis_value(b"-CLUSTERDOWN no quorum for this key's group\r\n").unwrap();
        let error: RedisError = refused.extract_error().unwrap_err();
        let words = StoreError::Refused(error).to_string();
        assert_eq!(words, "the store refused: no quorum for this key's group");
    }
}
