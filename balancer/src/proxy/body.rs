//! A request's body: kept where it is small, passed on piece by piece where it is not.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::failed::ClientFault;
use crate::http::{BodyDecoder, Decoded, Framing, RequestHead, rewrite};
use crate::pool::Upstream;
use crate::stream::{Conn, Io, STILL_MAX};

/// A body up to this is read before the request is sent, so that the request can be sent again.
const SMALL_BYTES: u64 = 64 << 10;
/// What is collected before it is written, so that small pieces share a write.
const WRITE_BYTES: usize = 32 << 10;
/// What an instance may answer while it takes nothing: one that writes its answer before it has read the
/// request must not block both sides.
const EARLY_ANSWER_MAX: usize = 1 << 20;

/// A request's body.
pub struct Body {
    decoder: BodyDecoder,
    framing: Framing,
    /// All of it, where it is small.
    whole: Option<Bytes>,
    begun: bool,
    /// Whether the client waits to be told to send it.
    awaited: bool,
}

/// What came of moving a piece on.
pub enum Pumped {
    Some,
    All,
    Client(ClientFault),
    UpstreamGone,
}

impl Body {
    pub fn new(head: &RequestHead) -> Self {
        let whole = (head.framing == Framing::None).then(Bytes::new);
        let awaited = head.framing != Framing::None && head.expects_continue();
        Self { decoder: BodyDecoder::new(head.framing), framing: head.framing, whole, begun: false, awaited }
    }

    /// Reads a small body into memory.
    pub async fn buffer_small<S: Io>(&mut self, client: &mut Conn<S>) -> Result<(), ClientFault> {
        let Framing::Length(length) = self.framing else { return Ok(()) };
        if length > SMALL_BYTES {
            return Ok(());
        }
        self.invite(client).await?;
        let mut body = BytesMut::new();
        loop {
            match self.decoder.decode(&mut client.buffer) {
                Ok(Decoded::Data(data)) => body.extend_from_slice(&data),
                Ok(Decoded::End) => break,
                Ok(Decoded::More) => {
                    if client.fill_body().await? == 0 {
                        return Err(ClientFault::Gone);
                    }
                }
                Err(_) => return Err(ClientFault::Malformed),
            }
        }
        self.whole = Some(body.freeze());
        Ok(())
    }

    /// Tells a client that waits for it to send the body.
    pub async fn invite<S: Io>(&mut self, client: &mut Conn<S>) -> io::Result<()> {
        if std::mem::take(&mut self.awaited) && client.buffer.is_empty() {
            client.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            client.send().await?;
        }
        Ok(())
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    pub fn in_memory(&self) -> Option<&Bytes> {
        self.whole.as_ref()
    }

    pub fn can_be_sent_again(&self) -> bool {
        self.whole.is_some() || !self.begun
    }

    /// Whether the client has more of it to send, which nobody will read.
    pub fn is_unread(&self) -> bool {
        !self.decoder.is_done()
    }

    /// Moves one piece from the client to the instance, or takes in something of the answer.
    pub async fn pump<S: Io>(&mut self, client: &mut Conn<S>, upstream: &mut Upstream) -> Pumped {
        self.begun = true;
        let mut all = false;
        while upstream.out.len() < WRITE_BYTES {
            match self.decoder.decode(&mut client.buffer) {
                Ok(Decoded::Data(data)) => rewrite::body_piece(&mut upstream.out, self.framing, &data),
                Ok(Decoded::End) => {
                    rewrite::body_end(&mut upstream.out, self.framing);
                    all = true;
                    break;
                }
                Ok(Decoded::More) => break,
                Err(_) => return Pumped::Client(ClientFault::Malformed),
            }
        }
        if all || !upstream.out.is_empty() {
            return match write_while_reading(upstream).await {
                Ok(()) if all => Pumped::All,
                Ok(()) => Pumped::Some,
                Err(_) => Pumped::UpstreamGone,
            };
        }
        tokio::select! {
            read = client.fill_body() => match read {
                Ok(0) => Pumped::Client(ClientFault::Gone),
                Ok(_) => Pumped::Some,
                Err(error) => Pumped::Client(error.into()),
            },
            answered = upstream.fill() => match answered {
                Ok(1..) => Pumped::Some,
                Ok(0) | Err(_) => Pumped::UpstreamGone,
            },
        }
    }
}

async fn write_while_reading(upstream: &mut Upstream) -> io::Result<()> {
    let Conn { io, buffer, out } = upstream;
    let (mut reader, mut writer) = tokio::io::split(io);
    let written = {
        let write = timeout(STILL_MAX, async {
            writer.write_all(out).await?;
            writer.flush().await
        });
        tokio::pin!(write);
        let mut ended = false;
        loop {
            tokio::select! {
                biased;
                written = &mut write => {
                    break written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                }
                // The end is seen again by whoever reads the answer.
                read = reader.read_buf(buffer), if !ended && buffer.len() < EARLY_ANSWER_MAX => {
                    ended = !matches!(read, Ok(1..));
                }
            }
        }
    };
    out.clear();
    written
}
