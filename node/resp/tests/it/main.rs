//! The port as its clients see it: a stock Redis client over real sockets, and bytes from whoever.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can not go on fails; clippy knows only those marked #[test]"
)]

mod farm;
mod hostile;
mod stock;
