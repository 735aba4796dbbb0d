//! Bounds that both ends of a wire check before they allocate, with the reason beside each.

/// Largest gRPC message between nodes: a batch of session operations (256 KiB), one value (1 MiB)
/// or a snapshot chunk (1 MiB), with room for the envelope.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Longest key of the session store.
pub const KEY_BYTES_MAX: usize = 1 << 10;

/// Largest value of the session store.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// What one entry of a session group's log may hold: the batcher drains its queue up to here. One
/// value of the largest size still fits, alone.
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// Bytes of one chunk of a blob on the wire.
pub const BLOB_CHUNK_BYTES: usize = 256 << 10;

/// Largest manifest of a release: about 100,000 files.
pub const MANIFEST_BYTES_MAX: usize = 16 << 20;

/// Files, directories and links of one release.
pub const RELEASE_ENTRIES_MAX: usize = 100_000;

/// Bytes of one release.
pub const RELEASE_BYTES_MAX: u64 = 8 << 30;

/// Longest name of a node, zone or app. Fits a DNS label.
pub const NAME_BYTES_MAX: usize = 63;

/// Members that one cluster may have: ten times what it is made for.
pub const MEMBERS_MAX: usize = 1_000;

/// A gossip datagram with its envelope: below the smallest MTU worth supporting (1,400 with
/// tunnels) so that it is never fragmented.
pub const DATAGRAM_BYTES_MAX: usize = 1_360;

/// Keys of one invalidation.
pub const INVALIDATION_KEYS_MAX: usize = 1_000;

/// Encoded size of one node's state: some hundred instances.
pub const NODE_STATE_BYTES_MAX: usize = 256 << 10;
