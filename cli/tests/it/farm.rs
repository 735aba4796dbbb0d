//! A farm of agents in a temporary folder, and what a user does with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Debug builds of three agents on two cores, beside other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

/// One farm at a time: two of them on two cores are a test of the scheduler.
static ONE: Mutex<()> = Mutex::new(());
static NEXT_BASE: AtomicU16 = AtomicU16::new(21_000);

pub struct Farm {
    pub dir: tempfile::TempDir,
    pub nodes: Vec<Node>,
    /// Agents that were started again by hand.
    children: Vec<Child>,
    _turn: MutexGuard<'static, ()>,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub pid: u32,
    pub data_dir: PathBuf,
    pub config: PathBuf,
    pub socket: PathBuf,
    pub gossip: String,
    pub peer: String,
    pub admin: String,
    pub resp: String,
    pub http: String,
}

/// What a verb said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    pub fn json(self) -> Value {
        serde_json::from_str(&self.ok().stdout).unwrap()
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the program.
pub fn holdfast(arguments: &[&str]) -> Said {
    command(arguments).output().unwrap().into()
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
    command
}

impl Farm {
    pub fn start(arguments: &[&str]) -> Self {
        let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let base = NEXT_BASE.fetch_add(100, Ordering::SeqCst).to_string();
        let path = dir.path().to_str().unwrap().to_owned();
        let all = [&["demo", "--dir", &path, "--base-port", &base, "--detach"], arguments].concat();
        let mut farm = Self { dir, nodes: Vec::new(), children: Vec::new(), _turn: turn };
        let said = holdfast(&all);
        assert_eq!(said.code, 0, "{}\n{}", said.stderr, farm.logs());
        let text = std::fs::read_to_string(farm.dir.path().join("farm.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        farm.nodes = json["nodes"].as_array().unwrap().iter().map(node).collect();
        farm
    }

    /// Runs a verb at a node's agent.
    pub fn at(&self, node: usize, arguments: &[&str]) -> Said {
        let socket = self.nodes[node].socket.to_str().unwrap();
        holdfast(&[arguments, &["--socket", socket]].concat())
    }

    pub fn status(&self, node: usize) -> Value {
        self.at(node, &["status", "--json"]).json()
    }

    /// kill -9 of a node's agent.
    pub fn kill(&mut self, node: usize) {
        self.end(node, "-KILL");
    }

    /// Tells a node's agent to stop, as a supervisor does.
    pub fn stop(&mut self, node: usize) {
        self.end(node, "-TERM");
    }

    fn end(&mut self, node: usize, how: &str) {
        signal(self.nodes[node].pid, how);
        if let Some(at) = self.children.iter().position(|child| child.id() == self.nodes[node].pid) {
            self.children.remove(at).wait().unwrap();
        }
        let pid = self.nodes[node].pid;
        wait_until("the agent is gone", || !is_running(pid));
    }

    /// Starts a killed agent again, as the README says.
    pub fn restart(&mut self, node: usize) {
        let config = self.nodes[node].config.to_str().unwrap().to_owned();
        self.start_again(node, command(&["agent", "--config", &config]));
    }

    /// Starts a killed agent again, which may not open more files than this.
    pub fn restart_with_files(&mut self, node: usize, files: u64) {
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nofile={files}:{files}")).arg(env!("CARGO_BIN_EXE_holdfast"));
        limited.arg("agent").arg("--config").arg(&self.nodes[node].config);
        self.start_again(node, limited);
    }

    fn start_again(&mut self, node: usize, mut agent: Command) {
        let log = self.dir.path().join(format!("restart-{node}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = agent.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.nodes[node].pid = child.id();
        self.children.push(child);
    }

    /// Waits until a node's status is as wanted.
    pub fn wait_status(&self, node: usize, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let said = self.at(node, &["status", "--json"]);
            if said.code == 0 {
                last = serde_json::from_str(&said.stdout).unwrap();
                if done(&last) {
                    return last;
                }
            }
            std::thread::sleep(PAUSE);
        }
        panic!("{what}: not within {PATIENCE:?}; the status is {last:#}\n{}", self.logs());
    }

    /// Waits until everything is as it was when the farm was new.
    pub fn wait_whole(&self, node: usize) -> Value {
        self.wait_status(node, "the farm is whole", |status| {
            let members = status["members"].as_array().unwrap();
            status["quorum"] == true
                && status["controller"]["node"] != ""
                && members.len() == self.nodes.len()
                && members.iter().all(|member| member["state"] == "alive" && member["ready"] == true)
                && status["sessions"]["under_replicated"] == 0
                && status["sessions"]["unavailable"] == 0
        })
    }

    /// The place of the node that acts as controller.
    pub fn controller(&self, ask: usize) -> usize {
        let status =
            self.wait_status(ask, "there is a controller", |status| status["controller"]["node"] != "");
        let name = status["controller"]["node"].as_str().unwrap().to_owned();
        self.nodes.iter().position(|node| node.name == name).unwrap()
    }

    pub fn url(&self, node: usize, path: &str) -> String {
        format!("http://{}{path}", self.nodes[node].http)
    }

    pub async fn redis(&self, node: usize) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(format!("redis://{}", self.nodes[node].resp)).unwrap();
        // The client's own patience, half a second, is shorter than an election.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }

    /// The ends of all logs, for a failure's message.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() && folders.len() < 50 {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "log") {
                    let log = std::fs::read_to_string(&path).unwrap_or_default();
                    let tail: Vec<&str> = log.lines().rev().take(25).collect();
                    text += &format!("--- {}\n", path.display());
                    text.extend(tail.into_iter().rev().map(|line| format!("{line}\n")));
                }
            }
        }
        text
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let path = self.dir.path().to_str().unwrap().to_owned();
        let said = holdfast(&["demo", "--dir", &path, "--stop"]);
        for child in &mut self.children {
            let _ended = child.wait();
        }
        if !std::thread::panicking() {
            assert_eq!(said.code, 0, "{said:?}");
            let logs = self.logs();
            let unfinished = logs.lines().find(|line| line.contains("did not end in time"));
            assert_eq!(unfinished, None, "an agent that is told to stop stops");
        }
    }
}

fn node(json: &Value) -> Node {
    let text = |key: &str| json[key].as_str().unwrap_or_else(|| panic!("{key} in {json}")).to_owned();
    Node {
        name: text("name"),
        pid: u32::try_from(json["pid"].as_u64().unwrap()).unwrap(),
        data_dir: text("data_dir").into(),
        config: text("config").into(),
        socket: text("socket").into(),
        gossip: text("gossip"),
        peer: text("peer"),
        admin: text("admin"),
        resp: text("resp"),
        http: text("http"),
    }
}

pub fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Zombies count as gone: their parent is this test's, or nobody's.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(PAUSE);
    }
}

/// A release that answers every request with its text, made of what the machine has anyway.
pub fn write_app(dir: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(dir.join("public")).unwrap();
    std::fs::write(dir.join("public/index.html"), text).unwrap();
    let manifest = format!(
        "[app]\nname = \"{name}\"\n[run]\ncommand = [\"python3\", \"-m\", \"http.server\", \"$PORT\", \"--bind\", \
         \"127.0.0.1\", \"--directory\", \"public\"]\n[health]\nready = {{ path = \"/\", interval = \"200ms\" }}\n\
         [stop]\ndrain = \"2s\"\ngrace = \"2s\"\n"
    );
    std::fs::write(dir.join("holdfast.toml"), manifest).unwrap();
}

/// Whether a program is there; says so when it is not.
pub fn has(program: &str, package: &str) -> bool {
    let found =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("not run: {program} is absent (apt-get install {package})");
    }
    found
}
