//! A connection with what was read ahead of it.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Read at a time: a typical head and body together, and few system calls for large bodies.
const READ_BYTES: usize = 16 << 10;

/// Whatever carries bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection and its unread bytes.
pub struct Conn<S> {
    pub io: S,
    pub buffer: BytesMut,
}

impl<S: Io> Conn<S> {
    pub fn new(io: S) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// Reads some more behind what is there. 0 is the end. Nothing is lost when it is cancelled.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_BYTES);
        self.io.read_buf(&mut self.buffer).await
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Says that nothing more comes. The other side may have gone already.
    pub async fn finish(&mut self) {
        let _gone = self.io.shutdown().await;
    }
}
