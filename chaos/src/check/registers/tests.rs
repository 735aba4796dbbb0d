use proptest::prelude::*;

use super::*;
use crate::history::tests::history;
use crate::report::Verdict;

/// `called-returned id op -> outcome`, a line of a history for people. Everything is on the key `k`.
fn judged(check: fn(&History) -> Finding, operations: &[(i64, i64, &str, &str)]) -> Verdict {
    check(&told(operations)).verdict
}

fn told(operations: &[(i64, i64, &str, &str)]) -> History {
    let mut lines: Vec<(i64, String)> = Vec::new();
    for (id, (called, returned, op, outcome)) in operations.iter().enumerate() {
        lines.push((
            *called,
            format!(r#"{{"t_us":{called},"event":"call","id":{id},"client":0,"key":"k",{op}}}"#),
        ));
        if !outcome.is_empty() {
            lines.push((*returned, format!(r#"{{"t_us":{returned},"event":"return","id":{id},{outcome}}}"#)));
        }
    }
    lines.sort_by_key(|(at, _)| *at);
    let lines: Vec<&str> = lines.iter().map(|(_, line)| line.as_str()).collect();
    history(&lines)
}

const READ: &str = r#""op":"register_read""#;
const ABSENT: &str = r#""outcome":"ok","value":{"is":"absent"}"#;

fn write(value: i64, if_version: &str) -> String {
    format!(r#""op":"register_write","value":{value},"if_version":{if_version}"#)
}

fn version(version: u64) -> String {
    format!(r#""outcome":"ok","value":{{"is":"version","version":{version}}}"#)
}

fn mismatch(found: u64) -> String {
    format!(r#""outcome":"ok","value":{{"is":"mismatch","found":{found}}}"#)
}

fn register(value: i64, version: u64) -> String {
    format!(r#""outcome":"ok","value":{{"is":"register","value":{value},"version":{version}}}"#)
}

fn is_violated(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Violated { .. })
}

#[test]
fn a_read_after_an_acknowledged_write_sees_it() {
    let written = (10, 20, &*write(1, "null"), &*version(5));
    assert_eq!(judged(check, &[written, (30, 40, READ, &register(1, 5))]), Verdict::Kept);
    assert!(is_violated(&judged(check, &[written, (30, 40, READ, ABSENT)])), "lost");
    assert!(is_violated(&judged(check, &[written, (30, 40, READ, &register(1, 4))])), "another version");
    // While it is written it may be seen or not, but not first seen and then not.
    let during = (10, 100, &*write(1, "null"), &*version(5));
    let (seen, unseen) = (register(1, 5), ABSENT);
    assert_eq!(judged(check, &[during, (20, 30, READ, unseen), (40, 50, READ, &seen)]), Verdict::Kept);
    assert!(is_violated(&judged(check, &[during, (20, 30, READ, &seen), (40, 50, READ, unseen)])));
}

#[test]
fn of_two_compare_and_sets_over_the_same_version_one_succeeds() {
    let first = (10, 20, &*write(1, "0"), &*version(5));
    let one = (30, 60, &*write(2, "5"), &*version(6));
    assert!(is_violated(&judged(check, &[first, one, (30, 60, &write(3, "5"), &version(7))])), "both");
    assert_eq!(judged(check, &[first, one, (30, 60, &write(3, "5"), &mismatch(6))]), Verdict::Kept);
    assert!(is_violated(&judged(check, &[first, (30, 60, &write(3, "5"), &mismatch(6))])), "none");
    assert!(is_violated(&judged(check, &[first, (30, 60, &write(3, "4"), &mismatch(4))])), "a lie");
}

#[test]
fn a_write_of_unknown_outcome_may_happen_at_any_later_time_or_never_and_once() {
    let unknown = (10, 0, &*write(1, "0"), "");
    let seen = register(1, 5);
    assert_eq!(judged(check, &[unknown, (20, 30, READ, ABSENT)]), Verdict::Kept);
    assert_eq!(judged(check, &[unknown, (20, 30, READ, ABSENT), (40, 50, READ, &seen)]), Verdict::Kept);
    assert!(is_violated(&judged(check, &[unknown, (20, 30, READ, &seen), (40, 50, READ, ABSENT)])));
    // Whether it had happened decides whether the other could.
    let other = (20, 30, &*write(2, "0"), &*version(6));
    assert_eq!(judged(check, &[unknown, other, (40, 50, READ, &register(2, 6))]), Verdict::Kept);
    assert!(is_violated(&judged(check, &[unknown, other, (40, 50, READ, &seen)])), "it no longer matches");
    let over_it = (20, 30, &*write(2, "7"), &*version(8));
    assert_eq!(judged(check, &[unknown, over_it]), Verdict::Kept, "its version may be any");
    // One that was refused did not happen.
    let refused = (10, 15, &*write(1, "null"), r#""outcome":"refused","reason":"no quorum""#);
    assert!(is_violated(&judged(check, &[refused, (20, 30, READ, &seen)])));
}

#[test]
fn an_increment_counts_once() {
    let add = r#""op":"counter_add","delta":1"#;
    let total = |total: i64| format!(r#""outcome":"ok","value":{{"is":"total","total":{total}}}"#);
    assert_eq!(judged(check_counters, &[(1, 2, add, &total(1)), (3, 4, add, &total(2))]), Verdict::Kept);
    assert!(is_violated(&judged(check_counters, &[(1, 2, add, &total(1)), (3, 4, add, &total(1))])), "lost");
    assert!(is_violated(&judged(check_counters, &[(1, 2, add, &total(2))])), "twice");
    let unknown = (1, 0, add, "");
    assert_eq!(judged(check_counters, &[unknown, (3, 4, add, &total(2))]), Verdict::Kept);
    assert_eq!(judged(check_counters, &[unknown, (3, 4, add, &total(1))]), Verdict::Kept);
    assert!(is_violated(&judged(check_counters, &[unknown, (3, 4, add, &total(3))])));
}

#[test]
fn where_every_outcome_is_unknown_nothing_is_kept() {
    let add = r#""op":"counter_add","delta":1"#;
    let unknown = r#""outcome":"unknown","reason":"r""#;
    assert_eq!(judged(check_counters, &[(1, 0, add, ""), (3, 4, add, unknown)]), Verdict::NotTested);
    assert_eq!(judged(check, &[(1, 2, &write(1, "0"), unknown), (3, 4, READ, unknown)]), Verdict::NotTested);
    let finding = check(&told(&[(1, 2, &write(1, "0"), unknown), (3, 4, READ, ABSENT)]));
    assert_eq!((finding.verdict, finding.looked_at), (Verdict::Kept, 1));
}

#[test]
fn a_key_with_too_many_operations_and_a_search_without_time_are_inconclusive() {
    let add = r#""op":"counter_add","delta":1"#;
    let total = |total: i64| format!(r#""outcome":"ok","value":{{"is":"total","total":{total}}}"#);
    let verdict = |limits, second: i64| {
        let history = told(&[(1, 2, add, &total(1)), (3, 4, add, &total(second))]);
        search::<Counter>(&history, limits, counter_op).finding(COUNTERS, "p")
    };
    let limits = |operations, all| Limits { operations, all, ..LIMITS };
    assert_eq!(verdict(limits(2, LIMITS.all), 2).verdict, Verdict::Kept);
    assert!(is_violated(&verdict(limits(2, LIMITS.all), 1).verdict));
    for limits in [limits(1, LIMITS.all), limits(2, Duration::ZERO)] {
        let finding = verdict(limits, 2);
        assert!(matches!(finding.verdict, Verdict::Inconclusive { .. }), "{finding:?}");
        assert_eq!(finding.looked_at, 0);
    }
}

#[test]
fn a_search_that_takes_too_much_memory_is_inconclusive_and_takes_no_more() {
    let add = r#""op":"counter_add","delta":1"#;
    let total = |total: i64| format!(r#""outcome":"ok","value":{{"is":"total","total":{total}}}"#);
    let mut operations: Vec<(i64, i64, &str, &str)> = (0..40).map(|at| (at, 0, add, "")).collect();
    let impossible = total(900);
    operations.push((100, 200, add, &impossible));
    let few = &operations[30..];
    assert!(is_violated(&judged(check_counters, few)), "ten are as many as nine clients make");
    let limits = Limits { bytes: 4 << 20, ..LIMITS };
    let finding = search::<Counter>(&told(&operations), limits, counter_op).finding(COUNTERS, "p");
    let Verdict::Inconclusive { reason } = &finding.verdict else { panic!("{finding:?}") };
    assert!(reason.contains("40 operations are of unknown end") && reason.contains("4 MiB"), "{reason}");
    let limits = Limits { key: Duration::from_millis(1), ..LIMITS };
    let finding = search::<Counter>(&told(&operations), limits, counter_op).finding(COUNTERS, "p");
    let Verdict::Inconclusive { reason } = &finding.verdict else { panic!("{finding:?}") };
    assert!(reason.contains("took more than 1 ms"), "{reason}");
}

proptest! {
    /// Whatever one client after the other did, with some answers lost, is linearizable; and it is not
    /// once an acknowledged write has been forgotten.
    #[test]
    fn what_really_happened_is_never_called_a_violation(
        // Each lost answer doubles what has to be searched where there is no order.
        steps in proptest::collection::vec((0u8..4, (0u8..12).prop_map(|one| one == 0)), 1..40),
    ) {
        let (mut now, mut state) = (0, (None::<i64>, 0u64));
        let mut operations: Vec<(i64, i64, String, String)> = Vec::new();
        for (number, (kind, is_lost)) in steps.into_iter().enumerate() {
            now += 10;
            let next = (Some(number as i64), number as u64 + 1);
            let (op, outcome) = match kind {
                0 => (READ.to_owned(), state.0.map_or(ABSENT.to_owned(), |value| register(value, state.1))),
                1 => {
                    state = next;
                    (write(next.0.unwrap(), "null"), version(next.1))
                }
                2 => {
                    let op = write(next.0.unwrap(), &state.1.to_string());
                    state = next;
                    (op, version(next.1))
                }
                _ => (write(-1, &(state.1 + 1_000).to_string()), mismatch(state.1)),
            };
            operations.push((now, now + 5, op, if is_lost { String::new() } else { outcome }));
        }
        let verdict = |operations: &[(i64, i64, String, String)]| {
            let lines: Vec<_> = operations.iter().map(|(a, b, op, out)| (*a, *b, &**op, &**out)).collect();
            judged(check, &lines)
        };
        prop_assert!(!is_violated(&verdict(&operations)));
        if state.0.is_some() && operations.iter().any(|(_, _, op, out)| op != READ && out.contains("version\",")) {
            operations.push((now + 10, now + 15, READ.to_owned(), ABSENT.to_owned()));
            prop_assert!(is_violated(&verdict(&operations)));
        }
    }
}
