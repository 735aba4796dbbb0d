//! Bodies on their way: the client's to the instance, the instance's to the client.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Next;
use super::attempt::Attempt;
use crate::http::{BodyDecoder, Decoded, Framing, RequestHead, ResponseHead, rewrite};
use crate::pool::{Pool, Upstream};
use crate::stream::{Conn, Io};

/// A body up to this is read before the request is sent, so that the request can be sent again.
const SMALL_BYTES: u64 = 64 << 10;
/// A side that stands still in the middle of a body for so long has gone.
const STILL_MAX: Duration = Duration::from_secs(60);
/// What is collected before it is written, so that small pieces share a write.
const WRITE_BYTES: usize = 32 << 10;

/// A request's body.
pub struct Body {
    decoder: BodyDecoder,
    framing: Framing,
    /// All of it, where it is small.
    whole: Option<Bytes>,
    begun: bool,
}

/// What came of moving a piece on.
pub enum Pumped {
    Some,
    All,
    ClientGone,
    UpstreamGone(io::Error),
}

impl Body {
    pub fn new(head: &RequestHead) -> Self {
        let whole = (head.framing == Framing::None).then(Bytes::new);
        Self { decoder: BodyDecoder::new(head.framing), framing: head.framing, whole, begun: false }
    }

    /// Reads a small body into memory. A client that waits for a 100 is told to go on.
    pub async fn buffer_small<S: Io>(&mut self, conn: &mut Conn<S>, head: &RequestHead) -> io::Result<()> {
        let Framing::Length(length) = self.framing else { return Ok(()) };
        if length > SMALL_BYTES {
            return Ok(());
        }
        if head.expects_continue() && conn.buffer.is_empty() {
            conn.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut body = BytesMut::new();
        loop {
            match self.decoder.decode(&mut conn.buffer) {
                Ok(Decoded::Data(data)) => body.extend_from_slice(&data),
                Ok(Decoded::End) => break,
                Ok(Decoded::More) => read_some(conn).await?,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        self.whole = Some(body.freeze());
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
        let mut out = Vec::new();
        loop {
            match self.decoder.decode(&mut client.buffer) {
                Ok(Decoded::Data(data)) => rewrite::body_piece(&mut out, self.framing, &data),
                Ok(Decoded::End) => {
                    rewrite::body_end(&mut out, self.framing);
                    return match write_while_reading(upstream, &out).await {
                        Ok(()) => Pumped::All,
                        Err(error) => Pumped::UpstreamGone(error),
                    };
                }
                Ok(Decoded::More) => break,
                Err(_) => return Pumped::ClientGone,
            }
            if out.len() >= WRITE_BYTES {
                break;
            }
        }
        if !out.is_empty() {
            return match write_while_reading(upstream, &out).await {
                Ok(()) => Pumped::Some,
                Err(error) => Pumped::UpstreamGone(error),
            };
        }
        tokio::select! {
            read = tokio::time::timeout(STILL_MAX, client.fill()) => match read {
                Ok(Ok(1..)) => Pumped::Some,
                Ok(Ok(0) | Err(_)) | Err(_) => Pumped::ClientGone,
            },
            answered = upstream.fill() => match answered {
                Ok(1..) => Pumped::Some,
                Ok(0) => Pumped::UpstreamGone(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => Pumped::UpstreamGone(error),
            },
        }
    }
}

/// Answers bytes that an instance may have sent while it is not taking any wait in the buffer: one that
/// writes its answer before it has read the request must not block both sides.
const EARLY_ANSWER_MAX: usize = 1 << 20;

async fn write_while_reading(upstream: &mut Upstream, bytes: &[u8]) -> io::Result<()> {
    let Conn { io, buffer } = upstream;
    let (mut reader, mut writer) = tokio::io::split(io);
    let write = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    let write = tokio::time::timeout(STILL_MAX, write);
    tokio::pin!(write);
    let mut ended = false;
    loop {
        tokio::select! {
            biased;
            written = &mut write => {
                return written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            }
            read = reader.read_buf(buffer), if !ended && buffer.len() < EARLY_ANSWER_MAX => {
                // The end is seen again by whoever reads the answer.
                ended = read? == 0;
            }
        }
    }
}

/// Sends an answer to the client, and gives the instance's connection back when it can be used again.
pub async fn answer<S: Io>(
    client: &mut Conn<S>,
    request: &RequestHead,
    body: &Body,
    closes: bool,
    mut attempt: Attempt,
    answer: ResponseHead,
    pool: &Pool,
) -> Next {
    let Some(mut upstream) = attempt.upstream.take() else { return Next::Close };
    if answer.status == 101 {
        if request.upgrade().is_some() {
            tunnel(client, upstream, &answer).await;
        }
        return Next::Close;
    }
    // An answer that came before the body was over: the rest of it stands between this request and the
    // next, and nobody wants it.
    let unread = body.is_unread();
    let framing = match answer.framing {
        Framing::Close if request.is_1_1 => Framing::Chunked,
        // HTTP/1.0 knows no chunks.
        Framing::Chunked if !request.is_1_1 => Framing::Close,
        Framing::None | Framing::Length(_) | Framing::Chunked | Framing::Close => answer.framing,
    };
    let closes = closes || unread || framing == Framing::Close;
    let mut out = Vec::with_capacity(1_024);
    rewrite::response(&mut out, &answer, framing, closes);
    let mut decoder = BodyDecoder::new(answer.framing);
    let relayed = relay(client, &mut upstream, &mut decoder, framing, out).await;
    let whole = relayed.is_ok();
    if whole && answer.keeps_alive && !unread {
        pool.give(&attempt.target, upstream);
    }
    // A body that was cut can be told in no other way than by the connection's end.
    if !whole || closes { Next::Close } else { Next::Request }
}

async fn relay<S: Io>(
    client: &mut Conn<S>,
    upstream: &mut Upstream,
    decoder: &mut BodyDecoder,
    framing: Framing,
    mut out: Vec<u8>,
) -> io::Result<()> {
    loop {
        match decoder.decode(&mut upstream.buffer).map_err(io::Error::other)? {
            Decoded::Data(data) => rewrite::body_piece(&mut out, framing, &data),
            Decoded::End => {
                rewrite::body_end(&mut out, framing);
                return client.send(&out).await;
            }
            Decoded::More => {
                if !out.is_empty() {
                    client.send(&out).await?;
                    out.clear();
                }
                match tokio::time::timeout(STILL_MAX, upstream.fill()).await {
                    Ok(Ok(0)) if decoder.ends_with_connection() => {
                        rewrite::body_end(&mut out, framing);
                        return client.send(&out).await;
                    }
                    Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                }
            }
        }
        if out.len() >= WRITE_BYTES {
            client.send(&out).await?;
            out.clear();
        }
    }
}

/// After a 101 the connection carries something else, both ways, until either side ends.
async fn tunnel<S: Io>(client: &mut Conn<S>, mut upstream: Upstream, answer: &ResponseHead) {
    let mut out = Vec::new();
    rewrite::response(&mut out, answer, Framing::None, false);
    out.extend_from_slice(&upstream.buffer.split());
    if client.send(&out).await.is_err() || upstream.send(&client.buffer.split()).await.is_err() {
        return;
    }
    // How it ends is the two sides' business.
    let _ended = tokio::io::copy_bidirectional(&mut client.io, &mut upstream.io).await;
}

async fn read_some<S: Io>(conn: &mut Conn<S>) -> io::Result<()> {
    match tokio::time::timeout(STILL_MAX, conn.fill()).await {
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
