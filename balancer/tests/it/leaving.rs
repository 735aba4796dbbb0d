//! A balancer that is about to stop.

use std::time::Duration;

use balancer::{Balancer, Settings};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::backend::{Answer, Server, before, ok, ok_text, raw, read_until, until};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn one_that_leaves_asks_its_clients_to_close_with_their_next_answer() {
    let server = Server::start(|_| ok("done")).await;
    let (balancer, address) = before(&[&server]).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(GET).await.unwrap();
    let answer = read_until(&mut client, "done").await;
    assert!(!answer.to_lowercase().contains("connection: close"), "{answer}");
    balancer.leave();
    client.write_all(GET).await.unwrap();
    // To the connection's end.
    let answer = read_until(&mut client, "").await;
    assert!(answer.ends_with("done") && answer.to_lowercase().contains("connection: close"), "{answer}");
    assert!(raw(address, GET, "").await.ends_with("done"), "others still come");
}

#[tokio::test]
async fn a_request_under_way_at_a_shutdown_is_told_that_the_connection_ends() {
    let slow = Server::start(|_| Answer::Slow(Duration::from_millis(300), ok_text("done"))).await;
    let (balancer, address) = before(&[&slow]).await;
    let tasks = TaskTracker::new();
    let answer = tasks.spawn(async move { raw(address, GET, "").await });
    until("a request under way", || slow.count() > 0).await;
    balancer.shutdown(Duration::from_secs(20)).await;
    let answer = answer.await.unwrap();
    assert!(answer.ends_with("done") && answer.to_lowercase().contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn an_owner_without_room_says_that_nothing_was_executed() {
    let owner = Balancer::start(Settings::default()).unwrap();
    let (mut agent, theirs) = tokio::io::duplex(64 << 10);
    owner.turn_away_peer(theirs);
    let ask = b"POST / HTTP/1.1\r\nHost: a\r\nHoldfast-Instance: shop/0\r\nContent-Length: 3\r\n\r\npay";
    agent.write_all(ask).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut agent, &mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.to_lowercase().contains("holdfast-refused"),
        "{answer}"
    );
}

#[tokio::test]
async fn after_a_shutdown_no_connection_to_an_instance_is_kept() {
    let server = Server::start(|_| ok("done")).await;
    let owner = Balancer::start(Settings::default()).unwrap();
    owner.serve_instance("shop", "0", server.address);
    let (mut agent, theirs) = tokio::io::duplex(64 << 10);
    owner.serve_peer(theirs);
    let ask = b"GET / HTTP/1.1\r\nHost: a\r\nHoldfast-Instance: shop/0\r\n\r\n";
    agent.write_all(ask).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"done") {
        tokio::io::AsyncReadExt::read_buf(&mut agent, &mut answer).await.unwrap();
    }
    assert_eq!(server.open(), 1);
    owner.shutdown(Duration::from_secs(20)).await;
    until("the kept connection's end", || server.open() == 0).await;
    drop(owner);
}
