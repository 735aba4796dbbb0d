//! What stands behind the port.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use proto::log::{Op, Reply};
use proto::v1::InvalidateResponse;

/// The session store as a connection sees it. Clones share everything.
pub trait Store: Clone + Send + Sync + 'static {
    /// The keyspace of a user who knows the password, else nothing.
    fn authenticate(&self, user: &str, password: &str) -> Option<String>;

    /// The keyspace of those who have not authenticated. `None`: they get none.
    fn default_keyspace(&self) -> Option<String>;

    /// Carries out operations and answers each, in the order given. Operations on the same key take
    /// effect in that order.
    fn execute(&self, ops: Vec<Op>) -> impl Future<Output = Vec<Reply>> + Send;

    /// Tells every cache of the farm that these keys are stale. With `wait`, answers when every live
    /// node has applied it, or after that time.
    fn invalidate(
        &self,
        keyspace: &str,
        keys: Vec<Bytes>,
        wait: Option<Duration>,
    ) -> impl Future<Output = Result<InvalidateResponse, Refusal>> + Send;

    /// For INFO.
    fn info(&self) -> StoreInfo;
}

/// Why the store did not do as asked, in Redis's form: the code first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What INFO tells of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreInfo {
    pub used_bytes: u64,
    pub max_bytes: u64,
    /// The lines of the section `# Holdfast`.
    pub holdfast: Vec<(&'static str, String)>,
}
