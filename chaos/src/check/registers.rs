//! Registers and counters behave as if there were one copy, used by one client at a time
//! (linearizability: Herlihy and Wing, 1990).
//!
//! Each key is searched by itself, as it is a register by itself. What is not known to have been executed
//! stays open to the end: it may take effect at any time from its call on, or, which is the same as very
//! late, never.

mod budget;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use porcupine_rs::{Model, Operation};

use budget::Spent;

use crate::abort;
use crate::history::{self, History, Op, Value};
use crate::report::{Finding, Violations};

pub const REGISTERS: &str = "registers";
pub const COUNTERS: &str = "counters";

/// What a search may cost.
#[derive(Clone, Copy)]
struct Limits {
    operations: usize,
    bytes: u64,
    key: Duration,
    all: Duration,
}

/// The search remembers, for each state that it comes across, which operations have led there: of so many
/// operations that are in order, the square of their number in bits, which is 50 MB. What is of unknown end
/// doubles the states, each time. Clients of ours use a new key every thousand, and after each unknown end.
///
/// A key of a thousand takes milliseconds; one that is not linearizable in a tangled way may take for ever,
/// and many of them as often.
const LIMITS: Limits = Limits {
    operations: 20_000,
    bytes: 512 << 20,
    key: Duration::from_secs(60),
    all: Duration::from_secs(300),
};

/// Registers with versions and compare-and-set.
pub fn check(history: &History) -> Finding {
    let promise = "reads and compare-and-sets are linearizable";
    search::<Register>(history, LIMITS, register_op).finding(REGISTERS, promise)
}

/// Counters.
pub fn check_counters(history: &History) -> Finding {
    search::<Counter>(history, LIMITS, counter_op).finding(COUNTERS, "increments are linearizable, each once")
}

/// What a search has found.
struct Found {
    looked_at: u64,
    keys: usize,
    violations: Violations,
}

impl Found {
    fn finding(self, check: &'static str, promise: &'static str) -> Finding {
        let figures = if self.keys == 0 { Vec::new() } else { vec![format!("{} keys", self.keys)] };
        let Self { looked_at, violations, .. } = self;
        Finding { check, promise, looked_at, verdict: violations.verdict(looked_at), figures, is_proof: true }
    }
}

fn search<M: Model>(
    history: &History,
    limits: Limits,
    of: impl Fn(&history::Operation) -> Option<(&str, M::Op)>,
) -> Found {
    let mut keys: BTreeMap<&str, Vec<Operation<M>>> = BTreeMap::new();
    let mut answered: BTreeMap<&str, u64> = BTreeMap::new();
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
        if operation.ok().is_some() {
            *answered.entry(key).or_default() += 1;
        }
    }
    // Where nobody was ever told anything, nothing can be wrong.
    keys.retain(|key, _| answered.contains_key(key));
    let mut found = Found { looked_at: 0, keys: keys.len(), violations: Violations::default() };
    let began = Instant::now();
    for (key, operations) in &keys {
        let time = limits.key.min(limits.all.saturating_sub(began.elapsed()));
        let limits = Limits { key: time, ..limits };
        if search_key(key, operations, limits, &mut found.violations) {
            found.looked_at += answered.get(key).copied().unwrap_or(0);
        }
    }
    found
}

/// Whether it came to an end.
fn search_key<M: Model>(
    key: &str,
    operations: &[Operation<M>],
    limits: Limits,
    violations: &mut Violations,
) -> bool {
    let (count, max, time) = (operations.len(), limits.operations, limits.key);
    // What is remembered moves to twice the room as it grows.
    let bytes = abort::memory_mib().map_or(limits.bytes, |mib| limits.bytes.min((mib << 20) / 2));
    if count > max {
        violations.doubt(|| format!("{key} has {count} operations: more than {max} take too much memory"));
        return false;
    }
    if time.is_zero() {
        violations.doubt(|| format!("no time was left for {key}"));
        return false;
    }
    // Without a time of its own the search stays on this thread, as its budget does.
    let search = || porcupine_rs::check_operations::<M>(operations);
    match budget::within(bytes, Instant::now() + time, search) {
        Ok(true) => true,
        Ok(false) => {
            violations.add(|| format!("no order of the {count} operations on {key} explains them"));
            true
        }
        Err(Spent::Memory) => {
            let (mib, open) = (bytes >> 20, operations.iter().filter(|one| one.return_time == i64::MAX));
            let open = open.count();
            violations.doubt(|| {
                format!("the search for {key}, of which {open} operations are of unknown end, takes more than {mib} MiB")
            });
            false
        }
        Err(Spent::Time) => {
            violations.doubt(|| format!("the search for {key} took more than {} ms", time.as_millis()));
            false
        }
    }
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
        (budget::allows() && !next.is_empty(), next)
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
        (budget::allows() && op.total.is_none_or(|told| told == total), total)
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
