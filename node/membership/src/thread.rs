//! The gossip thread: one loop over the socket, the handle's requests and the machine's timers.

use std::io;
use std::net::UdpSocket;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use proto::limits::DATAGRAM_BYTES_MAX;

use crate::machine::Machine;
use crate::waker::Waker;
use crate::{Command, MemberEvent, Settings};

/// How long the loop waits at most when there is no timer: hints about members expire by themselves.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Datagrams taken in a row before the timers get a turn.
const DRAIN_MAX: usize = 1_024;

/// The thread's own.
pub struct Gossip {
    socket: UdpSocket,
    machine: Machine,
    commands: Receiver<Command>,
    waker: Waker,
    on_event: Box<dyn FnMut(MemberEvent) + Send>,
}

impl Gossip {
    /// `socket` does not block.
    pub fn new(
        settings: Settings,
        socket: UdpSocket,
        commands: Receiver<Command>,
        waker: Waker,
        on_event: Box<dyn FnMut(MemberEvent) + Send>,
    ) -> Self {
        let machine = Machine::new(settings, rand::random());
        Self { socket, machine, commands, waker, on_event }
    }

    pub fn run(mut self) {
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        loop {
            self.receive(&mut buffer);
            if !self.obey() {
                return;
            }
            // Replies that were waiting have been read before.
            self.machine.fire(Instant::now());
            self.send();
            if let Some(members) = self.machine.news(Instant::now()) {
                (self.on_event)(MemberEvent::Changed(members));
            }
        }
    }

    /// Waits for a datagram, a request or the next timer, then takes all datagrams that are there.
    fn receive(&mut self, buffer: &mut [u8]) {
        let now = Instant::now();
        let timer = self.machine.next_timer().map_or(WAIT_MAX, |at| at.saturating_duration_since(now));
        self.waker.wait(&self.socket, timer.min(WAIT_MAX));
        for _ in 0..DRAIN_MAX {
            match self.socket.recv_from(buffer) {
                Ok((length, _)) => {
                    self.machine.receive(&buffer[..length], Instant::now());
                    // A probe that waits for the rest of a burst is answered late.
                    self.send();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Such as an ICMP error about an earlier datagram of ours: nothing to be done.
                Err(error) => tracing::debug!(%error, "the gossip's socket"),
            }
        }
    }

    /// Carries out what the handle asks for. Whether to go on.
    fn obey(&mut self) -> bool {
        loop {
            let now = Instant::now();
            match self.commands.try_recv() {
                Ok(Command::Announce { node, to }) => self.machine.announce(node, to, now),
                Ok(Command::Unreachable(node)) => self.machine.unreachable(node, now),
                Ok(Command::Leave) => {
                    self.machine.leave(now);
                    self.send();
                    return false;
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn send(&mut self) {
        for (to, datagram) in self.machine.outbox() {
            // A full send buffer loses the datagram, as the network may: SWIM reckons with that.
            if let Err(error) = self.socket.send_to(&datagram, to) {
                tracing::trace!(%error, %to, "a datagram was not sent");
            }
        }
    }
}
