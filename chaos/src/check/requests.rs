//! What users of the site notice: requests that fail, and, worse, orders that are executed twice.

use std::collections::BTreeMap;

use crate::history::{Event, History, Op, Value};
use crate::report::{Finding, Violations};

/// From here on a status says that the site failed, not the request.
const FAILED_STATUS: u16 = 500;

pub const NAME: &str = "requests";

pub fn check(history: &History) -> Finding {
    let mut served: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, event) in &history.events {
        if let Event::Served { uuid, .. } = event {
            *served.entry(uuid).or_default() += 1;
        }
    }
    let mut violations = Violations::default();
    let (mut looked_at, mut failed) = (0, 0);
    let mut answered_us = Vec::new();
    for operation in &history.operations {
        let Op::Request { uuid, idempotent } = &operation.op else { continue };
        looked_at += 1;
        let times = served.get(uuid.as_str()).copied().unwrap_or(0);
        if times > 1 && !idempotent {
            violations.add(|| format!("{uuid}, which may be executed once, was executed {times} times"));
        }
        match operation.ok() {
            Some((at, Value::Status { status })) if *status < FAILED_STATUS => {
                answered_us.push(at);
                // Backends write down what they do before they answer.
                if times == 0 && !served.is_empty() {
                    violations
                        .add(|| format!("{uuid} was answered with {status}, and no backend has seen it"));
                }
            }
            Some(_) | None => failed += 1,
        }
    }
    if let Some(max) = history.run.failed_requests_max.filter(|max| failed > *max) {
        violations.add(|| format!("{failed} requests failed, and {max} may"));
    }
    let figures = match looked_at {
        0 => Vec::new(),
        _ => vec![format!(
            "{failed} failed; the longest gap between answers is {} ms",
            longest_gap_ms(answered_us)
        )],
    };
    Finding {
        check: NAME,
        promise: "no order is executed twice, and no more requests fail than may",
        looked_at,
        verdict: violations.verdict(looked_at),
        figures,
    }
}

fn longest_gap_ms(mut answered_us: Vec<i64>) -> i64 {
    answered_us.sort_unstable();
    answered_us.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;
    use crate::report::Verdict;

    fn call(idempotent: bool) -> String {
        format!(
            r#"{{"t_us":1,"event":"call","id":1,"client":0,"op":"request","uuid":"u","idempotent":{idempotent}}}"#
        )
    }

    const SERVED: &str = r#"{"t_us":2,"event":"served","uuid":"u","backend":"b"}"#;
    const OTHER: &str = r#"{"t_us":2,"event":"served","uuid":"v","backend":"b"}"#;
    const OK: &str =
        r#"{"t_us":3,"event":"return","id":1,"outcome":"ok","value":{"is":"status","status":200}}"#;
    const BAD: &str =
        r#"{"t_us":3,"event":"return","id":1,"outcome":"ok","value":{"is":"status","status":502}}"#;

    #[test]
    fn an_order_that_is_executed_twice_is_found_and_a_page_that_is_read_twice_is_none() {
        let (order, page) = (call(false), call(true));
        assert_eq!(check(&history(&[&order, SERVED, OK])).verdict, Verdict::Kept);
        assert!(matches!(check(&history(&[&order, SERVED, SERVED, OK])).verdict, Verdict::Violated { .. }));
        assert_eq!(check(&history(&[&page, SERVED, SERVED, OK])).verdict, Verdict::Kept);
        assert!(matches!(check(&history(&[&page, OTHER, OK])).verdict, Verdict::Violated { .. }), "forged");
    }

    #[test]
    fn failures_are_counted_and_judged_by_what_was_promised() {
        let order = call(false);
        let mut found = history(&[&order, SERVED, BAD]);
        let finding = check(&found);
        assert!(
            finding.verdict == Verdict::Kept && finding.figures[0].starts_with("1 failed"),
            "{finding:?}"
        );
        found.run.failed_requests_max = Some(0);
        assert!(matches!(check(&found).verdict, Verdict::Violated { .. }));
    }

    #[test]
    fn the_longest_gap_is_between_neighbours() {
        assert_eq!(longest_gap_ms(vec![5_000_000, 1_000_000, 2_000_000]), 3_000);
        assert_eq!(longest_gap_ms(vec![7]), 0);
    }
}
