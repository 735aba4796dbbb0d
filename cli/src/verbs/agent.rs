//! `holdfast agent`, and the hidden verb by which an agent starts an instance.

use std::ffi::OsString;
use std::path::Path;

use node::agent::AgentError;
use node::config::Config;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// What is logged: a tracing filter such as `debug` or `info,node::control=trace`.
const LOG_VARIABLE: &str = "HOLDFAST_LOG";

/// What an operator reads. openraft tells of every heartbeat of every group, warns of what elections
/// do in passing, and calls each attempt to reach a dead node an error, some eighty a second; what
/// matters of all that is told by the parts that use it.
const DEFAULT_LOG: &str = "info,openraft=error,openraft::replication=off";

/// Runs the agent of this server until it is told to stop.
pub fn run(config: Option<&Path>, sets: &[String]) -> Result<(), Failure> {
    let wanted = std::env::var(LOG_VARIABLE).ok().filter(|filter| !filter.is_empty());
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or(DEFAULT_LOG)).map_err(|error| {
        Failure::usage(format!("can not use {LOG_VARIABLE}: {error}"), "try HOLDFAST_LOG=debug")
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let config = load(config, sets, variables())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("agent").build();
    let runtime = runtime.map_err(|error| {
        Failure::failed(format!("can not start threads: {error}"), "look at this user's limits (ulimit -a)")
    })?;
    runtime.block_on(node::agent::run(config)).map_err(|error| failure(&error))
}

/// Becomes an instance's program; returns only when that is impossible.
pub fn exec_instance(arguments: &[OsString]) -> Failure {
    let error = node_apps::exec_instance(arguments);
    Failure::failed(format!("can not become the instance: {error}"), "look at [run] in holdfast.toml")
}

/// The settings of this server. `config` must exist when it is named.
pub fn load(
    config: Option<&Path>,
    sets: &[String],
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, Failure> {
    Config::load(config, sets, environment).map_err(|error| {
        Failure::usage(
            format!("can not use the settings: {error}"),
            "correct the file, the variable or the flag",
        )
    })
}

/// The environment as far as it is text: what is not can not be a setting, and must not panic.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn failure(error: &AgentError) -> Failure {
    let advice = match error {
        AgentError::Identity(_) => {
            "make it a member first: `holdfast init`, or `holdfast join TOKEN@HOST:PORT`"
        }
        AgentError::Bind { .. } => "end the program that has the port, or choose another in the settings",
        error if error.has_lost_data() => {
            "under its identity it would forget what it has confirmed: move the whole data folder aside and make \
             the server a new member with `holdfast join TOKEN@HOST:PORT`"
        }
        AgentError::Storage { .. } | AgentError::Gone { .. } | AgentError::Socket(_) => {
            "look at the folder's owner and at the disk; only one agent may use it"
        }
        AgentError::Security(_) => "look at the certificates in the data folder's `identity`",
        AgentError::Start { .. } | AgentError::Signals(_) | AgentError::Fault(_) => {
            "the log above says what led to it"
        }
    };
    Failure::failed(format!("the agent ended: {error}"), advice)
}
