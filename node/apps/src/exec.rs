//! The last step before an app's program runs: the agent's own binary, in the child process.
//!
//! What must be set in a process by itself, between its fork and its exec, would need `unsafe` in the
//! agent. So the agent starts itself under a hidden verb, which sets these things in plain code and
//! then becomes the program. Nothing of the agent is left in the process but its environment, its log
//! and its death signal.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};

/// Why the process could not become the instance's program.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("this is for the agent's own use: NOFILE PARENT PROGRAM [ARGUMENT...]")]
    Usage,
    #[error("the agent that started this instance is gone")]
    Orphaned,
    #[error("can not ask to be ended with the agent: {0}")]
    DeathSignal(#[source] io::Error),
    #[error("can not limit open files to {limit}: {source}")]
    Limit { limit: u64, source: io::Error },
    #[error("can not run {program:?}: {source}")]
    Exec { program: OsString, source: io::Error },
}

/// Becomes the program of an instance; returns only when that is impossible.
///
/// The arguments are those that [`crate::Supervisor`] gives: the limit of open files, the agent's
/// process id, the program and its arguments. The process is the leader of its group and stands in the
/// right folder already.
pub fn exec_instance(arguments: &[OsString]) -> ExecError {
    let [nofile, parent, program, rest @ ..] = arguments else { return ExecError::Usage };
    let (Some(nofile), Some(parent)) = (number(nofile), number(parent)) else { return ExecError::Usage };
    match prepare(nofile, parent) {
        Ok(()) => {
            let source = Command::new(program).args(rest).exec();
            ExecError::Exec { program: program.clone(), source }
        }
        Err(error) => error,
    }
}

fn number<N: std::str::FromStr>(text: &OsStr) -> Option<N> {
    text.to_str()?.parse().ok()
}

fn prepare(nofile: u64, parent: i32) -> Result<(), ExecError> {
    // The signal survives the exec. It comes when the thread that started this process ends, which is
    // why the supervisor has one thread for it that lives as long as the agent.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| ExecError::DeathSignal(error.into()))?;
    // The agent may have died before the signal was asked for; then it never comes.
    if getppid() != Pid::from_raw(parent) {
        return Err(ExecError::Orphaned);
    }
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = hard.map_or(nofile, |hard| nofile.min(hard));
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) })
        .map_err(|error| ExecError::Limit { limit, source: error.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_the_agent_does_not_give_are_refused() {
        for arguments in [&[][..], &["64", "1"], &["many", "1", "true"], &["64", "x", "true"]] {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            assert!(matches!(exec_instance(&arguments), ExecError::Usage), "{arguments:?}");
        }
    }
}
