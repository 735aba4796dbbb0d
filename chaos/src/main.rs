//! The `holdfast-chaos` program.
//!
//! ```text
//!   args ──> check ──> History (JSON lines) ──> one checker per promise ──> Report
//!        └─> doctor ─> one probe per fault ──> Lab: what was made, and how it is undone
//! ```
//!
//! A history is all that a checker sees: whoever has one, of whatever farm, can have it judged.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal prints")]

mod args;
mod cgroup;
mod check;
mod command;
mod doctor;
mod history;
mod lab;
mod report;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Line, Verb};
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
        Verb::Clean => clean(),
    }
}

fn doctor(json: bool) -> ExitCode {
    let tell = |finding: &doctor::Finding| {
        if json {
            return;
        }
        println!("{:<8}{:<16}{}", if finding.works { "works" } else { "absent" }, finding.fault, finding.how);
        if let (Some(reason), Some(instead)) = (&finding.reason, finding.instead) {
            println!("{:<24}{reason}\n{:<24}instead: {instead}", "", "");
        }
    };
    match doctor::run(&lab::root(), tell) {
        Ok(findings) => {
            if json {
                println!("{}", serde_json::json!({ "faults": findings }));
            }
            ExitCode::SUCCESS
        }
        Err(error) => failed("examine this machine", &error),
    }
}

fn clean() -> ExitCode {
    match lab::clean(&lab::root()) {
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
