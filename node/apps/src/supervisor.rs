//! The instances of this node: started, probed, started again, replaced and ended.
//!
//! ```text
//!   Supervisor ──goal──▶ one task per app ──▶ one task per place ──▶ process (group)
//!       ▲                  │ replace: pure      │ health, restart: pure
//!       │                  │                    │        ▲ start
//!    statuses ◀────────────┘◀──────events───────┘     the spawner's thread
//! ```
//!
//! An app has a goal, and the supervisor works towards it until it gets another: there is no request
//! that could be lost or repeated. A new release is started beside the old one and takes over when it
//! is ready.
//!
//! Instances end with the agent, by their death signal. What they leave is ended by the next agent on
//! this disk before it starts anything (`leftovers`).

mod app;
mod environment;
mod health;
mod instance;
mod leftovers;
mod output;
mod ports;
mod probe;
mod procfs;
mod replace;
mod restart;
mod spawn;
mod status;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use proto::ids::ReleaseId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::spec::AppSpec;

use app::{App, Goal};
use instance::Means;
use output::Logs;
use ports::Ports;
use spawn::Spawner;

pub use leftovers::LeftoverError;
pub use status::{AppState, AppStatus, InstanceState, InstanceStatus, Statuses};

/// How often the logs' sizes are looked at. An instance that prints 100 MB/s is 100 MB above the
/// bound until then.
const LOGS_INTERVAL: Duration = Duration::from_secs(1);

/// Where and with what instances run.
#[derive(Debug, Clone)]
pub struct SupervisorConfig {
    /// For the records of processes, and nothing else.
    pub records: PathBuf,
    /// For what instances print.
    pub logs: PathBuf,
    /// On loopback.
    pub ports: RangeInclusive<u16>,
    /// The program, with its first arguments, that calls [`crate::exec_instance`].
    pub launcher: Vec<OsString>,
}

impl SupervisorConfig {
    /// This program, under the verb `exec-instance`. By the kernel's name for it, which still is right
    /// when the file has been replaced.
    pub fn own_launcher() -> Vec<OsString> {
        vec!["/proc/self/exe".into(), "exec-instance".into()]
    }
}

/// What an app is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub release: ReleaseId,
    pub version: String,
    pub spec: AppSpec,
    /// Where the release is unpacked.
    pub root: PathBuf,
    /// What the agent adds to every instance's environment: REDIS_URL, HOLDFAST_NODE and the like.
    pub environment: BTreeMap<String, String>,
}

/// Takes an instance out of traffic.
pub trait Drain: Send + Sync + 'static {
    /// From this call on the instance gets no new request; the future ends when the ones that it had
    /// are answered.
    fn drain(&self, app: &str, instance: &str) -> BoxFuture<'static, ()>;
}

/// Why there can be no instances.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("can not make the folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Leftovers(#[from] LeftoverError),
    #[error("can not start the thread that starts instances: {0}")]
    Thread(#[source] io::Error),
}

/// The apps of this node. Clones are the same one.
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    apps: Mutex<Apps>,
    statuses: watch::Sender<Statuses>,
    means: Arc<Means>,
    tracker: TaskTracker,
}

#[derive(Default)]
struct Apps {
    goals: BTreeMap<String, watch::Sender<Goal>>,
    /// From now on nothing is started.
    ending: bool,
}

impl Supervisor {
    /// Ends what an earlier agent left, then is ready to start apps. When `stop` is cancelled, what
    /// still runs is killed; [`Supervisor::stop_all`] comes before that.
    ///
    /// # Errors
    /// When leftovers can not be ended, or a folder or the thread can not be made.
    pub async fn start(
        config: SupervisorConfig,
        drain: Arc<dyn Drain>,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, SupervisorError> {
        let SupervisorConfig { records, logs, ports, launcher } = config;
        for path in [&records, &logs] {
            let failed = |source| SupervisorError::Folder { path: path.clone(), source };
            std::fs::create_dir_all(path).map_err(failed)?;
        }
        let folder = records.clone();
        let ended = tracker.spawn_blocking(move || leftovers::end_all(&folder)).await;
        let ended = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        if ended > 0 {
            tracing::warn!(processes = ended, "ended what an earlier agent had left");
        }
        let logs = Logs::new(logs);
        let means = Means {
            spawner: Spawner::start(launcher).map_err(SupervisorError::Thread)?,
            ports: Ports::new(ports, rand::random()),
            logs: logs.clone(),
            records,
            drain,
            counter: AtomicU64::new(1),
            stop: stop.clone(),
        };
        tracker.spawn(bound_logs(logs, stop));
        Ok(Self {
            inner: Arc::new(Inner {
                apps: Mutex::default(),
                statuses: watch::Sender::default(),
                means: Arc::new(means),
                tracker: tracker.clone(),
            }),
        })
    }

    /// Makes this what the app runs. The same release under a higher attempt starts anew what has
    /// failed, and leaves alone what has not.
    pub fn run(&self, launch: Launch, attempt: u64) {
        let app = launch.spec.app.clone();
        self.set_goal(&app, Goal { launch: Some(Arc::new(launch)), attempt });
    }

    /// Ends whatever runs of an app.
    pub fn stop(&self, app: &str, attempt: u64) {
        self.set_goal(app, Goal { launch: None, attempt });
    }

    /// Ends everything as each app asks for, and returns when nothing is left. Nothing is started any
    /// more, whoever asks for it.
    pub async fn stop_all(&self) {
        let mut statuses = self.watch();
        let apps: Vec<String> = {
            let mut apps = self.apps();
            apps.ending = true;
            apps.goals.keys().cloned().collect()
        };
        for app in &apps {
            let attempt = statuses.borrow().get(app).map_or(0, |status| status.attempt);
            self.stop(app, attempt);
        }
        let ended = |statuses: &Statuses| {
            apps.iter().all(|app| statuses.get(app).is_some_and(|status| status.state == AppState::Stopped))
        };
        let stop = &self.inner.means.stop;
        tokio::select! {
            () = stop.cancelled() => {}
            // The sender lives in `self`.
            _ended = statuses.wait_for(ended) => {}
        }
    }

    /// All apps, whenever something about one has changed.
    pub fn watch(&self) -> watch::Receiver<Statuses> {
        self.inner.statuses.subscribe()
    }

    fn apps(&self) -> MutexGuard<'_, Apps> {
        self.inner.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_goal(&self, app: &str, goal: Goal) {
        let mut apps = self.apps();
        if apps.ending && goal.launch.is_some() {
            return;
        }
        if let Some(sender) = apps.goals.get(app) {
            sender.send_replace(goal);
            return;
        }
        let (sender, receiver) = watch::channel(goal);
        apps.goals.insert(app.to_owned(), sender);
        let Inner { statuses, means, tracker, .. } = &*self.inner;
        let app = App::new(app.to_owned(), receiver, statuses.clone(), Arc::clone(means), tracker.clone());
        tracker.spawn(app.run());
    }
}

async fn bound_logs(logs: Logs, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(LOGS_INTERVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = logs.bound() {
            tracing::warn!(%error, "can not bound the logs of the instances");
        }
    }
}
