//! Workers: a thread, a runtime and a listener each.
//!
//! Every worker binds every address with SO_REUSEPORT, so that the kernel spreads connections over
//! them and they share no lock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pool;
use crate::proxy::Proxy;
use crate::{Shared, StartError};

const BACKLOG: i32 = 4_096;
/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

pub struct Worker {
    pub shared: Arc<Shared>,
    /// Bound, and not listening yet.
    pub sockets: Vec<Socket>,
    pub connections_max: usize,
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
    // What is accepted inherits these, which saves a system call each per connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&pool::keepalive())?;
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
        let proxy = Proxy::new(Arc::clone(&self.shared));
        let slots = Arc::new(Semaphore::new(self.connections_max));
        tokio::select! {
            () = self.closing.cancelled() => return,
            () = self.opened.cancelled() => {}
        }
        let (keeper, closing) = (proxy.clone(), self.closing.clone());
        tracker.spawn(async move { keeper.keep_pool(closing).await });
        let door = Door { proxy, slots, tracker, closing: self.closing, abort: self.abort };
        for socket in self.sockets {
            match socket.listen(BACKLOG).and_then(|()| TcpListener::from_std(socket.into())) {
                Ok(listener) => drop(door.tracker.spawn(door.clone().accept(listener))),
                Err(error) => tracing::error!(%error, "a public listener can not be used"),
            }
        }
        door.closing.cancelled().await;
        door.tracker.close();
        door.tracker.wait().await;
    }
}

/// What every connection of a worker needs.
#[derive(Clone)]
struct Door {
    proxy: Proxy,
    slots: Arc<Semaphore>,
    tracker: TaskTracker,
    closing: CancellationToken,
    abort: CancellationToken,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        loop {
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = self.closing.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.serve(stream, address, slot),
                Err(error) => {
                    tracing::warn!(%error, "a public port can not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // Those whom the kernel has let in already would be reset.
        let mut context = Context::from_waker(Waker::noop());
        while let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
            && let Poll::Ready(Ok((stream, address))) = listener.poll_accept(&mut context)
        {
            self.serve(stream, address, slot);
        }
    }

    fn serve(&self, stream: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit) {
        let (proxy, closing, abort) = (self.proxy.clone(), self.closing.clone(), self.abort.clone());
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = proxy.serve_client(stream, address.ip(), closing) => {}
                () = abort.cancelled() => {}
            }
            drop(slot);
        });
    }
}
