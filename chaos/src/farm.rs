//! A farm of real agents on hosts of our own, driven as an operator would: by the `holdfast` program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command::{self, CommandError};
use crate::lab::{Lab, LabError, Thing, start_of};
use crate::network::Host;

/// Of every agent, on its own host.
pub const REDIS_PORT: u16 = 7404;
/// For a farm to form: some twenty raft groups on two busy cores.
const FORM_MAX: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(100);

pub struct Farm {
    holdfast: PathBuf,
    pub nodes: Vec<Node>,
}

pub struct Node {
    pub name: String,
    pub host: Host,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    /// The agent, while it runs.
    agent: Option<Child>,
}

/// Why the farm is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum FarmError {
    #[error("can not {what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("`holdfast {verb}` printed what is not understood: {text}")]
    Answer { verb: String, text: String },
    #[error("the farm was not whole within {} s; its status was {status}", limit.as_secs())]
    NotWhole { limit: Duration, status: String },
}

impl Farm {
    /// Starts one agent a host, in folders below `folder`, and waits until they are a whole farm.
    ///
    /// # Errors
    /// See [`FarmError`].
    pub fn start(lab: &mut Lab, hosts: Vec<Host>, folder: &Path, holdfast: &Path) -> Result<Self, FarmError> {
        let mut farm = Self { holdfast: holdfast.to_owned(), nodes: Vec::new() };
        let mut join = None;
        for (number, host) in hosts.into_iter().enumerate() {
            let node = Node::lay_out(folder, &format!("node-{}", number + 1), host)?;
            let config = node.config.to_string_lossy().into_owned();
            match &join {
                None => {
                    let told = farm.json_on(&node, &["init", "--config", &config, "--json"])?;
                    let line = told["join"].as_str().and_then(|line| line.strip_prefix("holdfast join "));
                    let answer = || FarmError::Answer { verb: "init".to_owned(), text: told.to_string() };
                    join = Some(line.ok_or_else(answer)?.to_owned());
                }
                Some(join) => {
                    farm.json_on(&node, &["join", join, "--config", &config, "--json"])?;
                }
            }
            farm.nodes.push(node);
            farm.start_agent(lab, number)?;
            farm.wait(FORM_MAX, |status| status["quorum"] == true)?;
        }
        farm.wait_whole(FORM_MAX)?;
        Ok(farm)
    }

    fn json_on(&self, node: &Node, words: &[&str]) -> Result<Value, FarmError> {
        let holdfast = self.holdfast.to_string_lossy();
        let on_host = ["netns", "exec", &node.host.name, &holdfast];
        let text = command::run("ip", &[&on_host[..], words].concat())?;
        serde_json::from_str(&text).map_err(|_| FarmError::Answer {
            verb: words.first().copied().unwrap_or_default().to_owned(),
            text,
        })
    }

    /// Starts an agent, for the first time or again.
    pub fn start_agent(&mut self, lab: &mut Lab, number: usize) -> Result<(), FarmError> {
        let node = &mut self.nodes[number];
        let file = |what, source| FarmError::File { what, path: node.log.clone(), source };
        let log = File::options().create(true).append(true).open(&node.log).map_err(|e| file("open", e))?;
        let mut agent = node.host.command(&self.holdfast.to_string_lossy());
        agent.args(["agent", "--config"]).arg(&node.config);
        let agent = agent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let agent = agent.map_err(|source| file("log to", source))?;
        if let Some(start) = start_of(agent.id()) {
            lab.note(Thing::Process { pid: agent.id(), start })?;
        }
        node.agent = Some(agent);
        Ok(())
    }

    /// kill -9.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut agent) = self.nodes[number].agent.take() {
            // It may have ended by itself, which the status will tell.
            let _ended = agent.kill();
            let _ended = agent.wait();
        }
    }

    /// SIGSTOP or SIGCONT.
    pub fn pause(&self, number: usize, paused: bool) {
        let pid = self.nodes[number].agent.as_ref().and_then(|agent| i32::try_from(agent.id()).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let signal = if paused { Signal::STOP } else { Signal::CONT };
            // It may have ended by itself, which the status will tell.
            let _ended = kill_process(pid, signal);
        }
    }

    pub fn agent_pid(&self, number: usize) -> Option<u32> {
        self.nodes[number].agent.as_ref().map(Child::id)
    }

    /// What the first node that answers says of the farm.
    fn status(&self) -> Result<Value, FarmError> {
        let mut last = None;
        for node in self.nodes.iter().filter(|node| node.agent.is_some()) {
            match self.json_on(node, &["--socket", &node.socket.to_string_lossy(), "status", "--json"]) {
                Ok(status) => return Ok(status),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(FarmError::Answer { verb: "status".to_owned(), text: String::new() }))
    }

    fn wait(&self, limit: Duration, is_so: impl Fn(&Value) -> bool) -> Result<Value, FarmError> {
        let began = Instant::now();
        loop {
            let status = self.status();
            if let Some(status) = status.as_ref().ok().filter(|status| is_so(status)) {
                return Ok(status.clone());
            }
            if began.elapsed() > limit {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(FarmError::NotWhole { limit, status });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until every node is ready and everything has all of its replicas.
    pub fn wait_whole(&self, limit: Duration) -> Result<(), FarmError> {
        let count = self.nodes.len();
        let whole = |status: &Value| {
            let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
            status["quorum"] == true
                && status["controller"]["node"] != ""
                && members.len() == count
                && members.iter().all(|member| member["state"] == "alive" && member["ready"] == true)
                && status["sessions"]["under_replicated"] == 0
                && status["sessions"]["unavailable"] == 0
        };
        self.wait(limit, whole).map(drop)
    }

    /// The place of the controller.
    pub fn controller(&self) -> Option<usize> {
        let status = self.status().ok()?;
        let name = status["controller"]["node"].as_str()?;
        self.nodes.iter().position(|node| node.name == name)
    }
}

impl Node {
    fn lay_out(folder: &Path, name: &str, host: Host) -> Result<Self, FarmError> {
        let home = folder.join(name);
        fs::create_dir_all(&home).map_err(|source| FarmError::File {
            what: "make",
            path: home.clone(),
            source,
        })?;
        let [config, socket, log] = ["agent.toml", "agent.sock", "agent.log"].map(|file| home.join(file));
        let address = host.address;
        let text = format!(
            "[node]\nname = \"{name}\"\nzone = \"a\"\ndata_dir = {data:?}\n\
             [network]\nbind = \"{address}\"\nadvertise = \"{address}\"\n\
             [api]\nsocket = {socket:?}\n\
             [resp]\nbind = \"127.0.0.1:{REDIS_PORT}\"\n\
             [balancer]\nhttp = [\"{address}:8080\"]\n",
            data = home.join("data"),
        );
        fs::write(&config, text).map_err(|source| FarmError::File {
            what: "write",
            path: config.clone(),
            source,
        })?;
        Ok(Self { name: name.to_owned(), host, config, socket, log, agent: None })
    }
}
