//! How long an answer is waited for, and what ends the waiting.
//!
//! Most answers come within milliseconds, and waiting for them should cost one timer. Only after a first
//! tick is more watched: whether the node is still there, and whether the backend answers anybody. One
//! that has answered another request meanwhile is slow with this one, and is left in peace; one that
//! answers nobody has stalled (a stopped process, a dead host), and a request that may be sent again is
//! better off elsewhere.

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::failed::{ClientFault, Failed};
use crate::backends::BackendState;
use crate::pool::Upstream;
use crate::stream::{Conn, Io, Stir};

/// Long for an answer, short for a person.
const FIRST_TICK: Duration = Duration::from_millis(50);
/// A backend that answers nobody for so long has stalled. Shorter would send every page that takes two
/// seconds twice on a farm with little traffic.
const STALL: Duration = Duration::from_secs(2);

/// One request's waiting.
pub struct Patience<'a> {
    state: Option<&'a BackendState>,
    /// Whether it may be sent to another backend instead.
    may_move: bool,
    /// Whether a client that says that it sends nothing more may still listen. Agents never do.
    may_half_close: bool,
    watches_client: bool,
    limit: Instant,
    next_tick: Instant,
    /// Watched from the first tick on.
    lost: Option<watch::Receiver<bool>>,
    answers_seen: u64,
    stalled_at: Option<Instant>,
}

/// What the waiting brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    /// So many bytes; 0 is the end.
    Read(usize),
    /// Nothing yet.
    Tick,
}

/// What a request allows while it waits.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub limit: Duration,
    pub may_move: bool,
    pub may_half_close: bool,
}

impl<'a> Patience<'a> {
    pub fn new(terms: Terms, state: Option<&'a BackendState>) -> Self {
        let now = Instant::now();
        let limit = now + terms.limit;
        Self {
            state,
            may_move: terms.may_move,
            may_half_close: terms.may_half_close,
            watches_client: true,
            limit,
            next_tick: limit.min(now + FIRST_TICK),
            lost: None,
            answers_seen: state.map_or(0, BackendState::answers),
            stalled_at: None,
        }
    }

    /// The next tick comes soon: the head is here, and the rest should be.
    pub fn expect_soon(&mut self) {
        self.next_tick = self.limit.min(Instant::now() + FIRST_TICK);
    }

    /// Waits for more of the answer.
    pub async fn more<S: Io>(
        &mut self,
        client: &mut Conn<S>,
        upstream: &mut Upstream,
    ) -> Result<Woken, Failed> {
        loop {
            // What the client has sent ahead shows that it is there; one byte more would be too much.
            let watches_client = self.watches_client && client.buffer.is_empty();
            let stir = tokio::select! {
                biased;
                read = upstream.fill() => return read.map(Woken::Read).map_err(Failed::Lost),
                stir = client.stir(), if watches_client => stir,
                () = is_lost(&mut self.lost) => return Err(Failed::NodeLost),
                () = tokio::time::sleep_until(self.next_tick) => return self.tick(),
            };
            match stir {
                Stir::Spoke => {}
                Stir::Ended if self.may_half_close => self.watches_client = false,
                Stir::Ended | Stir::Broke => return Err(Failed::Client(ClientFault::Gone)),
            }
        }
    }

    fn tick(&mut self) -> Result<Woken, Failed> {
        let now = Instant::now();
        if now >= self.limit {
            return Err(Failed::Timeout);
        }
        if let Some(state) = self.state.filter(|_| self.may_move) {
            let answers = state.answers();
            let is_due = self.stalled_at.is_none_or(|at| now >= at);
            if is_due && self.stalled_at.is_some() && answers == self.answers_seen {
                return Err(Failed::Stalled);
            }
            if is_due {
                (self.stalled_at, self.answers_seen) = (Some(now + STALL), answers);
            }
            self.lost.get_or_insert_with(|| state.lost());
        }
        self.next_tick = self.limit.min(self.stalled_at.unwrap_or(self.limit));
        Ok(Woken::Tick)
    }
}

async fn is_lost(lost: &mut Option<watch::Receiver<bool>>) {
    if let Some(lost) = lost
        && lost.wait_for(|lost| *lost).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Woken {
    /// The end of the connection is an error where an answer is awaited.
    pub fn alive(self) -> Result<(), Failed> {
        match self {
            Self::Read(0) => Err(Failed::Lost(io::ErrorKind::UnexpectedEof.into())),
            Self::Read(_) | Self::Tick => Ok(()),
        }
    }
}
