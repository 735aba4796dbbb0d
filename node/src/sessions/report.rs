//! Tells the farm which groups this node leads, so that others find their leaders.

use proto::peer::GroupState;
use tokio_util::sync::CancellationToken;

use super::hosted::Hosted;
use crate::members::Members;

pub(super) async fn run(hosted: Hosted, members: Members, stop: CancellationToken) {
    let mut changes = hosted.changes();
    let mut told: Option<Vec<GroupState>> = None;
    loop {
        changes.borrow_and_update();
        let groups = led(&hosted);
        if told.as_ref() != Some(&groups) {
            told = Some(groups.clone());
            members.publish(|state| state.groups = groups);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

fn led(hosted: &Hosted) -> Vec<GroupState> {
    let states = hosted.led().into_iter().map(|(group, view)| GroupState {
        group: group.id().0.into(),
        term: view.term,
        voters: view.voters.iter().map(|node| node.0).collect(),
        learners: view.learners.iter().map(|node| node.0).collect(),
    });
    states.collect()
}
