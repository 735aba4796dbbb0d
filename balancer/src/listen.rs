//! Workers: a thread, a runtime and a listener each.
//!
//! Every worker binds every address with SO_REUSEPORT, so that the kernel spreads connections over
//! them and they share no lock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pool::Pool;
use crate::proxy::Proxy;
use crate::{Shared, StartError};

const BACKLOG: i32 = 4_096;
/// Clients of one worker. At some 50 KiB each, half a gigabyte at worst.
const CONNECTIONS_MAX: usize = 10_000;
/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

pub struct Worker {
    pub shared: Arc<Shared>,
    /// Bound, and not listening yet.
    pub sockets: Vec<Socket>,
    pub opened: CancellationToken,
    pub closing: CancellationToken,
    pub abort: CancellationToken,
}

/// One socket per address.
pub fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<Socket>, StartError> {
    let bind = |address: &SocketAddr| {
        bind(*address).map_err(|source| StartError::Bind { address: *address, source })
    };
    addresses.iter().map(bind).collect()
}

fn bind(address: SocketAddr) -> std::io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Worker {
    /// Serves until it is told to close and the last client is done.
    pub fn run(self) {
        let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match built {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "no runtime for a proxy thread"),
        };
        runtime.block_on(self.serve());
    }

    async fn serve(self) {
        let tracker = TaskTracker::new();
        let proxy = Proxy::new(Arc::clone(&self.shared), Pool::new(self.shared.tls.clone()));
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        tokio::select! {
            () = self.closing.cancelled() => return,
            () = self.opened.cancelled() => {}
        }
        for socket in self.sockets {
            match socket.listen(BACKLOG).and_then(|()| TcpListener::from_std(socket.into())) {
                Ok(listener) => {
                    let accept = accept(
                        listener,
                        proxy.clone(),
                        Arc::clone(&slots),
                        tracker.clone(),
                        self.closing.clone(),
                        self.abort.clone(),
                    );
                    tracker.spawn(accept);
                }
                Err(error) => tracing::error!(%error, "a public listener can not be used"),
            }
        }
        self.closing.cancelled().await;
        tracker.close();
        tracker.wait().await;
    }
}

async fn accept(
    listener: TcpListener,
    proxy: Proxy,
    slots: Arc<Semaphore>,
    tracker: TaskTracker,
    closing: CancellationToken,
    abort: CancellationToken,
) {
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a public port can not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a client went at once");
            continue;
        }
        let (proxy, closing, abort) = (proxy.clone(), closing.clone(), abort.clone());
        tracker.spawn(async move {
            tokio::select! {
                () = abort.cancelled() => {}
                () = proxy.serve_client(stream, address.ip(), closing) => {}
            }
            drop(slot);
        });
    }
}
