//! Prices: set in the store, cached at every host, and told to be stale.
//!
//! ```text
//!   setter:  SET key value ─▶ INVALIDATE KEY key WAIT ─▶ nobody is missing: complete
//!   reader:  confirm the cache ─▶ from the cache, or else from the store, and into the cache
//! ```
//!
//! What *complete* promises today is that every member's agent has written the event to the queues of its
//! subscribers, in order; it does not promise that they have read it. So a reader first makes sure that it
//! has read all that was in its queue (see `cache`), and is then judged without any allowance for delay.
//! An invalidation that names members that are missing promises nothing of them yet, and is written down
//! as incomplete. That a cut-off agent fences its subscribers by time is promised nowhere yet.

mod cache;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use redis::{Commands as _, Connection, RedisResult};

use super::{refused, store, unknown};
use crate::history::{Op, Outcome, Value};
use crate::journal::Journal;
use crate::network::Host;
use cache::Cache;

/// An event of one key must not hide that one of the other was missed.
const KEYS_EACH: usize = 2;
/// How long a setter waits for every member, which is longer than a suspicion takes.
const WAIT_MS: u64 = 3_000;
const SET_EVERY: Duration = Duration::from_millis(60);
/// Each reading costs the farm an event.
const READ_EVERY: Duration = Duration::from_millis(40);
const AWAY: Duration = Duration::from_millis(100);
/// Read where nothing was ever set.
const NOTHING: i64 = 0;

/// Which keys there are: a setter's alone to set, everybody's to read.
#[derive(Clone)]
pub struct Board(Arc<[AtomicU64]>);

impl Board {
    pub fn new(setters: usize) -> Self {
        Self((0..setters * KEYS_EACH).map(|_| AtomicU64::new(0)).collect())
    }

    fn key(&self, slot: usize) -> String {
        format!("price-{slot}-{}", self.0[slot].load(Ordering::Relaxed))
    }

    /// A set of unknown end may be executed late, over a higher value. Nobody looks at its key any more.
    fn give_up(&self, slot: usize) {
        self.0[slot].fetch_add(1, Ordering::Relaxed);
    }
}

/// Where a client is.
pub struct Place<'a> {
    pub host: &'a Host,
    pub socket: PathBuf,
    pub number: usize,
    pub seed: u64,
    pub client: u32,
    pub board: &'a Board,
}

/// Sets ever higher prices until it is told to stop. On a host of its own: the thread stays there.
///
/// # Errors
/// When the host is no more.
pub fn set(place: &Place<'_>, journal: &Journal, stop: &AtomicBool) -> io::Result<()> {
    place.host.enter()?;
    let mut connection = None;
    let mut turns = (0..KEYS_EACH).map(|key| place.number * KEYS_EACH + key).cycle();
    for value in NOTHING + 1.. {
        let Some(slot) = turns.next().filter(|_| !stop.load(Ordering::Relaxed)) else { break };
        let key = place.board.key(slot);
        let op = Op::PriceSet { key: key.clone(), value };
        match journal.call(place.client, op, || set_once(place.host, &mut connection, &key, value)) {
            Outcome::Unknown { .. } => {
                place.board.give_up(slot);
                connection = None;
            }
            Outcome::Ok { .. } | Outcome::Refused { .. } => {}
        }
        std::thread::sleep(if connection.is_none() { AWAY } else { SET_EVERY });
    }
    Ok(())
}

fn set_once(host: &Host, connection: &mut Option<Connection>, key: &str, value: i64) -> Outcome {
    let open = match connection {
        Some(open) => open,
        None => match store::connect(host) {
            Ok(open) => connection.insert(open),
            Err(error) => return refused(error),
        },
    };
    if let Err(error) = open.set::<_, _, ()>(key, value) {
        return store::told(&error);
    }
    // From here on it is done in part, whatever the words are.
    match invalidate(open, key) {
        Ok(missing) if missing.is_empty() => Outcome::Ok { value: Value::Done {} },
        Ok(missing) => Outcome::Ok { value: Value::Incomplete { missing } },
        Err(error) => unknown(error),
    }
}

/// Tells every cache; the members that did not confirm it.
fn invalidate(connection: &mut Connection, key: &str) -> RedisResult<Vec<String>> {
    let mut command = redis::cmd("INVALIDATE");
    let told: HashMap<String, redis::Value> =
        command.arg("KEY").arg(key).arg("WAIT").arg(WAIT_MS).query(connection)?;
    let absent = || redis::RedisError::from((redis::ErrorKind::UnexpectedReturnType, "it names no missing"));
    let missing = told.get("missing").cloned().ok_or_else(absent)?;
    let nodes: Vec<HashMap<String, String>> = redis::from_redis_value(missing)?;
    Ok(nodes.into_iter().map(|mut node| node.remove("node").unwrap_or_default()).collect())
}

/// Reads prices through a cache until it is told to stop. On a host of its own, as well.
///
/// # Errors
/// When the host is no more, or there can be no cache.
pub fn read(place: &Place<'_>, journal: &Journal, stop: &AtomicBool) -> io::Result<()> {
    place.host.enter()?;
    let mut cache = Cache::new(place.socket.clone(), place.number)?;
    let mut random = StdRng::seed_from_u64(place.seed ^ ((place.number as u64) << 34));
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let key = place.board.key(random.random_range(0..place.board.0.len()));
        let op = Op::PriceRead { key: key.clone() };
        journal.call(place.client, op, || read_once(place.host, &mut cache, &mut connection, key));
        let is_away = connection.is_none() && !cache.is_subscribed();
        std::thread::sleep(if is_away { AWAY } else { READ_EVERY });
    }
    Ok(())
}

fn read_once(host: &Host, cache: &mut Cache, connection: &mut Option<Connection>, key: String) -> Outcome {
    // A cache that can not confirm itself serves nothing, and keeps nothing.
    let is_confirmed = cache.confirm().is_ok();
    if let Some(value) = cache.get(&key).filter(|_| is_confirmed) {
        return Outcome::Ok { value: Value::Price { value, cached: true } };
    }
    let open = match connection {
        Some(open) => open,
        None => match store::connect(host) {
            Ok(open) => connection.insert(open),
            Err(error) => return refused(error),
        },
    };
    match open.get::<_, Option<i64>>(&key) {
        Ok(found) => {
            let value = found.unwrap_or(NOTHING);
            if is_confirmed {
                // What has become stale since is in the queue yet, and is dropped before it is served.
                cache.fill(key, value);
            }
            Outcome::Ok { value: Value::Price { value, cached: false } }
        }
        Err(error) => {
            if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() {
                *connection = None;
            }
            store::told(&error)
        }
    }
}
