//! How much of a group's state is on disk as a snapshot, and so needs its log no more.
//!
//! openraft installs a snapshot in one task and purges the log in another, without waiting: what it holds
//! for installed is not saved yet. A node that died between the two would find a log that begins after
//! its snapshot ends, which can not be told from damage. So the machine tells here what it has saved, and
//! the log waits for it before it forgets anything.

use std::sync::Arc;

use tokio::sync::watch;

use crate::engine::EngineError;
use crate::types::LogId;

/// What a machine has saved. Clones share it.
#[derive(Clone)]
pub struct Saved {
    told: Arc<watch::Sender<State>>,
}

enum State {
    UpTo(Option<LogId>),
    /// There will be no more.
    Over(String),
}

impl Saved {
    pub fn new(last: Option<LogId>) -> Self {
        Self { told: Arc::new(watch::Sender::new(State::UpTo(last))) }
    }

    /// A snapshot up to this entry is durable.
    pub fn tell(&self, last: Option<LogId>) {
        self.told.send_if_modified(|state| match state {
            State::UpTo(known) if *known < last => {
                *known = last;
                true
            }
            State::UpTo(_) | State::Over(_) => false,
        });
    }

    /// Nothing will be saved any more: whoever waits for it waits in vain.
    pub fn end(&self, reason: &str) {
        self.told.send_if_modified(|state| match state {
            State::UpTo(_) => {
                *state = State::Over(reason.to_owned());
                true
            }
            State::Over(_) => false,
        });
    }

    /// Waits until a snapshot has this entry.
    ///
    /// # Errors
    /// When none ever will.
    pub async fn reached(&self, log_id: LogId) -> Result<(), EngineError> {
        let mut told = self.told.subscribe();
        let is_settled = |state: &State| match state {
            State::UpTo(last) => *last >= Some(log_id),
            State::Over(_) => true,
        };
        // The sender is this very handle's.
        let settled = told.wait_for(is_settled).await.map_err(|_| EngineError("nobody saves".to_owned()))?;
        match &*settled {
            State::UpTo(_) => Ok(()),
            State::Over(reason) => Err(EngineError(format!("no snapshot replaces the log: {reason}"))),
        }
    }

    /// To be held while a snapshot is installed: if it is dropped before [`Installing::done`], none was.
    pub fn installing(&self) -> Installing<'_> {
        Installing { saved: self, is_done: false }
    }
}

pub struct Installing<'a> {
    saved: &'a Saved,
    is_done: bool,
}

impl Installing<'_> {
    pub fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Installing<'_> {
    fn drop(&mut self) {
        // After an error, and after a panic, of which raft's core hears nothing while it waits.
        if !self.is_done {
            self.saved.end("it could not be installed");
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    #[tokio::test]
    async fn whoever_waits_goes_on_when_enough_is_saved() {
        let saved = Saved::new(Some(id(3)));
        saved.reached(id(3)).await.unwrap();
        let (waited, ()) = tokio::join!(saved.reached(id(7)), async {
            saved.tell(Some(id(5)));
            tokio::task::yield_now().await;
            saved.tell(Some(id(8)));
        });
        waited.unwrap();
    }

    #[tokio::test]
    async fn whoever_waits_hears_that_nothing_more_will_be_saved() {
        let saved = Saved::new(None);
        let (waited, ()) = tokio::join!(saved.reached(id(1)), async { drop(saved.installing()) });
        waited.unwrap_err();
        let saved = Saved::new(Some(id(1)));
        saved.installing().done();
        saved.reached(id(1)).await.unwrap();
    }
}
