//! How operations are cut into what one log entry and one message between nodes may hold.

use node_core::sessions::{is_read, may_answer_value};
use prost::Message as _;
use proto::limits::{BATCH_BYTES_MAX, MESSAGE_BYTES_MAX, VALUE_BYTES_MAX};
use proto::log::{Op, Reply, reply};

/// Operations of one entry. More gain nothing and hold up the group's other keys.
const OPS_MAX: usize = 1_024;
/// Of an entry's operations, so many may answer a value: their replies travel in one message, and can
/// not be asked for again as those of reads can.
const VALUES_MAX: usize = 3;
/// Replies of reads in one message.
const REPLY_BYTES_MAX: usize = MESSAGE_BYTES_MAX - VALUE_BYTES_MAX;

const _: () = assert!(VALUES_MAX * VALUE_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX + VALUE_BYTES_MAX < MESSAGE_BYTES_MAX);

/// Which way operations go. Reads that travel with writes go through the log with them: the order is
/// kept, and the entry is written anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Read,
    Log,
}

impl Way {
    pub(super) fn of(ops: &[Op]) -> Self {
        if ops.iter().all(is_read) { Self::Read } else { Self::Log }
    }
}

/// How full a batch is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    ops: usize,
    bytes: usize,
    values: usize,
}

impl Load {
    pub(super) fn of(ops: &[Op]) -> Self {
        ops.iter().fold(Self::default(), |load, op| load.with(Self::one(op)))
    }

    fn one(op: &Op) -> Self {
        Self { ops: 1, bytes: op.encoded_len(), values: usize::from(may_answer_value(op)) }
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self {
            ops: self.ops + other.ops,
            bytes: self.bytes + other.bytes,
            values: self.values + other.values,
        }
    }

    pub(super) fn fits(self, way: Way) -> bool {
        let values_fit = match way {
            // Replies of reads are cut where the message ends.
            Way::Read => true,
            Way::Log => self.values <= VALUES_MAX,
        };
        self.ops <= OPS_MAX && self.bytes <= BATCH_BYTES_MAX && values_fit
    }
}

/// How many of the first operations go together: at least one, which may be larger than a batch.
pub(super) fn next_len(ops: &[Op], way: Way) -> usize {
    let mut load = Load::default();
    let fitting = ops.iter().take_while(|op| {
        load = load.with(Load::one(op));
        load.fits(way)
    });
    fitting.count().max(1).min(ops.len())
}

/// The first replies of reads, as many as fit one message; at least one.
pub(super) fn cut(mut replies: Vec<Reply>) -> Vec<Reply> {
    let mut bytes = 0;
    let fitting = replies.iter().take_while(|reply| {
        bytes += 16 + value_len(reply);
        bytes <= REPLY_BYTES_MAX
    });
    let count = fitting.count().max(1);
    replies.truncate(count);
    replies
}

fn value_len(reply: &Reply) -> usize {
    if let Some(reply::Kind::Value(value)) = &reply.kind { value.value.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use proto::log::{Del, Get, Set, Value, op};

    use super::*;

    fn op(kind: op::Kind) -> Op {
        Op { keyspace: String::new(), key: Bytes::from_static(b"k"), kind: Some(kind) }
    }

    fn set(bytes: usize) -> Op {
        op(op::Kind::Set(Set { value: vec![0; bytes].into(), ..Set::default() }))
    }

    fn value(bytes: usize) -> Reply {
        let value = Value { value: vec![0; bytes].into(), ..Value::default() };
        Reply { kind: Some(reply::Kind::Value(value)) }
    }

    #[test]
    fn one_write_sends_all_through_the_log() {
        let get = op(op::Kind::Get(Get {}));
        assert_eq!(Way::of(&[get.clone(), get.clone()]), Way::Read);
        assert_eq!(Way::of(&[get.clone(), set(1), get]), Way::Log);
    }

    #[test]
    fn the_largest_value_goes_alone() {
        let ops = [set(VALUE_BYTES_MAX), set(1)];
        assert_eq!(next_len(&ops, Way::Log), 1);
        assert_eq!(next_len(&ops[1..], Way::Log), 1);
        assert_eq!(next_len(&[], Way::Log), 0);
    }

    #[test]
    fn writes_that_answer_values_go_few_at_a_time() {
        let getdel = op(op::Kind::Del(Del { get: true }));
        assert_eq!(next_len(&vec![getdel; 10], Way::Log), VALUES_MAX);
        assert_eq!(next_len(&vec![op(op::Kind::Get(Get {})); 10], Way::Read), 10);
    }

    #[test]
    fn replies_that_do_not_fit_one_message_are_left_for_the_next() {
        assert_eq!(cut(vec![value(VALUE_BYTES_MAX); 10]).len(), 2);
        assert_eq!(cut(vec![value(10); 10]).len(), 10);
        assert_eq!(cut(Vec::new()).len(), 0);
    }

    proptest! {
        #[test]
        fn whatever_is_sent_fits_a_message(sizes in prop::collection::vec(0usize..200_000, 1..40)) {
            let ops: Vec<Op> = sizes.iter().map(|size| set(*size)).collect();
            let mut rest = &ops[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(next_len(rest, Way::Log));
                prop_assert!(now.len() == 1 || Load::of(now).fits(Way::Log));
                let bytes: usize = now.iter().map(prost::Message::encoded_len).sum();
                prop_assert!(bytes < MESSAGE_BYTES_MAX);
                rest = later;
            }
        }
    }
}
