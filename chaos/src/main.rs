//! The `holdfast-chaos` program.
//!
//! ```text
//!   args ──> check ──> History (JSON lines) ──> one checker per promise ──> Report
//!        ├─> doctor ─> one probe per fault ──> Lab: what was made, and how it is undone
//!        └─> run ────> Farm on Hosts, Workload, faults ──> Journal (a history) ──> check
//! ```
//!
//! A history is all that a checker sees: whoever has one, of whatever farm, can have it judged.

mod abort;
mod acts;
mod app;
mod args;
mod cgroup;
mod check;
mod command;
mod disk;
mod doctor;
mod experiment;
mod farm;
mod fault;
mod history;
mod journal;
mod lab;
mod method;
mod mutants;
mod network;
mod observer;
mod output;
mod page;
mod pressure;
mod programs;
mod releases;
mod report;
mod run;
mod sim;
mod switch;
mod workload;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use args::{Line, Verb};
use output::{note, say};
use programs::Programs;
use report::Exit;

fn main() -> ExitCode {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // Help and version are errors to clap as well. Nothing is left to do when even that can not
            // be written.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Harness.code()));
        }
    };
    obey(line.verb).unwrap_or_else(|error| output::unsaid(&error))
}

/// # Errors
/// When what it has to say can not be written.
fn obey(verb: Verb) -> io::Result<ExitCode> {
    match verb {
        Verb::Check { history, json } => check(&history, json),
        Verb::Doctor { json } => doctor(json),
        Verb::App { served, text } => match app::run(app::Wish { served, text }) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                note!("error: {error}");
                Ok(Exit::Harness.into())
            }
        },
        Verb::Guard { pid, start } => match lab::root().and_then(|root| lab::guard(&root, pid, start)) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => Ok(failed("clean up", &error)),
        },
        Verb::Mutants { names, list, seed, json } => mutants(&names, list, seed, json),
        Verb::Report { folder, out } => {
            let out = out.unwrap_or_else(|| folder.join(PAGE));
            match run::write_page(&folder, &out, None) {
                Ok(()) => {
                    say!("{}", out.display())?;
                    Ok(ExitCode::SUCCESS)
                }
                Err(error) => {
                    note!("error: can not make a page of {}: {error}", folder.display());
                    Ok(Exit::Harness.into())
                }
            }
        }
        Verb::Replay { folder, out, programs } => replay(&folder, out, programs),
        Verb::Sim(wish) => sim::run(&wish),
        Verb::Clean => clean(),
        Verb::Run(wish) => run(wish),
    }
}

fn doctor(json: bool) -> io::Result<ExitCode> {
    let mut said = Ok(());
    let tell = |finding: &doctor::Finding| {
        // Once there is no reader, nothing more is said.
        if !json && said.is_ok() {
            said = output::text(&finding.text());
        }
    };
    tidy_up();
    match lab::root().and_then(|root| doctor::run(&root, tell)) {
        Ok(findings) => {
            said?;
            if json {
                say!("{}", serde_json::json!({ "faults": findings }))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(failed("examine this machine", &error)),
    }
}

fn run(wish: args::Run) -> io::Result<ExitCode> {
    let experiment = match experiment::Experiment::load(&wish.experiment) {
        Ok(experiment) => experiment,
        Err(error) => {
            note!("error: can not run {}: {error}", wish.experiment.display());
            note!("  chaos/experiments/ has some that can be run");
            return Ok(Exit::Harness.into());
        }
    };
    // Told at once: whatever becomes of this run, it can be done again.
    let drawn = || {
        let seed = rand::random();
        note!("seed {seed}");
        seed
    };
    let seed = wish.seed.unwrap_or_else(drawn);
    let out = wish.out.unwrap_or_else(|| PathBuf::from(format!("chaos-{seed}")));
    let loopback = wish.loopback || !lab::is_root();
    if !wish.loopback && loopback {
        note!("on this machine's loopback, as namespaces need root");
    }
    match Programs::find(&wish.programs, None) {
        Ok(programs) => carry_out(&experiment, seed, out, programs, loopback),
        Err(error) => Ok(no_program(&error)),
    }
}

fn no_program(error: &programs::ProgramError) -> ExitCode {
    note!("error: there is nothing to be tested: {error}");
    note!("  --holdfast names the program, and --other another version of it");
    Exit::Harness.into()
}

fn replay(folder: &std::path::Path, out: Option<PathBuf>, programs: args::Programs) -> io::Result<ExitCode> {
    let plan = match run::Planned::load(folder) {
        Ok(plan) => plan,
        Err(error) => {
            note!("error: can not do again what {} has done: {error}", folder.display());
            note!("  it has to be the folder of a run, with its plan.json");
            return Ok(Exit::Harness.into());
        }
    };
    let again = || {
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push("-again");
        folder.with_file_name(name)
    };
    let programs = match Programs::find(&programs, plan.programs.as_ref()) {
        Ok(programs) => programs,
        Err(error) => return Ok(no_program(&error)),
    };
    for words in plan.programs.iter().flat_map(|before| programs.changed(before)) {
        note!("warning: {words}");
    }
    carry_out(&plan.experiment, plan.seed, out.unwrap_or_else(again), programs, plan.loopback)
}

fn carry_out(
    experiment: &experiment::Experiment,
    seed: u64,
    out: PathBuf,
    programs: Programs,
    loopback: bool,
) -> io::Result<ExitCode> {
    let wish = run::Wish { experiment, seed, folder: out.clone(), programs, loopback, stop: Arc::default() };
    for signal in [SIGINT, SIGTERM] {
        // A second one ends it at once, and leaves the rest to `clean`.
        let registered = flag::register_conditional_default(signal, Arc::clone(&wish.stop))
            .and_then(|_| flag::register(signal, Arc::clone(&wish.stop)));
        if let Err(error) = registered {
            note!("warning: a signal will leave things behind: {error}");
        }
    }
    tidy_up();
    note!("{}: {}", experiment.name, experiment.steady_state);
    match run::run(&wish, |doing| note!("{doing}")) {
        Ok(report) => {
            let mut text = report.text();
            text += &format!("history: {}\n", out.join("history.jsonl").display());
            match run::write_page(&out, &out.join(PAGE), Some(&report)) {
                Ok(()) => text += &format!("report: {}\n", out.join(PAGE).display()),
                Err(error) => note!("warning: no page was made: {error}"),
            }
            output::conclude(output::text(&text), report.exit())
        }
        Err(error) => {
            note!("error: there is no verdict: {error}");
            if !error.has_left_nothing() && out.exists() {
                note!("  {} keeps what there is; `holdfast-chaos clean` removes what is left", out.display());
                if out.join("history.jsonl").exists() {
                    note!("  `holdfast-chaos report {}` judges how far it came", out.display());
                }
            }
            let exit = match error {
                run::RunError::Aborted(_) => Exit::Aborted,
                run::RunError::Starved { .. } => Exit::Inconclusive,
                run::RunError::Taken { .. }
                | run::RunError::Room { .. }
                | run::RunError::Folder { .. }
                | run::RunError::Network(_)
                | run::RunError::Farm(_)
                | run::RunError::Lab(_)
                | run::RunError::History(_)
                | run::RunError::Clients(_)
                | run::RunError::Fault(_)
                | run::RunError::Absent(_) => Exit::Harness,
            };
            Ok(exit.into())
        }
    }
}

/// What others have left may be in the way, and what this one leaves must not be in others'.
fn tidy_up() {
    if let Err(error) = lab::keep_guard() {
        note!("warning: if this is killed, call `holdfast-chaos clean`: no guard can be started: {error}");
    }
    if let Err(error) = lab::root().and_then(|root| lab::clean(&root)) {
        note!("warning: what an earlier run has left can not be removed: {error}");
    }
}

/// Of a run, in its folder.
const PAGE: &str = "report.html";

fn mutants(names: &[String], list: bool, seed: u64, json: bool) -> io::Result<ExitCode> {
    if list {
        for mutant in mutants::MUTANTS {
            say!("{:<20}{}\n{:<20}{}", mutant.name, mutant.breaks, "", mutant.caught_by.told())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let findings = match mutants::run(names, seed, |doing| note!("{doing}")) {
        Ok(findings) => findings,
        Err(error) => {
            note!("error: the mutants were not tried: {error}");
            return Ok(Exit::Harness.into());
        }
    };
    let text = if json {
        format!("{}\n", serde_json::json!({ "mutants": findings }))
    } else {
        findings.iter().map(mutants::Finding::text).collect()
    };
    let all = findings.iter().all(|finding| finding.caught);
    output::conclude(output::text(&text), if all { Exit::Kept } else { Exit::Violated })
}

fn clean() -> io::Result<ExitCode> {
    match lab::root().and_then(|root| lab::clean(&root)) {
        Ok(0) => say!("nothing was left")?,
        Ok(1) => say!("removed what one run had left")?,
        Ok(count) => say!("removed what {count} runs had left")?,
        Err(error) => return Ok(failed("clean up", &error)),
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(what: &str, error: &lab::LabError) -> ExitCode {
    note!("error: can not {what}: {error}");
    note!("  `holdfast-chaos clean`, as the same user, tries to remove what is left");
    Exit::Harness.into()
}

fn check(path: &std::path::Path, json: bool) -> io::Result<ExitCode> {
    let history = match history::read(path) {
        Ok(history) => history,
        Err(error) => {
            note!("error: can not judge {}: {error}", path.display());
            note!("  the format is told by `holdfast-chaos check --help`");
            return Ok(Exit::Harness.into());
        }
    };
    let report = check::all(&history);
    let text = if json { report.json() + "\n" } else { report.text() };
    output::conclude(output::text(&text), report.exit())
}
