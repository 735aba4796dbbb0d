//! From a client's request to an instance's answer.
//!
//! ```text
//!   serve_client: read head ─▶ route ─▶ small body into memory ─▶ attempt ──▶ relay the answer
//!                                                                  │   ▲
//!                                             no answer, and safe ─┘   └─ another backend
//!   serve_peer:   read head ─▶ holdfast-instance ─▶ visit or refuse ─▶ attempt (once) ─▶ relay
//! ```
//!
//! When may a request be sent again? Always before its first byte was sent, and when the owner's agent
//! says that it executed nothing. Otherwise only if it is idempotent and not a byte of the answer has
//! come. A body can be sent again when all of it is in memory.

mod attempt;
mod relay;
mod retry;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::http::rewrite::{self, Origin};
use crate::http::{Framing, HeadError, RequestHead};
use crate::instances::Admission;
use crate::pick;
use crate::pool::Pool;
use crate::snapshot::{Backend, Route, Snapshot, Target};
use crate::stream::{Conn, Io};
use crate::{Shared, instances};

use attempt::{Ask, Attempt, Failed};
use relay::Body;
use retry::Budget;

/// A client that says nothing between requests is let go.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// A head that has begun must be complete by then (slow loris).
const HEAD_MAX: Duration = Duration::from_secs(10);
/// A peer's pool closes first, as its limit is lower.
const PEER_IDLE_MAX: Duration = Duration::from_secs(30);

/// One worker's proxy. Clones share its pool and its turns.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    pool: Pool,
    own: Arc<Mutex<Own>>,
}

struct Own {
    /// Whose turn it is, by app. Each worker begins at a place of its own.
    turns: HashMap<String, usize>,
    budget: Budget,
}

/// What came of one request on a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Request,
    Close,
}

/// An answer of the proxy's own.
struct Refusal {
    status: u16,
    text: String,
}

impl Refusal {
    fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl Proxy {
    pub fn new(shared: Arc<Shared>, pool: Pool) -> Self {
        let own = Own { turns: HashMap::new(), budget: Budget::default() };
        Self { shared, pool, own: Arc::new(Mutex::new(own)) }
    }

    /// Serves a client's connection until either side ends it.
    pub async fn serve_client<S: Io>(&self, stream: S, client: IpAddr, closing: CancellationToken) {
        let mut conn = Conn::new(stream);
        let origin = Origin { client, trusted: self.shared.trusted_proxies.contains(&client) };
        loop {
            let next = match read_request(&mut conn, IDLE_MAX, &closing).await {
                Incoming::Request(head) => self.answer_client(&mut conn, head, origin, &closing).await,
                Incoming::Refused(error) => {
                    refuse(&mut conn, error.status(), &error.to_string(), false).await
                }
                Incoming::TooSlow => refuse(&mut conn, 408, "the request's head took too long", false).await,
                Incoming::Ended => return,
            };
            if next == Next::Close || closing.is_cancelled() {
                return conn.finish().await;
            }
        }
    }

    /// Serves another agent's connection: requests for this node's instances.
    pub async fn serve_peer<S: Io>(&self, stream: S, closing: CancellationToken) {
        let mut conn = Conn::new(stream);
        loop {
            let next = match read_request(&mut conn, PEER_IDLE_MAX, &closing).await {
                Incoming::Request(head) => self.answer_peer(&mut conn, head).await,
                Incoming::Refused(error) => {
                    refuse(&mut conn, error.status(), &error.to_string(), false).await
                }
                Incoming::TooSlow => refuse(&mut conn, 408, "the request's head took too long", false).await,
                Incoming::Ended => return,
            };
            if next == Next::Close || closing.is_cancelled() {
                return conn.finish().await;
            }
        }
    }

    async fn answer_client<S: Io>(
        &self,
        conn: &mut Conn<S>,
        head: RequestHead,
        origin: Origin,
        closing: &CancellationToken,
    ) -> Next {
        let snapshot = self.shared.snapshot.load_full();
        let Some(route) = find_route(&snapshot, &head) else {
            return refuse(conn, 503, "no app takes requests for this host and path", false).await;
        };
        self.own().budget.request();
        let closes = !head.keeps_alive() || closing.is_cancelled();
        let mut body = Body::new(&head);
        if body.buffer_small(conn, &head).await.is_err() {
            return Next::Close;
        }
        let limit = tokio::time::Instant::now() + route.timeout;
        match self.try_backends(conn, route, &head, origin, &mut body, limit).await {
            Ok((attempt, answer)) => {
                relay::answer(conn, &head, &body, closes, attempt, answer, &self.pool).await
            }
            Err(Given::Refusal(refusal)) => {
                let unread = body.is_unread();
                let next = refuse(conn, refusal.status, &refusal.text, !unread && !closes).await;
                if unread || closes { Next::Close } else { next }
            }
            Err(Given::ClientGone) => Next::Close,
        }
    }

    /// Tries one backend after the other until one answers.
    async fn try_backends<S: Io>(
        &self,
        conn: &mut Conn<S>,
        route: &Route,
        head: &RequestHead,
        origin: Origin,
        body: &mut Body,
        limit: tokio::time::Instant,
    ) -> Result<(Attempt, crate::http::ResponseHead), Given> {
        let mut tried: Vec<usize> = Vec::new();
        let mut last: Option<Failed> = None;
        let turn = self.turn(&route.app);
        loop {
            let is_ejected = |backend: &Backend| {
                self.shared.backends.get(&backend.key).is_some_and(|state| state.is_ejected())
            };
            let Some(place) = pick::round_robin(&route.backends, turn, &tried, is_ejected) else {
                return Err(Given::Refusal(match last {
                    Some(failed) => failed.refusal(&route.app),
                    None => Refusal::new(503, format!("{}: no instance of the app is ready", route.app)),
                }));
            };
            tried.push(place);
            let failed = match self.try_one(conn, &route.backends[place], head, origin, body, limit).await {
                Ok(answered) => return Ok(answered),
                Err(failed) => failed,
            };
            tracing::debug!(app = route.app, reason = failed.reason(), "a backend did not answer");
            if matches!(failed, Failed::ClientGone) {
                return Err(Given::ClientGone);
            }
            // Not executed: another one can be asked as often as there are others. Otherwise the
            // route's limit and the budget bound how much load a fault may add.
            let again = if failed.is_unexecuted() {
                body.can_be_sent_again()
            } else {
                head.is_idempotent()
                    && body.can_be_sent_again()
                    && tried.len()
                        <= usize::try_from(route.retries.max(1)).unwrap_or(1) + route.backends.len()
                    && self.own().budget.retry()
            };
            if !again {
                return Err(Given::Refusal(failed.refusal(&route.app)));
            }
            last = Some(failed);
        }
    }

    async fn try_one<S: Io>(
        &self,
        conn: &mut Conn<S>,
        backend: &Backend,
        head: &RequestHead,
        origin: Origin,
        body: &mut Body,
        limit: tokio::time::Instant,
    ) -> Result<(Attempt, crate::http::ResponseHead), Failed> {
        let label = instances::label(&backend.key.app, &backend.key.instance);
        let (target, visit, instance) = match &backend.target {
            Target::Local(address) => match self.shared.instances.visit(&label) {
                Admission::Visit(address, visit) => (Target::Local(address), Some(visit), None),
                Admission::Unknown => (Target::Local(*address), None, None),
                Admission::Stopped => return Err(Failed::Refused),
            },
            peer @ Target::Peer { .. } => (peer.clone(), None, Some(label.as_str())),
        };
        let state = self.shared.backends.get(&backend.key);
        let mut attempt = Attempt::new(target, state, visit);
        let mut text = Vec::with_capacity(1_024);
        rewrite::request(&mut text, head, body.framing(), Some(origin), instance);
        let ask = Ask { text: &text, head, limit };
        let answer = attempt.run(conn, &self.pool, ask, body).await?;
        Ok((attempt, answer))
    }

    async fn answer_peer<S: Io>(&self, conn: &mut Conn<S>, head: RequestHead) -> Next {
        let label = head.headers.first(rewrite::INSTANCE).and_then(|label| std::str::from_utf8(label).ok());
        let admission = label.map_or(Admission::Unknown, |label| self.shared.instances.visit(label));
        let mut body = Body::new(&head);
        let Admission::Visit(address, visit) = admission else {
            // Nothing was executed; what is left of the body would have to be read past.
            let closes = head.framing != Framing::None;
            let mut out = Vec::new();
            rewrite::own_response(&mut out, 503, "this instance takes no requests here", closes, true);
            return if conn.send(&out).await.is_err() || closes { Next::Close } else { Next::Request };
        };
        if body.buffer_small(conn, &head).await.is_err() {
            return Next::Close;
        }
        // The one who asks has the route's limit; this one only ends what nobody waits for.
        let limit = tokio::time::Instant::now() + Duration::from_secs(24 * 3600);
        let mut attempt = Attempt::new(Target::Local(address), None, Some(visit));
        let mut text = Vec::with_capacity(1_024);
        rewrite::request(&mut text, &head, body.framing(), None, None);
        let ask = Ask { text: &text, head: &head, limit };
        match attempt.run(conn, &self.pool, ask, &mut body).await {
            Ok(answer) => relay::answer(conn, &head, &body, false, attempt, answer, &self.pool).await,
            Err(Failed::ClientGone) => Next::Close,
            Err(failed) => {
                let refusal = failed.refusal("the instance");
                let mut out = Vec::new();
                let closes = body.is_unread();
                rewrite::own_response(
                    &mut out,
                    refusal.status,
                    &refusal.text,
                    closes,
                    failed.is_unexecuted(),
                );
                if conn.send(&out).await.is_err() || closes { Next::Close } else { Next::Request }
            }
        }
    }

    fn turn(&self, app: &str) -> usize {
        let mut own = self.own();
        match own.turns.get_mut(app) {
            Some(turn) => {
                *turn = turn.wrapping_add(1);
                *turn
            }
            None => {
                // Routes come and go; their turns are worth little.
                if own.turns.len() > 1_000 {
                    own.turns.clear();
                }
                let start = rand::random::<u32>() as usize;
                own.turns.insert(app.to_owned(), start);
                start
            }
        }
    }

    fn own(&self) -> std::sync::MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why no backend's answer is relayed.
enum Given {
    Refusal(Refusal),
    ClientGone,
}

fn find_route<'a>(snapshot: &'a Snapshot, head: &RequestHead) -> Option<&'a Route> {
    let host = std::str::from_utf8(head.host()).ok()?;
    let path = std::str::from_utf8(head.target()).ok()?;
    snapshot.route(host, if path == "*" { "/" } else { path })
}

enum Incoming {
    Request(RequestHead),
    Refused(HeadError),
    TooSlow,
    Ended,
}

async fn read_request<S: Io>(conn: &mut Conn<S>, idle: Duration, closing: &CancellationToken) -> Incoming {
    if conn.buffer.is_empty() {
        let first = tokio::select! {
            () = closing.cancelled() => return Incoming::Ended,
            first = tokio::time::timeout(idle, conn.fill()) => first,
        };
        if !matches!(first, Ok(Ok(1..))) {
            return Incoming::Ended;
        }
    }
    // Nearly every head comes in one piece, which needs no timer.
    match RequestHead::take(&mut conn.buffer) {
        Ok(Some(head)) => return Incoming::Request(head),
        Ok(None) => {}
        Err(error) => return Incoming::Refused(error),
    }
    let rest = async {
        loop {
            match conn.fill().await {
                Ok(0) | Err(_) => return Incoming::Ended,
                Ok(_) => {}
            }
            match RequestHead::take(&mut conn.buffer) {
                Ok(Some(head)) => return Incoming::Request(head),
                Ok(None) => {}
                Err(error) => return Incoming::Refused(error),
            }
        }
    };
    tokio::time::timeout(HEAD_MAX, rest).await.unwrap_or(Incoming::TooSlow)
}

async fn refuse<S: Io>(conn: &mut Conn<S>, status: u16, text: &str, keeps: bool) -> Next {
    let mut out = Vec::new();
    rewrite::own_response(&mut out, status, text, !keeps, false);
    if conn.send(&out).await.is_err() || !keeps { Next::Close } else { Next::Request }
}
