//! The instance's answer on its way to the client.

use std::io;

use super::attempt::Answered;
use super::body::Body;
use super::{Closes, Next};
use crate::http::{BodyDecoder, Decoded, Framing, RequestHead, ResponseHead, rewrite};
use crate::pool::{Pool, Upstream};
use crate::stream::{Conn, Io};

/// What is collected before it is written, so that small pieces share a write.
const WRITE_BYTES: usize = 64 << 10;

/// Sends an answer to the client, and gives the instance's connection back when it can be used again.
pub async fn answer<S: Io>(
    client: &mut Conn<S>,
    request: &RequestHead,
    body: &Body,
    closes: Closes<'_>,
    answered: Answered,
    pool: &Pool,
) -> Next {
    // What else is in it, its request being under way, ends with this function.
    let Answered { head: answer, mut upstream, link, .. } = answered;
    if answer.status == 101 {
        tunnel(client, upstream, &answer).await;
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
    let closes = closes.now() || unread || framing == Framing::Close;
    rewrite::response(&mut client.out, &answer, framing, closes);
    let mut decoder = BodyDecoder::new(answer.framing);
    let relayed = relay(client, &mut upstream, &mut decoder, framing).await;
    client.shrink();
    let keeps_alive = answer.keeps_alive && !unread;
    // The head shares the buffer's memory, which is then used again.
    drop(answer);
    match relayed {
        Ok(()) => {
            if keeps_alive {
                pool.give(&link, upstream);
            }
            match (closes, unread) {
                (true, true) => Next::Linger,
                (true, false) => Next::Close,
                (false, _) => Next::Request,
            }
        }
        // A body that was cut can be told in no other way than by the connection's end.
        Err(_) => Next::Close,
    }
}

async fn relay<S: Io>(
    client: &mut Conn<S>,
    upstream: &mut Upstream,
    decoder: &mut BodyDecoder,
    framing: Framing,
) -> io::Result<()> {
    loop {
        match decoder.decode(&mut upstream.buffer).map_err(io::Error::other)? {
            Decoded::Data(data) => rewrite::body_piece(&mut client.out, framing, &data),
            Decoded::End => {
                rewrite::body_end(&mut client.out, framing);
                return client.send().await;
            }
            Decoded::More => {
                if !client.out.is_empty() {
                    client.send().await?;
                }
                if upstream.fill_body().await? == 0 {
                    if !decoder.ends_with_connection() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    rewrite::body_end(&mut client.out, framing);
                    return client.send().await;
                }
            }
        }
        if client.out.len() >= WRITE_BYTES {
            client.send().await?;
        }
    }
}

/// After a 101 the connection carries something else, both ways, until either side ends.
async fn tunnel<S: Io>(client: &mut Conn<S>, mut upstream: Upstream, answer: &ResponseHead) {
    rewrite::response(&mut client.out, answer, Framing::None, false);
    client.out.extend_from_slice(&upstream.buffer.split());
    upstream.out.extend_from_slice(&client.buffer.split());
    if client.send().await.is_err() || upstream.send().await.is_err() {
        return;
    }
    // How it ends is the two sides' business.
    let _ended = tokio::io::copy_bidirectional(&mut client.io, &mut upstream.io).await;
}
