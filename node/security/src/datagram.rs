//! Sealed datagrams: what gossip travels in.
//!
//! ```text
//!   0        1       2        10           18           34         42
//!   │version │key id │ sender │ generation │ boot nonce │ counter  │ ciphertext ... │ tag (16) │
//!   └──────────────── associated data, with the cluster's id ──────┘
//! ```
//!
//! Each sender has a key of its own for each of its lives, derived from the cluster's key by HKDF
//! (RFC 5869) over sender, generation and a random boot nonce, so that the counter may start at zero
//! and no nonce is ever used twice under one key. The counter is the nonce of ChaCha20-Poly1305
//! (RFC 8439) and the position in the receiver's replay window (RFC 4303, 3.4.3, of 64 packets).
//!
//! The cluster's key is shared: a datagram proves that *a member* sent it, not which one. Nothing
//! that needs more than that may rest on gossip.
//!
//! State about a sender is kept only after one of its datagrams has been authenticated, and for a
//! bounded number of senders, so that strangers can not fill memory. Nodes come and go, each with a new
//! id: the sender that has been silent the longest makes room.

use std::collections::BTreeMap;

use proto::ids::{ClusterId, Generation, NodeId};
use proto::limits::{DATAGRAM_BYTES_MAX, MEMBERS_MAX};
use rand::RngCore as _;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

use crate::GossipKey;

const VERSION: u8 = 1;
/// The only key there is until keys are rotated.
const KEY_ID: u8 = 0;
const BOOT_BYTES: usize = 16;
const HEADER_BYTES: usize = 2 + 8 + 8 + BOOT_BYTES + 8;
const TAG_BYTES: usize = 16;
const WINDOW_PACKETS: u64 = 64;

/// What sealing adds to a payload.
pub const DATAGRAM_OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// Why a datagram was not opened. None of these is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("too short or too long")]
    Size,
    #[error("of another version")]
    Version,
    #[error("sealed with a key that this node does not have")]
    UnknownKey,
    #[error("not sealed by a member of this cluster, or altered on its way")]
    Forged,
    #[error("seen before, or too old to tell")]
    Replayed,
    #[error("from an earlier life of its sender")]
    Stale,
}

/// An authenticated payload, and who it says it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub sender: NodeId,
    pub generation: Generation,
    pub payload: Vec<u8>,
}

/// Seals what one life of one node sends.
pub struct Sealer {
    cluster: ClusterId,
    key: LessSafeKey,
    /// All of the header but the counter.
    prefix: [u8; HEADER_BYTES - 8],
    counter: u64,
}

impl Sealer {
    pub fn new(key: &GossipKey, cluster: ClusterId, node: NodeId, generation: Generation) -> Self {
        let mut boot = [0; BOOT_BYTES];
        rand::rng().fill_bytes(&mut boot);
        let mut prefix = [0; HEADER_BYTES - 8];
        prefix[0] = VERSION;
        prefix[1] = KEY_ID;
        prefix[2..10].copy_from_slice(&node.0.to_be_bytes());
        prefix[10..18].copy_from_slice(&generation.0.to_be_bytes());
        prefix[18..].copy_from_slice(&boot);
        Self { cluster, key: sender_key(key, &prefix), prefix, counter: 0 }
    }

    /// Replaces the content of `out` by the sealed datagram.
    ///
    /// # Errors
    /// [`OpenError::Size`] when the payload does not fit into [`DATAGRAM_BYTES_MAX`].
    pub fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        if payload.len() + DATAGRAM_OVERHEAD_BYTES > DATAGRAM_BYTES_MAX {
            return Err(OpenError::Size);
        }
        // At a million datagrams a second this takes half a million years.
        self.counter = self.counter.checked_add(1).expect("a counter of 64 bits does not run out");
        out.clear();
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(&self.counter.to_be_bytes());
        let aad = associated(out, self.cluster);
        let mut body = payload.to_vec();
        self.key
            .seal_in_place_append_tag(nonce(self.counter), Aad::from(aad), &mut body)
            .expect("a datagram is far below the cipher's limit");
        out.extend_from_slice(&body);
        Ok(())
    }
}

/// Opens what others send.
pub struct Opener {
    cluster: ClusterId,
    key: GossipKey,
    senders: BTreeMap<NodeId, Sender>,
    /// Datagrams opened, as a clock.
    opened: u64,
}

struct Sender {
    /// When it was heard last, in datagrams opened.
    heard: u64,
    generation: Generation,
    prefix: [u8; HEADER_BYTES - 8],
    key: LessSafeKey,
    window: Window,
}

impl Opener {
    pub fn new(key: GossipKey, cluster: ClusterId) -> Self {
        Self { cluster, key, senders: BTreeMap::new(), opened: 0 }
    }

    /// Authenticates and decrypts one datagram.
    ///
    /// # Errors
    /// See [`OpenError`]. A refused datagram changes nothing.
    pub fn open(&mut self, datagram: &[u8]) -> Result<Opened, OpenError> {
        if datagram.len() < DATAGRAM_OVERHEAD_BYTES || datagram.len() > DATAGRAM_BYTES_MAX {
            return Err(OpenError::Size);
        }
        let (header, sealed) = datagram.split_at(HEADER_BYTES);
        let prefix: [u8; HEADER_BYTES - 8] =
            header[..HEADER_BYTES - 8].try_into().map_err(|_| OpenError::Size)?;
        if prefix[0] != VERSION {
            return Err(OpenError::Version);
        }
        if prefix[1] != KEY_ID {
            return Err(OpenError::UnknownKey);
        }
        let sender = NodeId(number(&header[2..10]));
        let generation = Generation(number(&header[10..18]));
        let counter = number(&header[HEADER_BYTES - 8..]);
        let aad = associated(header, self.cluster);
        if let Some(known) = self.senders.get_mut(&sender).filter(|known| known.prefix == prefix) {
            if !known.window.would_accept(counter) {
                return Err(OpenError::Replayed);
            }
            let payload = decrypt(&known.key, counter, &aad, sealed)?;
            known.window.accept(counter);
            self.opened += 1;
            known.heard = self.opened;
            return Ok(Opened { sender, generation, payload });
        }
        // The order matters: what is not authenticated may not be told from what is stale.
        let key = sender_key(&self.key, &prefix);
        let payload = decrypt(&key, counter, &aad, sealed)?;
        self.remember(sender, generation, prefix, key, counter)?;
        Ok(Opened { sender, generation, payload })
    }

    /// Begins a new life of a sender. One generation has one boot nonce: a second one is a copy of
    /// the node, or an attacker's mixture, and neither can be put in order.
    fn remember(
        &mut self,
        sender: NodeId,
        generation: Generation,
        prefix: [u8; HEADER_BYTES - 8],
        key: LessSafeKey,
        counter: u64,
    ) -> Result<(), OpenError> {
        match self.senders.get(&sender) {
            Some(known) if known.generation >= generation => return Err(OpenError::Stale),
            None if self.senders.len() >= MEMBERS_MAX => self.forget_the_most_silent(),
            Some(_) | None => {}
        }
        let mut window = Window::default();
        window.accept(counter);
        self.opened += 1;
        self.senders.insert(sender, Sender { heard: self.opened, generation, prefix, key, window });
        Ok(())
    }

    /// Its datagrams can be replayed then, and say what a member said before it fell silent.
    fn forget_the_most_silent(&mut self) {
        let silent = self.senders.iter().min_by_key(|(_, sender)| sender.heard).map(|(node, _)| *node);
        if let Some(silent) = silent {
            self.senders.remove(&silent);
        }
    }
}

/// Which of the newest 64 counters have been seen. Bit 0 is the newest.
#[derive(Debug, Default)]
struct Window {
    newest: u64,
    seen: u64,
}

impl Window {
    fn would_accept(&self, counter: u64) -> bool {
        if counter > self.newest {
            return true;
        }
        let age = self.newest - counter;
        age < WINDOW_PACKETS && self.seen & (1 << age) == 0
    }

    fn accept(&mut self, counter: u64) {
        if counter > self.newest {
            let ahead = counter - self.newest;
            self.seen = if ahead >= WINDOW_PACKETS { 0 } else { self.seen << ahead };
            self.newest = counter;
        }
        let age = self.newest - counter;
        debug_assert!(age < WINDOW_PACKETS, "only what would be accepted is accepted");
        self.seen |= 1 << age;
    }
}

struct KeyBytes;

impl KeyType for KeyBytes {
    fn len(&self) -> usize {
        32
    }
}

fn sender_key(cluster_key: &GossipKey, prefix: &[u8; HEADER_BYTES - 8]) -> LessSafeKey {
    let extracted = Salt::new(HKDF_SHA256, b"holdfast gossip 1").extract(cluster_key.as_bytes());
    let mut bytes = [0; 32];
    extracted
        .expand(&[&prefix[..]], KeyBytes)
        .and_then(|material| material.fill(&mut bytes))
        .expect("32 bytes are within HKDF's limit");
    let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("the cipher's key has 32 bytes");
    LessSafeKey::new(key)
}

fn decrypt(key: &LessSafeKey, counter: u64, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut body = sealed.to_vec();
    let plain =
        key.open_in_place(nonce(counter), Aad::from(aad), &mut body).map_err(|_| OpenError::Forged)?;
    let length = plain.len();
    body.truncate(length);
    Ok(body)
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn associated(header: &[u8], cluster: ClusterId) -> Vec<u8> {
    [header, &cluster.0].concat()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests;
