//! How the handle wakes the thread out of its wait for datagrams and timers.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// Clones wake the same thread.
#[derive(Clone)]
pub struct Waker {
    /// eventfd(2): readable from a wake on until it is read.
    event: Arc<OwnedFd>,
}

impl Waker {
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event: Arc::new(event) })
    }

    pub fn wake(&self) {
        // It fails only when as many wakes wait as fit, and then it is awake.
        let _awake = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
    }

    /// Waits for a datagram or a wake, no longer than `limit`. It may also return for nothing.
    pub fn wait(&self, socket: &UdpSocket, limit: Duration) {
        let limit = Timespec::try_from(limit).ok();
        let mut sources = [PollFd::new(socket, PollFlags::IN), PollFd::new(&*self.event, PollFlags::IN)];
        match poll(&mut sources, limit.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => {
                if sources[1].revents().contains(PollFlags::IN) {
                    let _empty = rustix::io::read(&*self.event, &mut [0; 8]);
                }
            }
            Err(error) => {
                tracing::error!(%error, "can not wait for the gossip's socket");
                // Whatever it is, not in a busy loop.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Longer than anything takes on a busy machine: only a failure waits for it.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_wake_or_a_datagram_ends_the_wait_and_is_not_forgotten() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let waker = Waker::new().unwrap();
        let began = Instant::now();
        waker.wake();
        waker.wake();
        waker.wait(&socket, PATIENCE);
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        waker.wait(&socket, PATIENCE);
        socket.recv_from(&mut [0; 8]).unwrap();
        let sleeper = waker.clone();
        let waiting = std::thread::spawn(move || sleeper.wait(&socket, PATIENCE));
        waker.wake();
        waiting.join().unwrap();
        assert!(began.elapsed() < PATIENCE);
    }

    #[test]
    fn without_news_the_wait_ends_after_its_limit() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let limit = Duration::from_millis(30);
        let began = Instant::now();
        Waker::new().unwrap().wait(&socket, limit);
        assert!(began.elapsed() >= limit);
    }
}
