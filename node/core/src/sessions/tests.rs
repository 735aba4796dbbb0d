//! The state as a client sees it, sentence by sentence. The properties are in `properties.rs`.

mod properties;

use bytes::Bytes;
use prost::Message as _;
use proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use proto::log::{
    Append, Condition, Deadline, Del, Exists, Expire, Get, Incr, Length, Mismatch, Op, Ops, Replies, Reply,
    Set, Stored, Ttl, deadline, op, reply,
};

use super::*;

const NOW: u64 = 1_700_000_000_000;

fn op(key: &str, kind: op::Kind) -> Op {
    Op { keyspace: "shop".to_owned(), key: Bytes::copy_from_slice(key.as_bytes()), kind: Some(kind) }
}

fn set(value: &str) -> Set {
    Set { value: Bytes::copy_from_slice(value.as_bytes()), ..Set::default() }
}

fn set_op(key: &str, value: &str) -> Op {
    op(key, op::Kind::Set(set(value)))
}

fn get(key: &str) -> Op {
    op(key, op::Kind::Get(Get {}))
}

fn ttl(key: &str) -> Op {
    op(key, op::Kind::Ttl(Ttl { absolute: false }))
}

fn exists(key: &str) -> Op {
    op(key, op::Kind::Exists(Exists {}))
}

fn after(ms: u64) -> Option<Deadline> {
    Some(Deadline { at: Some(deadline::At::AfterMs(ms)) })
}

fn at(ms: u64) -> Option<Deadline> {
    Some(Deadline { at: Some(deadline::At::AbsoluteMs(ms)) })
}

fn expire(key: &str, expire: Expire) -> Op {
    op(key, op::Kind::Expire(expire))
}

fn integer(number: i64) -> Reply {
    Reply { kind: Some(reply::Kind::Integer(number)) }
}

fn stored(version: u64) -> Reply {
    Reply { kind: Some(reply::Kind::Stored(Stored { version })) }
}

fn nil() -> Reply {
    Reply { kind: Some(reply::Kind::Nil(true)) }
}

fn error(error: OpError) -> Reply {
    error.into()
}

/// The value of a reply, for those who do not care for its version.
fn text(reply: &Reply) -> Option<String> {
    if let Some(reply::Kind::Value(value)) = &reply.kind {
        return Some(String::from_utf8(value.value.to_vec()).unwrap());
    }
    assert_eq!(*reply, nil());
    None
}

fn read(state: &SessionState, key: &str) -> Option<String> {
    text(&state.read(NOW, &get(key)).unwrap())
}

#[test]
fn a_value_that_was_set_is_read_back_in_its_keyspace_alone() {
    let mut state = SessionState::new();
    assert_eq!(state.apply(NOW, &set_op("a", "1")), stored(1));
    assert_eq!(read(&state, "a").as_deref(), Some("1"));
    let elsewhere = Op { keyspace: "blog".to_owned(), ..get("a") };
    assert_eq!(state.read(NOW, &elsewhere), Some(nil()));
}

#[test]
fn nx_stores_only_the_first_and_xx_only_over_one() {
    let mut state = SessionState::new();
    let with = |condition: Condition, value| {
        op("a", op::Kind::Set(Set { condition: condition.into(), ..set(value) }))
    };
    assert_eq!(state.apply(NOW, &with(Condition::Xx, "0")), nil());
    assert_eq!(state.apply(NOW, &with(Condition::Nx, "1")), stored(1));
    assert_eq!(state.apply(NOW, &with(Condition::Nx, "2")), nil());
    assert_eq!(state.apply(NOW, &with(Condition::Xx, "3")), stored(2));
    assert_eq!(read(&state, "a").as_deref(), Some("3"));
}

#[test]
fn set_with_get_answers_what_was_there_whether_it_stored_or_not() {
    let mut state = SessionState::new();
    let with = |condition: Condition, value| {
        op("a", op::Kind::Set(Set { get: true, condition: condition.into(), ..set(value) }))
    };
    assert_eq!(state.apply(NOW, &with(Condition::None, "1")), nil());
    assert_eq!(text(&state.apply(NOW, &with(Condition::Nx, "2"))).as_deref(), Some("1"));
    assert_eq!(text(&state.apply(NOW, &with(Condition::Xx, "3"))).as_deref(), Some("1"));
    assert_eq!(read(&state, "a").as_deref(), Some("3"));
}

#[test]
fn a_write_over_another_version_than_the_one_seen_is_refused_with_the_one_there() {
    let mut state = SessionState::new();
    let over = |version, value| op("a", op::Kind::Set(Set { if_version: Some(version), ..set(value) }));
    let mismatch = |version| Reply { kind: Some(reply::Kind::Mismatch(Mismatch { version })) };
    assert_eq!(state.apply(NOW, &over(7, "0")), mismatch(0));
    assert_eq!(state.apply(NOW, &over(0, "1")), stored(1));
    assert_eq!(state.apply(NOW, &over(0, "2")), mismatch(1));
    assert_eq!(state.apply(NOW, &over(1, "2")), stored(2));
    state.apply(NOW, &op("a", op::Kind::Del(Del { get: false })));
    assert_eq!(state.apply(NOW, &set_op("a", "3")), stored(3), "no version is given twice");
}

#[test]
fn a_plain_set_drops_the_deadline_and_keepttl_keeps_it() {
    let mut state = SessionState::new();
    let timed = op("a", op::Kind::Set(Set { deadline: after(5_000), ..set("1") }));
    state.apply(NOW, &timed);
    let keep = op("a", op::Kind::Set(Set { keep_ttl: true, ..set("2") }));
    state.apply(NOW + 1_000, &keep);
    assert_eq!(state.read(NOW + 1_000, &ttl("a")), Some(integer(4_000)));
    state.apply(NOW + 1_000, &set_op("a", "3"));
    assert_eq!(state.read(NOW, &ttl("a")), Some(integer(-1)));
    assert_eq!(state.read(NOW, &ttl("b")), Some(integer(-2)));
}

#[test]
fn a_read_at_a_passed_deadline_is_answered_by_the_log_alone() {
    let mut state = SessionState::new();
    state.apply(NOW, &op("a", op::Kind::Set(Set { deadline: after(100), ..set("1") })));
    assert_eq!(read(&state, "a").as_deref(), Some("1"));
    assert_eq!(state.read(NOW + 100, &get("a")), None, "nobody has committed yet that it is gone");
    assert_eq!(state.apply(NOW + 100, &get("a")), nil());
    assert_eq!(state.keys(), 0);
    assert_eq!(state.read(NOW, &get("a")), Some(nil()), "a slower clock does not bring it back");
}

#[test]
fn a_clock_that_goes_back_revives_nothing() {
    let mut state = SessionState::new();
    state.apply(NOW, &op("a", op::Kind::Set(Set { deadline: at(NOW + 10), ..set("1") })));
    state.apply(NOW + 50, &set_op("b", "2"));
    assert_eq!(state.apply(NOW, &get("a")), nil());
    assert_eq!(state.clock_ms(), NOW + 50);
}

#[test]
fn a_deadline_in_the_past_deletes() {
    let mut state = SessionState::new();
    state.apply(NOW, &set_op("a", "1"));
    assert_eq!(state.apply(NOW, &expire("a", Expire { deadline: at(1), ..Expire::default() })), integer(1));
    assert_eq!(state.apply(NOW, &op("b", op::Kind::Set(Set { deadline: at(1), ..set("2") }))), stored(2));
    assert_eq!((state.keys(), state.bytes()), (0, 0));
}

#[test]
fn a_deadline_beyond_what_redis_can_say_is_refused() {
    let mut state = SessionState::new();
    for deadline in [after(u64::MAX), after(i64::MAX as u64), at(u64::MAX)] {
        let refused = state.apply(NOW, &op("a", op::Kind::Set(Set { deadline, ..set("1") })));
        assert_eq!(refused, error(OpError::BadDeadline));
    }
    assert_eq!(state.keys(), 0);
}

#[test]
fn expire_changes_only_the_deadlines_that_its_conditions_name() {
    let mut state = SessionState::new();
    let none = Expire { if_none: true, ..Expire::default() };
    let some = Expire { if_some: true, ..Expire::default() };
    let later = Expire { if_later: true, ..Expire::default() };
    let sooner = Expire { if_sooner: true, ..Expire::default() };
    let absent = expire("a", Expire { deadline: after(9), ..none });
    assert_eq!(state.apply(NOW, &absent), integer(0));
    state.apply(NOW, &set_op("a", "1"));
    let mut try_expire = |ms: u64, conditions: &Expire| {
        let reply = state.apply(NOW, &expire("a", Expire { deadline: after(ms), ..*conditions }));
        (reply, state.read(NOW, &ttl("a")).unwrap())
    };
    assert_eq!(try_expire(10, &some), (integer(0), integer(-1)));
    assert_eq!(try_expire(10, &later), (integer(0), integer(-1)), "a key that stays is the latest");
    assert_eq!(try_expire(10, &sooner), (integer(1), integer(10)));
    assert_eq!(try_expire(20, &none), (integer(0), integer(10)));
    assert_eq!(try_expire(10, &later), (integer(0), integer(10)));
    assert_eq!(try_expire(20, &later), (integer(1), integer(20)));
    assert_eq!(try_expire(20, &sooner), (integer(0), integer(20)));
    assert_eq!(try_expire(30, &some), (integer(1), integer(30)));
}

#[test]
fn persist_takes_the_deadline_away_once() {
    let mut state = SessionState::new();
    state.apply(NOW, &op("a", op::Kind::Set(Set { deadline: after(10), ..set("1") })));
    assert_eq!(state.apply(NOW, &expire("a", Expire::default())), integer(1));
    assert_eq!(state.apply(NOW, &expire("a", Expire::default())), integer(0));
    assert_eq!(state.apply(NOW + 100, &get("a")), state.read(NOW, &get("a")).unwrap());
    assert_eq!(state.next_deadline_ms(), None);
}

#[test]
fn a_touch_answers_the_value_and_leaves_its_version() {
    let mut state = SessionState::new();
    state.apply(NOW, &set_op("a", "1"));
    let touch = expire("a", Expire { deadline: after(10), get: true, ..Expire::default() });
    let Some(reply::Kind::Value(value)) = state.apply(NOW, &touch).kind else { panic!("no value") };
    assert_eq!((&value.value[..], value.version, value.ttl_ms), (&b"1"[..], 1, Some(10)));
}

#[test]
fn numbers_count_and_what_is_none_is_refused() {
    let mut state = SessionState::new();
    let incr = |key: &str, by| op(key, op::Kind::Incr(Incr { by }));
    assert_eq!(state.apply(NOW, &incr("n", 5)), integer(5));
    assert_eq!(state.apply(NOW, &incr("n", -7)), integer(-2));
    assert_eq!(read(&state, "n").as_deref(), Some("-2"));
    state.apply(NOW, &set_op("max", "9223372036854775807"));
    assert_eq!(state.apply(NOW, &incr("max", 1)), error(OpError::Overflow));
    for text in ["", "-", "+1", " 1", "1 ", "01", "-0", "1.0", "9223372036854775808", "one"] {
        state.apply(NOW, &set_op("t", text));
        assert_eq!(state.apply(NOW, &incr("t", 1)), error(OpError::NotInteger), "{text:?}");
        assert_eq!(read(&state, "t").as_deref(), Some(text));
    }
}

#[test]
fn incr_and_append_leave_the_deadline() {
    let mut state = SessionState::new();
    state.apply(NOW, &op("n", op::Kind::Set(Set { deadline: after(10), ..set("1") })));
    state.apply(NOW, &op("n", op::Kind::Incr(Incr { by: 1 })));
    let append = op("n", op::Kind::Append(Append { value: Bytes::from_static(b"00") }));
    assert_eq!(state.apply(NOW, &append), integer(3));
    assert_eq!(read(&state, "n").as_deref(), Some("200"));
    assert_eq!(state.read(NOW, &op("n", op::Kind::Length(Length {}))), Some(integer(3)));
    assert_eq!(state.read(NOW, &ttl("n")), Some(integer(10)));
}

#[test]
fn getdel_answers_what_it_deleted() {
    let mut state = SessionState::new();
    state.apply(NOW, &set_op("a", "1"));
    let getdel = op("a", op::Kind::Del(Del { get: true }));
    assert_eq!(text(&state.apply(NOW, &getdel)).as_deref(), Some("1"));
    assert_eq!(state.apply(NOW, &getdel), nil());
    assert_eq!(state.read(NOW, &exists("a")), Some(integer(0)));
}

#[test]
fn what_breaks_a_bound_is_refused_and_changes_nothing() {
    let mut state = SessionState::new();
    let long_key = "k".repeat(KEY_BYTES_MAX + 1);
    assert_eq!(state.apply(NOW, &set_op(&long_key, "")), error(OpError::KeyTooLong));
    let largest = set_op("a", &"v".repeat(VALUE_BYTES_MAX));
    assert_eq!(state.apply(NOW, &largest), stored(1));
    let append = op("a", op::Kind::Append(Append { value: Bytes::from_static(b"v") }));
    assert_eq!(state.apply(NOW, &append), error(OpError::ValueTooLong));
    let larger = set_op("b", &"v".repeat(VALUE_BYTES_MAX + 1));
    assert_eq!(state.apply(NOW, &larger), error(OpError::ValueTooLong));
    let foreign = Op { keyspace: "k".repeat(KEYSPACE_BYTES_MAX + 1), ..get("a") };
    assert_eq!(state.apply(NOW, &foreign), error(OpError::KeyspaceTooLong));
    let empty = Op { kind: None, ..get("a") };
    assert_eq!(state.apply(NOW, &empty), error(OpError::Unknown));
    assert_eq!(state.keys(), 1);
}

#[test]
fn a_sweep_deletes_what_has_expired_in_order_and_no_more_than_it_may() {
    let mut state = SessionState::new();
    assert_eq!(state.sweep_due(NOW, 2), None);
    for (key, ms) in [("c", 30), ("a", 10), ("b", 20), ("d", 1_000)] {
        state.apply(NOW, &op(key, op::Kind::Set(Set { deadline: after(ms), ..set("1") })));
    }
    assert_eq!(state.sweep_due(NOW + 9, 2), None);
    let sweep = state.sweep_due(NOW + 40, 2).unwrap();
    assert_eq!(state.apply(NOW + 40, &sweep), integer(2));
    assert_eq!(state.next_deadline_ms(), Some(NOW + 30));
    assert_eq!(state.apply(NOW + 40, &sweep), integer(1));
    assert_eq!(state.sweep_due(NOW + 40, 2), None);
    assert_eq!(state.keys(), 1);
}

#[test]
fn a_full_store_refuses_what_grows_and_nothing_else() {
    let budget = Budget { max_bytes: 1_000 };
    let used = 900;
    assert_eq!(budget.admit(used, &set_op("a", "1")), Err(OpError::OutOfMemory));
    assert_eq!(budget.admit(used, &op("a", op::Kind::Incr(Incr { by: 1 }))), Err(OpError::OutOfMemory));
    assert_eq!(budget.admit(u64::MAX, &get("a")), Ok(()));
    assert_eq!(budget.admit(u64::MAX, &op("a", op::Kind::Del(Del { get: true }))), Ok(()));
    assert_eq!(budget.admit(u64::MAX, &expire("a", Expire::default())), Ok(()));
    assert_eq!(budget.admit(0, &set_op("a", "1")), Ok(()));
    assert!(OpError::OutOfMemory.to_string().starts_with("OOM "));
}

#[test]
fn an_entry_of_several_operations_takes_effect_in_order() {
    let mut state = SessionState::new();
    let ops = Ops { ops: vec![set_op("a", "1"), get("a"), set_op("a", "2"), get("a")] };
    let answer = state.apply_entry(NOW, &ops.encode_to_vec().into());
    let replies = Replies::decode(answer).unwrap().replies;
    assert_eq!(text(&replies[1]).as_deref(), Some("1"));
    assert_eq!(text(&replies[3]).as_deref(), Some("2"));
}

#[test]
fn an_entry_that_is_none_answers_an_error_and_changes_nothing() {
    let mut state = SessionState::new();
    let answer = state.apply_entry(NOW, &Bytes::from_static(b"\xff\xff\xff"));
    assert_eq!(Replies::decode(answer).unwrap().replies, vec![error(OpError::Unknown)]);
    assert_eq!(state, SessionState::new());
}
