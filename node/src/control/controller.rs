//! The controller: what the leader of the control log does besides leading it.
//!
//! ```text
//!   leads? ──> found the cluster, if this is its first node
//!          ──> write ControllerStarted; its index is the epoch
//!          ──> plan, carry out, wait for a change or 200 ms ──┐
//!                    ^                                         │
//!                    └─────────────────────────────────────────┘ while it leads and the epoch is its own
//! ```
//!
//! It makes no choice of its own: the plan says what to do, and whatever is left half done is planned
//! again. Dropping a reign drops its calls.

mod acts;

use std::time::Duration;

use node_core::control::{Command, Outcome, Plan, Policy, Refusal, plan};
use proto::ids::Epoch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::electorate::ElectorateChange;
use super::propose::ProposeError;
use super::{Control, addresses, inventory};
use acts::Acts;

/// Plans are made at least so often: deadlines and patience run out without an event.
const TICK: Duration = Duration::from_millis(200);
/// Changes that come within this time share a plan.
const COALESCE: Duration = Duration::from_millis(20);
/// After a reign that could not begin.
const RETRY: Duration = Duration::from_millis(500);
/// How long a new controller waits for the nodes to tell of themselves: some rounds of anti-entropy.
const SETTLE_MAX: Duration = Duration::from_secs(3);

/// Reigns whenever this node leads.
pub(super) async fn run(control: Control, stop: CancellationToken) {
    let mut view = control.group_view();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            leads = view.wait_for(|view| view.is_leader) => if leads.is_err() { return },
        }
        let reign = async {
            match begin(&control).await {
                Ok(epoch) => Reign::new(&control, epoch).last().await,
                Err(error) => {
                    // A leader that was restarted believes that it leads until the first refusal.
                    tracing::info!(%error, "this node leads the control log and could not become the controller");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = reign => {}
        }
    }
}

/// Why a reign did not begin.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error(transparent)]
    Write(#[from] ProposeError),
    #[error(transparent)]
    Genesis(#[from] crate::identity::IdentityError),
    #[error("the log answered {0:?}")]
    Refused(Outcome),
}

async fn begin(control: &Control) -> Result<Epoch, BeginError> {
    if let Some(genesis) = control.inner.identity.genesis()? {
        let outcome = control.write_here(&genesis).await?;
        // Or it was logged in an earlier life, which ended before it could note that.
        let founded = outcome == Outcome::Refused(Refusal::AlreadyInitialised);
        if outcome != Outcome::Done && !founded {
            return Err(BeginError::Refused(outcome));
        }
        control.inner.identity.genesis_done()?;
    }
    let outcome = control.write_here(&Command::ControllerStarted { node: control.me() }).await?;
    let Outcome::Started { epoch } = outcome else { return Err(BeginError::Refused(outcome)) };
    Ok(epoch)
}

struct Reign<'a> {
    control: &'a Control,
    epoch: Epoch,
    began: Instant,
    acts: Acts,
    electorate: ElectorateChange,
}

impl<'a> Reign<'a> {
    fn new(control: &'a Control, epoch: Epoch) -> Self {
        tracing::info!(%epoch, "this node is the controller");
        Self {
            control,
            epoch,
            began: Instant::now(),
            acts: Acts::new(control.inner.mesh.clone(), epoch),
            electorate: ElectorateChange::new(control.inner.group.clone()),
        }
    }

    /// Lasts until somebody else leads or reigns.
    async fn last(mut self) {
        let mut view = self.control.inner.members.view();
        let mut state = self.control.watch();
        let mut group = self.control.group_view();
        loop {
            // One and the same state says that this node reigns and is planned from: orders carry its epoch.
            let log = state.borrow_and_update().clone();
            if !self.control.leads() || log.epoch != self.epoch {
                break;
            }
            let members = view.borrow_and_update().clone();
            let now_ms = self.control.inner.group.now_ms();
            let started = self.control.inner.members.started();
            let inventory = inventory::take(&members, started, &group.borrow_and_update().clone(), now_ms);
            if inventory::is_settled(&members) || self.began.elapsed() > SETTLE_MAX {
                let plan = plan(&log, &inventory, now_ms, &Policy::default());
                if self.carry_out(plan).await.is_err() {
                    break;
                }
            }
            tokio::time::sleep(COALESCE).await;
            tokio::select! {
                changed = view.changed() => if changed.is_err() { break },
                changed = state.changed() => if changed.is_err() { break },
                changed = group.changed() => if changed.is_err() { break },
                () = self.acts.finished() => {}
                () = self.electorate.finished() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
        tracing::info!(epoch = %self.epoch, "this node is no longer the controller");
    }

    async fn carry_out(&mut self, plan: Plan) -> Result<(), ProposeError> {
        for command in &plan.commands {
            match self.control.write_here(command).await? {
                Outcome::Refused(refusal) => tracing::warn!(?command, %refusal, "an order was refused"),
                Outcome::Done
                | Outcome::Admitted { .. }
                | Outcome::Started { .. }
                | Outcome::Targeted { .. } => {
                    tracing::info!(?command, "ordered");
                }
            }
        }
        addresses::learn_missing(self.control);
        self.acts.send(plan.acts);
        if let Some(electorate) = plan.electorate {
            self.electorate.begin(electorate);
        }
        Ok(())
    }
}
