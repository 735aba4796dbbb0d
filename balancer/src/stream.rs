//! A connection with what was read ahead of it and what is about to be sent.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Read at a time: a typical head and body together.
const READ_BYTES: usize = 16 << 10;
/// Read at a time once a body has shown to be large: fewer system calls.
const READ_BYTES_BODY: usize = 64 << 10;
/// Kept for the next request; what a large body needed beyond it is given back.
const KEPT_BYTES: usize = 32 << 10;
/// A side that neither sends nor takes anything for so long in the middle of something has gone.
pub const STILL_MAX: Duration = Duration::from_secs(60);
/// How long, and how much, is listened to a client that was told no while it was still talking.
const LINGER_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Whatever carries bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection, its unread bytes and its unsent ones.
pub struct Conn<S> {
    pub io: S,
    pub buffer: BytesMut,
    /// Head and body are collected here, to be sent in one write. Its memory is used again.
    pub out: Vec<u8>,
}

/// What a client does while it waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stir {
    /// It sends its next request already.
    Spoke,
    /// It says nothing more; it may still listen.
    Ended,
    Broke,
}

impl<S: Io> Conn<S> {
    pub fn new(io: S) -> Self {
        Self { io, buffer: BytesMut::new(), out: Vec::new() }
    }

    /// Reads some more behind what is there. 0 is the end. Nothing is lost when it is cancelled.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_BYTES);
        self.io.read_buf(&mut self.buffer).await
    }

    /// Reads more of a body, if there comes any in time.
    pub async fn fill_body(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_BYTES_BODY);
        in_time(self.io.read_buf(&mut self.buffer)).await
    }

    /// Sends what was collected.
    pub async fn send(&mut self) -> io::Result<()> {
        let sent = send_all(&mut self.io, &self.out).await;
        self.out.clear();
        sent
    }

    /// Returns when the client does something. Nothing is lost when it is cancelled.
    pub async fn stir(&mut self) -> Stir {
        // A byte on the stack, as a whole buffer per waiting client would be reserved for nothing.
        let mut byte = [0];
        match self.io.read(&mut byte).await {
            Ok(0) => Stir::Ended,
            Ok(_) => {
                self.buffer.extend_from_slice(&byte);
                Stir::Spoke
            }
            Err(_) => Stir::Broke,
        }
    }

    /// Gives back the memory that only a large body needed.
    pub fn shrink(&mut self) {
        if self.out.capacity() > KEPT_BYTES {
            self.out = Vec::new();
        }
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES {
            self.buffer = BytesMut::new();
        }
    }

    /// Says that nothing more comes. The other side may have gone already.
    pub async fn finish(&mut self) {
        let _gone = in_time(self.io.shutdown()).await;
    }

    /// Ends a connection on which the client may be sending still. If it were closed at once, the
    /// kernel would answer what arrives with a reset, and that may overtake the answer.
    pub async fn linger(&mut self) {
        self.finish().await;
        let listen = async {
            let mut heard = 0;
            while heard < LINGER_BYTES_MAX {
                self.buffer.clear();
                match self.fill().await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => heard += count,
                }
            }
        };
        let _ended = tokio::time::timeout(LINGER_MAX, listen).await;
    }
}

/// However slowly it is taken: only one that takes nothing has gone.
async fn send_all<S: Io>(io: &mut S, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match in_time(io.write(bytes)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    in_time(io.flush()).await
}

async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(STILL_MAX, step).await {
        Ok(done) => done,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
