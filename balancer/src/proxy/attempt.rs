//! One try at one backend: connect, send, and read the head of the answer.

use std::sync::Arc;

use super::body::{Body, Pumped};
use super::failed::{ClientFault, Failed};
use super::patience::{Patience, Terms, Woken};
use crate::backends::{BackendState, InFlight};
use crate::http::rewrite::{self, Origin};
use crate::http::{Framing, Meaning, RequestHead, ResponseHead};
use crate::instances::Visit;
use crate::link::Link;
use crate::pool::{Destination, Pool, Upstream};
use crate::stream::{Conn, Io};

/// A small answer is waited for as a whole before its head is passed on: should the backend die halfway,
/// the request can still be sent elsewhere, and head and body share a write.
const SMALL_ANSWER_BYTES: u64 = 16 << 10;

/// A try.
pub struct Attempt<'a> {
    to: Destination<'a>,
    in_flight: Option<InFlight>,
    visit: Option<Visit>,
}

/// An answer whose head has come, and the connection that the rest of it comes on. It holds on to
/// nothing else, as a download or a tunnel may last for days.
pub struct Answered {
    pub head: ResponseHead,
    pub upstream: Upstream,
    /// Where the connection is kept when it can be used again.
    pub link: Link,
    _in_flight: Option<InFlight>,
    _visit: Option<Visit>,
}

/// What is asked.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub head: &'a RequestHead,
    /// `None` where an agent has written it already.
    pub origin: Option<&'a Origin>,
    /// What the owner's agent knows the instance as; `None` for one on this node.
    pub label: Option<&'a str>,
    pub terms: Terms,
}

impl<'a> Attempt<'a> {
    pub fn new(to: Destination<'a>, state: Option<&Arc<BackendState>>, visit: Option<Visit>) -> Self {
        Self { to, in_flight: state.map(BackendState::begin), visit }
    }

    /// Sends the request and waits for the final answer's head. Interim answers go to the client.
    pub async fn run<S: Io>(
        self,
        client: &mut Conn<S>,
        pool: &Pool,
        ask: Ask<'_>,
        body: &mut Body,
    ) -> Result<Answered, Failed> {
        let result = self.try_kept_then_new(client, pool, ask, body).await;
        if let Some(in_flight) = &self.in_flight {
            match &result {
                Ok(_) => in_flight.succeeded(),
                Err(failed) if failed.is_backends_fault() => in_flight.failed(),
                Err(_) => {}
            }
        }
        let (head, upstream) = result?;
        let Self { to, in_flight, visit } = self;
        Ok(Answered { head, upstream, link: to.link, _in_flight: in_flight, _visit: visit })
    }

    /// A kept connection may have been closed by the other side at the very moment: that is no fault of
    /// the backend, and a new connection to it is tried where the request allows it.
    async fn try_kept_then_new<S: Io>(
        &self,
        client: &mut Conn<S>,
        pool: &Pool,
        ask: Ask<'_>,
        body: &mut Body,
    ) -> Result<(ResponseHead, Upstream), Failed> {
        let once = !(ask.head.is_idempotent() && body.can_be_sent_again());
        if let Some(kept) = pool.take(&self.to.link, once) {
            match self.exchange(client, kept, ask, body).await {
                Err(Failed::Lost(_)) if ask.head.is_idempotent() && body.can_be_sent_again() => {}
                other => return other,
            }
        }
        let fresh = pool.connect(&self.to).await.map_err(Failed::Connect)?;
        self.exchange(client, fresh, ask, body).await
    }

    async fn exchange<S: Io>(
        &self,
        client: &mut Conn<S>,
        mut upstream: Upstream,
        ask: Ask<'_>,
        body: &mut Body,
    ) -> Result<(ResponseHead, Upstream), Failed> {
        let state = self.in_flight.as_ref().map(InFlight::state);
        // The owner may refuse: a body that can not be sent again is not sent before it has agreed.
        let asks_first = ask.label.is_some() && body.in_memory().is_none();
        let next = match ask.label {
            Some(instance) => rewrite::Next::Owner { instance, expects: asks_first },
            None => rewrite::Next::Instance,
        };
        rewrite::request(&mut upstream.out, ask.head, body.framing(), ask.origin, next);
        if let Some(bytes) = body.in_memory() {
            upstream.out.extend_from_slice(bytes);
        }
        upstream.send().await.map_err(Failed::Lost)?;

        let mut answer = None;
        if body.in_memory().is_none() {
            if asks_first {
                let mut patience = Patience::new(ask.terms, state);
                answer = agreement(client, &mut upstream, ask.head, &mut patience).await?;
            }
            if answer.is_none() {
                body.invite(client).await.map_err(|error| Failed::Client(error.into()))?;
                answer = upload(client, &mut upstream, ask.head, body).await?;
            }
        }
        let mut patience = Patience::new(ask.terms, state);
        let answer = match answer {
            Some(answer) => answer,
            None => final_head(client, &mut upstream, ask.head, &mut patience).await?,
        };
        if let Some(refused) = ask.label.and_then(|_| Failed::from_owner(&answer.headers)) {
            return Err(refused);
        }
        if answer.status == 101 && (!is_switch(ask.head, &answer) || body.is_unread()) {
            return Err(Failed::Malformed);
        }
        if let Framing::Length(length) = answer.framing
            && length <= SMALL_ANSWER_BYTES
            && ask.terms.may_move
        {
            gather(client, &mut upstream, length, &mut patience).await?;
        }
        Ok((answer, upstream))
    }
}

/// Waits until the owner's agent says that it takes the request. `Some`: it has answered already.
async fn agreement<S: Io>(
    client: &mut Conn<S>,
    upstream: &mut Upstream,
    head: &RequestHead,
    patience: &mut Patience<'_>,
) -> Result<Option<ResponseHead>, Failed> {
    loop {
        match take_head(upstream, head)? {
            Some(answer) if answer.status == 100 => return Ok(None),
            Some(answer) if answer.is_interim() => forward_interim(client, head, &answer).await?,
            Some(answer) => return Ok(Some(answer)),
            None => patience.more(client, upstream).await?.alive()?,
        }
    }
}

/// Sends a body as it comes from the client, and reads the answer meanwhile: it may come early.
async fn upload<S: Io>(
    client: &mut Conn<S>,
    upstream: &mut Upstream,
    head: &RequestHead,
    body: &mut Body,
) -> Result<Option<ResponseHead>, Failed> {
    loop {
        // What has come of the answer decides before more of the body is taken.
        match take_head(upstream, head)? {
            Some(answer) if answer.is_interim() => {
                forward_interim(client, head, &answer).await?;
                continue;
            }
            Some(answer) => return Ok(Some(answer)),
            None => {}
        }
        match body.pump(client, upstream).await {
            Pumped::Some => {}
            Pumped::All => return Ok(None),
            Pumped::Client(fault) => return Err(Failed::Client(fault)),
            // It may have answered before it closed.
            Pumped::UpstreamGone => return Ok(None),
        }
    }
}

async fn final_head<S: Io>(
    client: &mut Conn<S>,
    upstream: &mut Upstream,
    head: &RequestHead,
    patience: &mut Patience<'_>,
) -> Result<ResponseHead, Failed> {
    loop {
        match take_head(upstream, head)? {
            Some(answer) if answer.is_interim() => forward_interim(client, head, &answer).await?,
            Some(answer) => return Ok(answer),
            None => patience.more(client, upstream).await?.alive()?,
        }
    }
}

/// Waits a moment for all of a small body.
async fn gather<S: Io>(
    client: &mut Conn<S>,
    upstream: &mut Upstream,
    length: u64,
    patience: &mut Patience<'_>,
) -> Result<(), Failed> {
    patience.expect_soon();
    while (upstream.buffer.len() as u64) < length {
        match patience.more(client, upstream).await? {
            // It takes its time: then the client may have what there is.
            Woken::Tick => return Ok(()),
            read @ Woken::Read(_) => read.alive()?,
        }
    }
    Ok(())
}

/// Whether an answer switches to what the client has asked for.
fn is_switch(request: &RequestHead, answer: &ResponseHead) -> bool {
    request.upgrade().is_some() && answer.headers.value(Meaning::Upgrade).is_some()
}

fn take_head(upstream: &mut Upstream, head: &RequestHead) -> Result<Option<ResponseHead>, Failed> {
    ResponseHead::take(&mut upstream.buffer, head.is_head()).map_err(|_| Failed::Malformed)
}

/// HTTP/1.0 knows no interim answers, and 100 is said by this proxy.
async fn forward_interim<S: Io>(
    client: &mut Conn<S>,
    head: &RequestHead,
    answer: &ResponseHead,
) -> Result<(), Failed> {
    if head.is_1_1 && answer.status != 100 {
        rewrite::response(&mut client.out, answer, answer.framing, false);
        client.send().await.map_err(|error| Failed::Client(ClientFault::from(error)))?;
    }
    Ok(())
}
