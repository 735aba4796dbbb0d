use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use balancer::{Availability, Target};
use tokio_util::task::TaskTracker;

use crate::backend::{Answer, Server, backend, before, listening, ok, snapshot};

#[tokio::test]
async fn a_killed_backend_fails_no_get() {
    let servers = [
        Server::start(|_| ok("1")).await,
        Server::start(|_| ok("2")).await,
        Server::start(|_| ok("3")).await,
    ];
    let (_balancer, address) = before(&servers.iter().collect::<Vec<_>>()).await;
    let (failed, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks = TaskTracker::new();
    for _ in 0..32 {
        let (failed, done) = (Arc::clone(&failed), Arc::clone(&done));
        tasks.spawn(async move {
            let client = reqwest::Client::new();
            for _ in 0..100 {
                let answer = client.get(format!("http://{address}/")).send().await;
                if !answer.is_ok_and(|answer| answer.status() == 200) {
                    failed.fetch_add(1, Ordering::SeqCst);
                }
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    while done.load(Ordering::SeqCst) < 500 {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    servers[0].kill();
    tasks.close();
    tasks.wait().await;
    assert_eq!(failed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_post_that_may_have_been_executed_is_never_sent_again() {
    let faulty = Server::start(|_| Answer::Hangup).await;
    let also = Server::start(|_| Answer::Hangup).await;
    let (_balancer, address) = before(&[&faulty, &also]).await;
    let client = reqwest::Client::new();
    for n in 1..=10 {
        let answer = client.post(format!("http://{address}/")).body("pay").send().await.unwrap();
        assert_eq!(answer.status(), 502);
        assert_eq!(faulty.count() + also.count(), n);
    }
    // A GET may, and is tried on both.
    let answer = client.get(format!("http://{address}/")).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(faulty.count() + also.count(), 12);
}

#[tokio::test]
async fn a_post_goes_elsewhere_when_nobody_takes_the_connection() {
    let gone = Server::start(|_| ok("gone")).await;
    gone.kill();
    let there = Server::start(|_| ok("there")).await;
    // The listener is closed a moment after the kill.
    while tokio::net::TcpStream::connect(gone.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (_balancer, address) = before(&[&gone, &there]).await;
    let client = reqwest::Client::new();
    for _ in 0..6 {
        let answer = client.post(format!("http://{address}/")).body("pay").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "there");
    }
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_meanwhile_is_not_used() {
    // It says that it keeps the connection, and closes it.
    let server =
        Server::start(|_| Answer::Last("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned())).await;
    let (balancer, address) = before(&[&server]).await;
    let client = reqwest::Client::new();
    for _ in 0..50 {
        let answer = client.get(format!("http://{address}/")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(balancer.stats()[0].failures, 0);
}

#[tokio::test]
async fn a_get_that_waits_for_a_lost_server_is_answered_by_another() {
    let stuck = Server::start(|_| Answer::Never).await;
    let sound = Server::start(|_| ok("sound")).await;
    let (balancer, address) = listening(None);
    let backends = |availability| {
        let mut one = backend("0", Target::Local(stuck.address));
        one.availability = availability;
        vec![one, backend("1", Target::Local(sound.address))]
    };
    balancer.serve_instance("shop", "0", stuck.address);
    balancer.serve_instance("shop", "1", sound.address);
    balancer.publish(snapshot(backends(Availability::Serving)));
    let tasks = TaskTracker::new();
    let gets: Vec<_> = (0..2)
        .map(|_| {
            tasks.spawn(async move {
                reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap()
            })
        })
        .collect();
    while stuck.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    balancer.publish(snapshot(backends(Availability::Lost)));
    for get in gets {
        assert_eq!(get.await.unwrap(), "sound");
    }
}

#[tokio::test]
async fn without_a_backend_the_answer_says_why() {
    let (balancer, address) = listening(None);
    let text =
        |answer: reqwest::Response| async move { (answer.status().as_u16(), answer.text().await.unwrap()) };
    let (status, body) = text(reqwest::get(format!("http://{address}/")).await.unwrap()).await;
    assert_eq!(status, 503);
    assert!(body.contains("no app"), "{body}");
    balancer.publish(snapshot(Vec::new()));
    let (status, body) = text(reqwest::get(format!("http://{address}/")).await.unwrap()).await;
    assert_eq!(status, 503);
    assert!(body.contains("shop") && body.contains("no instance"), "{body}");
}

#[tokio::test]
async fn a_shutdown_lets_a_request_finish() {
    let slow = Server::start(|_| {
        std::thread::sleep(Duration::from_millis(300));
        ok("finished")
    })
    .await;
    let (balancer, address) = before(&[&slow]).await;
    let tasks = TaskTracker::new();
    let get = tasks.spawn(async move {
        reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap()
    });
    while balancer.stats()[0].in_flight == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    balancer.shutdown(Duration::from_secs(10)).await;
    assert_eq!(get.await.unwrap(), "finished");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
