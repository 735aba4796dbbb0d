//! The apps of this node: brought in, fetched, run, reported.
//!
//! ```text
//!   controller ──Act──▶ fence ─▶ Goals ◀── applied control state (what this node should run)
//!                                  │
//!                                  ▼ one worker per app
//!                      fetch from peers ─▶ verify ─▶ unpack ─▶ Supervisor ─▶ instances
//!                                                                 │
//!        members' states, balancer's doors ◀──── report ◀─────────┘
//!
//!   operator ──upload──▶ ReleaseStore ─▶ a second copy elsewhere ─▶ the control log ──▶ rollout, watched
//! ```
//!
//! What should run is a level, not an event: the control state that this node has applied says it, and
//! the controller's acts only say it sooner. So an act that is lost, repeated or late does no harm, and
//! a node that was away does what the state says when it is back. The number that decides between the
//! two is the attempt, which never falls.
//!
//! Architecture Invariant: nothing is started before the files of its release have been hashed on this
//! disk. No instance is asked to end while it may still be given a request.

mod acts;
mod doors;
mod fetch;
mod garbage;
mod progress;
mod report;
mod serve;
pub mod service;
mod upload;
mod views;
mod worker;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use node_apps::{AppState, ReleaseStore, StoreError, Supervisor, SupervisorConfig, SupervisorError};
use node_core::control::{ControlState, Goal, Goals};
use proto::ids::{NodeId, ReleaseId};
use proto::peer::{FetchBlobRequest, ReplicateRequest, ReplicateResponse};
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tonic::Status;

use crate::config::Config;
use crate::control::Control;
use crate::fence::EpochFence;
use crate::identity::Identity;
use crate::members::Members;
use crate::mesh::Mesh;
use crate::tasks::Tasks;

use doors::Doors;
use fetch::Fetcher;
use report::Stages;
use worker::Workers;

pub use progress::rollout_view;
pub use serve::BlobStream;

/// What the apps' part is made from.
pub struct DeployParts {
    pub identity: Arc<Identity>,
    pub config: Config,
    pub mesh: Mesh,
    pub control: Control,
    pub members: Members,
    pub fence: EpochFence,
    pub balancer: Arc<balancer::Balancer>,
    pub tasks: Tasks,
}

/// Why there can be no apps on this node.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error("can not open the store of releases: {0}")]
    Store(#[from] StoreError),
    #[error("can not run instances: {0}")]
    Supervisor(#[from] SupervisorError),
    #[error("can not tell where {} is: {source}", path.display())]
    Path { path: PathBuf, source: std::io::Error },
}

/// A handle to the apps of this node. Clones share it.
#[derive(Clone)]
pub struct Deploy {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    store: ReleaseStore,
    supervisor: Supervisor,
    fetcher: Fetcher,
    control: Control,
    members: Members,
    mesh: Mesh,
    fence: EpochFence,
    goals: Mutex<Goals>,
    /// The goals may have changed.
    woken: Notify,
    stages: Stages,
    life: watch::Sender<Life>,
    serving: serve::Serving,
    uploads: upload::Uploads,
    tasks: Tasks,
}

/// How far the agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The control state may be old: nothing is started.
    Waiting,
    /// The goals have been read from the control state at least once.
    Going { settled_once: bool },
    /// Everything has been told to end; nothing is started any more.
    Ending,
}

impl Deploy {
    /// Ends what an earlier agent left running, and opens the store. Apps are started after
    /// [`Deploy::go`].
    ///
    /// # Errors
    /// When the disk refuses, or leftovers can not be ended.
    pub async fn start(parts: DeployParts) -> Result<Self, DeployError> {
        Self::launching(parts, SupervisorConfig::own_launcher()).await
    }

    async fn launching(parts: DeployParts, launcher: Vec<OsString>) -> Result<Self, DeployError> {
        let DeployParts { identity, config, mesh, control, members, fence, balancer, tasks } = parts;
        let folder = config.node.data_dir.join("apps");
        // Instances stand in another folder than the agent.
        let folder =
            std::path::absolute(&folder).map_err(|source| DeployError::Path { path: folder, source })?;
        let store_folder = folder.join("store");
        let store = on_disk(move || ReleaseStore::open(&store_folder)).await?;
        let doors = Arc::new(Doors::new(balancer));
        let supervisor = Supervisor::start(
            SupervisorConfig {
                records: folder.join("instances"),
                logs: folder.join("logs"),
                ports: config.apps.ports.clone(),
                launcher,
            },
            Arc::clone(&doors) as Arc<dyn node_apps::Drain>,
            tasks.tracker(),
            tasks.stop(),
        )
        .await?;
        let inner = Inner {
            me: identity.node,
            fetcher: Fetcher::new(store.clone(), mesh.clone(), members.clone(), identity.zone.clone()),
            store,
            supervisor,
            control,
            members,
            mesh,
            fence,
            goals: Mutex::default(),
            woken: Notify::new(),
            stages: Stages::default(),
            life: watch::Sender::new(Life::Waiting),
            serving: serve::Serving::default(),
            uploads: upload::Uploads::default(),
            tasks: tasks.clone(),
        };
        let deploy = Self { inner: Arc::new(inner) };
        let workers = Workers::new(deploy.clone(), worker::Surroundings::new(&identity, &config));
        tasks.essential("apps", deploy.clone().reconcile(workers));
        tasks.essential("apps' report", report::run(deploy.clone(), doors));
        tasks.essential("collection of releases", garbage::run(deploy.clone()));
        Ok(deploy)
    }

    /// The control state is as new as it gets: start what it says.
    pub fn go(&self) {
        self.inner.life.send_if_modified(|life| {
            let waits = *life == Life::Waiting;
            if waits {
                *life = Life::Going { settled_once: false };
            }
            waits
        });
    }

    /// Waits until every app that this node should run is ready, or has failed.
    pub async fn settled(&self) {
        let mut life = self.inner.life.subscribe();
        let begun = |life: &Life| match life {
            Life::Going { settled_once } => *settled_once,
            Life::Ending => true,
            Life::Waiting => false,
        };
        // The sender lives in `self`.
        drop(life.wait_for(begun).await);
        let mut statuses = self.inner.supervisor.watch();
        // A goal that changes meanwhile brings a change of status with it.
        let _settled = statuses
            .wait_for(|statuses| {
                let goals = self.goals().all();
                let mut wanted = goals.iter().filter_map(|(app, goal)| Some((app, goal.release?)));
                wanted.all(|(app, release)| {
                    statuses.get(app).is_some_and(|status| {
                        status.release == Some(release)
                            && matches!(status.state, AppState::Ready | AppState::Failed)
                    })
                })
            })
            .await;
    }

    /// Ends every instance as its app asks for, and returns when all are gone.
    pub async fn stop_all(&self) {
        self.inner.life.send_replace(Life::Ending);
        self.inner.supervisor.stop_all().await;
    }

    /// Streams a blob, or a manifest, to a peer.
    ///
    /// # Errors
    /// When it is not here, or too many are being streamed.
    pub async fn handle_fetch_blob(
        &self,
        _from: NodeId,
        request: FetchBlobRequest,
    ) -> Result<BlobStream, Status> {
        self.inner.serving.stream(&self.inner.store, &request, &self.inner.tasks).await
    }

    /// Takes a copy of a release from the peer that asks, and answers when it is durable here.
    ///
    /// # Errors
    /// When the request is malformed.
    pub async fn handle_replicate(
        &self,
        from: NodeId,
        request: ReplicateRequest,
    ) -> Result<ReplicateResponse, Status> {
        let release = release_id(&request.release)?;
        Ok(match self.inner.fetcher.ensure(release, Some(from)).await {
            Ok(()) => ReplicateResponse { complete: true, reason: String::new() },
            Err(error) => ReplicateResponse { complete: false, reason: error.to_string() },
        })
    }

    /// Follows the control state and the controller's acts, and hands each app's goal to its worker.
    async fn reconcile(self, mut workers: Workers) {
        let stop = self.inner.tasks.stop();
        let mut life = self.inner.life.subscribe();
        let going = life.wait_for(|life| *life != Life::Waiting);
        if stop.run_until_cancelled(going).await.is_none() {
            return;
        }
        let mut state = self.inner.control.watch();
        loop {
            let now = state.borrow_and_update().clone();
            let goals = {
                let mut goals = self.goals();
                goals.follow(&now, self.inner.me);
                goals.all()
            };
            if *self.inner.life.borrow() == Life::Ending {
                return stop.cancelled().await;
            }
            workers.assign(&goals);
            self.inner.life.send_if_modified(|life| {
                let first = *life == Life::Going { settled_once: false };
                if first {
                    *life = Life::Going { settled_once: true };
                }
                first
            });
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.woken.notified() => {}
                _ending = life.changed() => {}
                changed = state.changed() => if changed.is_err() { return stop.cancelled().await },
            }
        }
    }

    fn goals(&self) -> MutexGuard<'_, Goals> {
        self.inner.goals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> Arc<ControlState> {
        self.inner.control.state()
    }
}

fn release_id(bytes: &[u8]) -> Result<ReleaseId, Status> {
    ReleaseId::from_slice(bytes).ok_or_else(|| Status::invalid_argument("not a release's id of 32 bytes"))
}

/// Runs what blocks on a thread for that.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    finished(tokio::task::spawn_blocking(work).await)
}

/// What came of such work. Its panic is the caller's.
fn finished<T>(ended: Result<Result<T, StoreError>, JoinError>) -> Result<T, StoreError> {
    let error = match ended {
        Ok(result) => return result,
        Err(error) => error,
    };
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // The runtime ends, and the agent with it.
        Err(cancelled) => {
            let source = std::io::Error::other(cancelled);
            Err(StoreError::Io { what: "work on", path: PathBuf::new(), source })
        }
    }
}

/// The goal of each app, by name.
type AllGoals = BTreeMap<String, Goal>;

#[cfg(test)]
mod tests;
