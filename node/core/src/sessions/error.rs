//! Why an operation did not take place, in the words that Redis's clients know.

use proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use proto::log::{Reply, reply};

/// A refused operation. The text begins with Redis's code; clients tell errors apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    #[error("ERR the key is longer than {KEY_BYTES_MAX} bytes")]
    KeyTooLong,
    #[error("ERR the keyspace's name is too long")]
    KeyspaceTooLong,
    #[error("ERR string exceeds maximum allowed size ({VALUE_BYTES_MAX} bytes)")]
    ValueTooLong,
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    #[error("ERR invalid expire time")]
    BadDeadline,
    /// Nothing is ever evicted: a session that is there stays.
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    OutOfMemory,
    #[error("ERR the operation is none that this version knows")]
    Unknown,
}

impl From<OpError> for Reply {
    fn from(error: OpError) -> Self {
        Self { kind: Some(reply::Kind::Error(error.to_string())) }
    }
}
