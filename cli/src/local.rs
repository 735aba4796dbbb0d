//! The way to the agent of this server: gRPC on its unix socket.
//!
//! Who may open the socket may operate the agent, so there is nothing to authenticate here; the
//! file's permissions have decided already.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::failure::Failure;

/// Where an installed agent listens.
const DEFAULT_SOCKET: &str = "/run/holdfast/agent.sock";

/// Names the socket where no `--socket` does.
const SOCKET_VARIABLE: &str = "HOLDFAST_SOCKET";

/// A unix socket connects at once or not at all, unless the agent's backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Enough for an agent under load, and short enough for a person: reading verbs never wait for a
/// quorum, and writing ones are bounded by the agent below this.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The socket by flag, else by environment, else the installed one.
pub fn socket(flag: Option<PathBuf>) -> PathBuf {
    let variable = || std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    flag.or_else(variable).unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
}

/// A connection to the agent behind `socket`.
///
/// # Errors
/// The socket is not there, or nobody answers behind it.
pub async fn connect(socket: &Path) -> Result<Channel, Failure> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The host part is never resolved; HTTP/2 wants one.
    Endpoint::from_static("http://agent.invalid")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|error| unreachable(socket, &error))
}

/// `message` with the longest time that its answer may take.
pub fn within<T>(timeout: Duration, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

fn unreachable(socket: &Path, error: &tonic::transport::Error) -> Failure {
    let mut reason = error.to_string();
    let mut kind = None;
    let mut source = error.source();
    while let Some(inner) = source {
        reason = inner.to_string();
        kind = inner.downcast_ref::<io::Error>().map(io::Error::kind).or(kind);
        source = inner.source();
    }
    let advice = match kind {
        Some(io::ErrorKind::PermissionDenied) => {
            "use an account that may open the socket, such as root".to_owned()
        }
        Some(_) | None => {
            format!(
                "is the agent running? Start it with `holdfast agent`, or name its socket: --socket PATH or {SOCKET_VARIABLE}"
            )
        }
    };
    Failure::failed(format!("can not reach the agent at {}: {reason}", socket.display()), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_agent_is_told_with_its_socket_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let failure = connect(&dir.path().join("none.sock")).await.unwrap_err();
        assert_eq!(failure.exit().code(), 1);
        let report = failure.report();
        assert!(report.contains("none.sock") && report.contains("No such file"), "{report}");
        assert!(report.contains("is the agent running?"), "{report}");
    }
}
