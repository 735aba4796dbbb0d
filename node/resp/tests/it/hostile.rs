//! Bytes from whoever: each connection is told and ended, and the others notice nothing.

use std::time::Duration;

use node_resp::Limits;
use redis::AsyncCommands as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::farm::{Memory, Port};

/// Sends all and reads to the end of the connection.
async fn exchange(socket: &mut TcpStream, bytes: &[u8]) -> String {
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn read(socket: &mut TcpStream, length: usize) -> String {
    let mut answer = vec![0; length];
    socket.read_exact(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn what_is_no_request_is_answered_with_the_reason_and_cut_off() {
    let port = Port::open().await;
    for (bytes, reason) in [
        (&b"*abc\r\n"[..], "invalid multibulk length"),
        (b"*1000000\r\n", "invalid multibulk length"),
        (b"*1\r\n+OK\r\n", "expected '$', got '+'"),
        (b"*1\r\n$-5\r\n", "invalid bulk length"),
        (b"*1\r\n$99999999999\r\n", "invalid bulk length"),
        (b"*1\r\n$3\r\nabcdef", "does not end where it said"),
        (b"SET \"open\r\n", "unbalanced quotes"),
        (b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nSET a 1\r\n", "not an HTTP server"),
    ] {
        let answer = exchange(&mut port.socket().await, bytes).await;
        let expected = answer.starts_with("-ERR Protocol error: ") && answer.contains(reason);
        assert!(expected, "{answer:?} for {:?}", String::from_utf8_lossy(bytes));
        assert_eq!(answer.lines().count(), 1, "nothing after the error was carried out");
    }
    let value: Option<String> = port.client("", "").await.get("a").await.unwrap();
    assert_eq!(value, None);
}

#[tokio::test]
async fn what_came_before_the_garbage_is_answered_first() {
    let port = Port::open().await;
    let answer = exchange(&mut port.socket().await, b"PING\r\nSET k v\r\nGET k\r\n*x\r\n").await;
    assert_eq!(answer, "+PONG\r\n+OK\r\n$1\r\nv\r\n-ERR Protocol error: invalid multibulk length\r\n");
}

#[tokio::test]
async fn a_client_that_floods_garbage_still_reads_why_it_was_cut_off() {
    let port = Port::open().await;
    let mut socket = port.socket().await;
    let answer = exchange(&mut socket, &[b'*'; 100_000]).await;
    assert!(answer.starts_with("-ERR Protocol error"), "{answer}");
}

#[tokio::test]
async fn a_value_that_is_too_large_is_skipped_and_the_connection_goes_on() {
    let port = Port::open().await;
    let mut socket = port.socket().await;
    let size = 20 << 20;
    socket.write_all(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${size}\r\n").as_bytes()).await.unwrap();
    for _ in 0..20 {
        socket.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
    }
    let answer = exchange(&mut socket, b"\r\nEXISTS k\r\nQUIT\r\n").await;
    let lines: Vec<&str> = answer.lines().collect();
    assert!(lines[0].starts_with("-ERR string exceeds maximum allowed size"), "{answer}");
    assert_eq!(lines[1..], [":0", "+OK"]);
}

#[tokio::test]
async fn strangers_can_not_send_much() {
    let port = Port::with(Memory::closed(), Limits::default()).await;
    let answer = exchange(&mut port.socket().await, b"*11\r\n").await;
    assert_eq!(answer, "-ERR Protocol error: invalid multibulk length\r\n");
    let answer = exchange(&mut port.socket().await, b"*2\r\n$4\r\nAUTH\r\n$100000\r\n").await;
    assert_eq!(answer, "-ERR Protocol error: invalid bulk length\r\n");
}

#[tokio::test]
async fn a_stranger_who_says_nothing_is_shown_out_and_a_member_may_idle() {
    let limits = Limits { login_timeout: Duration::from_millis(50), ..Limits::default() };
    let closed = Port::with(Memory::closed(), limits).await;
    assert_eq!(exchange(&mut closed.socket().await, b"").await, "");
    let mut member = closed.socket().await;
    member.write_all(b"AUTH shop secret\r\n").await.unwrap();
    assert_eq!(read(&mut member, 5).await, "+OK\r\n");
    // A stranger who came later has been shown out: the member's time would have been over as well.
    assert_eq!(exchange(&mut closed.socket().await, b"").await, "");
    assert_eq!(exchange(&mut member, b"PING\r\nQUIT\r\n").await, "+PONG\r\n+OK\r\n");
}

#[tokio::test]
async fn half_a_request_does_not_hold_a_connection_for_ever() {
    let limits = Limits { request_timeout: Duration::from_millis(20), ..Limits::default() };
    let port = Port::with(Memory::default(), limits).await;
    assert_eq!(exchange(&mut port.socket().await, b"*2\r\n$3\r\nGET\r\n$1").await, "");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let port = Port::with(Memory::default(), limits).await;
    let mut first = port.socket().await;
    first.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(read(&mut first, 7).await, "+PONG\r\n");
    let mut second = port.socket().await;
    assert_eq!(exchange(&mut second, b"").await, "-ERR max number of clients reached\r\n");
    assert_eq!(exchange(&mut first, b"QUIT\r\n").await, "+OK\r\n");
}

#[tokio::test]
async fn a_pipeline_of_large_answers_is_answered_whole() {
    let port = Port::open().await;
    let mut socket = port.socket().await;
    // Nothing is read before all is sent: it fits into the sockets' buffers, its answers do not.
    let commands = "COMMAND\r\n".repeat(3_000) + "QUIT\r\n";
    let answer = exchange(&mut socket, commands.as_bytes()).await;
    let one = exchange(&mut port.socket().await, b"COMMAND\r\nQUIT\r\n").await;
    let one = one.strip_suffix("+OK\r\n").unwrap();
    assert_eq!(answer.len(), one.len() * 3_000 + "+OK\r\n".len());
    assert!(answer.starts_with(one) && answer.ends_with("+OK\r\n"));
}

#[tokio::test]
async fn a_client_that_sends_and_never_reads_is_not_read_from_and_then_cut_off() {
    let limits = Limits { write_timeout: Duration::from_millis(100), ..Limits::default() };
    let port = Port::with(Memory::default(), limits).await;
    let mut socket = port.socket().await;
    let commands = "COMMAND\r\n".repeat(100_000);
    let mut sent = 0;
    while sent < 1 << 30 && socket.write_all(commands.as_bytes()).await.is_ok() {
        sent += commands.len();
    }
    assert!(sent < 64 << 20, "{sent} bytes were taken from a client that reads nothing");
}

#[tokio::test]
async fn a_stop_ends_every_connection() {
    let port = Port::open().await;
    let mut socket = port.socket().await;
    socket.write_all(b"SET k v\r\n").await.unwrap();
    assert_eq!(read(&mut socket, 5).await, "+OK\r\n");
    port.stop().await;
    assert_eq!(exchange(&mut socket, b"").await, "");
}
