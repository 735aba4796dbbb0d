//! Removing releases that nothing can name any more.

use std::collections::BTreeSet;
use std::time::Duration;

use node_core::control::ControlState;
use proto::ids::ReleaseId;

use super::{Deploy, Life, on_disk};

/// A release that the control log does not name may be about to be named: it is brought in and copied
/// first. Nothing takes longer than this between the two.
const YOUNG: Duration = Duration::from_secs(3_600);

/// Collects whenever the control log names other releases than before. Not before the log has been
/// caught up with: what an old one does not name may be what runs.
pub(super) async fn run(deploy: Deploy) {
    let stop = deploy.inner.tasks.stop();
    let mut life = deploy.inner.life.subscribe();
    let going = life.wait_for(|life| matches!(life, Life::Going { settled_once: true }));
    if stop.run_until_cancelled(going).await.is_none() {
        return;
    }
    let mut state = deploy.inner.control.watch();
    let mut kept = None;
    loop {
        let keep = named(&state.borrow_and_update());
        if kept.as_ref() != Some(&keep) && collect(&deploy, keep.clone()).await {
            kept = Some(keep);
        }
        let changed = stop.run_until_cancelled(state.changed()).await;
        if !matches!(changed, Some(Ok(()))) {
            return stop.cancelled().await;
        }
    }
}

/// Collects once; after an upload that broke off its files belong to nothing. Before the log has been
/// caught up with, that is left to [`run`].
pub(super) async fn sweep(deploy: &Deploy) {
    if !matches!(*deploy.inner.life.borrow(), Life::Going { settled_once: true }) {
        return;
    }
    let keep = named(&deploy.state());
    collect(deploy, keep).await;
}

async fn collect(deploy: &Deploy, mut keep: BTreeSet<ReleaseId>) -> bool {
    let statuses = deploy.inner.supervisor.watch().borrow().clone();
    let running = statuses
        .values()
        .flat_map(|app| app.release.into_iter().chain(app.instances.iter().map(|instance| instance.release)));
    keep.extend(running);
    keep.extend(deploy.goals().all().into_values().filter_map(|goal| goal.release));
    let store = deploy.inner.store.clone();
    match on_disk(move || store.collect(&keep, YOUNG)).await {
        Ok(0) => true,
        Ok(bytes) => {
            tracing::info!(bytes, "collected files that no release needs");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "can not collect releases");
            false
        }
    }
}

/// Every release that the log names, in whatever way.
fn named(state: &ControlState) -> BTreeSet<ReleaseId> {
    let mut named: BTreeSet<ReleaseId> = state.releases.keys().copied().collect();
    for app in state.apps.values() {
        named.extend(app.stable);
        named.extend(app.target());
        named.extend(&app.history);
    }
    named
}
