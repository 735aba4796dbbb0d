//! What is checked before an operation is logged: its size, and whether there is room for it.

use proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use proto::log::{Op, op};

use super::state::{DEADLINE_BYTES, ENTRY_BYTES};
use super::{KEYSPACE_BYTES_MAX, OpError};

/// How much memory this node gives to sessions.
///
/// Asked by a group's leader before it logs: a replica that judged by its own setting would differ
/// from the others. What is under way when the cap is reached still lands, so that the memory used
/// may pass it by the operations in flight.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub max_bytes: u64,
}

impl Budget {
    /// # Errors
    /// [`OpError::OutOfMemory`] when the operation might need more than is left of the budget after
    /// `used_bytes`. What deletes or reads is always let through.
    pub fn admit(&self, used_bytes: u64, op: &Op) -> Result<(), OpError> {
        match growth_bytes(op) {
            0 => Ok(()),
            growth if used_bytes.saturating_add(growth) <= self.max_bytes => Ok(()),
            _ => Err(OpError::OutOfMemory),
        }
    }
}

/// Whether an operation keeps the bounds of the store. Apply checks again: a log may come from
/// anywhere.
///
/// # Errors
/// The bound that it breaks.
pub fn check(op: &Op) -> Result<(), OpError> {
    if op.key.len() > KEY_BYTES_MAX {
        return Err(OpError::KeyTooLong);
    }
    if op.keyspace.len() > KEYSPACE_BYTES_MAX {
        return Err(OpError::KeyspaceTooLong);
    }
    let value_bytes = match op.kind.as_ref().ok_or(OpError::Unknown)? {
        op::Kind::Set(set) => set.value.len(),
        op::Kind::Append(append) => append.value.len(),
        op::Kind::Get(_)
        | op::Kind::Del(_)
        | op::Kind::Expire(_)
        | op::Kind::Incr(_)
        | op::Kind::Ttl(_)
        | op::Kind::Exists(_)
        | op::Kind::Length(_)
        | op::Kind::Sweep(_) => 0,
    };
    if value_bytes > VALUE_BYTES_MAX { Err(OpError::ValueTooLong) } else { Ok(()) }
}

/// Whether the operation changes nothing, so that a leader may answer it from its state.
pub fn is_read(op: &Op) -> bool {
    match &op.kind {
        Some(op::Kind::Get(_) | op::Kind::Ttl(_) | op::Kind::Exists(_) | op::Kind::Length(_)) => true,
        Some(
            op::Kind::Set(_)
            | op::Kind::Del(_)
            | op::Kind::Expire(_)
            | op::Kind::Incr(_)
            | op::Kind::Append(_)
            | op::Kind::Sweep(_),
        )
        | None => false,
    }
}

/// Whether the answer may be a value, and so as large as one. Who sends answers in a bounded message
/// counts these.
pub fn may_answer_value(op: &Op) -> bool {
    match &op.kind {
        Some(op::Kind::Get(_)) => true,
        Some(op::Kind::Set(set)) => set.get,
        Some(op::Kind::Del(del)) => del.get,
        Some(op::Kind::Expire(expire)) => expire.get,
        Some(
            op::Kind::Incr(_)
            | op::Kind::Ttl(_)
            | op::Kind::Exists(_)
            | op::Kind::Length(_)
            | op::Kind::Append(_)
            | op::Kind::Sweep(_),
        )
        | None => false,
    }
}

/// What the operation adds to the memory used at the most.
fn growth_bytes(op: &Op) -> u64 {
    let entry = ENTRY_BYTES + op.key.len() as u64;
    match &op.kind {
        Some(op::Kind::Set(set)) => entry + DEADLINE_BYTES + set.value.len() as u64,
        // Twenty digits and a sign.
        Some(op::Kind::Incr(_)) => entry + 21,
        Some(op::Kind::Append(append)) => entry + append.value.len() as u64,
        Some(
            op::Kind::Get(_)
            | op::Kind::Del(_)
            | op::Kind::Expire(_)
            | op::Kind::Ttl(_)
            | op::Kind::Exists(_)
            | op::Kind::Length(_)
            | op::Kind::Sweep(_),
        )
        | None => 0,
    }
}
