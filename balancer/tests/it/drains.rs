//! Instances that are told to stop.

use std::time::Duration;

use balancer::Target;
use tokio_util::task::TaskTracker;

use crate::backend::{Answer, Server, backend, before, ok, ok_text, snapshot, until};

#[tokio::test]
async fn a_snapshot_that_is_late_sends_nothing_to_a_stopped_instance() {
    let (stopped, other) = (Server::start(|_| ok("stopped")).await, Server::start(|_| ok("other")).await);
    let (balancer, address) = before(&[&stopped, &other]).await;
    balancer.stop_instance("shop", "0");
    // Twice, as the first may be what makes the table forget it.
    balancer.stop_instance("shop", "0");
    let client = reqwest::Client::new();
    for _ in 0..6 {
        let answer = client.post(format!("http://{address}/")).body("pay").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "other");
    }
    assert_eq!(stopped.count(), 0);
}

#[tokio::test]
async fn a_drain_waits_for_requests_of_this_nodes_own_clients() {
    let slow = Server::start(|_| Answer::Slow(Duration::from_millis(200), ok_text("done"))).await;
    let (balancer, address) = before(&[&slow]).await;
    let tasks = TaskTracker::new();
    let get = tasks.spawn(async move {
        reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap()
    });
    until("a request under way", || slow.count() > 0).await;
    balancer.stop_instance("shop", "0");
    balancer.drained("shop", "0").await;
    assert_eq!(get.await.unwrap(), "done");
}

#[tokio::test]
async fn idle_connections_to_a_stopped_instance_are_closed() {
    let server = Server::start(|_| ok("ok")).await;
    let (balancer, address) = before(&[&server]).await;
    for _ in 0..5 {
        assert_eq!(reqwest::get(format!("http://{address}/")).await.unwrap().status(), 200);
    }
    assert_eq!(server.open(), 1, "one connection is used again and again");
    balancer.stop_instance("shop", "0");
    until("the kept connection's end", || server.open() == 0).await;
}

#[tokio::test]
async fn an_instance_that_is_ready_again_is_asked_again() {
    let server = Server::start(|_| ok("ok")).await;
    let (balancer, address) = before(&[&server]).await;
    balancer.publish(snapshot(vec![backend("0", Target::Local(server.address))]));
    balancer.stop_instance("shop", "0");
    assert_eq!(reqwest::get(format!("http://{address}/")).await.unwrap().status(), 503);
    balancer.serve_instance("shop", "0", server.address);
    assert_eq!(reqwest::get(format!("http://{address}/")).await.unwrap().status(), 200);
}
