use std::time::Duration;

use balancer::{Availability, Target};
use tokio_util::task::TaskTracker;

use crate::backend::{Answer, Server, backend, before, listening, ok, ok_text, raw, snapshot, until};

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
    until("the listener to be gone", || std::net::TcpStream::connect(gone.address).is_err()).await;
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
async fn a_post_is_not_sent_on_a_connection_that_the_backend_closed_meanwhile() {
    let server = Server::start(|_| Answer::Last(ok_text("ok"))).await;
    let (_balancer, address) = before(&[&server]).await;
    let client = reqwest::Client::new();
    for n in 1..=20 {
        let answer = client.post(format!("http://{address}/")).body("pay").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(server.count(), n);
        until("the backend's close", || server.open() == 0).await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_elsewhere_while_the_client_has_seen_none_of_it() {
    let broken =
        Server::start(|_| Answer::Last("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_owned())).await;
    let sound = Server::start(|_| ok("whole")).await;
    let (_balancer, address) = before(&[&broken, &sound]).await;
    for _ in 0..4 {
        let answer = reqwest::get(format!("http://{address}/")).await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "whole");
    }
    assert!(broken.count() > 0);
}

#[tokio::test]
async fn a_route_without_retries_tries_once_what_may_have_been_executed() {
    let servers = [Server::start(|_| Answer::Hangup).await, Server::start(|_| Answer::Hangup).await];
    let (balancer, address) = before(&[&servers[0], &servers[1]]).await;
    let backends = servers.iter().enumerate();
    let mut once =
        snapshot(backends.map(|(n, one)| backend(&n.to_string(), Target::Local(one.address))).collect());
    once.routes[0].retries = 0;
    balancer.publish(once);
    assert_eq!(reqwest::get(format!("http://{address}/")).await.unwrap().status(), 502);
    assert_eq!(servers[0].count() + servers[1].count(), 1);
}

#[tokio::test]
async fn a_backend_that_answers_nobody_is_left_and_then_left_out() {
    let stopped = Server::start(|_| Answer::Never).await;
    let sound = Server::start(|_| ok("sound")).await;
    let (balancer, address) = before(&[&stopped, &sound]).await;
    let tasks = TaskTracker::new();
    let gets: Vec<_> = (0..20)
        .map(|_| {
            tasks.spawn(async move {
                reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap()
            })
        })
        .collect();
    for get in gets {
        assert_eq!(get.await.unwrap(), "sound");
    }
    assert!(balancer.stats()[0].ejected && !balancer.stats()[1].ejected);
    let asked = stopped.count();
    let client = reqwest::Client::new();
    for _ in 0..10 {
        assert_eq!(client.get(format!("http://{address}/")).send().await.unwrap().status(), 200);
    }
    assert_eq!(stopped.count(), asked);
}

#[tokio::test]
async fn a_backend_that_answers_others_is_given_its_time() {
    let script = |text: &str| {
        if text.starts_with("GET /slow ") {
            Answer::Slow(Duration::from_secs(5), ok_text("slow"))
        } else {
            ok("quick")
        }
    };
    let (one, two) = (Server::start(script).await, Server::start(script).await);
    let (_balancer, address) = before(&[&one, &two]).await;
    let tasks = TaskTracker::new();
    let slow = tasks.spawn(async move {
        reqwest::get(format!("http://{address}/slow")).await.unwrap().text().await.unwrap()
    });
    let client = reqwest::Client::new();
    let mut quick = 0;
    while !slow.is_finished() {
        let answer = client.get(format!("http://{address}/")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "quick");
        quick += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(slow.await.unwrap(), "slow");
    assert_eq!(one.count() + two.count(), quick + 1, "it was executed once");
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
    until("a request that is stuck", || stuck.count() > 0).await;
    balancer.publish(snapshot(backends(Availability::Lost)));
    for get in gets {
        assert_eq!(get.await.unwrap(), "sound");
    }
}

#[tokio::test]
async fn a_get_that_waits_for_a_backend_that_is_no_more_is_answered_by_another() {
    let stuck = Server::start(|_| Answer::Never).await;
    let sound = Server::start(|_| ok("sound")).await;
    let (balancer, address) = before(&[&stuck, &sound]).await;
    let tasks = TaskTracker::new();
    let get =
        || async move { reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap() };
    let gets = [tasks.spawn(get()), tasks.spawn(get())];
    until("a request that is stuck", || stuck.count() > 0).await;
    // Its node came back as another generation: nobody will answer for the old one.
    let mut reborn = backend("0", Target::Local(stuck.address));
    reborn.key.generation = 2;
    reborn.availability = Availability::Draining;
    balancer.publish(snapshot(vec![reborn, backend("1", Target::Local(sound.address))]));
    for get in gets {
        assert_eq!(get.await.unwrap(), "sound");
    }
}

#[tokio::test]
async fn an_answer_of_the_balancers_own_to_head_leaves_the_connection_in_step() {
    let (_balancer, address) = listening(None);
    let two = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = raw(address, two, "").await;
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && rest.starts_with("HTTP/1.1 503 "), "{answer}");
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
    until("a request under way", || balancer.stats()[0].in_flight > 0).await;
    balancer.shutdown(Duration::from_secs(10)).await;
    assert_eq!(get.await.unwrap(), "finished");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_ends_what_does_not_finish_in_its_grace() {
    let stuck = Server::start(|_| Answer::Never).await;
    let (balancer, address) = before(&[&stuck]).await;
    let tasks = TaskTracker::new();
    let get = tasks.spawn(async move { reqwest::get(format!("http://{address}/")).await.is_err() });
    until("a request that is stuck", || stuck.count() > 0).await;
    balancer.shutdown(Duration::from_millis(50)).await;
    assert!(get.await.unwrap());
}
