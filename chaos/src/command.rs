//! Programs of this machine, run to their end.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Why a program did not do what it was for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{program} is not installed")]
    Absent { program: String },
    #[error("{program} can not be run: {source}")]
    Start { program: String, source: std::io::Error },
    #[error("{line}: {words}")]
    Failed { line: String, words: String },
}

/// Runs a program and returns what it printed. Each of them ends by itself within moments.
///
/// # Errors
/// See [`CommandError`].
pub fn run(program: &str, arguments: &[&str]) -> Result<String, CommandError> {
    // A terminal's Ctrl-C is for this tool alone: half of what a command makes is in nobody's list.
    let output = Command::new(program).args(arguments).process_group(0).output().map_err(|source| {
        let program = program.to_owned();
        if source.kind() == std::io::ErrorKind::NotFound {
            CommandError::Absent { program }
        } else {
            CommandError::Start { program, source }
        }
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let line = std::iter::once(program).chain(arguments.iter().copied()).collect::<Vec<_>>().join(" ");
    let words = if words.is_empty() { output.status.to_string() } else { words };
    Err(CommandError::Failed { line, words })
}
