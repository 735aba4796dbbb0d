//! Users of the groups: they write, read, and remember what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use node_consensus::WriteError;
use proto::ids::{GroupId, NodeId};
use rand::Rng as _;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::farm::Farm;
use super::invariants::Seen;
use super::ledger::Operation;

/// How long a client waits before it does something else. What it has asked for goes on.
const PATIENCE: Duration = Duration::from_secs(4);
const PAUSE_US: std::ops::RangeInclusive<u64> = 1_000..=80_000;
const REGISTERS: u8 = 4;

/// One client, until it is told to stop.
pub async fn run(farm: Arc<Farm>, client: usize, stop: CancellationToken) {
    let numbers = AtomicU64::new(0);
    while !stop.is_cancelled() {
        sleep(Duration::from_micros(farm.scene.draw(|random| random.random_range(PAUSE_US)))).await;
        let Some(at) = farm.some_node() else { continue };
        let (id, register, reads) = farm.scene.draw(|random| {
            let id = farm.ids[random.random_range(0..farm.ids.len())];
            (id, random.random_range(0..REGISTERS), random.random_bool(0.4))
        });
        let number = (client as u64 + 1) << 32 | numbers.fetch_add(1, Ordering::Relaxed);
        let asked = if reads {
            tokio::spawn(read(Arc::clone(&farm), at, id, number, register))
        } else {
            let written = write(Arc::clone(&farm), at, id, Operation { number, register });
            tokio::spawn(async move {
                written.await;
            })
        };
        let _given_up = timeout(PATIENCE, asked).await;
    }
}

/// Whether a write that is asked for here is acknowledged.
pub async fn is_served(farm: &Arc<Farm>, at: NodeId, id: GroupId) -> bool {
    let number = farm.scene.draw(|random| random.random::<u64>() | 1 << 63);
    let asked = tokio::spawn(write(Arc::clone(farm), at, id, Operation { number, register: 0 }));
    timeout(PATIENCE, asked).await.is_ok_and(|told| told.unwrap_or(false))
}

/// Asks a node, which asks the group's leader; whether it was acknowledged.
async fn write(farm: Arc<Farm>, at: NodeId, id: GroupId, operation: Operation) -> bool {
    let Some((to, number)) = the_way(&farm, at, id).await else { return false };
    let Some(life) = farm.life(to).filter(|life| life.number() == number) else { return false };
    let Some(group) = life.ledgers.get(&id) else { return false };
    let written = group.write(operation.encode()).await;
    if !come_back(&farm, at, to, number).await {
        return false;
    }
    match written {
        Ok(version) => {
            let version = version.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            farm.jury.see(&Seen::Acknowledged { group: id, operation, version });
            true
        }
        Err(WriteError::Unknown) => false,
        Err(
            WriteError::NotLeader { .. }
            | WriteError::NoQuorum
            | WriteError::TooLarge
            | WriteError::Busy
            | WriteError::Stopped,
        ) => {
            farm.jury.see(&Seen::Refused { group: id, operation });
            false
        }
    }
}

async fn read(farm: Arc<Farm>, at: NodeId, id: GroupId, read: u64, register: u8) {
    farm.jury.see(&Seen::Asks { group: id, read, register });
    let Some((to, number)) = the_way(&farm, at, id).await else { return };
    let Some(life) = farm.life(to).filter(|life| life.number() == number) else { return };
    let Some(group) = life.ledgers.get(&id) else { return };
    let version =
        group.read(|ledger| ledger.state.registers.get(&register).copied().unwrap_or_default()).await;
    if come_back(&farm, at, to, number).await
        && let Ok(version) = version
    {
        farm.jury.see(&Seen::Answered { group: id, read, register, version });
    }
}

/// To the leader, as the node knows it, and which of its lives that is.
async fn the_way(farm: &Farm, at: NodeId, id: GroupId) -> Option<(NodeId, u64)> {
    let to = farm.leader(at, id)?;
    if to != at {
        farm.servers.links.cross(at, to).await;
    }
    Some((to, farm.life(to)?.number()))
}

/// Whether the answer of that life comes back.
async fn come_back(farm: &Farm, at: NodeId, from: NodeId, number: u64) -> bool {
    // The dead answer nobody.
    let is_living = farm.servers.links.is_living(from, number);
    if is_living && from != at {
        farm.servers.links.cross(from, at).await;
    }
    is_living
}
