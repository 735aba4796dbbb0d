//! What each verb does. A leaf per family; the choice among them is here.

pub mod agent;
pub mod apps;
mod cache;
mod controller;
pub mod deploy;
pub mod join;
mod members;
mod session;
pub mod status;
pub mod token;
pub mod upload;

use std::path::PathBuf;

use tonic::transport::Channel;

use crate::args::{Global, Line, Verb};
use crate::demo;
use crate::failure::Failure;
use crate::local;
use crate::shop;

/// Carries out what was typed.
pub fn run(line: Line) -> Result<(), Failure> {
    match line.verb {
        Verb::Demo(options) => demo::run(options),
        Verb::SampleShop => shop::run(),
        Verb::Agent { config, set } => agent::run(config.as_deref(), &set),
        Verb::ExecInstance { arguments } => Err(agent::exec_instance(&arguments)),
        Verb::Init { config, form } => join::run_init(config.as_deref(), form),
        Verb::Join(line) => join::run_join(&line),
        verb @ (Verb::Status(_)
        | Verb::Members(_)
        | Verb::Controller(_)
        | Verb::Apps(_)
        | Verb::Ps { .. }
        | Verb::Deploy { .. }
        | Verb::Rollback { .. }
        | Verb::Cache(_)
        | Verb::Session(_)
        | Verb::Token(_)) => call(line.global, verb),
    }
}

/// The verbs that are a call to the local agent.
fn call(global: Global, verb: Verb) -> Result<(), Failure> {
    let socket = local::socket(global.socket);
    runtime()?.block_on(dispatch(socket, verb))
}

async fn dispatch(socket: PathBuf, verb: Verb) -> Result<(), Failure> {
    let channel: Channel = local::connect(&socket).await?;
    match verb {
        Verb::Status(form) => status::show(channel, form).await,
        Verb::Members(form) => members::show(channel, form).await,
        Verb::Controller(form) => controller::show(channel, form).await,
        Verb::Apps(form) => apps::show(channel, form).await,
        Verb::Ps { app, form } => apps::instances(channel, app, form).await,
        Verb::Deploy { dir, version, follow } => deploy::deploy(channel, &dir, version, follow).await,
        Verb::Rollback { app, version, follow } => deploy::rollback(channel, app, version, follow).await,
        Verb::Cache(verb) => cache::run(channel, verb).await,
        Verb::Session(verb) => session::run(channel, verb).await,
        Verb::Token(verb) => token::run(channel, verb).await,
        Verb::Demo(_)
        | Verb::Agent { .. }
        | Verb::Init { .. }
        | Verb::Join(_)
        | Verb::ExecInstance { .. }
        | Verb::SampleShop => unreachable!("these do not call an agent"),
    }
}

/// One thread is enough for a verb: it waits for one answer at a time.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::failed(format!("can not start: {error}"), "look at this user's limits (ulimit -a)")
    })
}
