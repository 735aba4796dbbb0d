//! Servers in virtual time: what of an agent's surroundings the product's tasks notice.
//!
//! ```text
//!   Groups (node-consensus) ──▶ Disk (loses at a crash what was not synced)
//!        │     ▲          └───▶ Wall (a clock that jumps)
//!        ▼     │
//!        Links (late, lost, doubled, cut)
//! ```
//!
//! openraft runs in tasks, so here it is tokio's runtime that is virtual: one thread, time that moves when
//! everybody waits, and branches of `select!` chosen by the seed. The last is not to be had of tokio unless
//! it is built with `--cfg tokio_unstable`, and so this is a build of its own.
//!
//! Design: turmoil is not used, as nothing here touches a socket: the transport is injected.

#![allow(clippy::disallowed_methods, reason = "tasks end with the runtime of their simulation")]

pub mod convergence;
pub mod disk;
pub mod faults;
pub mod jury;
pub mod links;
mod panics;
pub mod scene;
pub mod soundness;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_consensus::Groups;
use proto::ids::NodeId;
use tokio::runtime::{Builder, RngSeed, UnhandledPanic};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::trace::Trace;
use crate::{Outcome, Settings};
use disk::{Disk, Opened};
use faults::Fault;
use links::{Links, Port};
use scene::{Scene, Wall};

/// A supervisor kills who does not end.
const END_MAX: Duration = Duration::from_secs(10);

/// Runs a simulation in a runtime of its own, and writes the trace down if that is wanted. It returns how
/// long it took to come to rest, in milliseconds. A panic in any of its tasks breaks a promise.
///
/// # Errors
/// When the runtime can not be made, or the trace can not be written.
pub fn simulate(
    settings: &Settings,
    out: Option<&mut dyn Write>,
    simulation: impl AsyncFnOnce(Arc<Scene>) -> u64,
) -> io::Result<Outcome> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&settings.seed.to_le_bytes()))
        .unhandled_panic(UnhandledPanic::ShutdownRuntime)
        .build()?;
    let scene = {
        // Its clock is the runtime's.
        let _within = runtime.enter();
        Arc::new(Scene::new(settings.seed))
    };
    let simulated = panics::caught(|| runtime.block_on(simulation(Arc::clone(&scene))));
    let rested_ms = simulated.unwrap_or_else(|words| {
        let _within = runtime.enter();
        scene.is_wrong("panic", words);
        0
    });
    // With the tasks of everybody who has died meanwhile.
    drop(runtime);
    let (lines, violations) = scene.take();
    let mut trace = Trace::new(out);
    for (at_ms, line) in &lines {
        trace.note(*at_ms, format_args!("{line}"));
    }
    let outcome = Outcome {
        seed: settings.seed,
        nodes: settings.nodes,
        trace: trace.hash(),
        events: trace.events(),
        rested_ms,
        violations,
    };
    trace.finish().map(|()| outcome)
}

/// One life of an agent, as far as its server knows it.
#[derive(Clone)]
pub struct Life {
    pub me: NodeId,
    pub number: u64,
    pub groups: Groups,
    pub opened: Arc<Opened>,
    pub stop: CancellationToken,
    tracker: TaskTracker,
}

struct Server {
    disk: Arc<Disk>,
    wall: Arc<Wall>,
    lives: u64,
    /// Faults for which it is down.
    down: usize,
    life: Option<Life>,
}

/// All servers of a farm.
pub struct Servers {
    pub scene: Arc<Scene>,
    pub links: Arc<Links>,
    servers: Mutex<Vec<Server>>,
}

impl Servers {
    pub fn new(scene: &Arc<Scene>, count: usize) -> Self {
        let server = || Server {
            disk: Arc::default(),
            wall: Arc::new(Wall::new(Arc::clone(scene))),
            lives: 0,
            down: 0,
            life: None,
        };
        Self {
            scene: Arc::clone(scene),
            links: Arc::new(Links::new(Arc::clone(scene))),
            servers: Mutex::new((0..count).map(|_| server()).collect()),
        }
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self) -> usize {
        self.servers().len()
    }

    /// The agent that runs there.
    pub fn life(&self, host: usize) -> Option<Life> {
        self.servers()[host].life.clone()
    }

    /// Nobody's disk any more: what was there is gone.
    pub fn wipe(&self, host: usize) {
        self.servers()[host].disk = Arc::default();
    }

    /// An agent of this identity begins to run.
    pub fn start(&self, host: usize, me: NodeId) -> Life {
        let (number, opened, wall) = {
            let mut servers = self.servers();
            let server = &mut servers[host];
            server.lives += 1;
            let opened = Arc::new(Opened::new(Arc::clone(&self.scene), Arc::clone(&server.disk)));
            (server.lives, opened, Arc::clone(&server.wall))
        };
        self.scene.note(format_args!("{me} starts, life {number}"));
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        tokio::spawn(Arc::clone(&opened).sync());
        let port = Arc::new(Port { me, life: number, links: Arc::downgrade(&self.links) });
        let groups = Groups::within(wall, me, port, tracker.clone(), stop.clone());
        self.links.born(me, host, number, groups.clone());
        let life = Life { me, number, groups, opened, stop, tracker };
        self.servers()[host].life = Some(life.clone());
        tokio::spawn(soundness::watch(Arc::clone(&self.scene), life.clone()));
        life
    }

    pub fn crash(&self, host: usize) {
        let Some(life) = self.servers()[host].life.take() else { return };
        self.scene.note(format_args!("{} crashes", life.me));
        self.end_at_once(&life);
    }

    fn end_at_once(&self, life: &Life) {
        self.links.died(life.me);
        life.opened.crash();
        life.stop.cancel();
    }

    /// In order: it is asked to, and has time.
    async fn end(&self, host: usize) {
        let Some(life) = self.life(host) else { return };
        self.scene.note(format_args!("{} ends", life.me));
        life.stop.cancel();
        life.tracker.close();
        if timeout(END_MAX, life.tracker.wait()).await.is_err() {
            self.scene.note(format_args!("{} does not end", life.me));
        }
        // A crash may have come first, and another life after it.
        if self.life(host).is_some_and(|now| now.number == life.number) {
            self.servers()[host].life = None;
            self.end_at_once(&life);
        }
    }

    /// Lets a fault begin that a server notices.
    pub fn begin(self: &Arc<Self>, number: usize, fault: &Fault) {
        match fault {
            Fault::Crash { host } => self.down(*host),
            Fault::PowerCut => (0..self.count()).for_each(|host| self.down(host)),
            Fault::Restart { host } => {
                self.servers()[*host].down += 1;
                let (servers, host) = (Arc::clone(self), *host);
                tokio::spawn(async move { servers.end(host).await });
            }
            Fault::Cut(cut) => self.links.change(|network| network.cut(number, cut.clone())),
            Fault::Rough(rough) => self.links.change(|network| network.roughen(number, *rough)),
            Fault::SlowDisk { host } => self.servers()[*host].disk.slow(true),
            Fault::Clock { host, by_ms } => self.servers()[*host].wall.jump(*by_ms),
            Fault::Suspect { host, suspects } => {
                if let Some(life) = self.life(*host) {
                    life.groups.set_suspects(suspects.clone());
                }
            }
        }
    }

    /// Ends it. Returns the servers whose agents have to be started again.
    pub fn over(&self, number: usize, fault: &Fault) -> Vec<usize> {
        match fault {
            Fault::Crash { host } | Fault::Restart { host } => {
                return if self.up(*host) { vec![*host] } else { Vec::new() };
            }
            Fault::PowerCut => return (0..self.count()).filter(|host| self.up(*host)).collect(),
            Fault::Cut(_) | Fault::Rough(_) => self.links.change(|network| network.heal(number)),
            Fault::SlowDisk { host } => self.servers()[*host].disk.slow(false),
            Fault::Suspect { host, .. } => {
                if let Some(life) = self.life(*host) {
                    life.groups.set_suspects(std::collections::BTreeSet::new());
                }
            }
            Fault::Clock { .. } => {}
        }
        Vec::new()
    }

    /// Whether there is no reason for its agent to be away.
    pub fn is_up(&self, host: usize) -> bool {
        self.servers()[host].down == 0
    }

    /// Its agent is killed, and stays away for one more reason.
    pub fn down(&self, host: usize) {
        self.servers()[host].down += 1;
        self.crash(host);
    }

    /// Whether there is no reason left for which its agent is away. One that was asked to end and has not
    /// is killed.
    pub fn up(&self, host: usize) -> bool {
        let is_up = {
            let mut servers = self.servers();
            servers[host].down -= 1;
            servers[host].down == 0
        };
        if is_up {
            self.crash(host);
        }
        is_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_task_that_nobody_waits_for_breaks_a_promise() {
        let settings = Settings { seed: 1, nodes: 1 };
        let minute = Duration::from_secs(60);
        let outcome = simulate(&settings, None, async |scene| {
            tokio::spawn(async move {
                tokio::time::sleep(minute).await;
                panic!("out of {}", "luck");
            });
            scene.note(format_args!("it begins"));
            tokio::time::sleep(2 * minute).await;
            7
        });
        let outcome = outcome.unwrap();
        let [broken] = &outcome.violations[..] else { panic!("{outcome:?}") };
        assert_eq!((broken.invariant, broken.at_ms), ("panic", 60_000));
        assert!(broken.what.contains("out of luck") && broken.what.contains("servers.rs"), "{}", broken.what);
        assert_eq!(outcome.events, 2);
        let calm = simulate(&settings, None, async |_| 7).unwrap();
        assert_eq!((calm.rested_ms, &calm.violations[..]), (7, &[][..]));
    }
}
