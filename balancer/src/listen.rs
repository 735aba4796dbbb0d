//! Workers: a thread, a runtime and a listener each.
//!
//! Every worker binds every address with SO_REUSEPORT, so that the kernel spreads connections over
//! them and they share no lock.

use std::net::SocketAddr;
use std::sync::Arc;
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
        self.take_the_rest(listener);
    }

    /// Those whom the kernel has let in already would be reset. The kernel itself is asked: the runtime
    /// knows only of those whom it has heard of, and who came since is none of them.
    fn take_the_rest(&self, listener: TcpListener) {
        let listener = match listener.into_std() {
            Ok(listener) => listener,
            Err(error) => return tracing::warn!(%error, "who waits at a public port is reset"),
        };
        let mut failed = 0;
        while let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
            && failed <= BACKLOG
        {
            let accepted = listener.accept().and_then(|(stream, address)| {
                stream.set_nonblocking(true)?;
                Ok((TcpStream::from_std(stream)?, address))
            });
            match accepted {
                Ok((stream, address)) => self.serve(stream, address, slot),
                Err(error) if is_the_last(&error) => break,
                Err(error) => {
                    failed += 1;
                    tracing::warn!(%error, "a connection can not be used");
                }
            }
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

/// Whether nobody can be let in after this failure to let somebody in. It is mostly one client's own: who
/// has gone before it was let in says nothing of those who wait behind it (accept(2)).
fn is_the_last(error: &std::io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    let short = matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS));
    short || error.kind() == std::io::ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::backends::Backends;
    use crate::instances::Instances;

    /// The runtime does nothing between the client's coming and the closing, so it has not heard of it.
    #[tokio::test]
    async fn a_client_who_has_just_come_is_answered_after_the_doors_are_closed() {
        let shared = Shared {
            backends: Backends::default(),
            instances: Instances::default(),
            changes: tokio::sync::watch::Sender::default(),
            leaving: CancellationToken::new(),
            trusted_proxies: Vec::new(),
            tls: None,
        };
        let door = Door {
            proxy: Proxy::new(Arc::new(shared)),
            slots: Arc::new(Semaphore::new(9)),
            tracker: TaskTracker::new(),
            closing: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let come = || {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            client
        };
        let clients = [come(), come()];
        door.closing.cancel();
        door.take_the_rest(listener);
        door.tracker.close();
        door.tracker.wait().await;
        for mut client in clients {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        }
        assert!(std::net::TcpStream::connect(address).is_err(), "nobody else is let in");
    }

    #[test]
    fn a_client_who_has_gone_ends_nothing_and_a_want_of_clients_or_descriptors_does() {
        const ENDS: [(i32, bool); 7] =
            [(4, false), (71, false), (103, false), (113, false), (11, true), (23, true), (24, true)];
        for (code, ends) in ENDS {
            let error = std::io::Error::from_raw_os_error(code);
            assert_eq!(is_the_last(&error), ends, "{error}");
        }
    }
}
