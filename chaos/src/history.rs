//! What happened, line by line: the one thing that checkers see.
//!
//! The format is Jepsen's idea: a client writes down that it calls, and later what it was told. What
//! never returned may have been executed, or may be yet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::workload::Kind;

/// The format, for `--help`.
pub const FORMAT: &str = r#"A history is a file of JSON objects, one a line, each with `t_us`, the microseconds since its
beginning by one monotonic clock, and `event`:

  run     version (1), seed, experiment, nodes [names], failed_requests_max (or null), and, where
          it is known, workloads [names]: what was to be asked for, of ledger, counters, registers,
          requests, prices and deploys. One that left nothing to judge makes it inconclusive. The
          first line
  call    id (new), client (a number; may be left out), op, ...: a client asks for something. Each has
          to be answered once all is put right
  return  id, outcome, ...: what it was told; a call without one may have been executed
  served  uuid, backend: a backend has executed a request
  acted   controller, epoch, agent, accepted: an agent got an order, and obeyed or not
  runs    node, app, release, digest (may be left out): what a node runs at the end, a line for each
          release; empty: nothing
  sample  node, pid, fds, threads, rss_kib: what an agent's process holds
  phase   phase: steady, method, recovery, after (steady again) or final begins; where there are
          any, all but recovery are needed
  pressure  late_ms, lost_percent, steal_percent, busy_percent, others_percent (taken by others; may be
          left out): how this host was, in the second before
  seen    node, controller, epoch, quorum, members {name: state}: what a node says of the farm
  not_whole  seconds, status: the farm was not whole so long after all was put right
  ended   node, reason: an agent has ended that nobody had ended
  panicked  node, words: an agent has told of a panic, whether or not it has ended
  stuck   node, what: an agent did not do in time what it was told; want of time excuses it
  fault   fault, targets [names], begins, others [names], bit (these two may be left out): a fault
          begins, or ends; others are hit as well, as the other ends of a cut; bit is how often it has
          hit anybody, at its end

Operations, and what they are answered with:
  ledger_add {entry}                        done {}; every entry is added once
  ledger_read {}                            entries {entries}
  register_read {key}                       register {value, version}, or absent {}
  register_write {key, value, if_version}   version {version}, or mismatch {found}; if_version
                                            may be null (whatever is there) or 0 (nothing)
  counter_add {key, delta}                  total {total}
  request {uuid, idempotent, node}          status {status}; one try, at one server (or null): what
                                            was refused may be tried again under the same uuid
  price_set {key, value}                    done {}, once every cache has confirmed, or incomplete
                                            {missing [names]}; of each key one client sets ever
                                            higher values, from 1 on
  price_read {key}                          price {value, cached}; 0 where nothing was set
  deploy {app, release}                     done {}, or release {digest}: of all that it is made of

Outcomes: ok with `value`, {"is":"total","total":5} for example; refused with `reason`, when it
was certainly not executed; unknown with `reason`.

Example:
  {"t_us":0,"event":"run","version":1,"seed":7,"experiment":"kill","nodes":["a"]}
  {"t_us":10,"event":"call","id":1,"client":0,"op":"counter_add","key":"c","delta":2}
  {"t_us":90,"event":"return","id":1,"outcome":"ok","value":{"is":"total","total":2}}
"#;

/// From here on a status says that the site failed, not the request.
const FAILED_STATUS: u16 = 500;
/// The version of the format.
const VERSION: u32 = 1;
/// A ledger that is read back is one line. In the longest run that there may be, nine clients that are answered
/// at once add seven million entries of a dozen bytes.
const LINE_BYTES_MAX: u64 = 128 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub t_us: i64,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Run(Run),
    Call {
        id: u64,
        /// Who asks, one thing after the other. `None`: nobody knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<u32>,
        #[serde(flatten)]
        op: Op,
    },
    Return {
        id: u64,
        #[serde(flatten)]
        outcome: Outcome,
    },
    Served {
        uuid: String,
        backend: String,
    },
    Acted(Act),
    Runs {
        node: String,
        app: String,
        release: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    Sample(Sample),
    Ended(Ended),
    Panicked {
        node: String,
        words: String,
    },
    Stuck {
        node: String,
        what: String,
    },
    Pressure(Pressure),
    Seen(Seen),
    NotWhole {
        seconds: u64,
        status: String,
    },
    Phase {
        phase: Phase,
    },
    Fault(FaultEvent),
}

/// What a history is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub version: u32,
    pub seed: u64,
    pub experiment: String,
    pub nodes: Vec<String>,
    /// Requests that may fail, if the experiment promises anything of that.
    #[serde(default)]
    pub failed_requests_max: Option<u64>,
    /// What clients were to do. Empty: nobody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<Kind>,
}

#[cfg(test)]
impl Run {
    /// For tests of what comes after it.
    pub fn of_nobody() -> Self {
        Self {
            version: 1,
            seed: 0,
            experiment: String::new(),
            nodes: Vec::new(),
            failed_requests_max: None,
            workloads: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    LedgerAdd {
        entry: String,
    },
    LedgerRead {},
    RegisterRead {
        key: String,
    },
    RegisterWrite {
        key: String,
        value: i64,
        if_version: Option<u64>,
    },
    CounterAdd {
        key: String,
        delta: i64,
    },
    /// One try of it, at one server's balancer.
    Request {
        uuid: String,
        idempotent: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    PriceSet {
        key: String,
        value: i64,
    },
    PriceRead {
        key: String,
    },
    Deploy {
        app: String,
        release: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Ok { value: Value },
    Refused { reason: String },
    Unknown { reason: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Value {
    Entries {
        entries: Vec<String>,
    },
    Register {
        value: i64,
        version: u64,
    },
    Absent {},
    Version {
        version: u64,
    },
    Mismatch {
        found: u64,
    },
    Total {
        total: i64,
    },
    Status {
        status: u16,
    },
    Price {
        value: i64,
        /// It came from a cache, which is what can be old.
        #[serde(default)]
        cached: bool,
    },
    /// It is done, and these members have not confirmed it.
    Incomplete {
        missing: Vec<String>,
    },
    /// It was deployed, and is made of this.
    Release {
        digest: String,
    },
    Done {},
}

impl Value {
    /// Whether the answer is that it failed, if in part.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Status { status } => *status >= FAILED_STATUS,
            Self::Incomplete { .. } => true,
            Self::Entries { .. }
            | Self::Register { .. }
            | Self::Absent {}
            | Self::Version { .. }
            | Self::Mismatch { .. }
            | Self::Total { .. }
            | Self::Price { .. }
            | Self::Release { .. }
            | Self::Done {} => false,
        }
    }
}

/// An order that reached an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub controller: String,
    pub epoch: u64,
    pub agent: String,
    pub accepted: bool,
}

/// What a process holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub node: String,
    pub pid: u32,
    pub fds: u64,
    pub threads: u64,
    pub rss_kib: u64,
}

/// An agent that has ended by itself, though nothing was done to it that excuses that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub node: String,
    pub reason: String,
}

/// A fault begins, or ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultEvent {
    pub fault: String,
    pub targets: Vec<String>,
    pub begins: bool,
    /// Whom else it hits, as the other ends of a cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    /// At its end: how often it has hit somebody, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bit: Option<u64>,
}

impl FaultEvent {
    /// All whom it hits.
    pub fn hits(&self) -> impl Iterator<Item = &String> {
        self.targets.iter().chain(&self.others)
    }
}

/// How the host was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// How late a thread woke up that did nothing but sleep, at worst.
    pub late_ms: u64,
    /// And by which part of its time in all.
    pub lost_percent: u64,
    pub steal_percent: u64,
    pub busy_percent: u64,
    /// Of the busy ones, those that neither the farm nor its clients took.
    #[serde(default)]
    pub others_percent: u64,
}

/// What a node says of the farm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub node: String,
    /// Empty: none.
    pub controller: String,
    pub epoch: u64,
    pub quorum: bool,
    pub members: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Steady,
    Method,
    Recovery,
    After,
    Final,
}

/// A call with what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// `None`: nobody knows whose it was.
    pub client: Option<u32>,
    pub op: Op,
    pub called_us: i64,
    /// `None`: nobody heard of it again.
    pub returned: Option<(i64, Outcome)>,
}

impl Operation {
    /// When it was answered, and what with.
    pub fn ok(&self) -> Option<(i64, &Value)> {
        match &self.returned {
            Some((at, Outcome::Ok { value })) => Some((*at, value)),
            Some((_, Outcome::Refused { .. } | Outcome::Unknown { .. })) | None => None,
        }
    }

    /// Whether who asked was told of no failure. That a site answers that it is down is no success of it.
    pub fn succeeded(&self) -> bool {
        self.ok().is_some_and(|(_, value)| !value.is_failure())
    }

    pub fn was_refused(&self) -> bool {
        matches!(self.returned, Some((_, Outcome::Refused { .. })))
    }
}

/// A history that makes sense.
#[derive(Debug, Clone)]
pub struct History {
    pub run: Run,
    /// In the order of their calls.
    pub operations: Vec<Operation>,
    /// Everything else, in order.
    pub events: Vec<(i64, Event)>,
    /// The last line was cut, as by the end of whoever wrote it.
    pub is_cut: bool,
}

/// Why a history can not be judged.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("it can not be read: {0}")]
    Io(#[from] io::Error),
    #[error("line {line} is longer than {LINE_BYTES_MAX} bytes")]
    TooLong { line: usize },
    #[error("line {line} is not understood: {source}")]
    Syntax { line: usize, source: serde_json::Error },
    #[error("line {line}: {reason}")]
    Sense { line: usize, reason: String },
    #[error("it does not begin with a `run` of version {VERSION}")]
    NoRun,
}

/// Reads a history file.
///
/// # Errors
/// See [`HistoryError`].
pub fn read(path: &Path) -> Result<History, HistoryError> {
    parse(BufReader::new(File::open(path)?))
}

fn parse(mut lines: impl io::BufRead) -> Result<History, HistoryError> {
    let mut builder: Option<Builder> = None;
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
        let is_whole = text.last() == Some(&b'\n');
        if text.len() as u64 == LINE_BYTES_MAX && !is_whole {
            return Err(HistoryError::TooLong { line });
        }
        if text.is_empty() {
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let record: Record = match serde_json::from_slice(&text) {
            Ok(record) => record,
            // A writer that was killed leaves half a line. What it says did not happen yet.
            Err(_) if !is_whole && builder.is_some() => {
                if let Some(builder) = &mut builder {
                    builder.history.is_cut = true;
                }
                break;
            }
            Err(source) => return Err(HistoryError::Syntax { line, source }),
        };
        match (&mut builder, record.event) {
            (None, Event::Run(run)) if run.version == VERSION => builder = Some(Builder::new(run)),
            (None, _) => return Err(HistoryError::NoRun),
            (Some(builder), event) => {
                builder.take(record.t_us, event).map_err(|reason| HistoryError::Sense { line, reason })?
            }
        }
    }
    builder.map(|builder| builder.history).ok_or(HistoryError::NoRun)
}

struct Builder {
    history: History,
    /// Where the calls are that have not returned.
    open: BTreeMap<u64, usize>,
    ids: BTreeSet<u64>,
    last_us: i64,
}

impl Builder {
    fn new(run: Run) -> Self {
        let history = History { run, operations: Vec::new(), events: Vec::new(), is_cut: false };
        Self { history, open: BTreeMap::new(), ids: BTreeSet::new(), last_us: 0 }
    }

    fn take(&mut self, t_us: i64, event: Event) -> Result<(), String> {
        if t_us < self.last_us {
            return Err(format!("time goes back from {} to {t_us}", self.last_us));
        }
        self.last_us = t_us;
        match event {
            Event::Run(_) => return Err("there is a second `run`".to_owned()),
            Event::Call { id, client, op } => {
                if !self.ids.insert(id) {
                    return Err(format!("there are two calls {id}"));
                }
                self.open.insert(id, self.history.operations.len());
                self.history.operations.push(Operation { client, op, called_us: t_us, returned: None });
            }
            Event::Return { id, outcome } => {
                let at = self.open.remove(&id).ok_or_else(|| format!("no call {id} is waiting"))?;
                let operation = &mut self.history.operations[at];
                if let Outcome::Ok { value } = &outcome
                    && !answers(&operation.op, value)
                {
                    return Err(format!("{value:?} is no answer to {:?}", operation.op));
                }
                operation.returned = Some((t_us, outcome));
            }
            event @ (Event::Served { .. }
            | Event::Acted(_)
            | Event::Runs { .. }
            | Event::Sample(_)
            | Event::Ended(_)
            | Event::Panicked { .. }
            | Event::Stuck { .. }
            | Event::Pressure(_)
            | Event::Seen(_)
            | Event::NotWhole { .. }
            | Event::Phase { .. }
            | Event::Fault(_)) => self.history.events.push((t_us, event)),
        }
        Ok(())
    }
}

/// Whether a value is one that the operation may be answered with.
fn answers(op: &Op, value: &Value) -> bool {
    match op {
        Op::LedgerAdd { .. } => matches!(value, Value::Done {}),
        Op::Deploy { .. } => matches!(value, Value::Done {} | Value::Release { .. }),
        Op::PriceSet { .. } => matches!(value, Value::Done {} | Value::Incomplete { .. }),
        Op::LedgerRead {} => matches!(value, Value::Entries { .. }),
        Op::RegisterRead { .. } => matches!(value, Value::Register { .. } | Value::Absent {}),
        Op::RegisterWrite { if_version: None, .. } => matches!(value, Value::Version { .. }),
        Op::RegisterWrite { .. } => matches!(value, Value::Version { .. } | Value::Mismatch { .. }),
        Op::CounterAdd { .. } => matches!(value, Value::Total { .. }),
        Op::Request { .. } => matches!(value, Value::Status { .. }),
        Op::PriceRead { .. } => matches!(value, Value::Price { .. }),
    }
}

#[cfg(test)]
pub mod tests;
