//! The way to an agent's gRPC: its unix socket, which no network of a host has to do with.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

pub async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The host is never looked up; HTTP/2 wants one.
    Endpoint::from_static("http://agent.invalid").connect_with_connector(connector).await
}

/// A message with the longest time that its answer may take, which this side sees to, too: an agent may
/// stand still.
pub fn within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}
