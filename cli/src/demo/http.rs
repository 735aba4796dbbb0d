//! Whether a site answers: the status of one GET, by a few lines of HTTP/1.1, since nothing else of
//! a client is needed here.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A status line is shorter, whatever the reason phrase.
const STATUS_LINE_BYTES_MAX: usize = 256;

/// The status code that `path` of `host` has at `address`, or why there is none.
pub async fn status(address: SocketAddr, host: &str, path: &str) -> Result<u16, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut line = Vec::new();
        while line.len() < STATUS_LINE_BYTES_MAX && !line.contains(&b'\n') {
            let mut byte = [0; 64];
            match stream.read(&mut byte).await? {
                0 => break,
                count => line.extend_from_slice(&byte[..count]),
            }
        }
        Ok::<_, std::io::Error>(line)
    };
    let line = match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(line) => line.map_err(|error| format!("{address}: {error}"))?,
        Err(_) => return Err(format!("{address} does not answer")),
    };
    code(&line).ok_or_else(|| format!("{address} does not speak HTTP"))
}

fn code(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_with_and_without_a_phrase() {
        assert_eq!(code(b"HTTP/1.1 200 OK\r\nX: y"), Some(200));
        assert_eq!(code(b"HTTP/1.0 503\r\n"), Some(503));
        assert_eq!(code(b"SSH-2.0-OpenSSH\r\n"), None);
        assert_eq!(code(b""), None);
    }
}
