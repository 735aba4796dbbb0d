use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::backend::{Answer, Server, before, ok, raw, read_until};

#[tokio::test]
async fn requests_take_turns_and_say_where_they_came_from() {
    let one = Server::start(|text| {
        let origin =
            text.contains("X-Forwarded-For: 127.0.0.1") && text.contains("X-Forwarded-Proto: http\r\n");
        ok(if origin { "one" } else { "?" })
    })
    .await;
    let two = Server::start(|_| ok("two")).await;
    let (_balancer, address) = before(&[&one, &two]).await;
    let client = reqwest::Client::new();
    for _ in 0..10 {
        let body = client.get(format!("http://{address}/")).send().await.unwrap().text().await.unwrap();
        assert!(["one", "two"].contains(&body.as_str()), "{body}");
    }
    assert_eq!((one.count(), two.count()), (5, 5));
}

#[tokio::test]
async fn bodies_of_any_framing_arrive_whole_both_ways() {
    let echo = Server::start(|text| {
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        Answer::Text(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ))
    })
    .await;
    let (_balancer, address) = before(&[&echo]).await;
    let client = reqwest::Client::new();
    let large = "x".repeat(1_000_000);
    for body in ["small", &large] {
        let sent = client.post(format!("http://{address}/")).body(body.to_owned()).send().await.unwrap();
        assert!(sent.text().await.unwrap() == body);
    }
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n";
    let answer = raw(address, request.as_bytes(), "0\r\n\r\n").await;
    assert!(answer.contains("3\r\nabc") && answer.contains("4\r\ndefg"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_becomes_chunks() {
    let old = Server::start(|_| Answer::Last("HTTP/1.0 200 OK\r\n\r\nhello".to_owned())).await;
    let (_balancer, address) = before(&[&old]).await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(request).await.unwrap();
        let answer = read_until(&mut stream, "0\r\n\r\n").await;
        assert!(answer.contains("Transfer-Encoding: chunked") && answer.contains("5\r\nhello"), "{answer}");
    }
    // HTTP/1.0 knows no chunks.
    let answer = raw(address, b"GET / HTTP/1.0\r\n\r\n", "").await;
    assert!(answer.ends_with("\r\n\r\nhello") && !answer.contains("chunked"), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let echo = Server::start(|text| ok(text.split(' ').nth(1).unwrap())).await;
    let (_balancer, address) = before(&[&echo]).await;
    let two = b"GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = raw(address, two, "/second").await;
    assert!(answer.find("/first").unwrap() < answer.find("/second").unwrap(), "{answer}");
}

#[tokio::test]
async fn the_answer_to_a_head_request_has_a_length_and_no_body() {
    let server =
        Server::start(|_| Answer::Text("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n".to_owned())).await;
    let (_balancer, address) = before(&[&server]).await;
    let two = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = raw(address, two, "").await;
    assert_eq!(answer.matches("Content-Length: 7\r\n").count(), 2, "{answer}");
}

#[tokio::test]
async fn a_client_that_expects_to_be_told_to_go_on_is_told() {
    let echo = Server::start(|text| ok(text.split_once("\r\n\r\n").unwrap().1)).await;
    let (_balancer, address) = before(&[&echo]).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head).await.unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 100 "));
    stream.write_all(b"body").await.unwrap();
    assert!(read_until(&mut stream, "body").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn after_a_101_the_connection_is_a_tunnel() {
    let server = Server::start(|text| {
        assert!(
            text.contains("Connection: Upgrade\r\n") && text.contains("Upgrade: websocket\r\n"),
            "{text}"
        );
        Answer::Last(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01frame"
                .to_owned(),
        )
    })
    .await;
    let (_balancer, address) = before(&[&server]).await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = raw(address, request, "").await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\x01frame"), "{answer}");
}

#[tokio::test]
async fn hostile_requests_get_a_status_and_the_end_and_reach_nobody() {
    let server = Server::start(|_| ok("reached")).await;
    let (_balancer, address) = before(&[&server]).await;
    let smuggled = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let table: &[(&[u8], &str)] = &[
        (smuggled.as_bytes(), "400"),
        (long.as_bytes(), "431"),
        (b"GET / HTTP/1.1\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\nHost: a\n\n", "400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "501"),
    ];
    for (request, status) in table {
        let answer = raw(address, request, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
        assert_eq!(
            answer.matches("HTTP/1.1").count()
                - answer.matches("not HTTP/1.1").count()
                - answer.matches("HTTP/1.1 asks").count(),
            1,
            "{answer}"
        );
    }
    assert_eq!(server.count(), 0);
}
