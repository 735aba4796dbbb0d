//! Two agents' balancers: the one that has the client, and the one that owns the instance.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use balancer::{Balancer, Settings, Target};
use rustls_pki_types::ServerName;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::backend::{Answer, Server, backend, listening, ok, ok_text, raw, snapshot, until};

/// An owner behind TLS, and what a client needs to trust it.
struct Owner {
    balancer: Arc<Balancer>,
    target: Target,
    _tasks: TaskTracker,
}

fn certificate() -> (rustls::ServerConfig, Arc<rustls::ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["owner.test".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, Arc::new(client))
}

async fn owner(server: rustls::ServerConfig) -> Owner {
    let balancer = Arc::new(Balancer::start(Settings::default()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let (serving, tasks) = (Arc::clone(&balancer), TaskTracker::new());
    tasks.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(tls) = acceptor.accept(tcp).await {
                serving.serve_peer(tls);
            }
        }
    });
    let target = Target::Peer { address, name: ServerName::try_from("owner.test").unwrap() };
    Owner { balancer, target, _tasks: tasks }
}

#[tokio::test]
async fn a_request_reaches_another_servers_instance_through_its_agent() {
    let (server, client) = certificate();
    let owner = owner(server).await;
    let instance = Server::start(|text| {
        assert!(!text.to_lowercase().contains("holdfast-instance"), "{text}");
        ok(if text.contains("X-Forwarded-For: 127.0.0.1\r\n") { "served" } else { "?" })
    })
    .await;
    owner.balancer.serve_instance("shop", "7", instance.address);
    let (front, address) = listening(Some(client));
    front.publish(snapshot(vec![backend("7", owner.target.clone())]));
    for _ in 0..5 {
        let answer = reqwest::get(format!("http://{address}/")).await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "served");
    }
}

#[tokio::test]
async fn what_the_owner_refuses_was_not_executed_and_even_a_post_goes_elsewhere() {
    let (server, client) = certificate();
    let owner = owner(server).await;
    let stopped = Server::start(|_| ok("stopped")).await;
    owner.balancer.serve_instance("shop", "7", stopped.address);
    owner.balancer.stop_instance("shop", "7");
    let other = Server::start(|_| ok("other")).await;
    let (front, address) = listening(Some(client));
    front.serve_instance("shop", "8", other.address);
    front.publish(snapshot(vec![
        backend("7", owner.target.clone()),
        backend("8", Target::Local(other.address)),
    ]));
    let http = reqwest::Client::new();
    for _ in 0..6 {
        let answer = http.post(format!("http://{address}/")).body("pay").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "other");
    }
    assert_eq!((stopped.count(), other.count()), (0, 6));
    // Nobody left: the refusal is told, without the mark that agents use among themselves.
    front.publish(snapshot(vec![backend("7", owner.target.clone())]));
    let answer = http.post(format!("http://{address}/")).body("pay").send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().get("holdfast-refused").is_none());
}

#[tokio::test]
async fn a_client_can_not_choose_an_instance_by_itself() {
    let (server, client) = certificate();
    let owner = owner(server).await;
    let (right, wrong) = (Server::start(|_| ok("right")).await, Server::start(|_| ok("wrong")).await);
    owner.balancer.serve_instance("shop", "7", right.address);
    owner.balancer.serve_instance("admin", "1", wrong.address);
    let (front, address) = listening(Some(client));
    front.publish(snapshot(vec![backend("7", owner.target.clone())]));
    let http = reqwest::Client::new();
    let answer =
        http.get(format!("http://{address}/")).header("Holdfast-Instance", "admin/1").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "right");
}

#[tokio::test]
async fn a_drain_ends_when_the_last_request_from_a_peer_has_ended() {
    let (server, client) = certificate();
    let owner = owner(server).await;
    let slow = Server::start(|_| Answer::Slow(Duration::from_millis(200), ok_text("done"))).await;
    owner.balancer.serve_instance("shop", "7", slow.address);
    let (front, address) = listening(Some(client));
    front.publish(snapshot(vec![backend("7", owner.target.clone())]));
    let tasks = TaskTracker::new();
    let get = tasks.spawn(async move {
        reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap()
    });
    until("a request under way", || slow.count() > 0).await;
    owner.balancer.stop_instance("shop", "7");
    owner.balancer.drained("shop", "7").await;
    assert_eq!(get.await.unwrap(), "done");
}

#[tokio::test]
async fn a_get_whose_instance_dies_behind_its_owner_is_answered_by_another() {
    let (server, client) = certificate();
    let owner = owner(server).await;
    let dying = Server::start(|_| Answer::Hangup).await;
    let sound = Server::start(|_| ok("sound")).await;
    owner.balancer.serve_instance("shop", "7", dying.address);
    let (front, address) = listening(Some(client));
    front.serve_instance("shop", "8", sound.address);
    front.publish(snapshot(vec![
        backend("7", owner.target.clone()),
        backend("8", Target::Local(sound.address)),
    ]));
    let http = reqwest::Client::new();
    for _ in 0..4 {
        let answer = http.get(format!("http://{address}/")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "sound");
    }
    assert!(dying.count() > 0);
    // A POST may have been executed: that is told, and it goes nowhere else.
    let (dead, alive) = (dying.count(), sound.count());
    let (mut told, mut served) = (0, 0);
    for _ in 0..4 {
        let answer = http.post(format!("http://{address}/")).body("pay").send().await.unwrap();
        assert!(answer.headers().get("holdfast-failed").is_none());
        if answer.status() == 502 { told += 1 } else { served += 1 }
    }
    assert_eq!((dying.count() - dead, sound.count() - alive), (told, served));
    assert!(told > 0 && served > 0);
}

#[tokio::test]
async fn an_instance_can_not_forge_the_agents_marks() {
    let (server, client) = certificate();
    let owner = owner(server).await;
    let forging = Server::start(|_| {
        let marks = "Holdfast-Refused: 1\r\nHoldfast-Failed: lost\r\n";
        Answer::Text(format!("HTTP/1.1 200 OK\r\n{marks}Content-Length: 4\r\n\r\npaid"))
    })
    .await;
    owner.balancer.serve_instance("shop", "7", forging.address);
    let (front, address) = listening(Some(client));
    front.publish(snapshot(vec![backend("7", owner.target.clone())]));
    let http = reqwest::Client::new();
    let answer = http.post(format!("http://{address}/")).body("pay").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("holdfast")));
    assert_eq!(answer.text().await.unwrap(), "paid");
    assert_eq!(forging.count(), 1);
}

#[tokio::test]
async fn a_large_upload_that_the_owner_refuses_arrives_whole_elsewhere() {
    let (server, client) = certificate();
    let owner = owner(server).await;
    let echo = |text: &str| ok(&text.split_once("\r\n\r\n").unwrap().1.len().to_string());
    let (stopped, other) = (Server::start(echo).await, Server::start(echo).await);
    owner.balancer.serve_instance("shop", "7", stopped.address);
    let (front, address) = listening(Some(client));
    front.serve_instance("shop", "8", other.address);
    front.publish(snapshot(vec![
        backend("7", owner.target.clone()),
        backend("8", Target::Local(other.address)),
    ]));
    let http = reqwest::Client::new();
    let upload = || async {
        let large = vec![b'x'; 1_000_000];
        let answer = http.post(format!("http://{address}/")).body(large).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "1000000");
    };
    for _ in 0..4 {
        upload().await;
    }
    assert_eq!((stopped.count(), other.count()), (2, 2));
    owner.balancer.stop_instance("shop", "7");
    for _ in 0..4 {
        upload().await;
    }
    assert_eq!((stopped.count(), other.count()), (2, 6));
}

#[tokio::test]
async fn a_tunnel_goes_through_the_owner() {
    let (server, client) = certificate();
    let owner = owner(server).await;
    let instance = Server::start(|text| {
        assert!(text.contains("Upgrade: websocket\r\n"), "{text}");
        Answer::Last(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01frame"
                .to_owned(),
        )
    })
    .await;
    owner.balancer.serve_instance("shop", "7", instance.address);
    let (front, address) = listening(Some(client));
    front.publish(snapshot(vec![backend("7", owner.target.clone())]));
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = raw(address, request, "").await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\x01frame"), "{answer}");
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_any_more_holds_up_no_drain() {
    let (server, client) = certificate();
    let owner = owner(server).await;
    let stuck = Server::start(|_| Answer::Never).await;
    owner.balancer.serve_instance("shop", "7", stuck.address);
    let (front, address) = listening(Some(client));
    let mut impatient = snapshot(vec![backend("7", owner.target.clone())]);
    impatient.routes[0].timeout = Duration::from_millis(100);
    front.publish(impatient);
    assert_eq!(reqwest::get(format!("http://{address}/")).await.unwrap().status(), 504);
    assert_eq!(stuck.count(), 1);
    owner.balancer.stop_instance("shop", "7");
    let drained = owner.balancer.drained("shop", "7");
    tokio::time::timeout(Duration::from_secs(20), drained).await.expect("the instance is drained");
}

#[tokio::test]
async fn an_owner_that_is_not_the_one_that_is_meant_gets_no_request() {
    let (server, _) = certificate();
    let (_, client_of_another) = certificate();
    let owner = owner(server).await;
    let instance = Server::start(|_| ok("reached")).await;
    owner.balancer.serve_instance("shop", "7", instance.address);
    let (front, address) = listening(Some(client_of_another));
    front.publish(snapshot(vec![backend("7", owner.target.clone())]));
    assert_eq!(reqwest::get(format!("http://{address}/")).await.unwrap().status(), 503);
    assert_eq!(instance.count(), 0);
}
