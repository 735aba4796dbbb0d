//! The owner's side: another agent's request for an instance of this node.
//!
//! The owner knows best. What is not for an instance that takes requests now is refused before anything
//! is executed, with a mark that lets the other agent ask elsewhere whatever the request is; that is
//! what makes a drain exact although every other node's view of it is late.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::attempt::{Ask, Attempt};
use super::body::Body;
use super::failed::Failed;
use super::patience::Terms;
use super::{HEAD_MAX, Incoming, Next, Proxy, read_request, refuse, relay};
use crate::http::{Meaning, RequestHead};
use crate::pool::Destination;
use crate::stream::{Conn, Io};

/// The one who asks has the route's limit and hangs up when it is over.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

impl Proxy {
    /// Tells another agent that this one has no room for its request, which is then not executed.
    pub async fn turn_away<S: Io>(&self, stream: S, closing: CancellationToken) {
        let mut conn = Conn::new(stream);
        let closed = closing.cancelled();
        tokio::pin!(closed);
        let Incoming::Request(head) = read_request(&mut conn, HEAD_MAX, closed.as_mut()).await else {
            return;
        };
        let mut body = Body::new(&head);
        if body.buffer_small(&mut conn).await.is_ok() {
            refuse(
                &mut conn,
                &head,
                &Failed::Refused,
                "there is no room for more requests",
                Failed::Refused.mark(),
                Next::Close,
            )
            .await;
        }
        conn.linger().await;
    }

    pub(super) async fn answer_peer<S: Io>(&self, conn: &mut Conn<S>, head: &RequestHead) -> Next {
        let mut body = Body::new(head);
        // Before anything is decided, so that a refusal leaves nothing unread behind: a reset would
        // overtake it, and the other agent would not know that nothing was executed.
        if let Err(fault) = body.buffer_small(conn).await {
            return give_up(conn, head, &Failed::Client(fault), &body).await;
        }
        let label = head.headers.value(Meaning::Instance).and_then(|label| std::str::from_utf8(label).ok());
        let Some((door, visit)) = label.and_then(|label| self.shared.instances.visit(label)) else {
            return give_up(conn, head, &Failed::Refused, &body).await;
        };
        let to = Destination { link: door.link, address: door.address, peer: None };
        let attempt = Attempt::new(to, None, Some(visit));
        let terms = Terms { limit: LIMIT, may_move: false, may_half_close: false };
        let ask = Ask { head, origin: None, label: None, terms };
        match attempt.run(conn, &self.pool, ask, &mut body).await {
            Ok(answered) => relay::answer(conn, head, &body, self.closes(false), answered, &self.pool).await,
            Err(failed) => give_up(conn, head, &failed, &body).await,
        }
    }
}

/// Tells the other agent why. What is left of a body would be taken for the next request.
async fn give_up<S: Io>(conn: &mut Conn<S>, head: &RequestHead, failed: &Failed, body: &Body) -> Next {
    let next = if body.is_unread() { Next::Close } else { Next::Request };
    refuse(conn, head, failed, &failed.reason(), failed.mark(), next).await
}
