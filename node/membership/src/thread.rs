//! The gossip thread: one loop over the socket, the handle's requests and foca's timers.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use foca::{AccumulatingRuntime, Config, Foca, NoCustomBroadcast, PeriodicParams, Timer};
use node_security::{DATAGRAM_OVERHEAD_BYTES, Opener, Sealer};
use proto::ids::NodeId;
use proto::limits::DATAGRAM_BYTES_MAX;
use rand::rngs::StdRng;

use crate::codec::CheckedCodec;
use crate::identity::Id;
use crate::members::Members;
use crate::timers::Timers;
use crate::waker::Waker;
use crate::{Command, MemberEvent, Settings};

/// The first byte of a payload: what the rest is.
const FOCA: u8 = 0;
const GOODBYE: u8 = 1;

const PROBE_PERIOD: Duration = Duration::from_millis(250);
const PROBE_RTT: Duration = Duration::from_millis(100);
const SUSPICION: Duration = Duration::from_secs(1);
/// A member that was down is forgotten after this, and with it that its old life is over.
const REMEMBER_DOWN: Duration = Duration::from_secs(24 * 3600);

/// How long the loop waits at most when there is no timer: hints about members expire by themselves.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Datagrams taken in a row before the timers get a turn.
const DRAIN_MAX: usize = 1_024;
/// How often a goodbye is said: UDP loses one in a while.
const GOODBYES: usize = 3;

type Swim = Foca<Id, CheckedCodec, StdRng, NoCustomBroadcast>;

/// The thread's own.
pub struct Gossip {
    socket: UdpSocket,
    foca: Swim,
    runtime: AccumulatingRuntime<Id>,
    timers: Timers,
    sealer: Sealer,
    opener: Opener,
    members: Members,
    commands: Receiver<Command>,
    waker: Waker,
    on_event: Box<dyn FnMut(MemberEvent) + Send>,
    /// Reused for every datagram that goes out.
    plain: Vec<u8>,
    sealed: Vec<u8>,
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
        let id = Id {
            node: settings.node,
            generation: settings.generation,
            renewal: 0,
            zone: settings.zone,
            gossip: settings.advertise,
            peer: settings.peer,
        };
        Self {
            socket,
            foca: Foca::new(id, config(), rand::make_rng(), CheckedCodec),
            runtime: AccumulatingRuntime::new(),
            timers: Timers::default(),
            sealer: Sealer::new(&settings.key, settings.cluster, settings.node, settings.generation),
            opener: Opener::new(settings.key, settings.cluster),
            members: Members::default(),
            commands,
            waker,
            on_event,
            plain: Vec::new(),
            sealed: Vec::new(),
        }
    }

    pub fn run(mut self) {
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        loop {
            self.receive(&mut buffer);
            if !self.obey() {
                return;
            }
            self.fire();
            self.tell();
        }
    }

    /// Waits for a datagram, a request or the next timer, then takes all datagrams that are there.
    fn receive(&mut self, buffer: &mut [u8]) {
        let now = Instant::now();
        let timer = self.timers.next_at().map_or(WAIT_MAX, |at| at.saturating_duration_since(now));
        self.waker.wait(&self.socket, timer.min(WAIT_MAX));
        for _ in 0..DRAIN_MAX {
            match self.socket.recv_from(buffer) {
                Ok((length, _)) => self.datagram(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Such as an ICMP error about an earlier datagram of ours: nothing to be done.
                Err(error) => tracing::debug!(%error, "the gossip's socket"),
            }
        }
    }

    fn datagram(&mut self, datagram: &[u8]) {
        let opened = match self.opener.open(datagram) {
            Ok(opened) => opened,
            // Never answered: strangers learn nothing and amplify nothing.
            Err(error) => return tracing::trace!(%error, "a datagram was dropped"),
        };
        self.members.heard(opened.sender);
        match opened.payload.split_first() {
            Some((&FOCA, message)) => {
                if let Err(error) = self.foca.handle_data(message, &mut self.runtime) {
                    tracing::debug!(%error, sender = %opened.sender, "a gossip message was not taken");
                }
            }
            Some((&GOODBYE, id)) => self.goodbye(opened.sender, id),
            // A newer version's, perhaps.
            Some(_) | None => {}
        }
        self.flush();
    }

    fn goodbye(&mut self, sender: NodeId, id: &[u8]) {
        let Ok(id) = postcard::from_bytes::<Id>(id) else { return };
        if id.node != sender {
            return;
        }
        self.members.left(&id);
        let down = std::iter::once(foca::Member::down(id));
        if let Err(error) = self.foca.apply_many(down, true, &mut self.runtime) {
            tracing::debug!(%error, "a goodbye was not taken");
        }
    }

    /// Carries out what the handle asks for. Whether to go on.
    fn obey(&mut self) -> bool {
        loop {
            let done = match self.commands.try_recv() {
                Ok(Command::Announce { node, to }) => {
                    self.foca.announce(Id::addressee(node, to), &mut self.runtime)
                }
                Ok(Command::Unreachable(node)) => {
                    self.members.unreachable(node, Instant::now());
                    Ok(())
                }
                Ok(Command::Leave) => {
                    self.leave();
                    return false;
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            };
            if let Err(error) = done {
                tracing::debug!(%error, "the gossip could not do as asked");
            }
            self.flush();
        }
    }

    fn leave(&mut self) {
        let id = self.foca.identity().clone();
        let to: Vec<SocketAddr> = self.foca.iter_members().map(|member| member.id().gossip).collect();
        let Ok(goodbye) = postcard::to_stdvec(&id) else { return };
        for _ in 0..GOODBYES {
            for address in &to {
                self.send(GOODBYE, &goodbye, *address);
            }
        }
        if let Err(error) = self.foca.leave_cluster(&mut self.runtime) {
            tracing::debug!(%error, "the others will find out by themselves");
        }
        self.flush();
    }

    /// Handles the timers that are due. Replies that were waiting have been read before.
    fn fire(&mut self) {
        let now = Instant::now();
        while let Some((timer, late)) = self.timers.pop_due(now) {
            if late > PROBE_RTT && matches!(timer, Timer::ChangeSuspectToDown { .. }) {
                // This thread was not scheduled when the suspect may have answered, or the kernel's
                // buffer overflowed meanwhile: who was deaf accuses nobody.
                tracing::info!(late_ms = late.as_millis(), "the gossip was late; a suspicion gets more time");
                self.timers.push(now + SUSPICION, timer);
                continue;
            }
            if let Err(error) = self.foca.handle_timer(timer, &mut self.runtime) {
                tracing::debug!(%error, "a gossip timer");
            }
            self.flush();
        }
    }

    /// Does what foca has asked for.
    fn flush(&mut self) {
        let now = Instant::now();
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers.push(now + after, timer);
        }
        while let Some((to, data)) = self.runtime.to_send() {
            self.send(FOCA, &data, to.gossip);
        }
        while let Some(notification) = self.runtime.to_notify() {
            tracing::debug!(?notification, "gossip");
        }
    }

    fn send(&mut self, kind: u8, data: &[u8], to: SocketAddr) {
        self.plain.clear();
        self.plain.push(kind);
        self.plain.extend_from_slice(data);
        if let Err(error) = self.sealer.seal(&self.plain, &mut self.sealed) {
            return tracing::error!(%error, bytes = data.len(), "a gossip message does not fit");
        }
        // A full send buffer loses the datagram, as the network may: SWIM reckons with that.
        if let Err(error) = self.socket.send_to(&self.sealed, to) {
            tracing::trace!(%error, %to, "a datagram was not sent");
        }
    }

    fn tell(&mut self) {
        let now = Instant::now();
        if let Some(members) = self.members.update(self.foca.iter_membership_state(), now) {
            (self.on_event)(MemberEvent::Changed(members));
        }
    }
}

/// Measured as good for a LAN (membership.md).
fn config() -> Config {
    let members = |count| NonZeroUsize::new(count).expect("a constant above zero");
    let every = |frequency, count| Some(PeriodicParams { frequency, num_members: members(count) });
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: members(3),
        // Packets to members that have died use up transmissions too.
        max_transmissions: NonZeroU8::new(20).expect("a constant above zero"),
        suspect_to_down_after: SUSPICION,
        remove_down_after: Some(REMEMBER_DOWN),
        // The first byte of the payload is ours.
        max_packet_size: members(DATAGRAM_BYTES_MAX - DATAGRAM_OVERHEAD_BYTES - 1),
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(10), 1),
        // What heals a partition: both sides have declared each other down.
        periodic_announce_to_down_members: every(Duration::from_secs(2), 3),
        periodic_gossip: every(Duration::from_millis(50), 3),
    }
}
