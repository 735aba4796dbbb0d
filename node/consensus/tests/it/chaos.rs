//! Writers go on while nodes are killed, cut off and started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use node_consensus::{Group, Settings};
use proto::ids::NodeId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng as _};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Net, Words, formed_with, leader, until};

const WRITERS: u64 = 4;
const ROUNDS: usize = 8;

/// The handles of the nodes that live.
type Doors = Arc<Mutex<Vec<(NodeId, Group<Words>)>>>;

#[tokio::test]
async fn what_was_acknowledged_survives_kills_cuts_and_restarts() {
    let net = Net::default();
    // Snapshots and purges happen meanwhile.
    let settings = Settings { snapshot_entries: 50, ..Settings::default() };
    let mut nodes = formed_with(&net, 3, settings).await;
    let doors: Doors = Arc::default();
    let (stop, count) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write_until(writer, Arc::clone(&doors), Arc::clone(&count), stop.clone()));
    }
    let mut random = SmallRng::seed_from_u64(20_261_123);
    for _ in 0..ROUNDS {
        *doors.lock().await = nodes.iter().map(|node| (node.id, node.group.clone())).collect();
        wait_for_progress(&count).await;
        let victim = random.random_range(0..3);
        if random.random_bool(0.5) {
            net.isolate(nodes[victim].id);
            wait_for_progress(&count).await;
            net.heal();
        } else {
            let victim = nodes.remove(victim);
            doors.lock().await.retain(|(id, _)| *id != victim.id);
            let dead = victim.kill().await;
            wait_for_progress(&count).await;
            nodes.push(dead.restart().await);
        }
    }
    stop.cancel();
    let acknowledged: Vec<String> = writers.join_all().await.into_iter().flatten().collect();
    let place = leader(&nodes).await;
    let words = nodes[place].group.read(|words| words.0.clone()).await.unwrap();
    let lost: Vec<_> = acknowledged.iter().filter(|word| !words.contains(word)).collect();
    assert!(lost.is_empty(), "{lost:?} of {}", acknowledged.len());
    for node in &nodes {
        until("all replicas agree", || node.words() == words).await;
    }
}

/// Writes words of its own to whoever takes them, and returns those that were acknowledged.
async fn write_until(
    writer: u64,
    doors: Doors,
    count: Arc<AtomicU64>,
    stop: CancellationToken,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut next = 0usize;
    while !stop.is_cancelled() {
        next += 1;
        let word = format!("{writer}-{next}");
        let door = doors.lock().await.iter().cycle().nth(next % 3).map(|(_, group)| group.clone());
        let Some(door) = door else { continue };
        if door.write(word.clone().into()).await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
            acknowledged.push(word);
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    acknowledged
}

async fn wait_for_progress(count: &AtomicU64) {
    let before = count.load(Ordering::Relaxed);
    until("writes go on", || count.load(Ordering::Relaxed) > before + 20).await;
}
