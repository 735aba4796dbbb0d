use std::time::Duration;

use crate::cluster::{Net, formed, leader, until};

const HOUR: Duration = Duration::from_secs(3_600);
const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;

#[tokio::test]
async fn a_leader_that_begins_again_with_a_clock_an_hour_ahead_leads_by_the_groups_time() {
    let net = Net::default();
    let mut nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    nodes[place].write("before").await.unwrap();
    let before_ms = nodes[place].group.now_ms();
    let ahead = nodes.remove(place).kill().await.restart_ahead(HOUR).await;
    let id = ahead.id;
    nodes.push(ahead);
    // It leads on, or somebody else does; in the end it is alone with one that follows it.
    for _ in 0..3 {
        let place = leader(&nodes).await;
        nodes[place].write("after").await.unwrap();
        let now_ms = nodes[place].group.now_ms();
        assert!((before_ms..before_ms + MINUTE_MS).contains(&now_ms), "{} ms later", now_ms - before_ms);
        if nodes[place].id == id {
            return;
        }
        let other = nodes.remove(place).kill().await;
        leader(&nodes).await;
        nodes.push(other.restart().await);
    }
}

#[tokio::test]
async fn after_an_outage_of_all_what_has_gone_by_counts() {
    let net = Net::default();
    let nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    nodes[place].write("before").await.unwrap();
    let before_ms = nodes[place].group.now_ms();
    let mut dead = Vec::new();
    for node in nodes {
        dead.push(node.kill().await);
    }
    let mut nodes = Vec::new();
    for (number, node) in dead.into_iter().enumerate() {
        // One of three has it wrong.
        let wall = if number == 0 { 5 * HOUR } else { HOUR };
        nodes.push(node.restart_ahead(wall).await);
    }
    let place = leader(&nodes).await;
    until("the time is known", || nodes[place].group.now_ms() >= before_ms + HOUR_MS).await;
    nodes[place].write("after").await.unwrap();
    assert!(nodes[place].group.now_ms() < before_ms + HOUR_MS + MINUTE_MS);
}
