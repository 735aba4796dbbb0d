//! A client's request: which backends are asked for it, and in which order.

use super::attempt::{Ask, Attempt};
use super::body::Body;
use super::failed::{ClientFault, Failed};
use super::patience::Terms;
use super::{Next, Proxy, refuse, relay};
use crate::http::rewrite::Origin;
use crate::http::{RequestHead, ResponseHead};
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

impl Proxy {
    pub(super) async fn answer_client<S: Io>(
        &self,
        conn: &mut Conn<S>,
        head: &RequestHead,
        origin: &Origin,
        closes: bool,
    ) -> Next {
        let table = self.shared.backends.table();
        let mut body = Body::new(head);
        let Some(route) = table.route(head.host(), head.target()) else {
            let text = "no app takes requests for this host and path";
            return refuse(conn, head, &Failed::NoInstance, text, None, after(closes, &body)).await;
        };
        let search = Search { route, head, origin };
        let answered = match body.buffer_small(conn).await {
            Ok(()) => self.search(conn, search, &mut body).await,
            Err(fault) => Err(Failed::Client(fault)),
        };
        match answered {
            Ok((attempt, answer)) => {
                relay::answer(conn, head, &body, closes, attempt, answer, &self.pool).await
            }
            Err(Failed::Client(ClientFault::Gone)) => Next::Close,
            Err(failed) => {
                let text = format!("{}: {}", route.route.app, failed.reason());
                refuse(conn, head, &failed, &text, None, after(closes, &body)).await
            }
        }
    }

    /// Tries one backend after the other until one answers.
    async fn search<'a, S: Io>(
        &self,
        conn: &mut Conn<S>,
        search: Search<'a>,
        body: &mut Body,
    ) -> Result<(Attempt<'a>, ResponseHead), Failed> {
        let backends = &search.route.backends;
        let turn = self.begin(&search.route.route.app);
        let mut retries = search.route.route.retries;
        let mut tried: Vec<usize> = Vec::new();
        let mut last = Failed::NoInstance;
        loop {
            let standing = |place: usize| {
                if tried.contains(&place) { Standing::Out } else { backends[place].standing() }
            };
            let Some(place) = pick::round_robin(backends.len(), turn, !tried.is_empty(), standing) else {
                return Err(last);
            };
            let others = (0..backends.len()).any(|other| other != place && standing(other) != Standing::Out);
            let may_move = retries > 0
                && others
                && search.head.is_idempotent()
                && body.can_be_sent_again()
                && self.own().budget.has_any();
            let failed = match self.try_one(conn, search, &backends[place], body, may_move).await {
                Ok(answered) => return Ok(answered),
                Err(failed) => failed,
            };
            tracing::debug!(
                app = search.route.route.app,
                reason = failed.reason(),
                "a backend did not answer"
            );
            if !self.may_go_on(search.head, &failed, body, &mut retries) {
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

    async fn try_one<'a, S: Io>(
        &self,
        conn: &mut Conn<S>,
        search: Search<'a>,
        backend: &'a LiveBackend,
        body: &mut Body,
        may_move: bool,
    ) -> Result<(Attempt<'a>, ResponseHead), Failed> {
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
        let mut attempt = Attempt::new(to, Some(&backend.state), visit);
        let terms = Terms { limit: search.route.route.timeout, may_move, may_half_close: true };
        let ask = Ask { head: search.head, origin: Some(search.origin), label, terms };
        let answer = attempt.run(conn, &self.pool, ask, body).await?;
        Ok((attempt, answer))
    }
}

/// What becomes of the connection after an answer of the proxy's own.
fn after(closes: bool, body: &Body) -> Next {
    match (body.is_unread(), closes) {
        (true, _) => Next::Linger,
        (false, true) => Next::Close,
        (false, false) => Next::Request,
    }
}
