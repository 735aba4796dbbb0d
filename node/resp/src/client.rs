//! Who is connected: what a connection knows of its client, and the list that CLIENT LIST shows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use crate::frame::Protocol;

/// Longest name of a client or of its library; these stay for the life of the connection.
pub(crate) const ATTRIBUTE_BYTES_MAX: usize = 256;

/// What CLIENT LIST shows at most: two thousand clients, as they are commonly called.
const LIST_BYTES_MAX: usize = 256 << 10;

/// A connection's client, as far as commands change it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) connected: Instant,
    pub(crate) protocol: Protocol,
    /// `None` until it has authenticated.
    pub(crate) login: Option<Login>,
    pub(crate) database: u8,
    pub(crate) name: Bytes,
    pub(crate) library_name: Bytes,
    pub(crate) library_version: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) keyspace: String,
}

impl Client {
    /// The keyspace of a database: Redis's databases are keyspaces of their own, the first is the
    /// app's. A name can not contain the colon, so that two apps never meet.
    pub(crate) fn keyspace(&self) -> String {
        let base = self.login.as_ref().map_or("", |login| login.keyspace.as_str());
        if self.database == 0 { base.to_owned() } else { format!("{base}:{}", self.database) }
    }

    /// A line as CLIENT LIST has it.
    pub(crate) fn describe(&self) -> String {
        format!(
            "id={} addr={} laddr={} name={} age={} db={} resp={} lib-name={} lib-ver={} user={}",
            self.id,
            self.address,
            self.local,
            String::from_utf8_lossy(&self.name),
            self.connected.elapsed().as_secs(),
            self.database,
            self.protocol.number(),
            String::from_utf8_lossy(&self.library_name),
            String::from_utf8_lossy(&self.library_version),
            self.login.as_ref().map_or("", |login| login.user.as_str()),
        )
    }
}

/// All clients of this port. A connection keeps its own state and leaves a copy here when a command
/// has changed it.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    last_id: AtomicU64,
    list: Mutex<BTreeMap<u64, Client>>,
}

impl Clients {
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn note(&self, client: &Client) {
        self.list().insert(client.id, client.clone());
    }

    pub(crate) fn forget(&self, id: u64) {
        self.list().remove(&id);
    }

    pub(crate) fn count(&self) -> usize {
        self.list().len()
    }

    /// Lines about those that see the same keyspace: an app learns nothing of another's clients. When
    /// they are too many, the last line says how many are not shown, in a client's form: libraries split
    /// every line into words with an equals sign.
    pub(crate) fn describe_beside(&self, client: &Client) -> String {
        let own = client.login.as_ref().map(|login| login.keyspace.as_str());
        let is_beside = |other: &&Client| other.login.as_ref().map(|login| login.keyspace.as_str()) == own;
        let mut lines = String::new();
        let mut not_shown: usize = 0;
        for other in self.list().values().filter(is_beside) {
            if lines.len() < LIST_BYTES_MAX {
                lines.push_str(&other.describe());
                lines.push('\n');
            } else {
                not_shown += 1;
            }
        }
        if not_shown > 0 {
            lines.push_str(&format!("not-shown={not_shown}\n"));
        }
        lines
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<u64, Client>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
