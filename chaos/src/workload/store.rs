//! The session store, by a stock Redis client at each host's own agent.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Commands as _, Connection, RedisError, RedisResult};

use super::{refused, unknown};
use crate::farm::REDIS_PORT;
use crate::history::{Op, Outcome, Value};
use crate::journal::Journal;
use crate::network::Host;

/// Longer than the agent's own patience.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between two operations of a client: the farm is watched, not tested for speed.
const PAUSE: Duration = Duration::from_millis(5);
/// After a refused connection.
const AWAY: Duration = Duration::from_millis(100);
/// A key's counter takes so many increments: linearizability is searched key by key.
const PER_KEY: u64 = 200;
/// Who reads back is none of the clients that worked before.
const READER: u32 = u32::MAX - 1;
/// Keys asked for at a time when the ledger is read back.
const CHUNK: usize = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ledger,
    Counter,
}

/// Works until it is told to stop. On a host of its own: the thread stays there.
///
/// # Errors
/// When the host is no more.
pub fn work(
    host: &Host,
    number: usize,
    kind: Kind,
    client: u32,
    journal: &Journal,
    stop: &AtomicBool,
) -> io::Result<()> {
    host.enter()?;
    let mut connection = None;
    let mut count = 0_u64;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let op = match kind {
            Kind::Ledger => Op::LedgerAdd { entry: format!("{number}-{count}") },
            // Shared by the clients of all hosts.
            Kind::Counter => Op::CounterAdd { key: format!("count-{}", count / PER_KEY), delta: 1 },
        };
        let outcome = journal.call(client, op.clone(), || ask(host, &mut connection, &op));
        count = match (kind, outcome) {
            // Each operation of unknown end doubles what a search for an order has to try. So a key gets
            // one of a client at most.
            (Kind::Counter, Outcome::Unknown { .. }) => (count / PER_KEY + 1) * PER_KEY,
            (Kind::Counter | Kind::Ledger, _) => count + 1,
        };
        std::thread::sleep(if connection.is_none() { AWAY } else { PAUSE });
    }
}

fn ask(host: &Host, connection: &mut Option<Connection>, op: &Op) -> Outcome {
    let open = match connection {
        Some(open) => open,
        None => match connect(host) {
            Ok(open) => connection.insert(open),
            // Nothing was asked yet.
            Err(error) => return refused(error),
        },
    };
    let answer = if let Op::LedgerAdd { entry } = op {
        open.set(ledger_key(entry), 1).map(|()| Value::Done {})
    } else if let Op::CounterAdd { key, delta } = op {
        open.incr(key, *delta).map(|total| Value::Total { total })
    } else {
        return refused(format!("{op:?} is not this client's"));
    };
    match answer {
        Ok(value) => Outcome::Ok { value },
        Err(error) => {
            let outcome = told(&error);
            if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() {
                *connection = None;
            }
            outcome
        }
    }
}

/// To the agent of a host, on which this thread has to be.
pub(super) fn connect(host: &Host) -> RedisResult<Connection> {
    let client = redis::Client::open(format!("redis://{}:{REDIS_PORT}/", host.local()))?;
    let connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
    connection.set_read_timeout(Some(ANSWER_MAX))?;
    connection.set_write_timeout(Some(ANSWER_MAX))?;
    Ok(connection)
}

/// An error says by its words whether the command was executed (interfaces.md).
pub(super) fn told(error: &RedisError) -> Outcome {
    let words = error.to_string();
    if words.contains("not executed") || words.contains("CLUSTERDOWN") {
        refused(words)
    } else {
        unknown(words)
    }
}

fn ledger_key(entry: &str) -> String {
    format!("ledger-{entry}")
}

/// Reads the ledger at a host: which of the entries that anybody ever tried to add are there.
///
/// # Errors
/// When the store does not answer.
pub fn read_back(host: &Host, tried: &BTreeSet<String>, journal: &Journal) -> Result<(), String> {
    let read = || {
        host.enter().map_err(|error| error.to_string())?;
        let outcome = journal.call(READER, Op::LedgerRead {}, || match entries(host, tried) {
            Ok(entries) => Outcome::Ok { value: Value::Entries { entries } },
            Err(error) => unknown(error),
        });
        if let Outcome::Unknown { reason } = outcome { Err(reason) } else { Ok(()) }
    };
    std::thread::scope(|scope| scope.spawn(read).join())
        .unwrap_or_else(|_| Err("a reader panicked".to_owned()))
}

fn entries(host: &Host, tried: &BTreeSet<String>) -> RedisResult<Vec<String>> {
    let mut connection = connect(host)?;
    let mut found = Vec::new();
    let all: Vec<&String> = tried.iter().collect();
    for chunk in all.chunks(CHUNK) {
        let keys: Vec<String> = chunk.iter().map(|entry| ledger_key(entry)).collect();
        let values: Vec<Option<i64>> = connection.mget(keys)?;
        found.extend(chunk.iter().zip(values).filter_map(|(entry, value)| value.map(|_| (*entry).clone())));
    }
    Ok(found)
}

/// How many session groups the agent of a host leads, by its own word.
pub fn groups_led(host: &Host) -> Option<u64> {
    let read = || {
        host.enter().ok()?;
        let info: String = redis::cmd("INFO").arg("holdfast").query(&mut connect(host).ok()?).ok()?;
        info.lines().find_map(|line| line.trim().strip_prefix("leaders_here:")?.parse().ok())
    };
    std::thread::scope(|scope| scope.spawn(read).join()).ok().flatten()
}
