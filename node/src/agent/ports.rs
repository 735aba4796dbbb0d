//! Every listening socket, bound before anything starts.

use std::net::SocketAddr;

use tokio::net::{TcpListener, UnixListener};

use super::AgentError;
use crate::api::sockets::{self, Mode};
use crate::config::Config;

pub(super) struct Ports {
    pub(super) peer: TcpListener,
    pub(super) admin: TcpListener,
    pub(super) resp: TcpListener,
    pub(super) operators: UnixListener,
    pub(super) apps: UnixListener,
}

impl Ports {
    pub(super) async fn bind(config: &Config) -> Result<Self, AgentError> {
        Ok(Self {
            peer: tcp("peer port", config.peer_bind()).await?,
            admin: tcp("admin port", config.api.admin).await?,
            resp: tcp("Redis port", config.resp.bind).await?,
            operators: sockets::listen(&config.api.socket, Mode::Operators).await?,
            apps: sockets::listen(&config.api.apps_socket, Mode::Apps).await?,
        })
    }
}

async fn tcp(what: &'static str, address: SocketAddr) -> Result<TcpListener, AgentError> {
    TcpListener::bind(address).await.map_err(|source| AgentError::Bind { what, address, source })
}
