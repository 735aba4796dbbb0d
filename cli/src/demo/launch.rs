//! Agents as processes: each in a group of its own, so that Ctrl-C in the terminal reaches this
//! program alone, and with nothing of the caller open.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::process::{Child, Command};

use super::farm::FarmNode;
use crate::failure::Failure;

/// Of a log that explains an end, the last words.
const LAST_WORDS_BYTES: u64 = 2_048;

/// An agent that is no more.
#[derive(Debug)]
pub struct Ended {
    pub node: String,
    pub pid: u32,
    pub status: io::Result<ExitStatus>,
}

/// The agents that this process has started and that still run.
pub struct Agents {
    program: PathBuf,
    ends: FuturesUnordered<BoxFuture<'static, Ended>>,
}

impl Agents {
    pub fn new() -> Result<Self, Failure> {
        Ok(Self { program: program()?, ends: FuturesUnordered::new() })
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts the agent of `node` and tells its pid.
    pub fn launch(&mut self, node: &FarmNode) -> Result<u32, Failure> {
        let child = spawn(&self.program, node).map_err(|error| {
            Failure::failed(
                format!("can not start the agent of {}: {error}", node.name),
                "look at this user's limits (ulimit -a) and at the disk",
            )
        })?;
        let pid = child.id().unwrap_or_default();
        self.ends.push(Box::pin(end_of(child, node.name.clone(), pid)));
        Ok(pid)
    }

    /// The next agent that ends; never, while none runs.
    pub async fn next_end(&mut self) -> Ended {
        match self.ends.next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }
}

/// This program: one binary is all there is.
pub fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::failed(format!("can not find this program: {error}"), "is /proc mounted?"))
}

/// Where an agent of the farm logs.
pub fn log_path(node: &FarmNode) -> PathBuf {
    node.config.with_file_name("agent.log")
}

/// The last line that an agent has logged.
pub fn last_words(node: &FarmNode) -> String {
    let read = || -> io::Result<String> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut file = File::open(log_path(node))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
        let mut tail = Vec::new();
        file.take(LAST_WORDS_BYTES).read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).into_owned())
    };
    let tail = read().unwrap_or_default();
    // A failure is two lines; the first says what failed.
    let lines: Vec<&str> = tail.lines().filter(|line| !line.trim().is_empty()).collect();
    let error = lines.iter().rev().find(|line| line.contains("error:"));
    error.or(lines.last()).map_or_else(|| "it said nothing".to_owned(), |line| (*line).to_owned())
}

fn spawn(program: &Path, node: &FarmNode) -> io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(log_path(node))?;
    let mut command = Command::new(program);
    command.arg("agent").arg("--config").arg(&node.config);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    if let Some(home) = node.config.parent() {
        command.current_dir(home);
    }
    // Settings of the caller's own agent are not for these.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("HOLDFAST_") && name_text != "HOLDFAST_LOG" {
            command.env_remove(&name);
        }
    }
    command.spawn()
}

async fn end_of(mut child: Child, node: String, pid: u32) -> Ended {
    Ended { node, pid, status: child.wait().await }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::farm::Farm;

    #[test]
    fn the_last_words_of_a_log_are_the_error_and_not_the_advice() {
        let dir = tempfile::tempdir().unwrap();
        let json = serde_json::json!({"cluster_id": "", "nodes": [{
            "name": "n", "zone": "a", "pid": 0, "data_dir": "", "socket": "",
            "config": dir.path().join("agent.toml"),
            "gossip": "127.0.0.1:1", "peer": "127.0.0.1:1", "admin": "127.0.0.1:1",
            "resp": "127.0.0.1:1", "http": "127.0.0.1:1", "https": "127.0.0.1:1",
        }]});
        let farm: Farm = serde_json::from_value(json).unwrap();
        assert_eq!(last_words(&farm.nodes[0]), "it said nothing");
        std::fs::write(log_path(&farm.nodes[0]), "INFO starting\nerror: port taken\n  end it\n").unwrap();
        assert_eq!(last_words(&farm.nodes[0]), "error: port taken");
    }
}
