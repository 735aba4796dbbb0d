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

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::abort::{self, Watch};
use crate::acts::Acts;
use crate::app;
use crate::check;
use crate::command;
use crate::doctor;
use crate::experiment::Experiment;
use crate::farm::{Farm, FarmError, Ground};
use crate::fault::{Fault, FaultError};
use crate::history::{self, Event, History, HistoryError, Op, Phase, Run, Sample};
use crate::journal::Journal;
use crate::lab::{self, Lab, LabError};
use crate::method::{Chosen, Method};
use crate::network::{self, NetworkError};
use crate::observer::Observer;
use crate::page;
use crate::pressure::{Pressure, Seconds};
use crate::programs::{self, Programs};
use crate::releases::{self, Workshop};
use crate::report::{Exit, Report};
use crate::switch::Switch;
use crate::workload::{self, Kind, Workload};

/// What is asked for.
pub struct Wish<'a> {
    pub experiment: &'a Experiment,
    pub seed: u64,
    /// Where everything is kept. It must not be there yet.
    pub folder: PathBuf,
    pub programs: Programs,
    /// The agents share this machine's loopback.
    pub loopback: bool,
    /// Set by a signal.
    pub stop: Arc<AtomicBool>,
}

impl Wish<'_> {
    fn is_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Why an experiment has no verdict.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{} is there already: name another folder with --out", path.display())]
    Taken { path: PathBuf },
    #[error(
        "{} has room for {has_mib} MiB, and a farm of this experiment may take {wants_mib}: name another place \
         with {}=DIR, to `clean` as well",
        path.display(),
        lab::ROOT_VARIABLE
    )]
    Room { path: PathBuf, has_mib: u64, wants_mib: u64 },
    #[error("can not use {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Farm(FarmError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("the history: {0}")]
    History(#[from] HistoryError),
    #[error("{0} of the clients failed")]
    Clients(usize),
    #[error(transparent)]
    Fault(FaultError),
    #[error("this machine does not let us: {0}")]
    Absent(String),
    #[error("it was given up: {0}")]
    Aborted(String),
    #[error("the host was starved of processor in {} of {} seconds: {reason}", seconds.starved, seconds.all)]
    Starved { seconds: Seconds, reason: String },
}

impl From<FarmError> for RunError {
    /// Whoever gives up while he waits for the farm gives up the run.
    fn from(error: FarmError) -> Self {
        if let FarmError::GivenUp(reason) = error { Self::Aborted(reason) } else { Self::Farm(error) }
    }
}

impl From<FaultError> for RunError {
    fn from(error: FaultError) -> Self {
        if let FaultError::Farm(error) = error { error.into() } else { Self::Fault(error) }
    }
}

impl RunError {
    /// Whether it came before anything was made.
    pub fn has_left_nothing(&self) -> bool {
        match self {
            Self::Taken { .. } | Self::Room { .. } | Self::Absent(_) => true,
            Self::Folder { .. }
            | Self::Network(_)
            | Self::Farm(_)
            | Self::Lab(_)
            | Self::History(_)
            | Self::Clients(_)
            | Self::Fault(_)
            | Self::Aborted(_)
            | Self::Starved { .. } => false,
        }
    }
}

#[derive(Debug, Serialize)]
struct Plan<'a> {
    experiment: &'a Experiment,
    seed: u64,
    loopback: bool,
    programs: &'a Programs,
    /// What was left to the seed, in order, as far as it has come.
    chosen: &'a [Chosen],
}

/// What a run was, as it has written it down.
#[derive(Debug, Deserialize)]
pub struct Planned {
    pub experiment: Experiment,
    pub seed: u64,
    #[serde(default)]
    pub loopback: bool,
    /// Of what it was. An older plan does not say.
    #[serde(default)]
    pub programs: Option<Programs>,
}

impl Planned {
    /// # Errors
    /// When the folder has no plan that is understood, and can be meant.
    pub fn load(folder: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(folder.join(PLAN))?;
        let planned: Self = serde_json::from_str(&text).map_err(io::Error::other)?;
        // A file can be changed, and comes from whatever version has written it.
        planned.experiment.make_sense().map_err(io::Error::other)?;
        Ok(planned)
    }
}

/// A node's databases, logs and settings, in a run of some minutes.
const NODE_MIB: u64 = 64;
/// What a file system of its own takes on top.
const DISK_MIB: u64 = 48;
/// What agents leave free of the disk that their releases are on.
const SPARE_MIB: u64 = 256;
/// No client waits for two answers as long as that.
const ASKED_WITHIN: Duration = Duration::from_secs(30);

const PLAN: &str = "plan.json";

/// Makes a page of what a run has left in its folder, and of the report on it if there is one already: to judge
/// a history may take minutes.
///
/// # Errors
/// When there is no history, or the page can not be written.
pub fn write_page(folder: &Path, out: &Path, judged: Option<&Report>) -> Result<(), RunError> {
    let history = history::read(&folder.join("history.jsonl"))?;
    let planned = Planned::load(folder).ok();
    let programs = planned.as_ref().and_then(|plan| plan.programs.as_ref());
    let options = programs.map_or(String::new(), Programs::options);
    let again = format!("holdfast-chaos replay {}{options}", programs::quoted(folder));
    let about = page::About {
        steady_state: planned.as_ref().map_or("", |plan| plan.experiment.steady_state.as_str()),
        again: &again,
    };
    let page = match judged {
        Some(report) => page::render(&history, report, &about),
        None => page::render(&history, &check::all(&history), &about),
    };
    fs::write(out, page).map_err(self::folder(out))
}

/// Writes down what is to be done, before and after it is.
fn write_plan(wish: &Wish<'_>, chosen: &[Chosen]) -> Result<(), RunError> {
    let Wish { experiment, seed, loopback, programs, .. } = wish;
    let plan = Plan { experiment, seed: *seed, loopback: *loopback, programs, chosen };
    let text = serde_json::to_string_pretty(&plan).expect("plain data always serialises");
    let (new, path) = (wish.folder.join("plan.new"), wish.folder.join(PLAN));
    // At no time is there half a plan.
    fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(folder(&path))
}

fn folder(path: &Path) -> impl FnOnce(io::Error) -> RunError + use<> {
    let path = path.to_owned();
    move |source| RunError::Folder { path, source }
}

/// Runs it. `tell` hears what is being done.
///
/// # Errors
/// See [`RunError`]; what was made is undone all the same.
pub fn run(wish: &Wish<'_>, mut tell: impl FnMut(&str)) -> Result<Report, RunError> {
    let labs = lab::root()?;
    means(wish)?;
    has_room(wish.experiment, &labs)?;
    fs::create_dir_all(wish.folder.parent().unwrap_or(Path::new("."))).map_err(folder(&wish.folder))?;
    match fs::create_dir(&wish.folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(RunError::Taken { path: wish.folder.clone() });
        }
        made => made.map_err(folder(&wish.folder))?,
    }
    write_plan(wish, &[])?;
    let pressure = Pressure::start();
    let mut lab = Lab::open(&labs)?;
    let judged = work(wish, &mut lab, &pressure, &mut tell).and_then(|()| judge(wish));
    put_away(lab, &judged, &wish.folder, &mut tell);
    match judged {
        // What fails once it is to stop may have failed of that.
        Err(error) if wish.is_to_stop() && !matches!(error, RunError::Aborted(_)) => {
            Err(RunError::Aborted(format!("a signal, and then: {error}")))
        }
        // What a starved host kept from coming about says nothing of the farm, nor of this tool.
        Err(error) if pressure.seconds().are_starved() && !matches!(error, RunError::Aborted(_)) => {
            Err(RunError::Starved { seconds: pressure.seconds(), reason: error.to_string() })
        }
        judged => judged,
    }
}

/// Refuses an experiment for whose farm there is no room where labs are, which may be a small part of memory.
fn has_room(experiment: &Experiment, labs: &Path) -> Result<(), RunError> {
    let app = std::env::current_exe().and_then(fs::metadata).map_or(0, |about| about.len() >> 20);
    let apps = experiment.workloads.iter().filter(|kind| matches!(kind, Kind::Requests | Kind::Deploys));
    let apps = apps.count() as u64;
    let disk = if experiment.faults().any(Fault::needs_disks) { DISK_MIB } else { 0 };
    // Each node has a release as it came, and as it runs.
    let node = NODE_MIB + disk + 2 * app * apps;
    let farm = u64::from(experiment.nodes) * node + app * apps;
    let wants_mib = farm + SPARE_MIB;
    match abort::room_mib(labs) {
        Some(has_mib) if has_mib < wants_mib => {
            Err(RunError::Room { path: labs.to_owned(), has_mib, wants_mib })
        }
        Some(_) | None => Ok(()),
    }
}

/// Ends the farm, whatever came of it. A verdict stands as well where not everything could be kept or
/// removed, and so does the reason why there is none.
fn put_away(lab: Lab, judged: &Result<Report, RunError>, folder: &Path, tell: &mut impl FnMut(&str)) {
    if let Err(error) = keep_logs(lab.folder(), folder) {
        tell(&format!("warning: not all of the agents' logs are kept: {error}"));
    }
    if judged.as_ref().is_ok_and(|report| report.exit() == Exit::Violated) {
        tell("keeping the nodes' data");
        if let Err(error) = keep_data(lab.folder(), folder) {
            tell(&format!("warning: not all of the nodes' data is kept: {error}"));
        }
    }
    if let Err(error) = lab.close() {
        tell(&format!("warning: {error}; `holdfast-chaos clean` tries again"));
    }
}

fn judge(wish: &Wish<'_>) -> Result<Report, RunError> {
    let history = history::read(&wish.folder.join("history.jsonl"))?;
    let report = check::all(&history);
    let path = wish.folder.join("verdict.json");
    fs::write(&path, report.json()).map_err(folder(&path))?;
    Ok(report)
}

/// A farm on ground that lets its experiment's faults be made.
fn start(
    wish: &Wish<'_>,
    lab: &mut Lab,
    watch: &mut Watch,
    tell: &mut impl FnMut(&str),
) -> Result<(Farm, Option<Switch>), RunError> {
    let Wish { experiment, seed, programs, .. } = wish;
    let clocks = means(wish)?;
    tell(&format!("starting {} agents", experiment.nodes));
    let (hosts, switch) = if wish.loopback {
        (network::loopback(experiment.nodes), None)
    } else if experiment.faults().any(Fault::needs_a_switch) {
        let (hosts, switch) = network::switched(lab, experiment.nodes, *seed)?;
        (hosts, Some(switch))
    } else {
        (network::hosts(lab, experiment.nodes)?, None)
    };
    // Sockets have short names only, and the lab's folder is near the root.
    let homes = lab.folder().to_owned();
    let ground = Ground {
        hosts,
        folder: &homes,
        holdfast: &programs.holdfast.path,
        other: programs.other.as_ref().map(|other| other.path.as_path()),
        zones: experiment.zones,
        disks: experiment.faults().any(Fault::needs_disks),
        clocks,
    };
    Ok((Farm::start(lab, ground, watch)?, switch))
}

/// Whether everything is there that the experiment takes: a fault that was left out would be taken for one
/// that was survived. Returns what gives agents clocks of their own, if they need any.
fn means(wish: &Wish<'_>) -> Result<Option<&'static Path>, RunError> {
    let absent = |words: String| Err(RunError::Absent(words));
    if wish.loopback {
        let beyond = wish.experiment.faults().filter(|fault| fault.needs_hosts()).map(Fault::name);
        let beyond: Vec<&str> = BTreeSet::from_iter(beyond).into_iter().collect();
        if !beyond.is_empty() {
            return absent(format!("on loopback there is no {}; it takes root", beyond.join(", no ")));
        }
    }
    if wish.experiment.faults().any(Fault::needs_another_version) && wish.programs.other.is_none() {
        return absent("it needs another version of the program: name it with --other".to_owned());
    }
    if !wish.experiment.faults().any(Fault::needs_clocks) {
        return Ok(None);
    }
    match doctor::faketime() {
        None => absent("libfaketime is not installed".to_owned()),
        library => Ok(library),
    }
}

fn work(
    wish: &Wish<'_>,
    lab: &mut Lab,
    pressure: &Pressure,
    tell: &mut impl FnMut(&str),
) -> Result<(), RunError> {
    let Wish { experiment, seed, folder, .. } = wish;
    let kept = |source| RunError::Folder { path: folder.clone(), source };
    let homes = lab.folder().to_owned();
    let mut watch = Watch::new(experiment.abort, folder, &homes, Arc::clone(&wish.stop));
    let (mut farm, switch) = start(wish, lab, &mut watch, tell)?;
    let path = folder.join("history.jsonl");
    let journal = Journal::create(&path, heading(wish, &farm)).map_err(kept)?;
    pressure.tell(&journal);
    let observer = Observer::start(farm.askers(), journal.clone());
    let logs = farm.nodes.iter().map(|node| (node.name.clone(), node.log.clone())).collect();
    let acts = Acts::start(logs, journal.clone());
    let workshop = Workshop::new(&homes).map_err(kept)?;
    if experiment.workloads.contains(&Kind::Requests) {
        tell("deploying an app that takes orders");
        releases::deploy_orders(&farm, &workshop, &mut watch)?;
    }
    let clients = Workload::start(&clients(&farm, *seed), &experiment.workloads, &journal);
    let mut deployer = experiment
        .workloads
        .contains(&Kind::Deploys)
        .then(|| releases::Deployer::start(farm.askers(), workshop.clone(), *seed, journal.clone()));
    watch.listen(journal.clone());
    let mut method = Method {
        experiment,
        farm: &mut farm,
        lab,
        switch: switch.as_ref(),
        journal: &journal,
        watch: &mut watch,
        random: StdRng::seed_from_u64(*seed),
        chosen: Vec::new(),
        lasting: Vec::new(),
    };
    let broken = break_it(&mut method, clients.count(), tell);
    let chosen = std::mem::take(&mut method.chosen);
    if matches!(broken, Err(RunError::Aborted(_))) {
        // Then nobody waits for an answer, nor for the end of a rollout.
        (0..farm.nodes.len()).for_each(|number| farm.kill(number));
    }
    let mut failed = clients.stop();
    if let Some(deployer) = &mut deployer {
        tell("letting the rollout that is going on come to its end");
        failed += usize::from(!deployer.stop());
    }
    drop(observer);
    // Where the disk is full, that is why it was given up, and not why it has failed.
    let written = write_plan(wish, &chosen).and(journal.finish().map_err(kept));
    broken.and(written)?;
    if failed > 0 {
        return Err(RunError::Clients(failed));
    }
    gather(&farm, &journal, &path, deployer.is_some(), &mut watch, tell)?;
    drop(acts);
    for (uuid, backend) in app::orders(&workshop.served).map_err(kept)? {
        journal.note(Event::Served { uuid, backend });
    }
    journal.finish().map_err(kept)?;
    if wish.is_to_stop() { Err(RunError::Aborted("a signal".to_owned())) } else { Ok(()) }
}

/// What the history is of.
fn heading(wish: &Wish<'_>, farm: &Farm) -> Run {
    Run {
        version: 1,
        seed: wish.seed,
        experiment: wish.experiment.name.clone(),
        nodes: farm.nodes.iter().map(|node| node.name.clone()).collect(),
        failed_requests_max: wish.experiment.failed_requests_max,
        workloads: wish.experiment.workloads.clone(),
    }
}

fn clients(farm: &Farm, seed: u64) -> workload::Ground {
    let sockets = farm.nodes.iter().map(|node| node.socket.clone()).collect();
    let names = farm.nodes.iter().map(|node| node.name.clone()).collect();
    workload::Ground { hosts: farm.hosts(), names, sockets, seed }
}

/// What can be asked only once all is over.
fn gather(
    farm: &Farm,
    journal: &Journal,
    path: &Path,
    deploys: bool,
    watch: &mut Watch,
    tell: &mut impl FnMut(&str),
) -> Result<(), RunError> {
    journal.note(Event::Phase { phase: Phase::Final });
    tell("reading everything back at every server");
    let tried = tried(&history::read(path)?);
    for node in &farm.nodes {
        watch.host().map_err(RunError::Aborted)?;
        // What can not be read is in the history, and is judged.
        if let Err(reason) = workload::read_back(&node.host, &tried, journal) {
            tell(&format!("{} does not let us read: {reason}", node.name));
        }
    }
    if deploys {
        match releases::note_runs(farm, journal, watch).map_err(RunError::from) {
            // Nothing of it is in the history then, which is judged.
            Err(RunError::Farm(reason)) => tell(&format!("nobody tells what runs where: {reason}")),
            noted => noted?,
        }
    }
    sample(farm, journal);
    Ok(())
}

/// From the steady state to the steady state.
fn break_it(method: &mut Method<'_>, clients: u32, tell: &mut impl FnMut(&str)) -> Result<(), RunError> {
    let experiment = method.experiment;
    tell(&format!("steady for {} s", experiment.steady_seconds));
    method.journal.note(Event::Phase { phase: Phase::Steady });
    method.rest(experiment.steady_seconds, &mut [])?;
    sample(method.farm, method.journal);
    method.journal.note(Event::Phase { phase: Phase::Method });
    method.run(tell)?;
    tell("waiting until the farm is whole again");
    method.journal.note(Event::Phase { phase: Phase::Recovery });
    method.watch.listen_no_more();
    method.wait_whole(tell)?;
    tell(&format!("steady again for {} s", experiment.steady_seconds));
    method.journal.note(Event::Phase { phase: Phase::After });
    let after = Instant::now();
    method.rest(experiment.steady_seconds, &mut [])?;
    // Who still waits for an answer of before says nothing of now. Each has to ask once more.
    while !method.journal.have_asked_since(clients, after) && after.elapsed() < ASKED_WITHIN {
        method.rest(1, &mut [])?;
    }
    Ok(())
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

/// The nodes' folders, as they are.
fn keep_data(homes: &Path, folder: &Path) -> io::Result<()> {
    for (name, from) in nodes(homes)? {
        let kept = folder.join("data").join(name);
        let words = ["-a", "--", &from.to_string_lossy(), &kept.to_string_lossy()];
        fs::create_dir_all(folder.join("data"))?;
        // Sockets can not be copied, and are of no use.
        if let Err(error) = command::run("cp", &words) {
            eprintln!("warning: {error}");
        }
    }
    Ok(())
}

/// What the agents said outlives the lab, also where no farm came about: it is all that tells why.
fn keep_logs(homes: &Path, folder: &Path) -> io::Result<()> {
    for (name, home) in nodes(homes)? {
        for (file, kept) in [("agent.log", "log"), ("agent.toml", "toml")] {
            let from = home.join(file);
            if from.exists() {
                fs::copy(from, folder.join(format!("{name}.{kept}")))?;
            }
        }
    }
    Ok(())
}

/// By name, the folders of a lab that are nodes' own. An image has all that the disk has.
fn nodes(homes: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(homes)?.flatten();
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    Ok(named.filter(|(name, _)| name.starts_with("node-") && !name.ends_with(".image")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Thing;
    use crate::report::{Finding, Verdict};

    #[test]
    fn a_verdict_stands_where_nothing_can_be_kept_or_removed() {
        let labs = tempfile::tempdir().unwrap();
        let mut lab = Lab::open(labs.path()).unwrap();
        // A group that is none can not be removed as one, as there is something in it; and what the nodes
        // have can not be kept below a file.
        let group = lab.folder().join("node-1");
        fs::create_dir(&group).unwrap();
        fs::write(group.join("data"), "x").unwrap();
        lab.note(Thing::Cgroup { path: group }).unwrap();
        let folder = labs.path().join("file");
        fs::write(&folder, "").unwrap();
        let verdict = Verdict::Violated { violations: vec!["lost".to_owned()], count: 1 };
        let figures = Vec::new();
        let finding =
            Finding { check: "ledger", promise: "p", looked_at: 1, verdict, figures, is_proof: true };
        let report = Report { experiment: String::new(), seed: 1, is_cut: false, findings: vec![finding] };
        let mut told = Vec::new();
        put_away(lab, &Ok(report), &folder, &mut |words: &str| told.push(words.to_owned()));
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[1].contains("not all of the nodes' data is kept"), "{told:?}");
        assert!(told[2].contains("clean"), "{told:?}");
    }

    #[test]
    fn a_plan_that_can_not_be_meant_is_not_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let plan = |nodes: u8| {
            let step = serde_json::json!({"faults": [{"fault": "kill", "target": "any"}], "seconds": 1, "then_seconds": 1});
            let experiment = serde_json::json!({
                "name": "x", "steady_state": "s", "nodes": nodes, "steady_seconds": 1,
                "recovery_seconds_max": 9, "method": [step],
            });
            let plan = serde_json::json!({"experiment": experiment, "seed": 7});
            fs::write(folder.path().join(PLAN), plan.to_string()).unwrap();
            Planned::load(folder.path()).map(|plan| plan.experiment.nodes)
        };
        assert_eq!(plan(3).unwrap(), 3);
        assert!(plan(0).unwrap_err().to_string().contains("nodes"));
    }
}
