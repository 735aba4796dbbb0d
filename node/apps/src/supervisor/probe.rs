//! One look at an instance: does it accept a connection, does it answer well.
//!
//! A client library would follow redirects, keep connections, trust proxies from the environment; a
//! probe must do none of that (an instance must not be able to send the agent anywhere). What it needs
//! is the status line, and no more than [`HEAD_BYTES_MAX`] of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The status line comes first; a server that has not sent one by here speaks another protocol.
const HEAD_BYTES_MAX: usize = 1 << 10;

/// What is asked of an instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) port: u16,
    /// `None`: only that it accepts a connection.
    pub(super) path: Option<&'a str>,
    /// For the Host header: apps refuse hosts that they do not know.
    pub(super) host: &'a str,
}

/// Asks once. The error is what to tell a person.
pub(super) async fn ask(question: Question<'_>, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, answer(question)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{}: no answer in {}", title(question), humantime::format_duration(timeout))),
    }
}

async fn answer(question: Question<'_>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", title(question));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, question.port));
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    let Some(path) = question.path else { return Ok(()) };
    let Question { host, .. } = question;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: holdfast-probe\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
    while !head.contains(&b'\n') && head.len() < HEAD_BYTES_MAX {
        let mut chunk = [0; HEAD_BYTES_MAX];
        let room = HEAD_BYTES_MAX - head.len();
        let read = stream.read(&mut chunk[..room]).await.map_err(failed)?;
        if read == 0 {
            break;
        }
        head.extend_from_slice(&chunk[..read]);
    }
    match status(&head) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("{}: status {status}", title(question))),
        None => Err(format!("{}: the answer is not HTTP", title(question))),
    }
}

fn title(question: Question<'_>) -> String {
    question.path.map_or_else(|| format!("connect to port {}", question.port), |path| format!("GET {path}"))
}

/// The status code of a response that begins like this (RFC 9112, section 4).
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\n').next()?;
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [b'0'..=b'9', b' ', code @ ..] = rest else { return None };
    let digits: &[u8; 3] = code.first_chunk()?;
    if !matches!(code.get(3), None | Some(b' ' | b'\r')) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_status_line_is_read_and_nothing_else_is_taken_for_one() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for bad in
            ["", "HTTP/1.1", "HTTP/1.1 2", "HTTP/1.1 2000 OK", "HTTP/2 200", "SSH-2.0-x\r\n", "HTTP/1.1 2x0 "]
        {
            assert_eq!(status(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_answer_of_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _status = status(&bytes);
        }
    }

    /// Asks a server that gives one answer to one connection.
    async fn asked(path: Option<&str>, answer: &'static [u8]) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while path.is_some() && !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let question = Question { port, path, host: "shop.example" };
        tokio::join!(ask(question, Duration::from_secs(60)), server)
    }

    #[tokio::test]
    async fn good_answers_and_redirects_pass_and_others_say_what_they_were() {
        let (passed, request) = asked(Some("/up"), b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(passed, Ok(()));
        assert!(request.starts_with("GET /up HTTP/1.1\r\nHost: shop.example\r\n"), "{request}");
        let (passed, _) =
            asked(Some("/up"), b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n").await;
        assert_eq!(passed, Ok(()));
        let (failed, _) = asked(Some("/up"), b"HTTP/1.1 503 Busy\r\n\r\n").await;
        assert_eq!(failed, Err("GET /up: status 503".to_owned()));
        let (failed, _) = asked(Some("/up"), b"SSH-2.0-OpenSSH\r\n").await;
        assert_eq!(failed, Err("GET /up: the answer is not HTTP".to_owned()));
        let (passed, _) = asked(None, b"").await;
        assert_eq!(passed, Ok(()));
    }

    #[tokio::test]
    async fn an_endless_head_is_not_read_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        };
        let question = Question { port, path: Some("/"), host: "x" };
        let (answer, ()) = tokio::join!(ask(question, Duration::from_secs(60)), server);
        assert_eq!(answer, Err("GET /: the answer is not HTTP".to_owned()));
    }

    #[tokio::test]
    async fn nobody_listening_and_nobody_answering_fail() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let question = Question { port, path: Some("/"), host: "x" };
        let words = ask(question, Duration::from_millis(1)).await.unwrap_err();
        assert!(words.contains("no answer"), "{words}");
        drop(listener);
        let words = ask(question, Duration::from_secs(60)).await.unwrap_err();
        assert!(words.contains("refused"), "{words}");
    }
}
