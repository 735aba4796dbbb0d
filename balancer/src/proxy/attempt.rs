//! One try at one backend: connect, send, and read the head of the answer.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::Refusal;
use super::relay::{Body, Pumped};
use crate::backends::{BackendState, InFlight};
use crate::http::{RequestHead, ResponseHead, rewrite};
use crate::instances::Visit;
use crate::pool::{Pool, Upstream};
use crate::snapshot::Target;
use crate::stream::{Conn, Io};

/// A try, and, once it was answered, the connection that the rest of the answer comes on.
pub struct Attempt {
    pub target: Target,
    pub upstream: Option<Upstream>,
    state: Option<Arc<BackendState>>,
    _in_flight: Option<InFlight>,
    _visit: Option<Visit>,
}

/// What is asked.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The head as the instance gets it.
    pub text: &'a [u8],
    pub head: &'a RequestHead,
    pub limit: Instant,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    /// Nothing was sent.
    Connect(io::Error),
    /// The owner's agent executed nothing.
    Refused,
    /// It was sent, and the connection ended without an answer.
    Lost(io::Error),
    /// It was sent, and the answer is not HTTP.
    Malformed,
    Timeout,
    /// The node that had it is gone.
    NodeLost,
    ClientGone,
}

impl Failed {
    /// Whether it is certain that nothing was executed.
    pub fn is_unexecuted(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Refused)
    }

    pub fn reason(&self) -> String {
        match self {
            Self::Connect(error) => format!("the instance takes no connection ({error})"),
            Self::Refused => "the instance takes no requests any more".to_owned(),
            Self::Lost(error) => format!("the connection to the instance was lost ({error})"),
            Self::Malformed => "the instance's answer is not HTTP".to_owned(),
            Self::Timeout => "the instance did not answer in time".to_owned(),
            Self::NodeLost => "the server that had the request is gone".to_owned(),
            Self::ClientGone => "the client is gone".to_owned(),
        }
    }

    pub fn refusal(&self, app: &str) -> Refusal {
        let status = match self {
            Self::Connect(_) | Self::Refused => 503,
            Self::Timeout => 504,
            Self::Lost(_) | Self::Malformed | Self::NodeLost | Self::ClientGone => 502,
        };
        Refusal::new(status, format!("{app}: {}", self.reason()))
    }
}

impl Attempt {
    pub fn new(target: Target, state: Option<Arc<BackendState>>, visit: Option<Visit>) -> Self {
        let in_flight = state.as_ref().map(BackendState::begin);
        Self { target, upstream: None, state, _in_flight: in_flight, _visit: visit }
    }

    /// Sends the request and returns the final answer's head. Interim answers go to the client.
    pub async fn run<S: Io>(
        &mut self,
        client: &mut Conn<S>,
        pool: &Pool,
        ask: Ask<'_>,
        body: &mut Body,
    ) -> Result<ResponseHead, Failed> {
        let result = self.try_kept_then_new(client, pool, ask, body).await;
        if let Some(state) = &self.state {
            match &result {
                Ok(_) => state.succeeded(),
                // It is leaving in order, or somebody else is at fault.
                Err(Failed::Refused | Failed::ClientGone) => {}
                Err(_) => state.failed(),
            }
        }
        result
    }

    /// A kept connection may have been closed by the other side at the very moment: that is no fault of
    /// the backend, and a new connection to it is tried where the request allows it.
    async fn try_kept_then_new<S: Io>(
        &mut self,
        client: &mut Conn<S>,
        pool: &Pool,
        ask: Ask<'_>,
        body: &mut Body,
    ) -> Result<ResponseHead, Failed> {
        if let Some(kept) = pool.take(&self.target) {
            match self.exchange(client, kept, ask, body).await {
                Err(Failed::Lost(_)) if ask.head.is_idempotent() && body.can_be_sent_again() => {}
                other => return other,
            }
        }
        let fresh = pool.connect(&self.target).await.map_err(Failed::Connect)?;
        self.exchange(client, fresh, ask, body).await
    }

    async fn exchange<S: Io>(
        &mut self,
        client: &mut Conn<S>,
        mut upstream: Upstream,
        ask: Ask<'_>,
        body: &mut Body,
    ) -> Result<ResponseHead, Failed> {
        let Ask { text, head, limit } = ask;
        let idempotent = head.is_idempotent();
        let state = self.state.clone();
        let node_lost = async {
            match state {
                // A request that may not be executed twice waits for its answer to the end.
                Some(state) if idempotent => state.lost().await,
                Some(_) | None => std::future::pending().await,
            }
        };
        let exchanged = async {
            match body.in_memory() {
                Some(bytes) => {
                    // Head and body in one write.
                    let whole = [text, bytes].concat();
                    upstream.send(&whole).await.map_err(Failed::Lost)?;
                    final_head(client, &mut upstream, head).await
                }
                None => {
                    upstream.io.write_all(text).await.map_err(Failed::Lost)?;
                    send_streaming(client, &mut upstream, head, body).await
                }
            }
        };
        let answer = tokio::select! {
            biased;
            answer = exchanged => answer?,
            () = node_lost => return Err(Failed::NodeLost),
            () = tokio::time::sleep_until(limit) => return Err(Failed::Timeout),
        };
        let is_peer = matches!(self.target, Target::Peer { .. });
        if is_peer && answer.headers.first(rewrite::REFUSED).is_some() {
            return Err(Failed::Refused);
        }
        self.upstream = Some(upstream);
        Ok(answer)
    }
}

/// Sends a body as it comes from the client, and reads the answer meanwhile: it may come early.
async fn send_streaming<S: Io>(
    client: &mut Conn<S>,
    upstream: &mut Upstream,
    head: &RequestHead,
    body: &mut Body,
) -> Result<ResponseHead, Failed> {
    if head.expects_continue() {
        // Asked for by this proxy: the instance was not told of the expectation.
        client.send(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(|_| Failed::ClientGone)?;
    }
    let is_head = head.method() == b"HEAD";
    loop {
        // What has come of the answer decides before more of the body is taken.
        match ResponseHead::take(&mut upstream.buffer, is_head) {
            Ok(Some(answer)) if answer.is_interim() => continue,
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(_) => return Err(Failed::Malformed),
        }
        match body.pump(client, upstream).await {
            Pumped::Some => {}
            Pumped::All => return final_head(client, upstream, head).await,
            Pumped::ClientGone => return Err(Failed::ClientGone),
            Pumped::UpstreamGone(error) => {
                // It may have answered before it closed.
                return final_head(client, upstream, head).await.map_err(|_| Failed::Lost(error));
            }
        }
    }
}

async fn final_head<S: Io>(
    client: &mut Conn<S>,
    upstream: &mut Upstream,
    head: &RequestHead,
) -> Result<ResponseHead, Failed> {
    let is_head = head.method() == b"HEAD";
    loop {
        match ResponseHead::take(&mut upstream.buffer, is_head) {
            Ok(Some(answer)) if answer.is_interim() => {
                // HTTP/1.0 knows none, and 100 was answered here.
                if head.is_1_1 && answer.status != 100 {
                    let mut out = Vec::new();
                    rewrite::response(&mut out, &answer, answer.framing, false);
                    client.send(&out).await.map_err(|_| Failed::ClientGone)?;
                }
            }
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => match upstream.fill().await {
                Ok(0) => return Err(Failed::Lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(Failed::Lost(error)),
            },
            Err(_) => return Err(Failed::Malformed),
        }
    }
}
