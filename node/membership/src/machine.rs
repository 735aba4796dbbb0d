//! What a member does with a datagram, a timer and a request, without a socket and without a clock.
//!
//! The thread gives it real ones. A simulation of a farm gives it a network and a time of its own.

use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::{Duration, Instant};

use foca::{
    AccumulatingRuntime, Config, Foca, Incarnation, NoCustomBroadcast, OwnedNotification, PeriodicParams,
    State, Timer,
};
use node_security::{DATAGRAM_OVERHEAD_BYTES, Opener, Sealer};
use proto::ids::NodeId;
use proto::limits::DATAGRAM_BYTES_MAX;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::codec::CheckedCodec;
use crate::identity::Id;
use crate::members::Members;
use crate::timers::Timers;
use crate::{Member, Settings};

/// The first byte of a payload: what the rest is.
const FOCA: u8 = 0;
const GOODBYE: u8 = 1;
const SUSPECTED: u8 = 2;

const PROBE_PERIOD: Duration = Duration::from_millis(250);
const PROBE_RTT: Duration = Duration::from_millis(100);
const SUSPICION: Duration = Duration::from_secs(1);
/// A member that was down is forgotten after this, and with it that its old life is over.
const REMEMBER_DOWN: Duration = Duration::from_secs(24 * 3600);
/// Members that one that has lost its place asks to take it back, at a time.
const RECONNECT_TO: usize = 3;
/// Suspects that are told so themselves, with every probe.
const TOLD_SUSPECTS_MAX: usize = 3;
/// How often a goodbye is said: UDP loses one in a while.
const GOODBYES: usize = 3;

type Swim = Foca<Id, CheckedCodec, StdRng, NoCustomBroadcast>;

/// One life of one member.
pub struct Machine {
    foca: Swim,
    runtime: AccumulatingRuntime<Id>,
    timers: Timers,
    sealer: Sealer,
    opener: Opener,
    members: Members,
    /// When this member did not run for a while last: it may have missed what it was told then.
    deaf_until: Option<Instant>,
    /// Nobody knows it under its present identity, and when it asks again.
    reconnect_at: Option<Instant>,
    random: StdRng,
    /// Sealed datagrams that are to be sent.
    outbox: Vec<(SocketAddr, Vec<u8>)>,
    /// Reused for every datagram that goes out.
    plain: Vec<u8>,
}

impl Machine {
    /// `seed` decides whom it probes and tells, and when.
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        let id = Id {
            node: settings.node,
            generation: settings.generation,
            renewal: 0,
            zone: settings.zone,
            gossip: settings.advertise,
            peer: settings.peer,
        };
        let mut random = StdRng::from_seed(seed);
        Self {
            foca: Foca::new(id, config(), StdRng::from_rng(&mut random), CheckedCodec),
            runtime: AccumulatingRuntime::new(),
            timers: Timers::default(),
            sealer: Sealer::new(&settings.key, settings.cluster, settings.node, settings.generation),
            opener: Opener::new(settings.key, settings.cluster),
            members: Members::default(),
            deaf_until: None,
            reconnect_at: None,
            random,
            outbox: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// When [`Machine::fire`] has something to do.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next_at().into_iter().chain(self.reconnect_at).min()
    }

    /// What has to be sent since this was asked last.
    pub fn outbox(&mut self) -> std::vec::Drain<'_, (SocketAddr, Vec<u8>)> {
        self.outbox.drain(..)
    }

    /// All members, if something about them has changed since this was asked last.
    pub fn news(&mut self, now: Instant) -> Option<Vec<Member>> {
        self.members.update(self.foca.iter_membership_state(), now)
    }

    /// A datagram has come, from whomever.
    pub fn receive(&mut self, datagram: &[u8], now: Instant) {
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
            Some((&SUSPECTED, told)) => self.suspected(told),
            // A newer version's, perhaps.
            Some(_) | None => {}
        }
        self.flush(now);
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

    /// Somebody suspects this member: it says that it lives, by a higher incarnation.
    fn suspected(&mut self, told: &[u8]) {
        let Ok((id, incarnation)) = postcard::from_bytes::<(Id, Incarnation)>(told) else { return };
        if id != *self.foca.identity() {
            return;
        }
        let suspect = std::iter::once(foca::Member::new(id, incarnation, State::Suspect));
        if let Err(error) = self.foca.apply_many(suspect, true, &mut self.runtime) {
            tracing::debug!(%error, "a suspicion was not answered");
        }
    }

    /// Tells suspects that they are suspected. They may not know: gossip about a suspicion ends after some
    /// time, and with a new identity foca drops the timers of those that it holds, so that a suspect that
    /// answers every probe would be one for ever. Lifeguard (Dadgar, Phillips, Currey, 2018) does the same
    /// as its buddy system, to have suspicions refuted sooner.
    fn tell_suspects(&mut self) {
        let suspects = self.foca.iter_membership_state().filter(|member| member.state() == State::Suspect);
        let mut suspects: Vec<(Id, Incarnation)> =
            suspects.map(|member| (member.id().clone(), member.incarnation())).collect();
        let (chosen, _) = suspects.partial_shuffle(&mut self.random, TOLD_SUSPECTS_MAX);
        let chosen = chosen.to_vec();
        for suspect in chosen {
            if let Ok(told) = postcard::to_stdvec(&suspect) {
                self.send(SUSPECTED, &told, suspect.0.gossip);
            }
        }
    }

    /// Asks whoever is at an address to let this one take part. `node` is who is thought to be there.
    pub fn announce(&mut self, node: Option<NodeId>, to: SocketAddr, now: Instant) {
        if let Err(error) = self.foca.announce(Id::addressee(node, to), &mut self.runtime) {
            tracing::debug!(%error, "an announcement was not made");
        }
        self.flush(now);
    }

    /// A connection to the node was refused.
    pub fn unreachable(&mut self, node: NodeId, now: Instant) {
        self.members.unreachable(node, now);
    }

    /// Tells everybody that this member goes. Nothing may be asked of it afterwards but its outbox.
    pub fn leave(&mut self, now: Instant) {
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
        self.flush(now);
    }

    /// Handles the timers that are due. Datagrams that were waiting have to be given before.
    pub fn fire(&mut self, now: Instant) {
        while let Some((timer, late)) = self.timers.pop_due(now) {
            if late > PROBE_RTT {
                self.deaf_until = Some(now);
            }
            if self.was_deaf(now) && matches!(timer, Timer::ChangeSuspectToDown { .. }) {
                // This member did not run while the suspect may have answered, or while it ought to have
                // been told of the suspicion: who was deaf and dumb accuses nobody.
                tracing::info!(late_ms = late.as_millis(), "the gossip was late; a suspicion gets more time");
                self.timers.push(now + SUSPICION, timer);
                continue;
            }
            let is_probe = matches!(timer, Timer::ProbeRandomMember(_));
            if let Err(error) = self.foca.handle_timer(timer, &mut self.runtime) {
                tracing::debug!(%error, "a gossip timer");
            }
            if is_probe {
                self.tell_suspects();
            }
            self.flush(now);
        }
        self.reconnect(now);
    }

    /// Whether some of the time that a suspect is given was spent not running.
    fn was_deaf(&self, now: Instant) -> bool {
        self.deaf_until.is_some_and(|until| now.saturating_duration_since(until) < SUSPICION)
    }

    /// foca does nothing by itself while it believes that nobody knows it. It tells its new identity to one
    /// member once: where that datagram is lost, everybody goes on asking for the old one, in vain, and
    /// declares it dead. So it is told again until somebody answers.
    fn reconnect(&mut self, now: Instant) {
        if self.reconnect_at.is_none_or(|at| now < at) {
            return;
        }
        let known = self.foca.iter_membership_state().filter(|member| member.state() != State::Down);
        let mut known: Vec<(NodeId, SocketAddr)> =
            known.map(|member| (member.id().node, member.id().gossip)).collect();
        let (chosen, _) = known.partial_shuffle(&mut self.random, RECONNECT_TO);
        let chosen = chosen.to_vec();
        self.reconnect_at = (!chosen.is_empty()).then(|| now + PROBE_PERIOD);
        for (node, address) in chosen {
            self.announce(Some(node), address, now);
        }
    }

    /// Takes over what foca has asked for.
    fn flush(&mut self, now: Instant) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers.push(now + after, timer);
        }
        while let Some((to, data)) = self.runtime.to_send() {
            self.send(FOCA, &data, to.gossip);
        }
        while let Some(notification) = self.runtime.to_notify() {
            tracing::debug!(?notification, "gossip");
            match notification {
                OwnedNotification::Rejoin(_) => self.reconnect_at = Some(now),
                OwnedNotification::Active => self.reconnect_at = None,
                OwnedNotification::MemberUp(_)
                | OwnedNotification::MemberDown(_)
                | OwnedNotification::Rename(_, _)
                | OwnedNotification::Idle
                | OwnedNotification::Defunct => {}
            }
        }
    }

    fn send(&mut self, kind: u8, data: &[u8], to: SocketAddr) {
        self.plain.clear();
        self.plain.push(kind);
        self.plain.extend_from_slice(data);
        let mut sealed = Vec::with_capacity(self.plain.len() + DATAGRAM_OVERHEAD_BYTES);
        match self.sealer.seal(&self.plain, &mut sealed) {
            Ok(()) => self.outbox.push((to, sealed)),
            Err(error) => tracing::error!(%error, bytes = data.len(), "a gossip message does not fit"),
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
