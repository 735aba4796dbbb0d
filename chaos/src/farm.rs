//! A farm of real agents on hosts of our own, driven as an operator would: by the `holdfast` program.

mod asker;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::abort::Watch;
use crate::command::CommandError;
use crate::disk::{Disk, DiskError};
use crate::lab::{Lab, LabError, Thing, start_of};
use crate::network::Host;
use asker::json;
pub use asker::{Asker, Instance};

/// What agents tell: as much as usual, and whom they obey, which is judged.
const LOG: &str = "info,openraft=error,openraft::replication=off,node::deploy::acts=debug";
/// Of every agent, on its own host.
pub const REDIS_PORT: u16 = 7404;
/// Of every agent's pages, on its own host.
const ADMIN_PORT: u16 = 7403;
/// Of every agent's balancer, on its host's address.
pub const HTTP_PORT: u16 = 8080;
/// For a farm to form: some twenty raft groups on two busy cores.
const FORM_MAX: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(100);
/// An agent's own patience with what does not end, and some.
const STOPS_WITHIN: Duration = Duration::from_secs(60);
/// For a new node to be admitted in place of one that is known to be gone.
const JOINS_WITHIN: Duration = Duration::from_secs(45);
/// For a rollout that is going on to come to its end.
const SETTLES_WITHIN: Duration = Duration::from_secs(45);
/// Between two starts of an agent that ends by itself.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Room for what a run stores, and for what the agents keep free for their logs. It is sparse.
const DISK_BYTES: u64 = 1 << 30;
/// How deep an agent's processes are looked for: itself, its instances, and what they have started.
const GENERATIONS: usize = 4;

/// Lines of a log that say why an agent has ended.
const LAST_WORDS: usize = 3;

pub struct Farm {
    holdfast: PathBuf,
    /// The program of another version, where there is one.
    other: Option<PathBuf>,
    pub nodes: Vec<Node>,
}

/// What a farm is made of.
pub struct Ground<'a> {
    pub hosts: Vec<Host>,
    /// Where the nodes' files are.
    pub folder: &'a Path,
    /// The program to be tested.
    pub holdfast: &'a Path,
    /// Another version of it.
    pub other: Option<&'a Path>,
    /// The nodes are dealt out over so many.
    pub zones: u8,
    /// Each has a disk of its own, whose power can be cut.
    pub disks: bool,
    /// Each has a wall clock of its own, by this library.
    pub clocks: Option<&'a Path>,
}

pub struct Node {
    pub name: String,
    pub host: Host,
    /// Its agent's.
    program: PathBuf,
    config: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
    data: PathBuf,
    pub zone: String,
    pub disk: Option<Disk>,
    /// By how much its wall clock is off, in a file that libfaketime reads.
    pub clock: Option<PathBuf>,
    /// What has to be loaded for that.
    clock_library: Option<PathBuf>,
    /// The agent, while it runs.
    agent: Option<Child>,
    started: Option<Instant>,
    /// It could not join in place of the one before, and nobody starts it.
    pub is_lost: bool,
}

/// Why the farm is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum FarmError {
    #[error("can not {what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("{node} was told to stop and did not within {} s", STOPS_WITHIN.as_secs())]
    NotStopped { node: String },
    #[error("{node}, which is new, could not join within {} s: {reason}", JOINS_WITHIN.as_secs())]
    NotJoined { node: String, reason: String },
    #[error("there is no program of another version")]
    OneVersion,
    #[error("can not start {}: {source}", path.display())]
    Program { path: PathBuf, source: std::io::Error },
    #[error("the agent of {node} has ended: {words}")]
    Ended { node: String, words: String },
    #[error("it was given up: {0}")]
    GivenUp(String),
    #[error("`holdfast {verb}` printed what is not understood: {text}")]
    Answer { verb: String, text: String },
    #[error("the farm was not whole within {} s; its status was {status}", limit.as_secs())]
    NotWhole { limit: Duration, status: String },
}

impl Farm {
    /// Starts one agent a host and waits until they are a whole farm.
    ///
    /// # Errors
    /// See [`FarmError`].
    pub fn start(lab: &mut Lab, ground: Ground<'_>, watch: &mut Watch) -> Result<Self, FarmError> {
        let (holdfast, other) = (ground.holdfast.to_owned(), ground.other.map(Path::to_owned));
        let mut farm = Self { holdfast, other, nodes: Vec::new() };
        for (number, host) in ground.hosts.iter().enumerate() {
            let node = Node::lay_out(lab, &ground, number, host.clone())?;
            farm.nodes.push(node);
            if number == 0 {
                let config = farm.nodes[0].config.to_string_lossy().into_owned();
                farm.json_on(&farm.nodes[0], &["init", "--config", &config, "--json"])?;
            } else {
                farm.join(number)?;
            }
            farm.start_agent(lab, number)?;
            farm.wait(watch, |farm| {
                let status = farm.status().map_err(|error| error.to_string())?;
                if status["quorum"] == true { Ok(()) } else { Err(status.to_string()) }
            })?;
        }
        farm.wait(watch, Self::whole)?;
        Ok(farm)
    }

    /// Waits until something is so of a farm that forms, in which every agent has to live.
    fn wait(
        &mut self,
        watch: &mut Watch,
        is_so: impl Fn(&Self) -> Result<(), String>,
    ) -> Result<(), FarmError> {
        let began = Instant::now();
        while let Err(status) = is_so(self) {
            watch.host().map_err(FarmError::GivenUp)?;
            if let Some(number) = (0..self.nodes.len()).find(|number| !self.is_running(*number)) {
                let (node, words) = (self.nodes[number].name.clone(), self.last_words(number));
                return Err(FarmError::Ended { node, words });
            }
            if began.elapsed() > FORM_MAX {
                return Err(FarmError::NotWhole { limit: FORM_MAX, status });
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Makes a node with an empty folder a member, by a token of a node that runs.
    fn join(&self, number: usize) -> Result<(), FarmError> {
        let running =
            self.nodes.iter().enumerate().filter(|(other, node)| *other != number && node.agent.is_some());
        let mut last = None;
        for (_, node) in running {
            let socket = node.socket.to_string_lossy();
            let told = match self.json_on(node, &["--socket", &socket, "token", "create", "--json"]) {
                Ok(told) => told,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            let line = told["join"].as_str().and_then(|line| line.strip_prefix("holdfast join "));
            let answer = || FarmError::Answer { verb: "token create".to_owned(), text: told.to_string() };
            let join = line.ok_or_else(answer)?;
            let config = self.nodes[number].config.to_string_lossy().into_owned();
            match self.json_on(&self.nodes[number], &["join", join, "--config", &config, "--json"]) {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(FarmError::Answer { verb: "join".to_owned(), text: "nobody runs".to_owned() }))
    }

    /// What an operator does about a node whose data is gone or damaged: a new one in its place.
    pub fn replace(&mut self, lab: &mut Lab, number: usize, watch: &mut Watch) -> Result<(), FarmError> {
        self.kill(number);
        let data = &self.nodes[number].data;
        if data.exists() {
            let file = |what| move |source| FarmError::File { what, path: data.clone(), source };
            fs::remove_dir_all(data).map_err(file("remove"))?;
        }
        let began = Instant::now();
        // Its name is another's until the others know that the one before is gone.
        while let Err(error) = self.join(number) {
            watch.host().map_err(FarmError::GivenUp)?;
            if began.elapsed() > JOINS_WITHIN {
                self.nodes[number].is_lost = true;
                let node = self.nodes[number].name.clone();
                return Err(FarmError::NotJoined { node, reason: error.to_string() });
            }
            std::thread::sleep(PAUSE);
        }
        self.nodes[number].is_lost = false;
        self.start_agent(lab, number)
    }

    fn json_on(&self, node: &Node, words: &[&str]) -> Result<Value, FarmError> {
        json(&self.holdfast, &node.host, words)
    }

    /// For each node, who asks it how the farm is.
    pub fn askers(&self) -> Vec<Asker> {
        let asker = |node: &Node| Asker {
            name: node.name.clone(),
            host: node.host.clone(),
            socket: node.socket.clone(),
            holdfast: self.holdfast.clone(),
        };
        self.nodes.iter().map(asker).collect()
    }

    /// Starts an agent, for the first time or again.
    pub fn start_agent(&mut self, lab: &mut Lab, number: usize) -> Result<(), FarmError> {
        let node = &mut self.nodes[number];
        let file = |what, source| FarmError::File { what, path: node.log.clone(), source };
        let log = File::options().create(true).append(true).open(&node.log).map_err(|e| file("open", e))?;
        let mut agent = node.host.command(&node.program.to_string_lossy());
        agent.args(["agent", "--config"]).arg(&node.config).env("HOLDFAST_LOG", LOG);
        if let (Some(library), Some(clock)) = (&node.clock_library, &node.clock) {
            own_clock(&mut agent, library, clock);
        }
        // In a group of its own: what ends this process from a terminal is no fault of the experiment's.
        let agent = agent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0).spawn();
        let program = node.program.clone();
        let agent = agent.map_err(|source| FarmError::Program { path: program, source })?;
        if let Some(start) = start_of(agent.id()) {
            lab.note(Thing::Process { pid: agent.id(), start })?;
        }
        node.agent = Some(agent);
        node.started = Some(Instant::now());
        Ok(())
    }

    /// Of which version its next agent is.
    pub fn set_version(&mut self, number: usize, other: bool) -> Result<(), FarmError> {
        let program = if other { self.other.as_ref().ok_or(FarmError::OneVersion)? } else { &self.holdfast };
        self.nodes[number].program.clone_from(program);
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
        self.signal(number, if paused { Signal::STOP } else { Signal::CONT });
    }

    /// SIGTERM.
    pub fn tell_to_stop(&self, number: usize) {
        self.signal(number, Signal::TERM);
    }

    fn signal(&self, number: usize, signal: Signal) {
        let pid = self.agent_pid(number).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself, which the status will tell.
            let _ended = kill_process(pid, signal);
        }
    }

    /// Waits for an agent that was told to stop.
    pub fn wait_stopped(&mut self, number: usize, watch: &mut Watch) -> Result<(), FarmError> {
        let began = Instant::now();
        while self.is_running(number) {
            watch.host().map_err(FarmError::GivenUp)?;
            if began.elapsed() > STOPS_WITHIN {
                return Err(FarmError::NotStopped { node: self.nodes[number].name.clone() });
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Whether the agent has not ended, by itself or otherwise.
    pub fn is_running(&mut self, number: usize) -> bool {
        let node = &mut self.nodes[number];
        if node.agent.as_mut().is_some_and(|agent| !matches!(agent.try_wait(), Ok(None))) {
            node.agent = None;
        }
        node.agent.is_some()
    }

    /// The agent, and all that it has started.
    pub fn pids(&self, number: usize) -> Vec<u32> {
        let mut all: Vec<u32> = self.agent_pid(number).into_iter().collect();
        let mut parents = all.clone();
        for _ in 0..GENERATIONS {
            parents = parents.into_iter().flat_map(children).collect();
            all.extend(&parents);
        }
        all
    }

    pub fn data_dir(&self, number: usize) -> PathBuf {
        self.nodes[number].data.clone()
    }

    pub fn has_data(&self, number: usize) -> bool {
        self.nodes[number].data.join("identity").exists()
    }

    /// The folders of its databases.
    pub fn databases(&self, number: usize) -> Vec<PathBuf> {
        ["control.db", "sessions.db"].map(|name| self.nodes[number].data.join(name)).to_vec()
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

    /// Whether every node is ready and everything has all of its replicas; if not, what is told of it.
    pub fn whole(&self) -> Result<(), String> {
        let status = self.status().map_err(|error| error.to_string())?;
        let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        // One that was replaced has left its name to another, and is down for good.
        let is_ready = |node: &Node| {
            members.iter().any(|member| {
                member["name"] == *node.name && member["state"] == "alive" && member["ready"] == true
            })
        };
        let is_whole = status["quorum"] == true
            && status["controller"]["node"] != ""
            && self.nodes.iter().all(is_ready)
            && status["sessions"]["under_replicated"] == 0
            && status["sessions"]["unavailable"] == 0;
        if is_whole { Ok(()) } else { Err(status.to_string()) }
    }

    pub fn hosts(&self) -> Vec<Host> {
        self.nodes.iter().map(|node| node.host.clone()).collect()
    }

    /// Whether it was started so lately that a supervisor would wait before it tries again.
    pub fn was_just_started(&self, number: usize) -> bool {
        self.nodes[number].started.is_some_and(|started| started.elapsed() < RESTART_AFTER)
    }

    /// Which version of an app each node runs, once all run the same, or nothing changes any more.
    ///
    /// # Errors
    /// When nobody can be asked for so long, or it is given up.
    pub fn runs(&self, app: &str, watch: &mut Watch) -> Result<Vec<Instance>, FarmError> {
        let began = Instant::now();
        loop {
            let runs = self.runs_now(app);
            let is_settled = runs.as_ref().is_ok_and(|runs| {
                runs.len() == self.nodes.len()
                    && runs.windows(2).all(|pair| pair[0].version == pair[1].version)
            });
            if is_settled || began.elapsed() > SETTLES_WITHIN {
                return runs;
            }
            watch.host().map_err(FarmError::GivenUp)?;
            std::thread::sleep(PAUSE);
        }
    }

    /// By the word of each node on itself or, where it does not answer, of another one on it.
    fn runs_now(&self, app: &str) -> Result<Vec<Instance>, FarmError> {
        let mut last = FarmError::Answer { verb: "ps".to_owned(), text: "nobody runs".to_owned() };
        let mut answers = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| node.agent.is_some()) {
            match self.json_on(node, &["--socket", &node.socket.to_string_lossy(), "ps", app, "--json"]) {
                Ok(told) => drop(answers.insert(&node.name, told)),
                Err(error) => last = error,
            }
        }
        let Some(anybody) = answers.values().next() else { return Err(last) };
        let mut all = Vec::new();
        for node in &self.nodes {
            let told = answers.get(&node.name).unwrap_or(anybody);
            let instances = told["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
            let here = instances.iter().filter(|one| one["node"] == *node.name);
            let ready = here.filter(|one| one["state"] == "ready" && one["app"] == app);
            all.extend(ready.map(Instance::of));
        }
        Ok(all)
    }

    /// The last that an agent has said.
    pub fn last_words(&self, number: usize) -> String {
        let log = fs::read_to_string(&self.nodes[number].log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(LAST_WORDS).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// The place of the controller, by the first node that knows of one: who is cut off does not.
    pub fn controller(&self) -> Option<usize> {
        let mut running = self.nodes.iter().filter(|node| node.agent.is_some());
        running.find_map(|node| {
            let words = ["--socket", &node.socket.to_string_lossy(), "status", "--json"];
            let status = self.json_on(node, &words).ok()?;
            let name = status["controller"]["node"].as_str()?;
            self.nodes.iter().position(|node| node.name == name)
        })
    }
}

#[cfg(test)]
impl Farm {
    /// Nodes none of whose agents has ever run.
    pub fn laid_out(lab: &mut Lab, ground: &Ground<'_>) -> Result<Self, FarmError> {
        let hosts = ground.hosts.iter().enumerate();
        let nodes = hosts.map(|(number, host)| Node::lay_out(lab, ground, number, host.clone()));
        Ok(Self {
            holdfast: ground.holdfast.to_owned(),
            other: None,
            nodes: nodes.collect::<Result<_, _>>()?,
        })
    }
}

/// Gives a program that is about to start a wall clock of its own, which is off by what a file says.
pub fn own_clock(program: &mut Command, library: &Path, file: &Path) {
    program.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", file);
    // Time that is measured goes on as ever; the file is looked at again within two seconds.
    program
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_CACHE_DURATION", "1")
        .env("FAKETIME_DONT_RESET", "1");
}

/// Of whatever thread of it.
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

impl Node {
    fn lay_out(lab: &mut Lab, ground: &Ground<'_>, number: usize, host: Host) -> Result<Self, FarmError> {
        let name = format!("node-{}", number + 1);
        let home = ground.folder.join(&name);
        let file = |what, path: &Path| {
            let path = path.to_owned();
            move |source| FarmError::File { what, path, source }
        };
        fs::create_dir_all(&home).map_err(file("make", &home))?;
        let [config, socket, log] = ["agent.toml", "agent.sock", "agent.log"].map(|file| home.join(file));
        let disk = if ground.disks { Some(Disk::new(lab, &name, DISK_BYTES)?) } else { None };
        let data = disk.as_ref().map_or(home.as_path(), Disk::path).join("data");
        let clock = ground.clocks.map(|_| home.join("clock"));
        if let Some(clock) = &clock {
            fs::write(clock, "+0\n").map_err(file("write", clock))?;
        }
        let zone = zone(number, ground.zones);
        let (address, local) = (host.address, host.local());
        let text = format!(
            "[node]\nname = \"{name}\"\nzone = \"{zone}\"\ndata_dir = {data:?}\n\
             [network]\nbind = \"{address}\"\nadvertise = \"{address}\"\n\
             [api]\nsocket = {socket:?}\nadmin = \"{local}:{ADMIN_PORT}\"\n\
             [resp]\nbind = \"{local}:{REDIS_PORT}\"\n\
             [balancer]\nhttp = [\"{address}:{HTTP_PORT}\"]\n",
        );
        fs::write(&config, text).map_err(file("write", &config))?;
        let clock_library = ground.clocks.map(Path::to_owned);
        Ok(Self {
            name,
            host,
            program: ground.holdfast.to_owned(),
            config,
            socket,
            log,
            data,
            zone,
            disk,
            clock,
            clock_library,
            agent: None,
            started: None,
            is_lost: false,
        })
    }
}

/// Zones are named by letters, of which there are more than nodes.
fn zone(number: usize, zones: u8) -> String {
    let letters = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    letters.get(number % usize::from(zones.max(1))).copied().unwrap_or("a").to_owned()
}
