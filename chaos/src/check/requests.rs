//! What users of the site notice: requests that fail, and, worse, orders that are executed twice.

use std::collections::{BTreeMap, VecDeque};

use crate::history::{Event, History, Op, Operation, Value};
use crate::pressure::Starvation;
use crate::report::{Finding, Violations};

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
///
/// What fails on a starved host may be the host's fault. An order that is executed twice never is.
pub fn check(history: &History) -> Finding {
    let requests = requests(history);
    let served = served(history);
    let mut violations = Violations::default();
    for (uuid, request) in &requests {
        executed(uuid, request, served.get(uuid).copied().unwrap_or(0), &mut violations);
    }
    let answered = || requests.iter().filter_map(|(uuid, one)| Some((*uuid, one, one.answered()?)));
    if served.is_empty() {
        let orders = answered().filter(|(_, request, _)| request.is_order).count();
        if orders > 0 {
            violations.doubt(|| {
                format!("{orders} orders were answered, and nobody has written down who executed them")
            });
        }
    } else {
        // Backends write down what they do before they answer.
        for (uuid, _, (_, status)) in answered().filter(|(uuid, ..)| !served.contains_key(uuid)) {
            violations.add(|| format!("{uuid} was answered with {status}, and no backend has seen it"));
        }
    }
    let failures = Failures::of(history, &requests);
    let max = history.run.failed_requests_max;
    failures.judge(max, &mut violations);
    // Without a promise of how many may fail, one that fails says nothing.
    let is_judged = |(uuid, request): &(&&str, &Request<'_>)| {
        max.is_some() || request.answered().is_some() || served.contains_key(**uuid)
    };
    let looked_at = requests.iter().filter(is_judged).count() as u64;
    // What comes when nobody asks any more ends no gap.
    let last_us = requests.values().flat_map(|request| &request.tries).map(|(_, one)| one.called_us).max();
    let answered_us = answered().map(|(_, _, (at_us, _))| at_us);
    let answered_us = answered_us.filter(|at_us| Some(*at_us) <= last_us).collect();
    let figures = if requests.is_empty() { Vec::new() } else { vec![failures.told(answered_us)] };
    Finding {
        check: NAME,
        promise: "no order is executed twice, and no more requests fail than may",
        looked_at,
        verdict: violations.verdict(looked_at),
        figures,
        is_proof: true,
    }
}

fn requests(history: &History) -> BTreeMap<&str, Request<'_>> {
    let mut requests = BTreeMap::<&str, Request<'_>>::new();
    for operation in &history.operations {
        let Op::Request { uuid, idempotent, node } = &operation.op else { continue };
        let request = requests.entry(uuid).or_default();
        request.is_order |= !idempotent;
        request.tries.push((node.as_deref(), operation));
    }
    requests
}

/// How often each was executed.
fn served(history: &History) -> BTreeMap<&str, u64> {
    let mut served = BTreeMap::<&str, u64>::new();
    for (_, event) in &history.events {
        if let Event::Served { uuid, .. } = event {
            *served.entry(uuid).or_default() += 1;
        }
    }
    served
}

/// What was executed must have been asked for, and an order once.
fn executed(uuid: &str, request: &Request<'_>, times: u64, violations: &mut Violations) {
    if times > 1 && request.is_order {
        violations.add(|| format!("{uuid}, which may be executed once, was executed {times} times"));
    }
    if times > 0 && request.tries.iter().all(|(_, one)| one.was_refused()) {
        violations.add(|| format!("{uuid} was executed, and no server had taken it"));
    }
}

impl Request<'_> {
    /// When, and with which status, if with one that is no failure.
    fn answered(&self) -> Option<(i64, u16)> {
        self.tries.iter().find_map(|(_, one)| match one.ok() {
            Some((at, Value::Status { status })) if one.succeeded() => Some((at, *status)),
            Some(_) | None => None,
        })
    }

    /// From its first try to the end of its last.
    fn time(&self) -> (i64, i64) {
        let calls = self.tries.iter().map(|(_, one)| one.called_us);
        let ends = self.tries.iter().map(|(_, one)| ended_us(one));
        (calls.min().unwrap_or(0), ends.max().unwrap_or(i64::MAX))
    }
}

fn ended_us(one: &Operation) -> i64 {
    one.returned.as_ref().map_or(i64::MAX, |(at, _)| *at)
}

/// Requests that nobody has answered, by who is to blame.
#[derive(Default)]
struct Failures {
    /// The site.
    failed: u64,
    /// What was being done to their servers.
    excused: u64,
    /// The host, it may be.
    starved: u64,
}

impl Failures {
    fn of(history: &History, requests: &BTreeMap<&str, Request<'_>>) -> Self {
        let (wounds, starvation) = (Wounds::of(history), Starvation::of(history));
        let mut failures = Self::default();
        for request in requests.values().filter(|request| request.answered().is_none()) {
            let (from_us, to_us) = request.time();
            if wounds.excuse(request) {
                failures.excused += 1;
            } else if starvation.excuses(from_us, to_us) {
                failures.starved += 1;
            } else {
                failures.failed += 1;
            }
        }
        failures
    }

    fn judge(&self, max: Option<u64>, violations: &mut Violations) {
        let Some(max) = max else { return };
        let all = self.failed + self.starved;
        if all > max {
            violations.add_late(self.failed <= max, || {
                format!("{all} requests failed at servers that lived, and {max} may")
            });
        }
    }

    fn told(&self, answered_us: Vec<i64>) -> String {
        let Self { failed, excused, starved } = self;
        let starved = match starved {
            0 => String::new(),
            some => format!(", {some} while the host was starved"),
        };
        format!(
            "{failed} failed at servers that lived, {excused} with a server that did not{starved}; the longest \
             gap between answers is {} ms",
            longest_gap_ms(answered_us)
        )
    }
}

/// Whether a balancer says that nothing was executed: then it could have asked elsewhere.
fn is_unexecuted(one: &Operation) -> bool {
    matches!(one.ok(), Some((_, Value::Status { status: UNEXECUTED_STATUS })))
}

/// When something was being done to servers.
struct Wounds<'a> {
    of_node: BTreeMap<&'a str, Spans>,
    of_any: Spans,
}

impl<'a> Wounds<'a> {
    fn of(history: &'a History) -> Self {
        let mut open: BTreeMap<(&str, &str), VecDeque<i64>> = BTreeMap::new();
        let mut all: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
        for (at, event) in &history.events {
            let Event::Fault(fault) = event else { continue };
            if NO_EXCUSE.contains(&fault.fault.as_str()) {
                continue;
            }
            for node in fault.hits() {
                let begun = open.entry((&fault.fault, node)).or_default();
                if fault.begins {
                    begun.push_back(*at);
                } else if let Some(from_us) = begun.pop_front() {
                    all.entry(node).or_default().push((from_us, *at));
                }
            }
        }
        // What has not ended lasts.
        for ((_, node), begun) in open {
            all.entry(node).or_default().extend(begun.into_iter().map(|from_us| (from_us, i64::MAX)));
        }
        let of_any = Spans::new(all.values().flatten().copied().collect());
        Self { of_node: all.into_iter().map(|(node, spans)| (node, Spans::new(spans))).collect(), of_any }
    }

    fn excuse(&self, request: &Request<'_>) -> bool {
        let hit = |node: Option<&str>, one: &Operation| {
            let by_any = request.is_order && !is_unexecuted(one);
            let spans =
                if by_any { Some(&self.of_any) } else { node.and_then(|node| self.of_node.get(node)) };
            spans.is_some_and(|spans| spans.meet(one.called_us, ended_us(one)))
        };
        // The server that took it is to blame, and all together where none did.
        match request.tries.iter().find(|(_, one)| !one.was_refused()) {
            Some((node, one)) => hit(*node, one),
            None => request.tries.iter().all(|(node, one)| hit(*node, one)),
        }
    }
}

/// Stretches of time, in order, none of which overlap.
struct Spans(Vec<(i64, i64)>);

impl Spans {
    fn new(mut all: Vec<(i64, i64)>) -> Self {
        all.sort_unstable();
        let mut spans: Vec<(i64, i64)> = Vec::new();
        for (from_us, to_us) in all {
            match spans.last_mut() {
                Some((_, last_us)) if from_us <= *last_us => *last_us = to_us.max(*last_us),
                Some(_) | None => spans.push((from_us, to_us)),
            }
        }
        Self(spans)
    }

    /// Whether any of them has a moment in common with this one.
    fn meet(&self, from_us: i64, to_us: i64) -> bool {
        let first = self.0.partition_point(|(_, ended_us)| *ended_us < from_us);
        self.0.get(first).is_some_and(|(began_us, _)| *began_us <= to_us)
    }
}

fn longest_gap_ms(mut answered_us: Vec<i64>) -> i64 {
    answered_us.sort_unstable();
    answered_us.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests;
