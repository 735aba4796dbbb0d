//! SWIM gossip on a thread of its own.
//!
//! ```text
//!   ┌ gossip thread ────────────────────────────────────────────┐
//!   │ UDP socket ─▶ Opener ─▶ foca ─▶ Sealer ─▶ UDP socket      │──▶ on_event(Changed(members))
//!   │                timers ─▶  ▲                               │
//!   └───────────────────────────┼───────────────────────────────┘
//!        Membership (handle) ───┘  announce, report_unreachable, leave
//! ```
//!
//! What a member does is a [`Machine`] without socket or clock, so that farms of thousands can be
//! simulated. The thread owns it and the socket and does nothing else: no storage, no locks that others hold,
//! no waiting. Load elsewhere in the process must not make this node look dead, nor make it take
//! others for dead: the socket is read empty before a timer is looked at, and a suspicion that would
//! end while the thread itself was late is given more time.
//!
//! What foca leaves to its user and how it is answered here: a member that was declared down comes
//! back under a renewed identity; suspects are read from its state, since it does not tell of them; a
//! timer or a datagram that foca asks for is never dropped on this side of the socket.
//!
//! Architecture Invariant: a datagram proves membership of the cluster only (the key is shared).
//! Nothing here grants authority.

mod codec;
mod identity;
mod machine;
mod members;
mod thread;
mod timers;
mod waker;

use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use std::{io, net};

use node_security::GossipKey;
use proto::ids::{ClusterId, Generation, NodeId};

use waker::Waker;

pub use machine::Machine;
pub use node_core::membership::MemberStatus;

/// How a node takes part.
pub struct Settings {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub generation: Generation,
    pub zone: String,
    pub bind: SocketAddr,
    /// Where others reach the gossip, and the peer port.
    pub advertise: SocketAddr,
    pub peer: SocketAddr,
    pub key: GossipKey,
}

/// One member, this node not included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    pub generation: Generation,
    pub zone: String,
    pub gossip: SocketAddr,
    pub peer: SocketAddr,
    pub state: MemberStatus,
    /// Since when it is in that state, as far as this node knows.
    pub since: Instant,
}

/// What the gossip thread tells.
#[derive(Debug, Clone)]
pub enum MemberEvent {
    /// All members, after something about them has changed.
    Changed(Vec<Member>),
}

/// Why the gossip does not start.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("can not listen on {address} (gossip, UDP): {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("can not set up the gossip's socket: {0}")]
    Socket(io::Error),
    #[error("no thread for the gossip: {0}")]
    Thread(io::Error),
}

/// Requests that wait for the thread.
const COMMANDS_MAX: usize = 1_024;

pub(crate) enum Command {
    Announce { node: Option<NodeId>, to: SocketAddr },
    Unreachable(NodeId),
    Leave,
    Stop,
}

/// A handle to the gossip thread. The thread ends when it is told to, or with the last handle.
#[derive(Clone)]
pub struct Membership {
    inner: Arc<Inner>,
}

struct Inner {
    commands: SyncSender<Command>,
    waker: Waker,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Membership {
    /// Asks a node to let this one take part. `node` is who is thought to be there, if that is known.
    pub fn announce(&self, node: Option<NodeId>, to: SocketAddr) {
        self.send(Command::Announce { node, to });
    }

    /// A connection to the node broke, and a new one was refused: its agent is gone or restarting. It
    /// shows as suspect until something is heard from it.
    pub fn report_unreachable(&self, node: NodeId) {
        self.send(Command::Unreachable(node));
    }

    /// Tells the others that this node goes of its own will, and stops.
    pub fn leave(&self) {
        self.end(Command::Leave);
    }

    /// Stops without a word.
    pub fn stop(&self) {
        self.end(Command::Stop);
    }

    fn send(&self, command: Command) {
        // A full queue means that the thread is stuck for seconds: a hint may be lost then. A stopped
        // thread needs none.
        if self.inner.commands.try_send(command).is_err() {
            tracing::debug!("the gossip does not take a request");
        }
        self.inner.waker.wake();
    }

    fn end(&self, command: Command) {
        // Not a hint: it waits for room, which the thread makes while it is awake.
        self.inner.waker.wake();
        let _ended_already = self.inner.commands.send(command);
        self.inner.waker.wake();
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the gossip thread had panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Where the queue is full the thread sees that nobody is left to fill it.
        let _ended_already = self.commands.try_send(Command::Stop);
        self.waker.wake();
    }
}

/// Starts the gossip thread. `on_event` is called on it and must not wait.
///
/// # Errors
/// When the socket can not be opened.
pub fn start(
    settings: Settings,
    on_event: impl FnMut(MemberEvent) + Send + 'static,
) -> Result<Membership, MembershipError> {
    let socket = open(settings.bind)?;
    let (commands, queue) = sync_channel(COMMANDS_MAX);
    let waker = Waker::new().map_err(MembershipError::Socket)?;
    let wakes = waker.clone();
    let thread = std::thread::Builder::new()
        .name("gossip".to_owned())
        .spawn(move || thread::Gossip::new(settings, socket, queue, wakes, Box::new(on_event)).run())
        .map_err(MembershipError::Thread)?;
    Ok(Membership { inner: Arc::new(Inner { commands, waker, thread: Mutex::new(Some(thread)) }) })
}

/// A burst of news from a whole farm waits in the kernel while this thread is not scheduled.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

fn open(address: SocketAddr) -> Result<net::UdpSocket, MembershipError> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))
        .map_err(MembershipError::Socket)?;
    // The kernel gives as much of it as it may.
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).map_err(MembershipError::Socket)?;
    socket.set_nonblocking(true).map_err(MembershipError::Socket)?;
    socket.bind(&address.into()).map_err(|source| MembershipError::Bind { address, source })?;
    Ok(socket.into())
}
