//! Clients on every host, which write down what they ask for and what they are told.

mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::history::Outcome;
use crate::journal::Journal;
use crate::network::Host;

pub use store::{groups_led, read_back};

/// The clients at work.
pub struct Workload {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Starts two clients a host: one keeps a ledger, one counts.
    pub fn start(hosts: &[Host], journal: &Journal) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            for kind in [store::Kind::Ledger, store::Kind::Counter] {
                let client = u32::try_from(threads.len()).unwrap_or(u32::MAX);
                let (host, journal, stop) = (host.clone(), journal.clone(), Arc::clone(&stop));
                threads.push(std::thread::spawn(move || {
                    store::work(&host, number, kind, client, &journal, &stop)
                }));
            }
        }
        Self { stop, threads }
    }

    /// Lets every client finish what it is at. Returns how many of them had panicked.
    pub fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().filter_map(|thread| thread.join().err()).count()
    }
}

fn unknown(reason: impl ToString) -> Outcome {
    Outcome::Unknown { reason: reason.to_string() }
}

fn refused(reason: impl ToString) -> Outcome {
    Outcome::Refused { reason: reason.to_string() }
}
