//! An experiment, from its steady state back to it.
//!
//! ```text
//!   farm whole ─▶ steady ─▶ method: fault, and its end, one after the other ─▶ recovery: whole again
//!   clients work all the while ───────────────────────────────────────────────────────────▶ final reads
//! ```
//!
//! The folder keeps the history, the plan (the experiment with everything that the seed has decided), the
//! nodes' settings and logs, and the verdict.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::check;
use crate::experiment::{Experiment, Fault, Step, Target};
use crate::farm::{Farm, FarmError};
use crate::history::{self, Event, History, HistoryError, Op, Phase, Run, Sample};
use crate::journal::Journal;
use crate::lab::{self, Lab, LabError};
use crate::network::{self, NetworkError};
use crate::report::Report;
use crate::workload::{self, Workload};

/// What is asked for.
pub struct Wish<'a> {
    pub experiment: &'a Experiment,
    pub seed: u64,
    /// Where everything is kept. It must not be there yet.
    pub folder: PathBuf,
    pub holdfast: PathBuf,
    /// Set by a signal.
    pub stop: Arc<AtomicBool>,
}

/// Why an experiment has no verdict.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("can not use {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Farm(#[from] FarmError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("the history: {0}")]
    History(#[from] HistoryError),
    #[error("{0} of the clients failed")]
    Clients(usize),
    #[error("it was stopped by a signal")]
    Aborted,
    #[error("the ledger can not be read at {node}: {reason}")]
    ReadBack { node: String, reason: String },
}

/// A step with the node that was chosen.
#[derive(Debug, Serialize)]
struct Chosen<'a> {
    #[serde(flatten)]
    step: &'a Step,
    node: String,
}

#[derive(Debug, Serialize)]
struct Plan<'a> {
    experiment: &'a Experiment,
    seed: u64,
    steps: Vec<Chosen<'a>>,
}

/// Runs it. `tell` hears what is being done.
///
/// # Errors
/// See [`RunError`]; what was made is undone all the same.
pub fn run(wish: &Wish<'_>, mut tell: impl FnMut(&str)) -> Result<Report, RunError> {
    let folder = |source| RunError::Folder { path: wish.folder.clone(), source };
    fs::create_dir_all(wish.folder.parent().unwrap_or(Path::new("."))).map_err(folder)?;
    fs::create_dir(&wish.folder).map_err(folder)?;
    let mut lab = Lab::open(&lab::root())?;
    let worked = work(wish, &mut lab, &mut tell);
    // The farm ends first, whatever came of it.
    lab.close()?;
    worked?;
    let history = history::read(&wish.folder.join("history.jsonl"))?;
    let report = check::all(&history);
    fs::write(wish.folder.join("verdict.json"), report.json()).map_err(folder)?;
    Ok(report)
}

/// Waits, unless somebody wants to stop.
fn rest(seconds: u64, stop: &AtomicBool) -> Result<(), RunError> {
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        if stop.load(Ordering::Relaxed) {
            return Err(RunError::Aborted);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn work(wish: &Wish<'_>, lab: &mut Lab, tell: &mut impl FnMut(&str)) -> Result<(), RunError> {
    let Wish { experiment, seed, folder, holdfast, stop } = wish;
    let kept = |source| RunError::Folder { path: folder.clone(), source };
    tell(&format!("starting {} agents", experiment.nodes));
    let hosts = network::hosts(lab, experiment.nodes)?;
    // Sockets have short names only, and the lab's folder is near the root.
    let homes = lab.folder().to_owned();
    let mut farm = Farm::start(lab, hosts.clone(), &homes, holdfast)?;
    let run = Run {
        version: 1,
        seed: *seed,
        experiment: experiment.name.clone(),
        nodes: farm.nodes.iter().map(|node| node.name.clone()).collect(),
        failed_requests_max: None,
    };
    let path = folder.join("history.jsonl");
    let journal = Journal::create(&path, run).map_err(kept)?;
    let clients = Workload::start(&hosts, &journal);
    let mut random = StdRng::seed_from_u64(*seed);
    let mut plan = Plan { experiment, seed: *seed, steps: Vec::new() };

    let broken = (|| -> Result<(), RunError> {
        tell(&format!("steady for {} s", experiment.steady_seconds));
        journal.note(Event::Phase { phase: Phase::Steady });
        rest(experiment.steady_seconds, stop)?;
        sample(&farm, &journal);
        journal.note(Event::Phase { phase: Phase::Method });
        for step in &experiment.method {
            // Drawn even where it is not needed: the same seed draws the same for the other steps.
            let any = random.random_range(0..farm.nodes.len());
            let target = match step.target {
                Target::Any => any,
                Target::Controller => farm.controller().unwrap_or(any),
            };
            let node = farm.nodes[target].name.clone();
            tell(&format!("{:?} {node} for {} s", step.fault, step.seconds));
            plan.steps.push(Chosen { step, node: node.clone() });
            break_and_mend(&mut farm, lab, &journal, step, target, stop)?;
            rest(step.then_seconds, stop)?;
        }
        tell("waiting until the farm is whole again");
        journal.note(Event::Phase { phase: Phase::Recovery });
        farm.wait_whole(Duration::from_secs(experiment.recovery_seconds_max))?;
        Ok(())
    })();
    let failed = clients.stop();
    fs::write(folder.join("plan.json"), serde_json::to_string_pretty(&plan).unwrap_or_default())
        .map_err(kept)?;
    journal.finish().map_err(kept)?;
    keep_logs(&farm, &homes, folder).map_err(kept)?;
    broken?;
    if failed > 0 {
        return Err(RunError::Clients(failed));
    }
    journal.note(Event::Phase { phase: Phase::Final });
    tell("reading everything back at every server");
    let tried = tried(&history::read(&path)?);
    for node in &farm.nodes {
        workload::read_back(&node.host, &tried, &journal)
            .map_err(|reason| RunError::ReadBack { node: node.name.clone(), reason })?;
    }
    sample(&farm, &journal);
    journal.finish().map_err(kept)
}

fn break_and_mend(
    farm: &mut Farm,
    lab: &mut Lab,
    journal: &Journal,
    step: &Step,
    target: usize,
    stop: &AtomicBool,
) -> Result<(), RunError> {
    let name = farm.nodes[target].name.clone();
    let note = |begins| {
        let fault = match step.fault {
            Fault::Kill => "kill",
            Fault::Pause => "pause",
        };
        journal.note(Event::Fault { fault: fault.to_owned(), targets: vec![name.clone()], begins });
    };
    note(true);
    match step.fault {
        Fault::Kill => farm.kill(target),
        Fault::Pause => farm.pause(target, true),
    }
    // Mended in any case.
    let rested = rest(step.seconds, stop);
    match step.fault {
        Fault::Kill => farm.start_agent(lab, target)?,
        Fault::Pause => farm.pause(target, false),
    }
    note(false);
    rested
}

/// Every entry that anybody tried to add.
fn tried(history: &History) -> BTreeSet<String> {
    let entry = |operation: &history::Operation| {
        if let Op::LedgerAdd { entry } = &operation.op { Some(entry.clone()) } else { None }
    };
    history.operations.iter().filter_map(entry).collect()
}

fn sample(farm: &Farm, journal: &Journal) {
    for (number, node) in farm.nodes.iter().enumerate() {
        let Some(pid) = farm.agent_pid(number) else { continue };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64);
        let (threads, rss_kib) = (line("Threads:"), line("VmRSS:"));
        journal.note(Event::Sample(Sample { node: node.name.clone(), pid, fds, threads, rss_kib }));
    }
}

/// What the agents said outlives the lab.
fn keep_logs(farm: &Farm, homes: &Path, folder: &Path) -> io::Result<()> {
    for node in &farm.nodes {
        for (file, kept) in [("agent.log", "log"), ("agent.toml", "toml")] {
            fs::copy(homes.join(&node.name).join(file), folder.join(format!("{}.{kept}", node.name)))?;
        }
    }
    Ok(())
}
