//! What the controller asks of this agent, and whether it is the controller that asks.
//!
//! An act is believed when this node's own copy of the control log says that the sender began the epoch
//! which the act carries, and when no higher epoch was ever recorded here. The first keeps a member that
//! is no controller from ruling, and from making an agent deaf by an epoch that never was; the second
//! keeps a controller that was deposed, and has not heard of it, from being obeyed by an agent whose copy
//! of the log was lost and is still catching up.

use std::time::Duration;

use node_core::control::Goal;
use proto::ids::{Epoch, NodeId, ReleaseId};
use proto::peer::act_request::What;
use proto::peer::{ActRequest, ActResponse, RunRelease};
use tonic::Status;

use super::{Deploy, release_id};
use crate::fence::FenceError;

/// How long an act waits for the entry that began its reign to be applied here. It is usually there
/// already; a node that is further behind is asked again.
const FOLLOW_MAX: Duration = Duration::from_secs(3);

/// Why an act is not carried out.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("epoch {given} has been succeeded: this node knows of epoch {known}")]
    Succeeded { given: Epoch, known: Epoch },
    #[error("this node's copy of the control log knows of epoch {known} and of no epoch {given}")]
    Unheard { given: Epoch, known: Epoch },
    #[error("node {sender} is not the controller of epoch {given}")]
    Usurped { sender: NodeId, given: Epoch },
    #[error(transparent)]
    Fence(#[from] FenceError),
}

impl Deploy {
    /// Does what the controller says, if it is the newest.
    ///
    /// # Errors
    /// When the request is malformed or the epoch can not be recorded.
    pub async fn handle_act(&self, from: NodeId, request: ActRequest) -> Result<ActResponse, Status> {
        let act = Act::parse(&request)?;
        match self.admit(from, Epoch(request.epoch)).await {
            Ok(()) => {}
            Err(Refusal::Fence(error @ (FenceError::Record { .. } | FenceError::Read(_)))) => {
                return Err(Status::internal(error.to_string()));
            }
            Err(refusal) => {
                tracing::warn!(controller = %from, epoch = request.epoch, %refusal, "an act is refused");
                return Ok(ActResponse {
                    accepted: false,
                    epoch_seen: self.epoch_known().0,
                    reason: refusal.to_string(),
                });
            }
        }
        // Whom every agent obeys can be judged by its log (`holdfast-chaos check`).
        tracing::debug!(controller = %from, epoch = request.epoch, "an act is obeyed");
        match act {
            Act::Fetch(release) => self.fetch_in_background(release, from),
            Act::Run(app, goal) => {
                if self.goals().told(&app, goal) {
                    self.inner.woken.notify_one();
                }
            }
        }
        Ok(ActResponse { accepted: true, epoch_seen: self.epoch_known().0, reason: String::new() })
    }

    async fn admit(&self, sender: NodeId, given: Epoch) -> Result<(), Refusal> {
        #[cfg(holdfast_mutants)]
        if mutation::is("fencing-skipped") {
            return Ok(());
        }
        let mut followed = self.inner.control.watch();
        let reached = tokio::time::timeout(FOLLOW_MAX, followed.wait_for(|state| state.epoch >= given));
        let state = match reached.await {
            Ok(Ok(state)) => state.clone(),
            // Too far behind, or the agent ends.
            Err(_) | Ok(Err(_)) => return Err(Refusal::Unheard { given, known: self.state().epoch }),
        };
        if state.epoch > given {
            return Err(Refusal::Succeeded { given, known: state.epoch });
        }
        if state.controller != Some(sender) {
            return Err(Refusal::Usurped { sender, given });
        }
        Ok(self.inner.fence.admit(given).await?)
    }

    fn epoch_known(&self) -> Epoch {
        self.inner.fence.seen().max(self.state().epoch)
    }

    /// Once for each act: the controller repeats one that still matters.
    fn fetch_in_background(&self, release: ReleaseId, from: NodeId) {
        if self.inner.store.has(release) || self.inner.fetcher.is_fetching(release) {
            return;
        }
        let (deploy, stop) = (self.clone(), self.inner.tasks.stop());
        self.inner.tasks.tracker().spawn(async move {
            let fetched = stop.run_until_cancelled(deploy.inner.fetcher.ensure(release, None)).await;
            if let Some(Err(error)) = fetched {
                tracing::warn!(%release, %from, %error, "can not fetch a release");
            }
        });
    }
}

/// An act, understood.
enum Act {
    Fetch(ReleaseId),
    Run(String, Goal),
}

impl Act {
    fn parse(request: &ActRequest) -> Result<Self, Status> {
        match &request.what {
            Some(What::Fetch(fetch)) => Ok(Self::Fetch(release_id(&fetch.release)?)),
            Some(What::Run(RunRelease { app, release, attempt })) => {
                if !node_apps::is_name(app) {
                    return Err(Status::invalid_argument("not the name of an app"));
                }
                let release = if release.is_empty() { None } else { Some(release_id(release)?) };
                Ok(Self::Run(app.clone(), Goal { release, attempt: *attempt }))
            }
            None => Err(Status::invalid_argument("an act of no known kind")),
        }
    }
}
