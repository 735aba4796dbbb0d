//! Requests that meet a change of the instances.

use std::time::Duration;

use balancer::{Availability, Target};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::backend::{Answer, Server, backend, before, listening, ok, ok_text, read_until, snapshot};

#[tokio::test]
async fn a_request_whose_only_instance_is_replaced_is_answered_by_the_new_one() {
    let (old, new) = (Server::start(|_| ok("old")).await, Server::start(|_| ok("new")).await);
    let (balancer, address) = before(&[&old]).await;
    balancer.stop_instance("shop", "0");
    let tasks = TaskTracker::new();
    let client = reqwest::Client::new();
    let requests = [client.get(format!("http://{address}/")), client.post(format!("http://{address}/"))];
    let requests = requests.map(|request| {
        tasks.spawn(async move { request.body("pay").send().await.unwrap().text().await.unwrap() })
    });
    // They find nobody, and wait.
    tokio::time::sleep(Duration::from_millis(50)).await;
    balancer.serve_instance("shop", "new", new.address);
    balancer.publish(snapshot(vec![backend("new", Target::Local(new.address))]));
    for request in requests {
        assert_eq!(request.await.unwrap(), "new");
    }
    assert_eq!((old.count(), new.count()), (0, 2));
}

#[tokio::test]
async fn a_request_that_took_its_time_to_arrive_finds_the_instances_of_now() {
    let (old, new) = (Server::start(|_| ok("old")).await, Server::start(|_| ok("new")).await);
    let (balancer, address) = before(&[&old]).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\npa").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    balancer.serve_instance("shop", "new", new.address);
    balancer.publish(snapshot(vec![backend("new", Target::Local(new.address))]));
    balancer.stop_instance("shop", "0");
    client.write_all(b"y").await.unwrap();
    assert!(read_until(&mut client, "new").await.starts_with("HTTP/1.1 200"));
    assert_eq!(new.count(), 1);
}

#[tokio::test]
async fn a_suspected_server_is_asked_for_want_of_any_other_only() {
    let (suspect, sound) = (Server::start(|_| ok("suspect")).await, Server::start(|_| ok("sound")).await);
    let (balancer, address) = listening(None);
    balancer.serve_instance("shop", "0", suspect.address);
    balancer.serve_instance("shop", "1", sound.address);
    let client = reqwest::Client::new();
    for (availability, wanted) in [
        (Availability::Serving, "sound"),
        (Availability::Draining, "suspect"),
        (Availability::Lost, "suspect"),
    ] {
        let mut one = backend("0", Target::Local(suspect.address));
        one.availability = Availability::Suspected;
        let mut other = backend("1", Target::Local(sound.address));
        other.availability = availability;
        balancer.publish(snapshot(vec![one, other]));
        for _ in 0..4 {
            let answer = client.post(format!("http://{address}/")).send().await.unwrap();
            assert_eq!(answer.text().await.unwrap(), wanted);
        }
    }
}

#[tokio::test]
async fn one_that_is_slow_is_not_given_up_for_one_that_answers_nobody() {
    let hung = Server::start(|_| Answer::Never).await;
    let slow = Server::start(|text| {
        if text.starts_with("GET /slow ") {
            Answer::Slow(Duration::from_secs(3), ok_text("slow"))
        } else {
            ok("quick")
        }
    });
    let slow = slow.await;
    let (balancer, address) = before(&[&hung, &slow]).await;
    let tasks = TaskTracker::new();
    let gets: Vec<_> = (0..20)
        .map(|_| {
            tasks.spawn(async move { reqwest::get(format!("http://{address}/")).await.unwrap().status() })
        })
        .collect();
    for get in gets {
        assert_eq!(get.await.unwrap(), 200);
    }
    assert!(balancer.stats()[0].ejected);
    let executed = slow.count();
    let answer = reqwest::get(format!("http://{address}/slow")).await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "slow");
    assert_eq!(slow.count(), executed + 1);
}
