//! From a client's request to an instance's answer.
//!
//! ```text
//!   client: read head ─▶ route ─▶ small body into memory ─▶ attempt ──▶ relay the answer
//!                                                            │   ▲
//!                                       no answer, and safe ─┘   └─ another backend
//!   owner:  read head ─▶ holdfast-instance ─▶ visit or refuse ─▶ attempt (once) ─▶ relay
//! ```
//!
//! When may a request be sent again? Always when nothing of it was sent, and when the owner's agent says
//! that it executed nothing. Otherwise only if it is idempotent and the client has been told nothing. A
//! body can be sent again when all of it is in memory.

mod attempt;
mod body;
mod client;
mod failed;
mod owner;
mod patience;
mod relay;
mod retry;

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::Shared;
use crate::http::rewrite::{self, Mark, Origin, OwnResponse};
use crate::http::{HeadError, RequestHead};
use crate::pool::Pool;
use crate::stream::{Conn, Io};

use failed::Failed;
use retry::Budget;

/// A client that says nothing between requests is let go.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// A head that has begun must be complete by then (slow loris).
const HEAD_MAX: Duration = Duration::from_secs(10);
/// An agent's pool closes first, as its limit is lower.
const PEER_IDLE_MAX: Duration = Duration::from_secs(75);
/// How often kept connections are looked through when nothing has changed.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How long a client that says nothing may still begin a request after the doors were closed. One that
/// asks often is told to close with an answer, and does not find its connection cut under a request.
const LAME_DUCK: Duration = Duration::from_millis(500);
/// Apps whose turn a worker remembers.
const TURNS_MAX: usize = 1_000;

/// One worker's proxy. Clones share its pool and its turns.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    pool: Pool,
    own: Arc<Mutex<Own>>,
}

#[derive(Default)]
struct Own {
    /// Whose turn it is, by app. Each worker begins at a place of its own.
    turns: HashMap<String, usize>,
    budget: Budget,
}

/// What becomes of a connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Request,
    Close,
    /// Closed, but the other side is still sending.
    Linger,
}

/// Whether a connection ends after an answer: decided when the answer is written, not before.
#[derive(Clone, Copy)]
struct Closes<'a> {
    asked_for: bool,
    leaving: &'a CancellationToken,
}

impl Closes<'_> {
    fn now(self) -> bool {
        self.asked_for || self.leaving.is_cancelled()
    }
}

impl Proxy {
    pub fn new(shared: Arc<Shared>) -> Self {
        let pool = Pool::new(shared.tls.clone());
        Self { shared, pool, own: Arc::default() }
    }

    /// Serves a client's connection until either side ends it.
    pub async fn serve_client<S: Io>(&self, stream: S, client: IpAddr, closing: CancellationToken) {
        let mut conn = Conn::new(stream);
        let origin = Origin::new(client, &self.shared.trusted_proxies);
        let closed = closing.cancelled();
        tokio::pin!(closed);
        let last = loop {
            let next = match read_request(&mut conn, IDLE_MAX, closed.as_mut()).await {
                Incoming::Request(head) => self.answer_client(&mut conn, &head, &origin).await,
                Incoming::Refused(error) => refuse_head(&mut conn, error).await,
                Incoming::TooSlow => refuse_slow(&mut conn).await,
                Incoming::Ended => return,
            };
            if next != Next::Request {
                break next;
            }
        };
        if last == Next::Linger { conn.linger().await } else { conn.finish().await }
    }

    /// Serves another agent's connection: requests for this node's instances.
    pub async fn serve_peer<S: Io>(&self, stream: S, closing: CancellationToken) {
        let mut conn = Conn::new(stream);
        let closed = closing.cancelled();
        tokio::pin!(closed);
        let last = loop {
            let next = match read_request(&mut conn, PEER_IDLE_MAX, closed.as_mut()).await {
                Incoming::Request(head) => self.answer_peer(&mut conn, &head).await,
                Incoming::Refused(error) => refuse_head(&mut conn, error).await,
                Incoming::TooSlow => refuse_slow(&mut conn).await,
                Incoming::Ended => return,
            };
            if next != Next::Request {
                break next;
            }
        };
        if last == Next::Linger { conn.linger().await } else { conn.finish().await }
    }

    /// Closes kept connections that are of no more use: at once when backends change, else in time.
    pub async fn keep_pool(&self, closing: CancellationToken) {
        let mut changes = self.shared.changes.subscribe();
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(SWEEP_EVERY) => {}
            }
            self.pool.sweep();
        }
    }

    /// Closes every kept connection: nothing is proxied any more, and some servers wait for their idle
    /// connections before they stop.
    pub fn clear_pool(&self) {
        self.pool.clear();
    }

    fn closes(&self, asked_for: bool) -> Closes<'_> {
        Closes { asked_for, leaving: &self.shared.leaving }
    }

    /// Whose turn it is, and one more request that pays for retries.
    fn begin(&self, app: &str) -> usize {
        let mut own = self.own();
        own.budget.request();
        if let Some(turn) = own.turns.get_mut(app) {
            *turn = turn.wrapping_add(1);
            return *turn;
        }
        // Routes come and go; their turns are worth little.
        if own.turns.len() >= TURNS_MAX {
            own.turns.clear();
        }
        let start = rand::random::<u32>() as usize;
        own.turns.insert(app.to_owned(), start);
        start
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Incoming {
    Request(RequestHead),
    Refused(HeadError),
    TooSlow,
    Ended,
}

async fn read_request<S: Io>(
    conn: &mut Conn<S>,
    idle: Duration,
    closed: Pin<&mut WaitForCancellationFuture<'_>>,
) -> Incoming {
    if conn.buffer.is_empty() {
        let first = tokio::select! {
            biased;
            first = tokio::time::timeout(idle, conn.fill()) => first,
            () = async {
                closed.await;
                tokio::time::sleep(LAME_DUCK).await;
            } => return Incoming::Ended,
        };
        if !matches!(first, Ok(Ok(1..))) {
            return Incoming::Ended;
        }
    }
    // Nearly every head comes in one piece, which needs no timer.
    if let Some(incoming) = take_request(conn) {
        return incoming;
    }
    let rest = async {
        loop {
            if !matches!(conn.fill().await, Ok(1..)) {
                return Incoming::Ended;
            }
            if let Some(incoming) = take_request(conn) {
                return incoming;
            }
        }
    };
    tokio::time::timeout(HEAD_MAX, rest).await.unwrap_or(Incoming::TooSlow)
}

fn take_request<S: Io>(conn: &mut Conn<S>) -> Option<Incoming> {
    match RequestHead::take(&mut conn.buffer) {
        Ok(head) => head.map(Incoming::Request),
        Err(error) => Some(Incoming::Refused(error)),
    }
}

/// What is wrong with a head is told, and what follows it is not looked at: nobody knows where it ends.
async fn refuse_head<S: Io>(conn: &mut Conn<S>, error: HeadError) -> Next {
    let text = error.to_string();
    let answer =
        OwnResponse { status: error.status(), text: &text, closes: true, is_head: false, mark: None };
    say(conn, answer, Next::Linger).await
}

async fn refuse_slow<S: Io>(conn: &mut Conn<S>) -> Next {
    let text = "the request's head took too long";
    let answer = OwnResponse { status: 408, text, closes: true, is_head: false, mark: None };
    say(conn, answer, Next::Close).await
}

/// Tells why there is no answer from an instance. `mark` is for another agent.
async fn refuse<S: Io>(
    conn: &mut Conn<S>,
    head: &RequestHead,
    failed: &Failed,
    text: &str,
    mark: Option<Mark>,
    next: Next,
) -> Next {
    let Some(status) = failed.status() else { return Next::Close };
    let answer = OwnResponse { status, text, closes: next != Next::Request, is_head: head.is_head(), mark };
    say(conn, answer, next).await
}

async fn say<S: Io>(conn: &mut Conn<S>, answer: OwnResponse<'_>, next: Next) -> Next {
    rewrite::own_response(&mut conn.out, answer);
    if conn.send().await.is_err() { Next::Close } else { next }
}
