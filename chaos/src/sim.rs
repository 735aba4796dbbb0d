//! Many simulated farms, one a seed, on all cores.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use simulation::{Outcome, Settings};

use crate::args::Sim;
use crate::report::Exit;

/// Servers of a farm when nobody says how many.
const NODES: std::ops::RangeInclusive<usize> = 2..=12;
/// The same where groups of three or five are to be.
const NODES_OF_GROUPS: std::ops::RangeInclusive<usize> = 3..=7;

/// Runs the seeds, and tells of each in turn.
pub fn run(wish: &Sim) -> ExitCode {
    if (wish.groups || wish.control) && !CAN_SEED_TASKS {
        eprintln!("error: this build can not simulate that: its tasks take their turns by chance");
        eprintln!(
            "  RUSTFLAGS=\"--cfg tokio_unstable\" cargo build --release -p chaos --target-dir target/seeded"
        );
        return Exit::Harness.into();
    }
    let simulated = match &wish.trace {
        Some(path) => traced(wish, path).map(|outcome| tell(&outcome, wish)),
        None => all(wish),
    };
    match simulated {
        Ok(0) => ExitCode::SUCCESS,
        Ok(broken) => {
            eprintln!("{broken} of {} seeds have broken a promise", wish.seeds);
            Exit::Violated.into()
        }
        Err(error) => {
            eprintln!("error: the simulation can not be written down: {error}");
            Exit::Harness.into()
        }
    }
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
            waiting.insert(done, outcome?);
            while let Some(outcome) = waiting.remove(&number) {
                broken += tell(&outcome, wish);
                number += 1;
            }
        }
        Ok(broken)
    })
}

/// One if it has broken a promise.
fn tell(outcome: &Outcome, wish: &Sim) -> u64 {
    if wish.json {
        println!("{}", serde_json::json!(outcome));
    } else {
        let Outcome { seed, nodes, trace, events, rested_ms, violations } = outcome;
        let word = if violations.is_empty() { "kept" } else { "BROKEN" };
        println!(
            "seed {seed}  trace {trace:016x}  {nodes} nodes, {events} events, at rest after {rested_ms} ms, {word}"
        );
        for violation in violations {
            println!("  {} at {} ms: {}", violation.invariant, violation.at_ms, violation.what);
        }
        if !violations.is_empty() {
            let kind = match (wish.groups, wish.control) {
                (true, _) => "--groups ",
                (false, true) => "--control ",
                (false, false) => "",
            };
            println!("  again: holdfast-chaos sim {kind}--seed {seed} --nodes {nodes} --trace trace.txt");
        }
    }
    u64::from(!outcome.violations.is_empty())
}
