//! Releases of two apps of our own: one takes orders, of the other there is a new release every few
//! seconds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::abort::Watch;
use crate::farm::{Asker, Farm, FarmError, Instance};
use crate::history::{Event, Op, Outcome, Value};
use crate::journal::Journal;

/// Of the one that takes orders.
const ORDERS: &str = "orders";
/// Of the one that is deployed again and again.
pub const PAGES: &str = "pages";
/// Between the end of a rollout and the next.
const EVERY: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where releases are made.
#[derive(Clone)]
pub struct Workshop {
    folder: PathBuf,
    /// In which the app that takes orders writes them down.
    pub served: PathBuf,
}

impl Workshop {
    /// # Errors
    /// When its folders can not be made.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let workshop = Self { folder: folder.join("releases"), served: folder.join("served") };
        fs::create_dir_all(&workshop.folder)?;
        fs::create_dir_all(&workshop.served)?;
        Ok(workshop)
    }

    fn release(&self, app: &str, words: &[&str]) -> io::Result<PathBuf> {
        let folder = self.folder.join(app);
        fs::create_dir_all(&folder)?;
        let program = folder.join("app");
        if !program.exists() {
            fs::copy(std::env::current_exe()?, &program)?;
        }
        let command: Vec<&str> = ["./app", "app"].into_iter().chain(words.iter().copied()).collect();
        let manifest = format!(
            "[app]\nname = \"{app}\"\n[run]\ncommand = {command:?}\n[route]\npath = \"/{app}\"\n\
             [health]\nready = {{ path = \"/up\", interval = \"200ms\" }}\n[stop]\ndrain = \"2s\"\ngrace = \"2s\"\n"
        );
        fs::write(folder.join("holdfast.toml"), manifest)?;
        Ok(folder)
    }
}

/// Deploys the app that takes orders.
///
/// # Errors
/// When it does not come to run.
pub fn deploy_orders(farm: &Farm, workshop: &Workshop, watch: &mut Watch) -> Result<(), FarmError> {
    let served = workshop.served.to_string_lossy().into_owned();
    let folder = workshop.release(ORDERS, &["--served", &served]).map_err(|source| FarmError::File {
        what: "make a release in",
        path: workshop.folder.clone(),
        source,
    })?;
    let Some(asker) = farm.askers().into_iter().next() else { return Ok(()) };
    // On a thread of its own, which ends with the agents if it is given up.
    let deploying = std::thread::spawn(move || asker.deploy(&folder, "1"));
    while !deploying.is_finished() {
        watch.host().map_err(FarmError::GivenUp)?;
        std::thread::sleep(LOOK_EVERY);
    }
    let panicked =
        || FarmError::Answer { verb: "deploy".to_owned(), text: "nothing: it panicked".to_owned() };
    deploying.join().unwrap_or_else(|_| Err(panicked())).map(drop)
}

/// Deploys one release after the other until it is stopped.
pub struct Deployer {
    stop: Arc<AtomicBool>,
    /// Returns whether it could work.
    thread: Option<JoinHandle<bool>>,
}

impl Deployer {
    pub fn start(askers: Vec<Asker>, workshop: Workshop, seed: u64, journal: Journal) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || work(&askers, &workshop, seed, &journal, &stopped));
        Self { stop, thread: Some(thread) }
    }

    /// Lets the rollout that is going on come to its end. Returns whether it could work.
    pub fn stop(&mut self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().is_none_or(|thread| matches!(thread.join(), Ok(true)))
    }
}

impl Drop for Deployer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(askers: &[Asker], workshop: &Workshop, seed: u64, journal: &Journal, stop: &AtomicBool) -> bool {
    let mut random = StdRng::seed_from_u64(seed);
    for version in 1_u64.. {
        let asker = &askers[random.random_range(0..askers.len())];
        let text = format!("version {version}");
        let folder = match workshop.release(PAGES, &["--text", &text]) {
            Ok(folder) => folder,
            Err(error) => {
                crate::output::note!("warning: no release can be made: {error}");
                return false;
            }
        };
        let release = version.to_string();
        let op = Op::Deploy { app: PAGES.to_owned(), release: release.clone() };
        journal.call(u32::MAX, op, || match asker.deploy(&folder, &release) {
            Ok(digest) => Outcome::Ok { value: Value::Release { digest } },
            // It may have been taken before it failed.
            Err(error) => Outcome::Unknown { reason: error.to_string() },
        });
        let ended = Instant::now();
        while ended.elapsed() < EVERY {
            if stop.load(Ordering::Relaxed) {
                return true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
    true
}

/// Writes down which releases of the app that is deployed again and again each node runs, and who runs none.
///
/// # Errors
/// When nobody can be asked.
pub fn note_runs(farm: &Farm, journal: &Journal, watch: &mut Watch) -> Result<(), FarmError> {
    let runs = farm.runs(PAGES, watch)?;
    let is_bare = |name: &String| runs.iter().all(|one| one.node != *name);
    for node in farm.nodes.iter().map(|node| node.name.clone()).filter(is_bare) {
        journal.note(Event::Runs { node, app: PAGES.to_owned(), release: String::new(), digest: None });
    }
    for Instance { node, version, digest } in runs {
        journal.note(Event::Runs { node, app: PAGES.to_owned(), release: version, digest: Some(digest) });
    }
    Ok(())
}
