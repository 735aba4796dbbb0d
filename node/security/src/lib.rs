//! Who may speak to whom: certificates, join tokens, TLS settings and sealed datagrams.
//!
//! ```text
//!   JoinToken ── carries the CA's digest ──▶ joiner_config: the CA is known before anything is sent
//!   CertificateAuthority::issue ──▶ a certificate that names cluster, node and role
//!        ├─ server_config / client_config: TLS 1.3, both sides proved (peer port)
//!        └─ identify: the certificate of a connection ──▶ PeerIdentity
//!   GossipKey ──▶ Sealer / Opener: one AEAD per datagram, per-sender keys, replay window
//! ```
//!
//! A certificate's names are DNS names, so that the ordinary verification (RFC 5280, RFC 6125) does
//! the work: who dials node 7 asks for `node-7.<cluster>.holdfast`, and nobody else's certificate
//! carries that name.
//!
//! Architecture Invariant: no I/O and no clock but the one that certificate dates need. There is no
//! function that makes a TLS setting without a verifier.

mod authority;
mod datagram;
mod gossip_key;
mod names;
mod tls;
mod token;

pub use authority::{CertificateAuthority, NodeKey, ca_digest};
pub use datagram::{DATAGRAM_OVERHEAD_BYTES, OpenError, Opened, Opener, Sealer};
pub use gossip_key::GossipKey;
pub use names::{PeerIdentity, Role, identify, server_name};
pub use tls::{TlsIdentity, client_config, joiner_config, joiner_server_name, server_config};
pub use token::{JoinToken, ParseTokenError};

/// Why a key, certificate or setting could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    #[error("can not make a key: {0}")]
    Key(rcgen::Error),
    #[error("can not make a certificate: {0}")]
    Certificate(rcgen::Error),
    #[error("the signing request is no good: {0}")]
    Request(rcgen::Error),
    #[error("the CA's key does not belong to its certificate")]
    KeyMismatch,
    #[error("can not read the certificate: {0}")]
    Unreadable(webpki::Error),
    #[error("the certificate names no node of a Holdfast cluster")]
    NamesNoNode,
    #[error("TLS refuses the setting: {0}")]
    Tls(#[from] rustls::Error),
    #[error("TLS refuses the CA: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}
