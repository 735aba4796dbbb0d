//! What each operation does, and what it answers.
//!
//! Redis's semantics throughout: where its documentation is silent, its source decides. The one thing
//! that is new is the version, by which a writer says which value it has seen.

use bytes::Bytes;
use prost::Message as _;
use proto::limits::VALUE_BYTES_MAX;
use proto::log::{
    Append, Condition, Deadline, Del, Expire, Incr, Mismatch, Op, Ops, Replies, Reply, Set, Stored, Sweep,
    Ttl, Value, deadline, op, reply,
};

use super::state::Entry;
use super::{OpError, SessionState, check, is_read};

/// Redis's times are signed; a later deadline is refused as it refuses it.
const DEADLINE_MS_MAX: u64 = i64::MAX as u64;

/// TTL's answers where there is no number.
const NO_KEY: i64 = -2;
const NO_DEADLINE: i64 = -1;

impl SessionState {
    /// Applies one entry of the group's log, an encoded [`Ops`], and answers an encoded [`Replies`].
    /// What can not be decoded changes nothing and answers an error.
    pub fn apply_entry(&mut self, clock_ms: u64, entry: &Bytes) -> Bytes {
        let replies = match Ops::decode(entry.clone()) {
            Ok(ops) => ops.ops.iter().map(|op| self.apply(clock_ms, op)).collect(),
            Err(_) => vec![OpError::Unknown.into()],
        };
        Replies { replies }.encode_to_vec().into()
    }

    /// Applies one operation. `clock_ms` is the entry's; one that goes back is taken for the newest
    /// so far.
    pub fn apply(&mut self, clock_ms: u64, op: &Op) -> Reply {
        self.clock_ms = self.clock_ms.max(clock_ms);
        self.try_apply(op).unwrap_or_else(Reply::from)
    }

    /// Answers a read without the log. `None` when the log has to be asked: the operation is no read,
    /// or the key's deadline has passed and no entry says so yet.
    pub fn read(&self, now_ms: u64, op: &Op) -> Option<Reply> {
        if !is_read(op) {
            return None;
        }
        let now_ms = self.clock_ms.max(now_ms);
        if self.get(&op.keyspace, &op.key).is_some_and(|entry| entry.is_due(now_ms)) {
            return None;
        }
        Some(self.answer(now_ms, op).unwrap_or_else(Reply::from))
    }

    /// The entry that deletes what has expired, when there is something.
    pub fn sweep_due(&self, now_ms: u64, limit: u32) -> Option<Op> {
        let due = self.next_deadline_ms()? <= self.clock_ms.max(now_ms);
        let kind = Some(op::Kind::Sweep(Sweep { limit }));
        due.then(|| Op { keyspace: String::new(), key: Bytes::new(), kind })
    }

    fn try_apply(&mut self, op: &Op) -> Result<Reply, OpError> {
        check(op)?;
        if self.get(&op.keyspace, &op.key).is_some_and(|entry| entry.is_due(self.clock_ms)) {
            self.remove(&op.keyspace, &op.key);
        }
        match op.kind.as_ref().ok_or(OpError::Unknown)? {
            op::Kind::Get(_) | op::Kind::Ttl(_) | op::Kind::Exists(_) | op::Kind::Length(_) => {
                self.answer(self.clock_ms, op)
            }
            op::Kind::Set(set) => self.set(op, set),
            op::Kind::Del(del) => Ok(self.del(op, del)),
            op::Kind::Expire(expire) => self.expire(op, expire),
            op::Kind::Incr(incr) => self.incr(op, incr),
            op::Kind::Append(append) => self.append(op, append),
            op::Kind::Sweep(sweep) => Ok(self.sweep(sweep)),
        }
    }

    /// What a read answers, the key being there or not.
    fn answer(&self, now_ms: u64, op: &Op) -> Result<Reply, OpError> {
        let entry = self.get(&op.keyspace, &op.key);
        match op.kind.as_ref().ok_or(OpError::Unknown)? {
            op::Kind::Get(_) => Ok(value_or_nil(entry, now_ms)),
            op::Kind::Ttl(ttl) => Ok(integer(time_left(entry, now_ms, ttl))),
            op::Kind::Exists(_) => Ok(integer(i64::from(entry.is_some()))),
            op::Kind::Length(_) => Ok(integer(entry.map_or(0, |entry| length(&entry.value)))),
            op::Kind::Set(_)
            | op::Kind::Del(_)
            | op::Kind::Expire(_)
            | op::Kind::Incr(_)
            | op::Kind::Append(_)
            | op::Kind::Sweep(_) => Err(OpError::Unknown),
        }
    }

    fn set(&mut self, op: &Op, set: &Set) -> Result<Reply, OpError> {
        let current = self.get(&op.keyspace, &op.key);
        if let Some(expected) = set.if_version {
            let version = current.map_or(0, |entry| entry.version);
            #[cfg(holdfast_mutants)]
            let expected = if mutation::is("version-ignored") { version } else { expected };
            if version != expected {
                return Ok(reply(reply::Kind::Mismatch(Mismatch { version })));
            }
        }
        let stores = match Condition::try_from(set.condition).map_err(|_| OpError::Unknown)? {
            Condition::None => true,
            Condition::Nx => current.is_none(),
            Condition::Xx => current.is_some(),
        };
        let before = set.get.then(|| value_or_nil(current, self.clock_ms));
        if !stores {
            return Ok(before.unwrap_or_else(nil));
        }
        let deadline_ms = match &set.deadline {
            None if set.keep_ttl => current.and_then(|entry| entry.deadline_ms),
            None => None,
            Some(deadline) => Some(resolve(deadline, self.clock_ms)?),
        };
        let version = self.store(op, Bytes::copy_from_slice(&set.value), deadline_ms);
        Ok(before.unwrap_or_else(|| reply(reply::Kind::Stored(Stored { version }))))
    }

    fn del(&mut self, op: &Op, del: &Del) -> Reply {
        let removed = self.remove(&op.keyspace, &op.key);
        if del.get {
            value_or_nil(removed.as_ref(), self.clock_ms)
        } else {
            integer(i64::from(removed.is_some()))
        }
    }

    fn expire(&mut self, op: &Op, expire: &Expire) -> Result<Reply, OpError> {
        let new_ms = expire.deadline.as_ref().map(|deadline| resolve(deadline, self.clock_ms)).transpose()?;
        let Some(current) = self.get(&op.keyspace, &op.key).cloned() else {
            return Ok(if expire.get { nil() } else { integer(0) });
        };
        let changes = changes_deadline(expire, current.deadline_ms, new_ms);
        let mut answer = integer(i64::from(changes));
        if changes {
            let changed = Entry { deadline_ms: new_ms, ..current };
            if expire.get {
                answer = value_or_nil(Some(&changed), self.clock_ms);
            }
            // Neither the value nor its version changes: a touch is no write to a cache's eyes.
            self.put_or_drop(op, changed);
        } else if expire.get {
            answer = value_or_nil(Some(&current), self.clock_ms);
        }
        Ok(answer)
    }

    fn incr(&mut self, op: &Op, incr: &Incr) -> Result<Reply, OpError> {
        let current = self.get(&op.keyspace, &op.key);
        let deadline_ms = current.and_then(|entry| entry.deadline_ms);
        let number =
            current.map_or(Some(0), |entry| parse_integer(&entry.value)).ok_or(OpError::NotInteger)?;
        let number = number.checked_add(incr.by).ok_or(OpError::Overflow)?;
        self.store(op, number.to_string().into(), deadline_ms);
        Ok(integer(number))
    }

    fn append(&mut self, op: &Op, append: &Append) -> Result<Reply, OpError> {
        let current = self.get(&op.keyspace, &op.key);
        let deadline_ms = current.and_then(|entry| entry.deadline_ms);
        let before: &[u8] = current.map_or(&[], |entry| &entry.value);
        if before.len() + append.value.len() > VALUE_BYTES_MAX {
            return Err(OpError::ValueTooLong);
        }
        let value = Bytes::from([before, &append.value].concat());
        let answer = integer(length(&value));
        self.store(op, value, deadline_ms);
        Ok(answer)
    }

    fn sweep(&mut self, sweep: &Sweep) -> Reply {
        let now_ms = self.clock_ms;
        let removed = (0..sweep.limit).take_while(|_| self.remove_first_due(now_ms).is_some()).count();
        integer(i64::try_from(removed).unwrap_or(i64::MAX))
    }

    /// Gives the value the next version and stores it.
    fn store(&mut self, op: &Op, value: Bytes, deadline_ms: Option<u64>) -> u64 {
        self.last_version += 1;
        let version = self.last_version;
        self.put_or_drop(op, Entry { value, version, deadline_ms });
        version
    }

    /// Stores an entry unless its deadline has passed already, which deletes.
    fn put_or_drop(&mut self, op: &Op, entry: Entry) {
        if entry.is_due(self.clock_ms) {
            self.remove(&op.keyspace, &op.key);
        } else {
            self.put(&op.keyspace, &op.key, entry);
        }
    }
}

/// A deadline in the group's time.
fn resolve(deadline: &Deadline, clock_ms: u64) -> Result<u64, OpError> {
    let deadline_ms = match deadline.at.as_ref().ok_or(OpError::Unknown)? {
        deadline::At::AbsoluteMs(at) => *at,
        deadline::At::AfterMs(after) => clock_ms.checked_add(*after).ok_or(OpError::BadDeadline)?,
    };
    if deadline_ms > DEADLINE_MS_MAX { Err(OpError::BadDeadline) } else { Ok(deadline_ms) }
}

fn changes_deadline(expire: &Expire, current_ms: Option<u64>, new_ms: Option<u64>) -> bool {
    let Some(new_ms) = new_ms else {
        return current_ms.is_some();
    };
    let passes = |wanted: bool, holds: bool| !wanted || holds;
    passes(expire.if_none, current_ms.is_none())
        && passes(expire.if_some, current_ms.is_some())
        && passes(expire.if_later, current_ms.is_some_and(|current| new_ms > current))
        && passes(expire.if_sooner, current_ms.is_none_or(|current| new_ms < current))
}

fn time_left(entry: Option<&Entry>, now_ms: u64, ttl: &Ttl) -> i64 {
    match entry.map(|entry| entry.deadline_ms) {
        None => NO_KEY,
        Some(None) => NO_DEADLINE,
        Some(Some(deadline_ms)) => {
            let answer = if ttl.absolute { deadline_ms } else { deadline_ms.saturating_sub(now_ms) };
            i64::try_from(answer).unwrap_or(i64::MAX)
        }
    }
}

/// A number as Redis's `string2ll` reads it: digits and at most a minus, nothing in front that could
/// be left out.
fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', ..] => true,
        _ => false,
    };
    if canonical { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

fn value_or_nil(entry: Option<&Entry>, now_ms: u64) -> Reply {
    match entry {
        None => nil(),
        Some(entry) => reply(reply::Kind::Value(Value {
            value: entry.value.clone(),
            version: entry.version,
            ttl_ms: entry.deadline_ms.map(|deadline| deadline.saturating_sub(now_ms)),
        })),
    }
}

fn length(value: &Bytes) -> i64 {
    i64::try_from(value.len()).unwrap_or(i64::MAX)
}

fn integer(number: i64) -> Reply {
    reply(reply::Kind::Integer(number))
}

fn nil() -> Reply {
    reply(reply::Kind::Nil(true))
}

fn reply(kind: reply::Kind) -> Reply {
    Reply { kind: Some(kind) }
}
