//! The language that nodes and operators speak.
//!
//! Everything two processes must agree on is here and nothing else: the messages that the `.proto`
//! files define, the ids that name things, and the limits that both ends check before they
//! allocate. No I/O, no clock, no randomness.
//!
//! Architecture Invariant: without the feature `rpc` this crate links neither tonic nor tokio, so
//! that the crates that decide can use its messages (checked by `cli/tests`).

pub mod ids;
pub mod limits;

/// The operator's and the apps' API, package `holdfast.v1`. Also the source of every `--json`.
#[allow(
    clippy::all,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/holdfast.v1.rs"));
}

/// What nodes say to one another, package `holdfast.peer.v1`.
pub mod peer {
    #[allow(
        clippy::all,
        clippy::too_many_lines,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/holdfast.peer.v1.rs"));
    }
    pub use v1::*;
}

/// What replicated logs hold, package `holdfast.log.v1`.
pub mod log {
    #[allow(
        clippy::all,
        clippy::too_many_lines,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/holdfast.log.v1.rs"));
    }
    pub use v1::*;
}

/// The encoded `FileDescriptorSet` of all packages, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
