//! What goes on as it came, and what does not go on at all.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use balancer::Target;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::backend::{Answer, Server, backend, before, listening, ok, raw, read_until, snapshot};

#[tokio::test]
async fn host_and_target_arrive_byte_for_byte() {
    let server = Server::start(|text| ok(text.lines().next().unwrap())).await;
    let (_balancer, address) = before(&[&server]).await;
    let targets = ["/a%2Fb/../c//d;e?x=%20&y=a+b&&=#", "/?", "/%zz", "/caf\u{e9}", "/a\\b|c"];
    for target in targets {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: Shop.Example:8080\r\nConnection: close\r\n\r\n");
        let answer = raw(address, request.as_bytes(), "").await;
        assert!(answer.ends_with(&format!("GET {target} HTTP/1.1")), "{target} became {answer}");
    }
    let host =
        Server::start(|text| ok(text.lines().find(|line| line.to_lowercase().starts_with("host:")).unwrap()))
            .await;
    let (_balancer, address) = before(&[&host]).await;
    let answer =
        raw(address, b"GET / HTTP/1.1\r\nhoST: Shop.Example:8080\r\nConnection: close\r\n\r\n", "").await;
    assert!(answer.ends_with("hoST: Shop.Example:8080"), "{answer}");
}

#[tokio::test]
async fn interim_answers_are_forwarded() {
    let server = Server::start(|_| {
        Answer::Text(
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                .to_owned(),
        )
    })
    .await;
    let (_balancer, address) = before(&[&server]).await;
    let answer = raw(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "").await;
    let (hints, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(hints.starts_with("HTTP/1.1 103 ") && hints.contains("Link: </a.css>"), "{answer}");
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.ends_with("ok"), "{answer}");
    // HTTP/1.0 knows none.
    let answer = raw(address, b"GET / HTTP/1.0\r\n\r\n", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_no_answer() {
    let server = Server::start(|_| {
        Answer::Text("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n".to_owned())
    })
    .await;
    let (_balancer, address) = before(&[&server]).await;
    let asks = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let answer = raw(address, asks, "not HTTP").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn a_body_whose_chunks_make_no_sense_is_told_so() {
    let server = Server::start(|_| ok("reached")).await;
    let (_balancer, address) = before(&[&server]).await;
    let request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n";
    let answer = raw(address, request, "").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_head_that_never_ends_is_ended() {
    let (_balancer, address) = listening(None);
    let answer = raw(address, b"GET / HTTP/1.1\r\nHost: a\r\n", "").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

/// Answers as soon as it has a head, reads nothing more, and closes.
fn impatient() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _head = stream.read(&mut [0; 1_024]);
            let _sent = stream.write_all(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno");
            // Held open, so that the answer and not the end is what tells the balancer.
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
    });
    address
}

#[tokio::test]
async fn after_an_answer_that_came_before_the_body_was_over_the_connection_ends() {
    let (balancer, address) = listening(None);
    let server = impatient();
    balancer.serve_instance("shop", "0", server);
    balancer.publish(snapshot(vec![backend("0", Target::Local(server))]));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n").await.unwrap();
    stream.write_all(&[b'x'; 100_000]).await.unwrap();
    let answer = read_until(&mut stream, "").await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("Connection: close"), "{answer}");
    assert!(answer.ends_with("no"), "{answer}");
}

#[tokio::test]
async fn an_http_1_0_request_without_a_host_is_no_bad_request_behind_the_proxy() {
    let server =
        Server::start(|text| ok(if text.contains("\r\nHost: \r\n") { "a host" } else { text })).await;
    let (_balancer, address) = before(&[&server]).await;
    let answer = raw(address, b"GET / HTTP/1.0\r\n\r\n", "").await;
    assert!(answer.ends_with("a host"), "{answer}");
}
