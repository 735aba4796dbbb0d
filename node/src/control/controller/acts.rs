//! The controller's calls to the agents.
//!
//! Every act is sent on its own, to this node's agent in the same way as to the others, and again
//! after a while if the plan still asks for it: that the agent has heard it is told by its answer,
//! that it has done it only by its state.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use node_core::control::Act;
use proto::ids::{Epoch, NodeId};
use proto::peer::act_request::What;
use proto::peer::{ActRequest, FetchRelease, RunRelease};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::mesh::Mesh;

/// An agent notes an act and answers; doing it takes as long as it takes.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// An act that the plan still asks for is sent again after this. A repetition costs one small call.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Calls under way. What does not fit is sent with a later plan.
const UNDER_WAY_MAX: usize = 256;

pub(super) struct Acts {
    mesh: Mesh,
    epoch: Epoch,
    under_way: JoinSet<()>,
    /// When each act that is still wanted was sent last.
    sent: HashMap<(NodeId, Act), Instant>,
}

impl Acts {
    pub(super) fn new(mesh: Mesh, epoch: Epoch) -> Self {
        Self { mesh, epoch, under_way: JoinSet::new(), sent: HashMap::new() }
    }

    /// Sends what is wanted now and was not sent lately.
    pub(super) fn send(&mut self, wanted: Vec<(NodeId, Act)>) {
        let still: HashSet<&(NodeId, Act)> = wanted.iter().collect();
        self.sent.retain(|act, _| still.contains(act));
        let now = Instant::now();
        for act in wanted {
            let lately = self.sent.get(&act).is_some_and(|sent| now < *sent + AGAIN_AFTER);
            if lately || self.under_way.len() >= UNDER_WAY_MAX {
                continue;
            }
            self.under_way.spawn(call(self.mesh.clone(), self.epoch, act.0, act.1.clone()));
            self.sent.insert(act, now);
        }
    }

    /// Returns when a call has ended; never while there is none.
    pub(super) async fn finished(&mut self) {
        match self.under_way.join_next().await {
            None => std::future::pending().await,
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::error!(%error, "a call to an agent panicked"),
        }
    }
}

async fn call(mesh: Mesh, epoch: Epoch, node: NodeId, act: Act) {
    let mut client = match mesh.peer(node) {
        Ok(client) => client,
        Err(error) => return tracing::warn!(%node, %error, "can not send an act"),
    };
    match tokio::time::timeout(ANSWER_MAX, client.act(request(epoch, &act))).await {
        Err(_) => tracing::warn!(%node, ?act, "no answer to an act"),
        Ok(Err(status)) => tracing::warn!(%node, ?act, error = status.message(), "an act failed"),
        Ok(Ok(response)) => {
            let response = response.into_inner();
            if response.accepted {
                tracing::debug!(%node, ?act, "an act was accepted");
            } else {
                tracing::warn!(%node, ?act, seen = response.epoch_seen, reason = response.reason, "an act was refused");
            }
        }
    }
}

fn request(epoch: Epoch, act: &Act) -> ActRequest {
    let what = match act {
        Act::Fetch { release, .. } => What::Fetch(FetchRelease { release: release.0.to_vec().into() }),
        Act::Run { app, release, attempt } => What::Run(RunRelease {
            app: app.clone(),
            release: release.map(|release| release.0.to_vec()).unwrap_or_default().into(),
            attempt: *attempt,
        }),
    };
    ActRequest { epoch: epoch.0, action: act.attempt(), what: Some(what) }
}

#[cfg(test)]
mod tests {
    use proto::ids::ReleaseId;

    use super::*;

    #[test]
    fn an_act_carries_the_epoch_and_its_attempt_and_to_stop_is_to_run_nothing() {
        let run = |release| Act::Run { app: "shop".to_owned(), release, attempt: 9 };
        let sent = request(Epoch(4), &run(Some(ReleaseId([1; 32]))));
        assert_eq!((sent.epoch, sent.action), (4, 9));
        let stop = request(Epoch(4), &run(None));
        let Some(What::Run(stop)) = stop.what else { panic!("not a run") };
        assert!(stop.release.is_empty() && stop.attempt == 9);
    }
}
