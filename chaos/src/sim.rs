//! Many simulated farms, one a seed, on all cores: a thread each, as one shares nothing with another, and what
//! panics is caught where it is simulated.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use simulation::{Outcome, Settings};

use crate::args::Sim;
use crate::output::{self, note};
use crate::report::Exit;

/// Servers of a farm when nobody says how many.
const NODES: std::ops::RangeInclusive<usize> = 2..=12;
/// The same where groups of three or five are to be.
const NODES_OF_GROUPS: std::ops::RangeInclusive<usize> = 3..=7;

/// Runs the seeds, and tells of each in turn.
///
/// # Errors
/// When a simulation can not be made, or what became of it not be written.
pub fn run(wish: &Sim) -> io::Result<ExitCode> {
    if (wish.groups || wish.control) && !CAN_SEED_TASKS {
        note!("error: this build can not simulate that: its tasks take their turns by chance");
        note!(
            "  RUSTFLAGS=\"--cfg tokio_unstable\" cargo build --release -p chaos --target-dir target/seeded"
        );
        return Ok(Exit::Harness.into());
    }
    let broken = match &wish.trace {
        Some(path) => match traced(wish, path) {
            Ok(outcome) => tell(&outcome, wish)?,
            Err(error) => {
                note!("error: the trace can not be written to {}: {error}", path.display());
                return Ok(Exit::Harness.into());
            }
        },
        None => all(wish)?,
    };
    if broken == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    note!("{broken} of {} seeds have broken a promise", wish.seeds);
    Ok(Exit::Violated.into())
}

/// Whether the branches of `select!` can be chosen by a seed, which tokio offers to some builds only.
const CAN_SEED_TASKS: bool = cfg!(tokio_unstable);

fn settings(wish: &Sim, seed: u64) -> Settings {
    let nodes = if wish.groups || wish.control { NODES_OF_GROUPS } else { NODES };
    // Not the numbers that the farm itself draws.
    let drawn = || StdRng::seed_from_u64(!seed).random_range(nodes);
    Settings { seed, nodes: wish.nodes.map_or_else(drawn, usize::from) }
}

fn simulate(wish: &Sim, seed: u64, out: Option<&mut dyn Write>) -> io::Result<Outcome> {
    let settings = settings(wish, seed);
    #[cfg(tokio_unstable)]
    if wish.groups {
        return simulation::groups::run(&settings, out);
    }
    #[cfg(tokio_unstable)]
    if wish.control {
        return simulation::control::run(&settings, out);
    }
    simulation::run(&settings, out)
}

fn traced(wish: &Sim, path: &std::path::Path) -> io::Result<Outcome> {
    let mut out = BufWriter::new(File::create(path)?);
    let outcome = simulate(wish, wish.seed, Some(&mut out))?;
    out.flush()?;
    Ok(outcome)
}

fn unmade(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("can not simulate: {error}"))
}

/// How many have broken a promise.
fn all(wish: &Sim) -> io::Result<u64> {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (tells, told) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            let (tells, next) = (tells.clone(), &next);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= wish.seeds {
                        return;
                    }
                    let outcome = simulate(wish, wish.seed.wrapping_add(number), None);
                    if tells.send((number, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tells);
        // In the order of the seeds, so that two runs can be compared byte for byte.
        let mut waiting = std::collections::BTreeMap::new();
        let (mut number, mut broken) = (0, 0);
        for (done, outcome) in told {
            waiting.insert(done, outcome.map_err(unmade)?);
            while let Some(outcome) = waiting.remove(&number) {
                broken += tell(&outcome, wish)?;
                number += 1;
            }
        }
        Ok(broken)
    })
}

/// One if it has broken a promise.
fn tell(outcome: &Outcome, wish: &Sim) -> io::Result<u64> {
    let text = if wish.json {
        format!("{}\n", serde_json::json!(outcome))
    } else {
        let Outcome { seed, nodes, trace, events, rested_ms, violations } = outcome;
        let word = if violations.is_empty() { "kept" } else { "BROKEN" };
        let mut text = format!(
            "seed {seed}  trace {trace:016x}  {nodes} nodes, {events} events, at rest after {rested_ms} ms, {word}\n"
        );
        for violation in violations {
            text += &format!("  {} at {} ms: {}\n", violation.invariant, violation.at_ms, violation.what);
        }
        if !violations.is_empty() {
            let kind = match (wish.groups, wish.control) {
                (true, _) => "--groups ",
                (false, true) => "--control ",
                (false, false) => "",
            };
            text += &format!(
                "  again: holdfast-chaos sim {kind}--seed {seed} --nodes {nodes} --trace trace.txt\n"
            );
        }
        text
    };
    output::text(&text)?;
    Ok(u64::from(!outcome.violations.is_empty()))
}
