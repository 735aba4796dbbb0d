//! The `holdfast-chaos` program.
//!
//! ```text
//!   args ──> check ──> History (JSON lines) ──> one checker per promise ──> Report
//! ```
//!
//! A history is all that a checker sees: whoever has one, of whatever farm, can have it judged.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal prints")]

mod args;
mod check;
mod history;
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
    }
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
