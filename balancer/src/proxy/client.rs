//! A client's request: which backends are asked for it, and in which order.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::attempt::{Answered, Ask, Attempt};
use super::body::Body;
use super::failed::{ClientFault, Failed};
use super::patience::Terms;
use super::{Closes, Next, Proxy, refuse, relay};
use crate::http::RequestHead;
use crate::http::rewrite::Origin;
use crate::pick::{self, Standing};
use crate::pool::Destination;
use crate::snapshot::Target;
use crate::stream::{Conn, Io};
use crate::table::{LiveBackend, LiveRoute};

/// A client's request while it looks for somebody who answers it.
#[derive(Clone, Copy)]
struct Search<'a> {
    route: &'a LiveRoute,
    head: &'a RequestHead,
    origin: &'a Origin,
}

/// How long a request that nobody takes waits for somebody who does: an instance that is being replaced
/// or restarted, or one that another server tells of a moment later.
const NOBODY_MAX: Duration = Duration::from_secs(1);

impl Proxy {
    pub(super) async fn answer_client<S: Io>(
        &self,
        conn: &mut Conn<S>,
        head: &RequestHead,
        origin: &Origin,
    ) -> Next {
        let closes = self.closes(!head.keeps_alive());
        let mut body = Body::new(head);
        let is_known = self.shared.backends.table().route(head.host(), head.target()).is_some();
        let answered = match is_known {
            // Nobody waits for the body of a request that goes nowhere.
            false => Err((Failed::NoInstance, None)),
            true => match body.buffer_small(conn).await {
                Ok(()) => self.answer_of_any(conn, head, origin, &mut body).await,
                Err(fault) => Err((Failed::Client(fault), None)),
            },
        };
        match answered {
            Ok(answered) => relay::answer(conn, head, &body, closes, answered, &self.pool).await,
            Err((Failed::Client(ClientFault::Gone), _)) => Next::Close,
            Err((failed, app)) => {
                let text = match (app, &failed) {
                    (Some(app), _) => format!("{app}: {}", failed.reason()),
                    (None, Failed::NoInstance) => "no app takes requests for this host and path".to_owned(),
                    (None, _) => failed.reason(),
                };
                refuse(conn, head, &failed, &text, None, after(closes, &body)).await
            }
        }
    }

    /// Searches those that there are, and, when none of them has executed anything, those that there are
    /// next: what a table says is late by nature, and a rollout may replace all of it meanwhile. A failure
    /// comes with the app that it is of.
    async fn answer_of_any<S: Io>(
        &self,
        conn: &mut Conn<S>,
        head: &RequestHead,
        origin: &Origin,
        body: &mut Body,
    ) -> Result<Answered, (Failed, Option<String>)> {
        let mut table = self.shared.backends.table();
        let (mut turn, mut retries) = (None, None);
        // Most requests are answered by the first, and need neither of these.
        let mut changes = None;
        let mut deadline = None;
        loop {
            let Some(route) = table.route(head.host(), head.target()) else {
                return Err((Failed::NoInstance, None));
            };
            let search = Search { route, head, origin };
            let turn = *turn.get_or_insert_with(|| self.begin(&route.route.app));
            let retries = retries.get_or_insert(route.route.retries);
            let failed = match self.search(conn, search, turn, retries, body).await {
                Ok(answered) => return Ok(answered),
                Err(failed) => (failed, Some(route.route.app.clone())),
            };
            if !failed.0.is_unexecuted() || !body.can_be_sent_again() {
                return Err(failed);
            }
            let changes = changes.get_or_insert_with(|| self.shared.changes.subscribe());
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + NOBODY_MAX);
            // It may have changed before it was watched.
            let mut now = self.shared.backends.table();
            if Arc::ptr_eq(&now, &table) {
                if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                    return Err(failed);
                }
                now = self.shared.backends.table();
            } else if Instant::now() >= deadline {
                return Err(failed);
            }
            table = now;
        }
    }

    /// Tries one backend after the other until one answers.
    async fn search<S: Io>(
        &self,
        conn: &mut Conn<S>,
        search: Search<'_>,
        turn: usize,
        retries: &mut u32,
        body: &mut Body,
    ) -> Result<Answered, Failed> {
        let backends = &search.route.backends;
        let mut tried: Vec<usize> = Vec::new();
        let mut last = Failed::NoInstance;
        loop {
            let movable = *retries > 0
                && search.head.is_idempotent()
                && body.can_be_sent_again()
                && self.own().budget.has_any();
            let standing = |place: usize| {
                if tried.contains(&place) { Standing::Out } else { backends[place].standing(movable) }
            };
            let Some(place) = pick::round_robin(backends.len(), turn, !tried.is_empty(), standing) else {
                return Err(last);
            };
            // One that is only slow is not given up for one that may answer nobody.
            let is_better =
                |other: usize| other != place && !tried.contains(&other) && backends[other].is_beyond_doubt();
            let may_move = movable && (0..backends.len()).any(is_better);
            let failed = match self.try_one(conn, search, &backends[place], body, may_move).await {
                Ok(answered) => return Ok(answered),
                Err(failed) => failed,
            };
            tracing::debug!(
                app = search.route.route.app,
                reason = failed.reason(),
                "a backend did not answer"
            );
            if !self.may_go_on(search.head, &failed, body, retries) {
                return Err(failed);
            }
            tried.push(place);
            last = failed;
        }
    }

    /// What was not executed can be asked of as many as there are. Otherwise the route's limit and the
    /// budget bound how much load a fault may add.
    fn may_go_on(&self, head: &RequestHead, failed: &Failed, body: &Body, retries: &mut u32) -> bool {
        if matches!(failed, Failed::Client(_)) || !body.can_be_sent_again() {
            return false;
        }
        if failed.is_unexecuted() {
            return true;
        }
        if !head.is_idempotent() || *retries == 0 || !self.own().budget.retry() {
            return false;
        }
        *retries -= 1;
        true
    }

    async fn try_one<S: Io>(
        &self,
        conn: &mut Conn<S>,
        search: Search<'_>,
        backend: &LiveBackend,
        body: &mut Body,
        may_move: bool,
    ) -> Result<Answered, Failed> {
        let (to, visit, label) = match &backend.target {
            Target::Local(_) => {
                let (door, visit) = self.shared.instances.visit(&backend.label).ok_or(Failed::Refused)?;
                (Destination { link: door.link, address: door.address, peer: None }, Some(visit), None)
            }
            Target::Peer { address, name } => {
                let link = backend.state.link.clone();
                (Destination { link, address: *address, peer: Some(name) }, None, Some(&*backend.label))
            }
        };
        let attempt = Attempt::new(to, Some(&backend.state), visit);
        let terms = Terms { limit: search.route.route.timeout, may_move, may_half_close: true };
        let ask = Ask { head: search.head, origin: Some(search.origin), label, terms };
        attempt.run(conn, &self.pool, ask, body).await
    }
}

/// What becomes of the connection after an answer of the proxy's own.
fn after(closes: Closes<'_>, body: &Body) -> Next {
    match (body.is_unread(), closes.now()) {
        (true, _) => Next::Linger,
        (false, true) => Next::Close,
        (false, false) => Next::Request,
    }
}
