//! Clients on every host, which write down what they ask for and what they are told.

mod prices;
mod registers;
mod requests;
mod socket;
mod store;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::history::Outcome;
use crate::journal::Journal;
use crate::network::Host;

use prices::Board;
pub use store::{groups_led, read_back};

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Entries that are added once and read back at the end.
    Ledger,
    Counters,
    /// Reads, writes and compare-and-sets.
    Registers,
    /// Pages and orders of an app behind the balancers.
    Requests,
    /// Values that are cached at every host, and told to be stale.
    Prices,
    /// Another app, of which a new release comes every few seconds.
    Deploys,
}

impl Kind {
    /// What an experiment that says nothing gets.
    pub fn usual() -> Vec<Self> {
        vec![Self::Ledger, Self::Counters, Self::Registers, Self::Requests, Self::Prices]
    }
}

impl Kind {
    /// The clients that it takes at each host.
    fn roles(self) -> &'static [Role] {
        match self {
            Self::Ledger => &[Role::Ledger],
            Self::Counters => &[Role::Counter],
            Self::Registers => &[Role::Register],
            Self::Requests => &[Role::Request, Role::RequestElsewhere],
            Self::Prices => &[Role::PriceSetter, Role::PriceReader],
            // One at a time is all that there may be of an app: `releases` makes them.
            Self::Deploys => &[],
        }
    }
}

/// What one client does.
#[derive(Debug, Clone, Copy)]
enum Role {
    Ledger,
    Counter,
    Register,
    /// Of its own server.
    Request,
    /// Of another.
    RequestElsewhere,
    PriceSetter,
    PriceReader,
}

/// Whom clients work with.
#[derive(Clone)]
pub struct Ground {
    pub hosts: Vec<Host>,
    /// The nodes', in the hosts' order, as are their sockets.
    pub names: Vec<String>,
    pub sockets: Vec<PathBuf>,
    pub seed: u64,
}

/// The clients at work.
pub struct Workload {
    stop: Arc<AtomicBool>,
    /// Each returns whether it could work.
    threads: Vec<JoinHandle<bool>>,
}

impl Workload {
    /// Starts the clients of each kind at every host.
    pub fn start(ground: &Ground, kinds: &[Kind], journal: &Journal) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let board = Board::new(ground.hosts.len());
        let mut threads = Vec::new();
        for number in 0..ground.hosts.len() {
            for role in kinds.iter().flat_map(|kind| kind.roles()) {
                let client = u32::try_from(threads.len()).unwrap_or(u32::MAX);
                let (ground, journal, stop) = (ground.clone(), journal.clone(), Arc::clone(&stop));
                let board = board.clone();
                threads.push(std::thread::spawn(move || {
                    let worked = work(&ground, number, *role, client, &board, &journal, &stop);
                    if let Err(reason) = &worked {
                        crate::output::note!(
                            "warning: no client {role:?} on {}: {reason}",
                            ground.names[number]
                        );
                    }
                    worked.is_ok()
                }));
            }
        }
        Self { stop, threads }
    }

    /// How many clients there are; they are numbered from 0 on.
    pub fn count(&self) -> u32 {
        u32::try_from(self.threads.len()).unwrap_or(u32::MAX)
    }

    /// Lets every client finish what it is at. Returns how many of them have failed: they could not work, or
    /// have panicked.
    pub fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(JoinHandle::join);
        ended.filter(|ended| !matches!(ended, Ok(true))).count()
    }
}

/// # Errors
/// When it can not work there.
fn work(
    ground: &Ground,
    number: usize,
    role: Role,
    client: u32,
    board: &Board,
    journal: &Journal,
    stop: &AtomicBool,
) -> io::Result<()> {
    let host = &ground.hosts[number];
    let (socket, seed) = (ground.sockets[number].clone(), ground.seed);
    let asks =
        |first| requests::Place { hosts: &ground.hosts, names: &ground.names, number, first, seed, client };
    match role {
        Role::Ledger => store::work(host, number, store::Kind::Ledger, client, journal, stop),
        Role::Counter => store::work(host, number, store::Kind::Counter, client, journal, stop),
        Role::Register => registers::work(&registers::Place { socket, number, seed, client }, journal, stop),
        Role::Request => requests::work(&asks(number), journal, stop),
        Role::RequestElsewhere => requests::work(&asks((number + 1) % ground.hosts.len()), journal, stop),
        Role::PriceSetter => {
            prices::set(&prices::Place { host, socket, number, seed, client, board }, journal, stop)
        }
        Role::PriceReader => {
            prices::read(&prices::Place { host, socket, number, seed, client, board }, journal, stop)
        }
    }
}

fn unknown(reason: impl ToString) -> Outcome {
    Outcome::Unknown { reason: reason.to_string() }
}

fn refused(reason: impl ToString) -> Outcome {
    Outcome::Refused { reason: reason.to_string() }
}
