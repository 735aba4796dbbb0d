//! The `holdfast-chaos` program.
//!
//! ```text
//!   args ──> check ──> History (JSON lines) ──> one checker per promise ──> Report
//!        ├─> doctor ─> one probe per fault ──> Lab: what was made, and how it is undone
//!        └─> run ────> Farm on Hosts, Workload, faults ──> Journal (a history) ──> check
//! ```
//!
//! A history is all that a checker sees: whoever has one, of whatever farm, can have it judged.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal prints")]

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
mod page;
mod pressure;
mod programs;
mod releases;
mod report;
mod run;
mod sim;
mod switch;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use args::{Line, Verb};
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
    match line.verb {
        Verb::Check { history, json } => check(&history, json),
        Verb::Doctor { json } => doctor(json),
        Verb::App { served, text } => match app::run(app::Wish { served, text }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                Exit::Harness.into()
            }
        },
        Verb::Guard { pid, start } => match lab::root().and_then(|root| lab::guard(&root, pid, start)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed("clean up", &error),
        },
        Verb::Mutants { names, list, seed, json } => mutants(&names, list, seed, json),
        Verb::Report { folder, out } => {
            let out = out.unwrap_or_else(|| folder.join(PAGE));
            match run::write_page(&folder, &out, None) {
                Ok(()) => {
                    println!("{}", out.display());
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("error: can not make a page of {}: {error}", folder.display());
                    Exit::Harness.into()
                }
            }
        }
        Verb::Replay { folder, out, programs } => replay(&folder, out, programs),
        Verb::Sim(wish) => sim::run(&wish),
        Verb::Clean => clean(),
        Verb::Run(wish) => run(wish),
    }
}

fn doctor(json: bool) -> ExitCode {
    let tell = |finding: &doctor::Finding| {
        if json {
            return;
        }
        println!("{:<8}{:<20}{}", if finding.works { "works" } else { "absent" }, finding.fault, finding.how);
        if let (Some(reason), Some(instead)) = (&finding.reason, finding.instead) {
            println!("{:<28}{reason}\n{:<28}instead: {instead}", "", "");
        }
    };
    tidy_up();
    match lab::root().and_then(|root| doctor::run(&root, tell)) {
        Ok(findings) => {
            if json {
                println!("{}", serde_json::json!({ "faults": findings }));
            }
            ExitCode::SUCCESS
        }
        Err(error) => failed("examine this machine", &error),
    }
}

fn run(wish: args::Run) -> ExitCode {
    let experiment = match experiment::Experiment::load(&wish.experiment) {
        Ok(experiment) => experiment,
        Err(error) => {
            eprintln!("error: can not run {}: {error}", wish.experiment.display());
            eprintln!("  chaos/experiments/ has some that can be run");
            return Exit::Harness.into();
        }
    };
    // Told at once: whatever becomes of this run, it can be done again.
    let drawn = || {
        let seed = rand::random();
        eprintln!("seed {seed}");
        seed
    };
    let seed = wish.seed.unwrap_or_else(drawn);
    let out = wish.out.unwrap_or_else(|| PathBuf::from(format!("chaos-{seed}")));
    let loopback = wish.loopback || !lab::is_root();
    if !wish.loopback && loopback {
        eprintln!("on this machine's loopback, as namespaces need root");
    }
    match Programs::find(&wish.programs, None) {
        Ok(programs) => carry_out(&experiment, seed, out, programs, loopback),
        Err(error) => no_program(&error),
    }
}

fn no_program(error: &programs::ProgramError) -> ExitCode {
    eprintln!("error: there is nothing to be tested: {error}");
    eprintln!("  --holdfast names the program, and --other another version of it");
    Exit::Harness.into()
}

fn replay(folder: &std::path::Path, out: Option<PathBuf>, programs: args::Programs) -> ExitCode {
    let plan = match run::Planned::load(folder) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("error: can not do again what {} has done: {error}", folder.display());
            eprintln!("  it has to be the folder of a run, with its plan.json");
            return Exit::Harness.into();
        }
    };
    let again = || {
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push("-again");
        folder.with_file_name(name)
    };
    let programs = match Programs::find(&programs, plan.programs.as_ref()) {
        Ok(programs) => programs,
        Err(error) => return no_program(&error),
    };
    for words in plan.programs.iter().flat_map(|before| programs.changed(before)) {
        eprintln!("warning: {words}");
    }
    carry_out(&plan.experiment, plan.seed, out.unwrap_or_else(again), programs, plan.loopback)
}

fn carry_out(
    experiment: &experiment::Experiment,
    seed: u64,
    out: PathBuf,
    programs: Programs,
    loopback: bool,
) -> ExitCode {
    let wish = run::Wish { experiment, seed, folder: out.clone(), programs, loopback, stop: Arc::default() };
    for signal in [SIGINT, SIGTERM] {
        // A second one ends it at once, and leaves the rest to `clean`.
        let registered = flag::register_conditional_default(signal, Arc::clone(&wish.stop))
            .and_then(|_| flag::register(signal, Arc::clone(&wish.stop)));
        if let Err(error) = registered {
            eprintln!("warning: a signal will leave things behind: {error}");
        }
    }
    tidy_up();
    eprintln!("{}: {}", experiment.name, experiment.steady_state);
    match run::run(&wish, |doing| eprintln!("{doing}")) {
        Ok(report) => {
            print!("{}", report.text());
            println!("history: {}", out.join("history.jsonl").display());
            match run::write_page(&out, &out.join(PAGE), Some(&report)) {
                Ok(()) => println!("report: {}", out.join(PAGE).display()),
                Err(error) => eprintln!("warning: no page was made: {error}"),
            }
            report.exit().into()
        }
        Err(error) => {
            eprintln!("error: there is no verdict: {error}");
            if !error.has_left_nothing() && out.exists() {
                eprintln!(
                    "  {} keeps what there is; `holdfast-chaos clean` removes what is left",
                    out.display()
                );
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
            exit.into()
        }
    }
}

/// What others have left may be in the way, and what this one leaves must not be in others'.
fn tidy_up() {
    if let Err(error) = lab::keep_guard() {
        eprintln!(
            "warning: if this is killed, call `holdfast-chaos clean`: no guard can be started: {error}"
        );
    }
    if let Err(error) = lab::root().and_then(|root| lab::clean(&root)) {
        eprintln!("warning: what an earlier run has left can not be removed: {error}");
    }
}

/// Of a run, in its folder.
const PAGE: &str = "report.html";

fn mutants(names: &[String], list: bool, seed: u64, json: bool) -> ExitCode {
    if list {
        for mutant in mutants::MUTANTS {
            println!("{:<20}{}\n{:<20}{}", mutant.name, mutant.breaks, "", mutant.caught_by.told());
        }
        return ExitCode::SUCCESS;
    }
    let findings = match mutants::run(names, seed, |doing| eprintln!("{doing}")) {
        Ok(findings) => findings,
        Err(error) => {
            eprintln!("error: the mutants were not tried: {error}");
            return Exit::Harness.into();
        }
    };
    if json {
        println!("{}", serde_json::json!({ "mutants": findings }));
    } else {
        for finding in &findings {
            let word = if finding.caught { "caught" } else { "MISSED" };
            println!("{word:<8}{:<20}{}", finding.mutant, finding.told.first().map_or("", String::as_str));
        }
    }
    let all = findings.iter().all(|finding| finding.caught);
    if all { ExitCode::SUCCESS } else { Exit::Violated.into() }
}

fn clean() -> ExitCode {
    match lab::root().and_then(|root| lab::clean(&root)) {
        Ok(0) => println!("nothing was left"),
        Ok(1) => println!("removed what one run had left"),
        Ok(count) => println!("removed what {count} runs had left"),
        Err(error) => return failed("clean up", &error),
    }
    ExitCode::SUCCESS
}

fn failed(what: &str, error: &lab::LabError) -> ExitCode {
    eprintln!("error: can not {what}: {error}");
    eprintln!("  `holdfast-chaos clean`, as the same user, tries to remove what is left");
    Exit::Harness.into()
}

fn check(path: &std::path::Path, json: bool) -> ExitCode {
    let history = match history::read(path) {
        Ok(history) => history,
        Err(error) => {
            eprintln!("error: can not judge {}: {error}", path.display());
            eprintln!("  the format is told by `holdfast-chaos check --help`");
            return Exit::Harness.into();
        }
    };
    let report = check::all(&history);
    if json {
        println!("{}", report.json())
    } else {
        print!("{}", report.text())
    }
    report.exit().into()
}
