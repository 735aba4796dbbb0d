//! An experiment, from its steady state back to it.
//!
//! ```text
//!   farm whole ─▶ steady ─▶ method: fault, and its end, one after the other ─▶ recovery: whole again
//!   clients work all the while ───────────────────────────────────────────────────────────▶ final reads
//! ```
//!
//! The folder keeps the history, the plan (the experiment with everything that the seed has decided), the
//! nodes' settings and logs, and the verdict.

mod error;
mod keep;
mod observe;
mod plan;
mod room;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::abort::Watch;
use crate::check;
use crate::doctor;
use crate::experiment::Experiment;
use crate::farm::{Farm, Ground};
use crate::fault::Fault;
use crate::history;
use crate::lab::{self, Lab};
use crate::network;
use crate::page;
use crate::pressure::Pressure;
use crate::programs::{self, Programs};
use crate::report::{Exit, Report};
use crate::switch::Switch;
pub use error::RunError;
use error::folder;
pub use plan::Planned;

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

/// Runs it. `tell` hears what is being done.
///
/// # Errors
/// See [`RunError`]; what was made is undone all the same.
pub fn run(wish: &Wish<'_>, mut tell: impl FnMut(&str)) -> Result<Report, RunError> {
    let labs = lab::root()?;
    means(wish)?;
    room::check(wish.experiment, &labs)?;
    fs::create_dir_all(wish.folder.parent().unwrap_or(Path::new("."))).map_err(folder(&wish.folder))?;
    match fs::create_dir(&wish.folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(RunError::Taken { path: wish.folder.clone() });
        }
        made => made.map_err(folder(&wish.folder))?,
    }
    plan::write(wish, &[])?;
    let pressure = Pressure::start();
    let mut lab = Lab::open(&labs)?;
    let judged = work(wish, &mut lab, &pressure, &mut tell).and_then(|()| judge(wish));
    let judged = match judged {
        // What fails once it is to stop may have failed of that.
        Err(error) if wish.is_to_stop() && !matches!(error, RunError::Aborted(_)) => {
            Err(RunError::Aborted(format!("a signal, and then: {error}")))
        }
        // What a starved host kept from coming about says nothing of the farm, nor of this tool.
        Err(error) if pressure.seconds().are_starved() && !matches!(error, RunError::Aborted(_)) => {
            Err(RunError::Starved { seconds: pressure.seconds(), reason: error.to_string() })
        }
        judged => judged,
    };
    put_away(lab, &judged, &wish.folder, &mut tell);
    judged
}

/// Ends the farm, whatever came of it. A verdict stands as well where not everything could be kept or
/// removed, and so does the reason why there is none.
fn put_away(lab: Lab, judged: &Result<Report, RunError>, folder: &Path, tell: &mut impl FnMut(&str)) {
    if let Err(error) = keep::logs(lab.folder(), folder) {
        tell(&format!("warning: not all of the agents' logs are kept: {error}"));
    }
    if is_to_be_looked_into(judged) {
        tell("keeping the nodes' data");
        if let Err(error) = keep::data(lab.folder(), folder) {
            tell(&format!("warning: not all of the nodes' data is kept: {error}"));
        }
    }
    if let Err(error) = lab.close() {
        tell(&format!("warning: {error}; `holdfast-chaos clean` tries again"));
    }
}

/// Whether somebody will want to see what the nodes had: a promise was broken, or this tool has failed.
fn is_to_be_looked_into(judged: &Result<Report, RunError>) -> bool {
    match judged {
        Ok(report) => report.exit() == Exit::Violated,
        Err(RunError::Aborted(_) | RunError::Starved { .. }) => false,
        Err(error) => !error.has_left_nothing(),
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
    let homes = lab.folder().to_owned();
    let mut watch = Watch::new(wish.experiment.abort, &wish.folder, &homes, Arc::clone(&wish.stop));
    let (mut farm, switch) = start(wish, lab, &mut watch, tell)?;
    let observed = observe::observe(wish, &mut farm, switch.as_ref(), lab, &mut watch, pressure, tell);
    // What they have stored is kept as it is from here on, and they do not hold up whoever judges.
    (0..farm.nodes.len()).for_each(|number| farm.kill(number));
    observed
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
}
