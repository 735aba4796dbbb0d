//! Deletes keys whose deadline has passed: on each group's leader, through the log, a batch at a time.
//!
//! A key that nobody reads any more would otherwise stay for ever. That it goes a second late does not
//! matter: a read goes by the deadline.

use std::time::Duration;

use node_core::sessions::is_read;
use prost::Message as _;
use proto::log::{Op, Ops};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::hosted::{Hosted, SessionGroup};

const PERIOD: Duration = Duration::from_secs(1);
/// Keys of one entry: some milliseconds of every replica's time.
const KEYS_MAX: u32 = 1_000;
/// Entries in a row for one group, before the others have their turn.
const ENTRIES_MAX: usize = 20;

pub(super) async fn run(hosted: Hosted, stop: CancellationToken) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        for (group, _) in hosted.led() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sweep(&group) => {}
            }
        }
    }
}

async fn sweep(group: &SessionGroup) {
    for _ in 0..ENTRIES_MAX {
        let now_ms = group.now_ms();
        let Some(op) = group.local(|machine| machine.state().sweep_due(now_ms, KEYS_MAX)) else { return };
        if let Err(error) = group.write(entry(op)).await {
            // The next leader, or this one in a second, finds the same keys.
            tracing::debug!(group = %group.id(), %error, "expired keys could not be deleted");
            return;
        }
    }
}

fn entry(op: Op) -> bytes::Bytes {
    debug_assert!(!is_read(&op), "a sweep deletes");
    Ops { ops: vec![op] }.encode_to_vec().into()
}
