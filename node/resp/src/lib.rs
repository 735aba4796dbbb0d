//! The Redis protocol in front of the session store.
//!
//! Every web framework has a session library that speaks to Redis; so do we, and nothing has to be
//! changed in the app. What arrives is decoded by a bounded, I/O-free codec, looked up in a table of
//! commands, and becomes a few of the store's operations; what the store answers becomes the frame
//! that this command answers with.
//!
//! ```text
//!   socket ─▶ Decoder ─▶ command table ─▶ ops ──┐ a run of pipelined commands
//!                │             │                ▼ is one batch
//!                │        answered here     Store::execute
//!   socket ◀─ Frame::encode ◀──┴────────────────┘ in the order of the commands
//! ```
//!
//! A command that is not in the table is answered with Redis's own error, at once: handshakes are
//! pipelined, and a client must never wait for an answer that does not come.
//!
//! Architecture Invariant: nothing here knows of groups, leaders or nodes. [`Store`] is all that is
//! behind the port.

mod client;
mod command;
mod connection;
mod decode;
mod error;
mod frame;
mod server;
mod store;

pub use decode::{Bounds, Decoded, Decoder, ProtocolError};
pub use frame::{Frame, Prepared, Protocol};
pub use server::{Limits, serve};
pub use store::{Refusal, Store, StoreInfo};

/// What HELLO and INFO say. redis-py refuses client-side caching below 7.4, and no library needs more.
pub const REDIS_VERSION: &str = "7.4.0";
