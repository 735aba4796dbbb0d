//! Registers and counters behave as if there were one copy, used by one client at a time
//! (linearizability: Herlihy and Wing, 1990).
//!
//! Each key is searched by itself, as it is a register by itself. What is not known to have been executed
//! stays open to the end: it may take effect at any time from its call on, or, which is the same as very
//! late, never.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation};

use crate::history::{self, History, Op, Value};
use crate::report::{Finding, Verdict, Violations};

/// For one key. A history of a thousand operations takes milliseconds; one that is not linearizable in a
/// tangled way may take for ever.
const SEARCH_MAX: Duration = Duration::from_secs(60);

/// Registers with versions and compare-and-set.
pub fn check(history: &History) -> Finding {
    let finding = |looked_at, verdict, figures| Finding {
        check: "registers",
        promise: "reads and compare-and-sets are linearizable",
        looked_at,
        verdict,
        figures,
    };
    search::<Register>(history, register_op, finding)
}

/// Counters.
pub fn check_counters(history: &History) -> Finding {
    let finding = |looked_at, verdict, figures| Finding {
        check: "counters",
        promise: "increments are linearizable, each once",
        looked_at,
        verdict,
        figures,
    };
    search::<Counter>(history, counter_op, finding)
}

fn search<M: Model>(
    history: &History,
    of: impl Fn(&history::Operation) -> Option<(&str, M::Op)>,
    finding: impl FnOnce(u64, Verdict, Vec<String>) -> Finding,
) -> Finding {
    let mut keys: BTreeMap<&str, Vec<Operation<M>>> = BTreeMap::new();
    let mut looked_at = 0;
    for operation in &history.operations {
        // What was refused did not happen.
        if operation.was_refused() {
            continue;
        }
        let Some((key, op)) = of(operation) else { continue };
        let return_time = operation.ok().map_or(i64::MAX, |(at, _)| at);
        keys.entry(key).or_default().push(Operation {
            client_id: None,
            call_time: operation.called_us,
            return_time,
            op,
            metadata: None,
        });
        looked_at += 1;
    }
    let mut violations = Violations::default();
    let mut unknown = None;
    for (key, operations) in &keys {
        match porcupine_rs::check_operations_timeout::<M>(operations, SEARCH_MAX) {
            CheckResult::Ok => {}
            CheckResult::Illegal => {
                violations.add(|| {
                    format!("no order of the {} operations on {key} explains them", operations.len())
                });
            }
            CheckResult::Unknown => unknown = Some(*key),
        }
    }
    let verdict = match (violations.verdict(looked_at), unknown) {
        (Verdict::Kept, Some(key)) => {
            Verdict::Inconclusive { reason: format!("the search for {key} took more than {SEARCH_MAX:?}") }
        }
        (verdict, _) => verdict,
    };
    let figures = if keys.is_empty() { Vec::new() } else { vec![format!("{} keys", keys.len())] };
    finding(looked_at, verdict, figures)
}

/// A register as it may be. `None` is where nothing is; a version is not known after a write whose answer
/// nobody has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Cell {
    value: Option<i64>,
    version: Option<u64>,
}

const EMPTY: Cell = Cell { value: None, version: Some(0) };

#[derive(Debug, Clone)]
enum RegisterOp {
    Read {
        value: Option<i64>,
        version: u64,
    },
    /// `answer`: the new version, or the version that was found instead of the wanted one.
    Write {
        value: i64,
        if_version: Option<u64>,
        answer: Option<Result<u64, u64>>,
    },
}

#[derive(Debug, Clone)]
struct Register;

impl Model for Register {
    /// All that it may be: a conditional write with an unknown outcome may have matched or not.
    type State = BTreeSet<Cell>;
    type Op = RegisterOp;
    type Metadata = ();

    fn init() -> Self::State {
        [EMPTY].into()
    }

    fn step(state: &Self::State, op: &RegisterOp) -> (bool, Self::State) {
        let next: BTreeSet<Cell> = state.iter().flat_map(|cell| after(*cell, op)).flatten().collect();
        (!next.is_empty(), next)
    }
}

/// What a register may be after an operation, if the operation may have found it so.
fn after(cell: Cell, op: &RegisterOp) -> [Option<Cell>; 2] {
    let may_be = |version| cell.version.is_none_or(|known| known == version);
    match *op {
        RegisterOp::Read { value, version } => {
            let seen = Cell { value, version: Some(version) };
            [(cell.value == value && may_be(version)).then_some(seen), None]
        }
        RegisterOp::Write { value, if_version, answer } => {
            let matches = if_version.is_none_or(may_be);
            let misses = if_version.is_some_and(|wanted| cell.version != Some(wanted));
            let written = |version| Some(Cell { value: Some(value), version }).filter(|_| matches);
            match answer {
                Some(Ok(version)) => [written(Some(version)), None],
                Some(Err(found)) => {
                    let seen = Cell { version: Some(found), ..cell };
                    [(misses && may_be(found) && if_version != Some(found)).then_some(seen), None]
                }
                None => [written(None), misses.then_some(cell)],
            }
        }
    }
}

fn register_op(operation: &history::Operation) -> Option<(&str, RegisterOp)> {
    let answer = operation.ok().map(|(_, value)| value);
    if let Op::RegisterRead { key } = &operation.op {
        // A read that nobody heard of says nothing.
        let seen = answer?;
        let (value, version) =
            if let Value::Register { value, version } = seen { (Some(*value), *version) } else { (None, 0) };
        return Some((key, RegisterOp::Read { value, version }));
    }
    let Op::RegisterWrite { key, value, if_version } = &operation.op else { return None };
    let answer = match answer {
        Some(Value::Version { version }) => Some(Ok(*version)),
        Some(Value::Mismatch { found }) => Some(Err(*found)),
        _nobody_knows => None,
    };
    Some((key, RegisterOp::Write { value: *value, if_version: *if_version, answer }))
}

#[derive(Debug, Clone)]
struct CounterOp {
    delta: i64,
    total: Option<i64>,
}

#[derive(Debug, Clone)]
struct Counter;

impl Model for Counter {
    type State = i64;
    type Op = CounterOp;
    type Metadata = ();

    fn init() -> i64 {
        0
    }

    fn step(state: &i64, op: &CounterOp) -> (bool, i64) {
        let total = state.wrapping_add(op.delta);
        (op.total.is_none_or(|told| told == total), total)
    }
}

fn counter_op(operation: &history::Operation) -> Option<(&str, CounterOp)> {
    let Op::CounterAdd { key, delta } = &operation.op else { return None };
    let total = match operation.ok() {
        Some((_, Value::Total { total })) => Some(*total),
        _nobody_knows => None,
    };
    Some((key, CounterOp { delta: *delta, total }))
}

#[cfg(test)]
mod tests;
