//! `holdfast demo`: a whole farm on one machine, by the path that real servers take.
//!
//! Nothing here is a shortcut into the agents: the first node is initialised, a token is asked for
//! over the API, the others join with it, the app comes in by `deploy`. Each agent is a process of
//! its own with its own folder, so that it can be killed and started again by hand; what ends the
//! farm therefore looks for its processes in /proc and not among its children.
//!
//! ```text
//!   DIR/node-1/{agent.toml, agent.log, agent.sock, data/}   DIR/node-2/...   DIR/shop/   DIR/farm.json
//! ```

mod farm;
mod guide;
mod http;
mod launch;
mod layout;
mod ports;
mod processes;
mod sample;
mod start;
mod stop;
mod wait;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::Demo;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::verbs;
use farm::Farm;
use launch::Agents;

pub fn run(options: Demo) -> Result<(), Failure> {
    close_inherited_descriptors();
    let wanted = options.dir.clone().unwrap_or_else(default_folder);
    if options.stop {
        let dir = wanted.canonicalize().unwrap_or(wanted);
        return verbs::runtime()?.block_on(stop::run(&dir));
    }
    let dir = folder(&wanted)?;
    verbs::runtime()?.block_on(start_and_stay(&dir, &options))
}

async fn start_and_stay(dir: &Path, options: &Demo) -> Result<(), Failure> {
    let mut interrupts = Interrupts::new()?;
    stop::refuse_live(dir)?;
    let mut farm = layout::plan(dir, options)?;
    ports::refuse_taken(&farm.nodes)?;
    let mut progress = Progress::new();
    progress.done(&format!("everything is kept in {}", dir.display()));
    let mut agents = Agents::new()?;
    let started = tokio::select! {
        started = start::start(dir, &mut farm, options, &mut agents, &mut progress) => started,
        () = interrupts.next() => Err(Failure::failed("interrupted before the farm served", "start it again")),
    };
    progress.finish();
    if let Err(failure) = started {
        stop::end_farm(dir).await?;
        return Err(failure);
    }
    guide::print(dir, &farm, options)?;
    if options.detach {
        return Ok(());
    }
    stay(&farm, &mut agents, &mut interrupts).await;
    stop::end_farm(dir).await.map(drop)
}

/// Tells of every agent that ends, until somebody ends the demonstration.
async fn stay(farm: &Farm, agents: &mut Agents, interrupts: &mut Interrupts) {
    loop {
        tokio::select! {
            ended = agents.next_end() => eprintln!("{}", guide::ended(farm, &ended, agents.program())),
            () = interrupts.next() => return,
        }
    }
}

/// Whatever a terminal or a supervisor sends to end a program.
struct Interrupts {
    signals: [Signal; 3],
}

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::failed(
                    format!("can not listen for signals: {error}"),
                    "look at this user's limits (ulimit -a)",
                )
            })
        };
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(listen);
        Ok(Self { signals: [interrupt?, terminate?, hangup?] })
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// The folder of the farm, made where it is missing, as an absolute path: agents are found by it.
fn folder(dir: &Path) -> Result<PathBuf, Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir).and_then(|()| dir.canonicalize());
    made.map_err(|error| {
        Failure::failed(
            format!("can not use the folder {}: {error}", dir.display()),
            "name another one with --dir",
        )
    })
}

fn default_folder() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    match cache {
        Some(cache) => cache.join("holdfast/demo"),
        None => std::env::temp_dir().join(format!("holdfast-demo-{}", rustix::process::getuid().as_raw())),
    }
}

/// A test or a script may have left descriptors open that agents would inherit and keep: a pipe of
/// which somebody waits for the end. Called before this process has opened any of its own.
fn close_inherited_descriptors() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The one that listed the folder is closed already, and says so.
        let _ = nix::unistd::close(descriptor);
    }
}
