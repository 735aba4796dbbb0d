//! The `holdfast` program: the agent, everything an operator types, and the demonstration.
//!
//! One binary is all there is to install. Most verbs are a call or two to the agent of this server
//! over its unix socket; `agent` is that agent; `demo` starts a whole farm on one machine by the
//! same calls that an operator would type; `sample-shop` is the app which the demonstration deploys.
//!
//! ```text
//!  args ──> verbs ──> local (gRPC on the unix socket) ──> the agent
//!             │
//!             └─ demo ──> verbs ──> ...        a farm in processes of their own
//! ```
//!
//! Architecture Invariant: the verbs know the agent by its gRPC alone. What they print under
//! `--json` is the message that they got.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal prints")]

mod args;
mod demo;
mod failure;
mod local;
mod output;
mod progress;
mod shop;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let line = match args::Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // Help and version are errors to clap as well; it knows which stream and which code.
            // Nothing is left to do when even that can not be written.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match verbs::run(line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.report());
            failure.exit().into()
        }
    }
}
