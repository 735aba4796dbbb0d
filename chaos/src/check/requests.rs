//! What users of the site notice: requests that fail, and, worse, orders that are executed twice.

use std::collections::BTreeMap;

use crate::history::{Event, History, Op, Operation, Value};
use crate::report::{Finding, Violations};

/// From here on a status says that the site failed, not the request.
const FAILED_STATUS: u16 = 500;

/// A balancer answers so when no instance was given the request.
const UNEXECUTED_STATUS: u16 = 503;

pub const NAME: &str = "requests";

/// Faults that excuse no failed request: an agent that is told to stop parts from its clients in order, and
/// no request depends on the time of day.
const NO_EXCUSE: [&str; 2] = ["restart", "clock"];

/// What is asked for once, in one try or in several.
#[derive(Default)]
struct Request<'a> {
    is_order: bool,
    tries: Vec<(Option<&'a str>, &'a Operation)>,
}

/// A request counts as failed where a user would blame the site: by a server that nothing was being done
/// to. Who is connected to a server that dies sees his connection die with it, and no balancer can help. An
/// order may have been under way at any server that dies, and may not be tried again; a page may, and so may
/// what a balancer itself says that nobody has executed.
pub fn check(history: &History) -> Finding {
    let (mut requests, mut served) = (BTreeMap::<&str, Request<'_>>::new(), BTreeMap::<&str, u64>::new());
    for operation in &history.operations {
        let Op::Request { uuid, idempotent, node } = &operation.op else { continue };
        let request = requests.entry(uuid).or_default();
        request.is_order |= !idempotent;
        request.tries.push((node.as_deref(), operation));
    }
    for (_, event) in &history.events {
        if let Event::Served { uuid, .. } = event {
            *served.entry(uuid).or_default() += 1;
        }
    }
    let wounds = wounds(history);
    let mut violations = Violations::default();
    let (mut failed, mut excused) = (0, 0);
    let mut answered_us = Vec::new();
    for (uuid, request) in &requests {
        let times = served.get(uuid).copied().unwrap_or(0);
        if times > 1 && request.is_order {
            violations.add(|| format!("{uuid}, which may be executed once, was executed {times} times"));
        }
        match request.tries.iter().find_map(|(_, one)| answered(one)) {
            Some((at, status)) => {
                answered_us.push(at);
                // Backends write down what they do before they answer.
                if times == 0 && !served.is_empty() {
                    violations
                        .add(|| format!("{uuid} was answered with {status}, and no backend has seen it"));
                }
            }
            None if is_excused(request, &wounds) => excused += 1,
            None => failed += 1,
        }
        if times > 0 && request.tries.iter().all(|(_, one)| one.was_refused()) {
            violations.add(|| format!("{uuid} was executed, and no server had taken it"));
        }
    }
    if let Some(max) = history.run.failed_requests_max.filter(|max| failed > *max) {
        violations.add(|| format!("{failed} requests failed at servers that lived, and {max} may"));
    }
    let looked_at = requests.len() as u64;
    let figures = match looked_at {
        0 => Vec::new(),
        _ => vec![format!(
            "{failed} failed at servers that lived, {excused} with a server that did not; the longest gap \
             between answers is {} ms",
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

/// When, and with which status, if with one that is no failure.
fn answered(one: &Operation) -> Option<(i64, u16)> {
    match one.ok() {
        Some((at, Value::Status { status })) if *status < FAILED_STATUS => Some((at, *status)),
        Some(_) | None => None,
    }
}

/// Whether a balancer says that nothing was executed: then it could have asked elsewhere.
fn is_unexecuted(one: &Operation) -> bool {
    matches!(one.ok(), Some((_, Value::Status { status: UNEXECUTED_STATUS })))
}

/// Something was done to a server from one time to another.
struct Wound<'a> {
    fault: &'a str,
    node: &'a str,
    from_us: i64,
    to_us: i64,
}

impl Wound<'_> {
    fn falls_into(&self, one: &Operation) -> bool {
        let ended = one.returned.as_ref().map_or(i64::MAX, |(at, _)| *at);
        one.called_us <= self.to_us && ended >= self.from_us
    }
}

fn wounds(history: &History) -> Vec<Wound<'_>> {
    let mut wounds: Vec<Wound<'_>> = Vec::new();
    for (at, event) in &history.events {
        let Event::Fault { fault, targets, begins } = event else { continue };
        if NO_EXCUSE.contains(&fault.as_str()) {
            continue;
        }
        for node in targets {
            if *begins {
                wounds.push(Wound { fault, node, from_us: *at, to_us: i64::MAX });
            } else if let Some(open) = wounds
                .iter_mut()
                .find(|wound| wound.fault == fault && wound.node == node && wound.to_us == i64::MAX)
            {
                open.to_us = *at;
            }
        }
    }
    wounds
}

fn is_excused(request: &Request<'_>, wounds: &[Wound<'_>]) -> bool {
    let hit = |node: Option<&str>, one: &Operation| {
        let by_any = request.is_order && !is_unexecuted(one);
        wounds.iter().any(|wound| wound.falls_into(one) && (by_any || node == Some(wound.node)))
    };
    // The server that took it is to blame, and all together where none did.
    match request.tries.iter().find(|(_, one)| !one.was_refused()) {
        Some((node, one)) => hit(*node, one),
        None => request.tries.iter().all(|(node, one)| hit(*node, one)),
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

    fn fault(fault: &str, node: &str, begins: bool) -> String {
        format!(r#"{{"t_us":1,"event":"fault","fault":"{fault}","targets":["{node}"],"begins":{begins}}}"#)
    }

    fn call_at(node: &str, id: u64, idempotent: bool) -> String {
        let call = call(idempotent).replace("\"id\":1", &format!("\"id\":{id}"));
        call.replace("\"uuid\"", &format!("\"node\":\"{node}\",\"uuid\""))
    }

    fn failed(lines: &[&str]) -> bool {
        let mut history = history(lines);
        history.run.failed_requests_max = Some(0);
        matches!(check(&history).verdict, Verdict::Violated { .. })
    }

    #[test]
    fn a_page_is_excused_by_the_death_of_its_server_alone_and_an_order_by_any() {
        let (killed, page, order) = (fault("kill", "a", true), call_at("a", 1, true), call_at("b", 1, false));
        assert!(!failed(&[&killed, &page, BAD]));
        assert!(failed(&[&killed, &call_at("b", 1, true), BAD]), "b lived");
        assert!(!failed(&[&killed, &order, BAD]));
        assert!(failed(&[&order, BAD]));
        assert!(failed(&[&killed, &order, &BAD.replace("502", "503")]), "nobody had executed it");
        assert!(failed(&[&fault("restart", "a", true), &page, BAD]), "it was told to stop");
        let late = page.replace("\"t_us\":1", "\"t_us\":3");
        assert!(failed(&[&killed, &fault("kill", "a", false), &late, BAD]), "it lives again");
    }

    #[test]
    fn a_refused_try_is_no_failure_where_another_server_answers() {
        let refused = r#"{"t_us":1,"event":"return","id":2,"outcome":"refused","reason":"r"}"#;
        let (first, second) = (call_at("a", 2, false), call_at("b", 1, false));
        assert!(!failed(&[&first, refused, &second, SERVED, OK]));
        assert!(failed(&[&first, refused]), "nobody takes it, and all live");
        let both = history(&[&first, refused, &second, SERVED, SERVED, OK]);
        assert!(matches!(check(&both).verdict, Verdict::Violated { .. }), "twice by one uuid");
        let finding = check(&history(&[&first, refused, SERVED]));
        assert!(matches!(finding.verdict, Verdict::Violated { .. }), "refused, and executed");
    }

    #[test]
    fn the_longest_gap_is_between_neighbours() {
        assert_eq!(longest_gap_ms(vec![5_000_000, 1_000_000, 2_000_000]), 3_000);
        assert_eq!(longest_gap_ms(vec![7]), 0);
    }
}
