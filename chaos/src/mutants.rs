//! The checkers, checked: a build of the product that breaks its promises on purpose, one at a time.
//!
//! Each mutant has somebody who must notice: an experiment on a real farm, or a simulation, whose verdict has
//! to be that a promise was broken, or the tests of the part that decides it, which have to fail. All are
//! tried without any mutant first: who cries at what is sound catches nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::report::Exit;

/// A promise that is broken, and who must tell.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    pub name: &'static str,
    pub breaks: &'static str,
    pub caught_by: Catcher,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Catcher {
    /// A file in chaos/experiments/mutants, without its ending.
    Experiment(&'static str),
    /// Seeds of a kind of simulation, by its option; the first kind has none.
    Simulation(&'static str),
    /// A package's tests whose names contain something.
    Tests { package: &'static str, names: &'static str },
}

const fn experiment(name: &'static str) -> Catcher {
    Catcher::Experiment(name)
}

const fn simulation(kind: &'static str) -> Catcher {
    Catcher::Simulation(kind)
}

const fn tests(package: &'static str, names: &'static str) -> Catcher {
    Catcher::Tests { package, names }
}

/// All there are. One that two have to catch is there twice.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "sync-removed",
        breaks: "a commit is durable before it is answered",
        caught_by: experiment("power-cut"),
    },
    Mutant {
        name: "acknowledged-early",
        breaks: "a write is answered once a majority has it",
        caught_by: experiment("cut-off-leader"),
    },
    Mutant {
        name: "stale-read",
        breaks: "who answers a read has proved that it leads",
        caught_by: experiment("cut-off-leader"),
    },
    Mutant {
        name: "write-repeated",
        breaks: "a write that may have been executed is not tried again",
        caught_by: tests("node", "a_write_whose_answer_gets_lost"),
    },
    Mutant {
        name: "version-ignored",
        breaks: "a write on condition is executed only if the version is the one",
        caught_by: experiment("calm"),
    },
    Mutant { name: "descriptors-leaked", breaks: "what is opened is closed", caught_by: experiment("calm") },
    Mutant {
        name: "post-repeated",
        breaks: "an order that may have been executed is not sent to another backend",
        caught_by: experiment("stalled-server"),
    },
    Mutant {
        name: "draining-asked",
        breaks: "nobody is asked who is draining or not ready",
        caught_by: tests("node-core", "membership"),
    },
    Mutant {
        name: "confirmed-early",
        breaks: "an invalidation is complete once every member has it",
        caught_by: experiment("slow-links"),
    },
    Mutant {
        name: "gap-ignored",
        breaks: "an invalidation that was missed is fetched",
        caught_by: simulation(""),
    },
    Mutant {
        name: "prevote-skipped",
        breaks: "nobody calls an election whom the others would not vote for",
        caught_by: tests("node-core", "election"),
    },
    Mutant {
        name: "consent-always",
        breaks: "who hears a leader consents to no other",
        caught_by: tests("node-core", "election"),
    },
    Mutant {
        name: "epoch-ignored",
        breaks: "the control log takes orders of the current epoch only",
        caught_by: tests("node-core", "control"),
    },
    Mutant {
        name: "gates-skipped",
        breaks: "a release that fails where it is started is taken back",
        caught_by: simulation("--control"),
    },
    Mutant {
        name: "strays-ignored",
        breaks: "nothing is begun while a third release would come of it",
        caught_by: tests("node-core", "control"),
    },
    Mutant {
        name: "change-unfinished",
        breaks: "a change of voters that was left half done is finished",
        caught_by: simulation("--control"),
    },
    Mutant {
        name: "fencing-skipped",
        breaks: "an agent obeys the newest controller only",
        caught_by: tests("node", "an_agent_refuses_a_controller_that_was_deposed"),
    },
    Mutant {
        name: "fencing-skipped",
        breaks: "an agent obeys the newest controller only",
        caught_by: experiment("deposed-controller"),
    },
    Mutant {
        name: "vote-forgotten",
        breaks: "a vote is on disk before it is given",
        caught_by: tests("node-consensus", "a_vote_is_there_after_a_restart"),
    },
    Mutant {
        name: "refused-and-executed",
        breaks: "what is said not to have been executed is executed never",
        caught_by: simulation("--groups"),
    },
    Mutant {
        name: "unproved-read",
        breaks: "a leader that was restarted knows what was committed before it answers",
        caught_by: tests("node-consensus", "a_leader_that_is_restarted_answers_no_read"),
    },
    Mutant {
        name: "digest-ignored",
        breaks: "a release runs only as it was made",
        caught_by: tests("node-apps", "store"),
    },
];

/// What became of one.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub mutant: &'static str,
    pub breaks: &'static str,
    pub caught: bool,
    /// The checkers or tests that told, or what happened instead.
    pub told: Vec<String>,
}

impl Finding {
    /// A line of it.
    pub fn text(&self) -> String {
        let word = if self.caught { "caught" } else { "MISSED" };
        format!("{word:<8}{:<20}{}\n", self.mutant, self.told.first().map_or("", String::as_str))
    }
}

/// Why the mutants can not be tried.
#[derive(Debug, thiserror::Error)]
pub enum MutantsError {
    #[error("there is no {} here: it is run in the project's folder", .0.display())]
    NotHere(PathBuf),
    #[error("there is no mutant {0:?}; `holdfast-chaos mutants --list` names them")]
    Unknown(String),
    #[error("can not run {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("the build of the mutants fails")]
    Build,
    #[error("{what} does not pass what is sound, so that it catches nothing: {told}")]
    Unsound { what: String, told: String },
}

/// Of a simulation, with each mutant and with none.
const SEEDS: &str = "300";

/// Where the mutants are built and tried.
struct Bench {
    target: PathBuf,
    holdfast: PathBuf,
    chaos: PathBuf,
    runs: PathBuf,
    seed: u64,
}

/// Tries the mutants of these names, or all. `tell` hears what is being done.
///
/// # Errors
/// See [`MutantsError`].
pub fn run(names: &[String], seed: u64, mut tell: impl FnMut(&str)) -> Result<Vec<Finding>, MutantsError> {
    let unknown = names.iter().find(|name| MUTANTS.iter().all(|mutant| mutant.name != **name));
    if let Some(name) = unknown {
        return Err(MutantsError::Unknown(name.clone()));
    }
    let chosen: Vec<&Mutant> = MUTANTS
        .iter()
        .filter(|mutant| names.is_empty() || names.iter().any(|name| name == mutant.name))
        .collect();
    let here = PathBuf::from("chaos/experiments/mutants");
    if !here.is_dir() {
        return Err(MutantsError::NotHere(here));
    }
    let bench = Bench::build(seed, &mut tell)?;
    let catchers: BTreeSet<Catcher> = chosen.iter().map(|mutant| mutant.caught_by).collect();
    for catcher in catchers {
        tell(&format!("{} without any mutant", catcher.told()));
        let (verdict, told) = bench.try_one(catcher, None)?;
        if verdict != Some(Exit::Kept) {
            return Err(MutantsError::Unsound { what: catcher.told(), told: told.join("; ") });
        }
    }
    let mut findings = Vec::new();
    for mutant in chosen {
        tell(&format!("{} under {}", mutant.name, mutant.caught_by.told()));
        let (verdict, told) = bench.try_one(mutant.caught_by, Some(mutant.name))?;
        let caught = verdict == Some(Exit::Violated);
        tell(&format!("{} {}: {}", mutant.name, if caught { "caught" } else { "MISSED" }, told.join("; ")));
        findings.push(Finding { mutant: mutant.name, breaks: mutant.breaks, caught, told });
    }
    Ok(findings)
}

impl Catcher {
    pub fn told(self) -> String {
        match self {
            Self::Experiment(name) => format!("experiment {name}"),
            Self::Simulation("") => format!("{SEEDS} seeds of sim"),
            Self::Simulation(kind) => format!("{SEEDS} seeds of sim {kind}"),
            Self::Tests { package, names } => format!("tests of {package} named {names}"),
        }
    }
}

/// Ends of output that say what went wrong.
const TOLD_LINES: usize = 3;

impl Bench {
    fn build(seed: u64, tell: &mut impl FnMut(&str)) -> Result<Self, MutantsError> {
        let io = |what| move |source| MutantsError::Io { what, source };
        let target = std::env::current_dir().map_err(io("in this folder"))?.join("target/mutants");
        tell("building the program with its mutants; the first time takes minutes");
        let [holdfast, chaos] = ["holdfast", "holdfast-chaos"].map(|name| target.join("debug").join(name));
        let bench = Self { holdfast, chaos, runs: target.join("runs"), target, seed };
        let built = bench.cargo(&["build", "-p", "cli", "-p", "chaos"]).status().map_err(io("cargo"))?;
        if !built.success() {
            return Err(MutantsError::Build);
        }
        // What earlier ones have left.
        let _none = fs::remove_dir_all(&bench.runs);
        Ok(bench)
    }

    fn cargo(&self, words: &[&str]) -> Command {
        let mut cargo = Command::new("cargo");
        // Simulations of tasks take the second: see the crate `simulation`.
        let flags = "--cfg holdfast_mutants --cfg tokio_unstable";
        cargo.args(words).env("CARGO_TARGET_DIR", &self.target).env("RUSTFLAGS", flags);
        cargo
    }

    /// What a catcher says of the program with this mutant, or with none.
    fn try_one(
        &self,
        catcher: Catcher,
        mutant: Option<&str>,
    ) -> Result<(Option<Exit>, Vec<String>), MutantsError> {
        match catcher {
            Catcher::Experiment(name) => self.experiment(name, mutant),
            Catcher::Simulation(kind) => self.simulation(kind, mutant),
            Catcher::Tests { package, names } => self.tests(package, names, mutant),
        }
    }

    /// In a process of its own, from which the agents have their environment.
    fn experiment(
        &self,
        name: &str,
        mutant: Option<&str>,
    ) -> Result<(Option<Exit>, Vec<String>), MutantsError> {
        let io = |source| MutantsError::Io { what: "an experiment", source };
        let out = self.runs.join(mutant.unwrap_or("none")).join(name);
        let mut run = Command::new(std::env::current_exe().map_err(io)?);
        run.arg("run").arg(format!("chaos/experiments/mutants/{name}.toml"));
        run.args(["--seed", &self.seed.to_string(), "--holdfast"]).arg(&self.holdfast).arg("--out").arg(&out);
        let ended = environment(run, mutant).stdin(Stdio::null()).output().map_err(io)?;
        let exit = ended.status.code().and_then(Exit::of);
        let told = match violated(&out) {
            checks if !checks.is_empty() => checks,
            _ => last_lines(&ended.stderr),
        };
        Ok((exit, told))
    }

    fn simulation(
        &self,
        kind: &str,
        mutant: Option<&str>,
    ) -> Result<(Option<Exit>, Vec<String>), MutantsError> {
        let io = |source| MutantsError::Io { what: "a simulation", source };
        let mut sim = Command::new(&self.chaos);
        sim.args(["sim", "--json", "--seeds", SEEDS]).args(Some(kind).filter(|kind| !kind.is_empty()));
        let ended = environment(sim, mutant).stdin(Stdio::null()).output().map_err(io)?;
        let exit = ended.status.code().and_then(Exit::of);
        let told = match broken(&String::from_utf8_lossy(&ended.stdout)) {
            seeds if !seeds.is_empty() => seeds,
            _ => last_lines(&ended.stderr),
        };
        Ok((exit, told))
    }

    fn tests(
        &self,
        package: &str,
        names: &str,
        mutant: Option<&str>,
    ) -> Result<(Option<Exit>, Vec<String>), MutantsError> {
        let io = |source| MutantsError::Io { what: "cargo", source };
        // Built before, so that a build that fails is not taken for a test that does.
        let words = ["test", "-p", package, "--no-run", "--quiet"];
        if !self.cargo(&words).stderr(Stdio::null()).status().map_err(io)?.success() {
            return Err(MutantsError::Build);
        }
        let test = self.cargo(&["test", "-p", package, "--no-fail-fast", "--", names]);
        let ended = environment(test, mutant).stdin(Stdio::null()).output().map_err(io)?;
        let text = String::from_utf8_lossy(&ended.stdout);
        let tried = text.lines().filter(|line| line.starts_with("test ") && line.contains(" ... ")).count();
        let failed = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        let failed: Vec<String> = failed.map(str::to_owned).collect();
        let exit = match (tried, ended.status.success()) {
            // Nobody looked.
            (0, _) => Exit::Inconclusive,
            (_, true) => Exit::Kept,
            (_, false) if failed.is_empty() => Exit::Harness,
            (_, false) => Exit::Violated,
        };
        let told = if failed.is_empty() { vec![format!("{tried} tests pass")] } else { failed };
        Ok((Some(exit), told))
    }
}

fn environment(mut command: Command, mutant: Option<&str>) -> Command {
    match mutant {
        Some(name) => command.env("HOLDFAST_MUTANT", name),
        None => command.env_remove("HOLDFAST_MUTANT"),
    };
    command
}

/// The checks that found something, with the first thing that they found.
fn violated(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("verdict.json")).unwrap_or_default();
    let verdict: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let findings = verdict["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let violated = findings.iter().filter(|finding| finding["verdict"] == "violated");
    violated
        .map(|finding| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text(&finding["check"]), text(&finding["violations"][0]))
        })
        .collect()
}

/// The first seeds that have broken a promise, and which.
fn broken(lines: &str) -> Vec<String> {
    let seeds = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let broken = seeds.filter_map(|seed| {
        let first = seed["violations"].get(0)?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Some(format!("seed {}: {}: {}", seed["seed"], text(&first["invariant"]), text(&first["what"])))
    });
    broken.take(TOLD_LINES).collect()
}

fn last_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().rev().take(TOLD_LINES).collect();
    lines.into_iter().rev().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The points at which the product asks whether a mutant is to live.
    fn points() -> BTreeSet<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut folders = ["node", "balancer", "cli", "proto"].map(|name| root.join(name)).to_vec();
        let mut points = BTreeSet::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    let names = text.split("mutation::is(\"").skip(1);
                    points.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
                }
            }
        }
        points
    }

    #[test]
    fn every_mutant_lives_somewhere_and_somebody_must_catch_it() {
        let listed: BTreeSet<String> = MUTANTS.iter().map(|mutant| mutant.name.to_owned()).collect();
        assert_eq!(listed, points());
        assert!(listed.len() >= 12, "{}", listed.len());
        let catches: BTreeSet<_> = MUTANTS.iter().map(|mutant| (mutant.name, mutant.caught_by)).collect();
        assert_eq!(catches.len(), MUTANTS.len());
        for mutant in MUTANTS {
            if let Catcher::Experiment(name) = mutant.caught_by {
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/mutants");
                let loaded = crate::experiment::Experiment::load(&folder.join(format!("{name}.toml")));
                assert!(loaded.is_ok(), "{name}: {loaded:?}");
            }
        }
    }
}
