//! One task per app: from a goal to a running release.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use node_apps::{InstanceState, Launch, StoreError};
use node_core::control::{ControlState, Goal};
use proto::ids::ReleaseId;
use tokio::sync::watch;
use tracing::Instrument as _;

use super::fetch::FetchError;
use super::report::Stage;
use super::{AllGoals, Deploy, on_disk};
use crate::config::Config;
use crate::identity::Identity;

/// Between two attempts to get hold of a release. Nodes come back, disks are cleared: it is tried as
/// long as it is wanted.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// A release whose files are damaged as fast as they are fetched has a disk that is not to be trusted.
const REPAIRS_MAX: usize = 3;

/// What instances are told of the node they run on.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    node: String,
    zone: String,
    socket: PathBuf,
    resp: std::net::SocketAddr,
}

impl Surroundings {
    pub(super) fn new(identity: &Identity, config: &Config) -> Self {
        let socket = &config.api.apps_socket;
        Self {
            node: identity.name.clone(),
            zone: identity.zone.clone(),
            socket: std::path::absolute(socket).unwrap_or_else(|_| socket.clone()),
            resp: config.resp.bind,
        }
    }

    fn environment(&self, app: &str, secret: &str) -> BTreeMap<String, String> {
        let variables = [
            ("HOLDFAST_NODE", self.node.clone()),
            ("HOLDFAST_ZONE", self.zone.clone()),
            ("HOLDFAST_SOCKET", self.socket.display().to_string()),
            ("REDIS_URL", format!("redis://{app}:{secret}@{}/0", self.resp)),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

/// The workers, by app. They end with the agent.
pub(super) struct Workers {
    deploy: Deploy,
    surroundings: Arc<Surroundings>,
    goals: BTreeMap<String, watch::Sender<Goal>>,
}

impl Workers {
    pub(super) fn new(deploy: Deploy, surroundings: Surroundings) -> Self {
        Self { deploy, surroundings: Arc::new(surroundings), goals: BTreeMap::new() }
    }

    /// Hands each app its goal.
    pub(super) fn assign(&mut self, goals: &AllGoals) {
        for (app, goal) in goals {
            if let Some(sender) = self.goals.get(app) {
                sender.send_if_modified(|known| std::mem::replace(known, *goal) != *goal);
                continue;
            }
            let (sender, receiver) = watch::channel(*goal);
            self.goals.insert(app.clone(), sender);
            let worker = Worker {
                app: app.clone(),
                deploy: self.deploy.clone(),
                surroundings: Arc::clone(&self.surroundings),
            };
            let (stop, span) = (self.deploy.inner.tasks.stop(), tracing::info_span!("app", app));
            let work = async move {
                // Cut off anywhere, it leaves nothing half done: the store and the supervisor see to it.
                let _stopped = stop.run_until_cancelled(worker.run(receiver)).await;
            };
            self.deploy.inner.tasks.tracker().spawn(work.instrument(span));
        }
    }
}

struct Worker {
    app: String,
    deploy: Deploy,
    surroundings: Arc<Surroundings>,
}

/// Why a release can not be started yet.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the release is of the app {0:?}")]
    OtherApp(String),
    #[error("its files were damaged again right after they had been fetched: is this disk failing?")]
    Damaged,
}

impl Worker {
    async fn run(self, mut goals: watch::Receiver<Goal>) {
        loop {
            let goal = *goals.borrow_and_update();
            let inner = &self.deploy.inner;
            match goal.release {
                None => {
                    inner.supervisor.stop(&self.app, goal.attempt);
                    inner.stages.clear(&self.app);
                }
                Some(release) => {
                    let launch = tokio::select! {
                        launch = self.prepare(release, goal.attempt) => launch,
                        changed = goals.changed() => match changed {
                            Ok(()) => continue,
                            Err(_) => return,
                        },
                    };
                    inner.supervisor.run(launch, goal.attempt);
                    inner.stages.clear(&self.app);
                }
            }
            if goals.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tries until the release can be started.
    async fn prepare(&self, release: ReleaseId, attempt: u64) -> Launch {
        let mut pause = PAUSE_FIRST;
        let stage = |message| Stage { release, attempt, message };
        // What runs need not be looked at to go on running.
        if !self.is_serving(release) {
            self.deploy.inner.stages.set(&self.app, stage(String::new()));
        }
        loop {
            match self.try_prepare(release).await {
                Ok(launch) => return launch,
                Err(error) => {
                    tracing::warn!(%release, %error, "can not start a release yet");
                    self.deploy.inner.stages.set(&self.app, stage(error.to_string()));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn try_prepare(&self, release: ReleaseId) -> Result<Launch, PrepareError> {
        if !self.is_serving(release) {
            self.make_sound(release).await?;
        }
        let store = self.deploy.inner.store.clone();
        let in_use = self.is_in_use(release);
        let (manifest, root) =
            on_disk(move || Ok((store.manifest(release)?, store.unpack(release, in_use)?))).await?;
        if manifest.app() != self.app {
            return Err(PrepareError::OtherApp(manifest.app().to_owned()));
        }
        let secret = self.secret().await;
        Ok(Launch {
            release,
            version: manifest.version.clone(),
            environment: self.surroundings.environment(&self.app, &secret),
            spec: manifest.spec.clone(),
            root,
        })
    }

    /// Makes sure that every byte of the release is here and is what it should be.
    async fn make_sound(&self, release: ReleaseId) -> Result<(), PrepareError> {
        for _ in 0..REPAIRS_MAX {
            self.deploy.inner.fetcher.ensure(release, None).await?;
            let store = self.deploy.inner.store.clone();
            let damaged = on_disk(move || store.verify(release)).await?;
            if damaged.is_empty() {
                return Ok(());
            }
            tracing::warn!(%release, files = damaged.len(), "files of a release are damaged; fetching them again");
        }
        Err(PrepareError::Damaged)
    }

    /// Whether the release has an instance that is running well.
    fn is_serving(&self, release: ReleaseId) -> bool {
        self.has_instance(release, |state| matches!(state, InstanceState::Ready | InstanceState::Unready))
    }

    /// Whether something runs in the release's folder, or may at any moment.
    fn is_in_use(&self, release: ReleaseId) -> bool {
        self.has_instance(release, |_| true)
    }

    fn has_instance(&self, release: ReleaseId, is_one: impl Fn(InstanceState) -> bool) -> bool {
        let statuses = self.deploy.inner.supervisor.watch();
        let statuses = statuses.borrow();
        statuses.get(&self.app).is_some_and(|status| {
            status.instances.iter().any(|instance| instance.release == release && is_one(instance.state))
        })
    }

    /// The password of the app's keyspace. The controller may have told of the app before this node has
    /// applied the entry that made it.
    async fn secret(&self) -> String {
        let mut state = self.deploy.inner.control.watch();
        let known = |state: &Arc<ControlState>| state.apps.contains_key(&self.app);
        let found = state.wait_for(known).await.ok().map(|state| Arc::clone(&state));
        match found {
            Some(state) => {
                state.apps.get(&self.app).map(|app| app.secret.expose().to_owned()).unwrap_or_default()
            }
            // The control log is gone only when the agent ends.
            None => std::future::pending().await,
        }
    }
}
