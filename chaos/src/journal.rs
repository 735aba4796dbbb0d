//! Writes a history while it happens.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::history::{Event, Op, Outcome, Record, Run};

/// A history that is being written. Clones write into the same.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    began: Instant,
    next: AtomicU64,
    answered: AtomicU64,
    /// When each client began the last call of which it was told anything.
    asked: Mutex<BTreeMap<u32, Instant>>,
    file: Mutex<(BufWriter<File>, io::Result<()>)>,
}

impl Journal {
    /// Begins a history.
    ///
    /// # Errors
    /// When the file can not be made.
    pub fn create(path: &Path, run: Run) -> io::Result<Self> {
        let file = Mutex::new((BufWriter::new(File::create_new(path)?), Ok(())));
        let inner = Inner {
            began: Instant::now(),
            next: AtomicU64::new(1),
            answered: AtomicU64::new(0),
            asked: Mutex::default(),
            file,
        };
        let journal = Self { inner: Arc::new(inner) };
        journal.note(Event::Run(run));
        Ok(journal)
    }

    /// Notes what happens now.
    pub fn note(&self, event: Event) {
        let mut file = self.inner.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that the lines are in the order of their times.
        let t_us = i64::try_from(self.inner.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        let line = serde_json::to_string(&Record { t_us, event }).expect("plain data always serialises");
        let (writer, result) = &mut *file;
        if result.is_ok() {
            *result = writeln!(writer, "{line}");
        }
    }

    /// A client calls, and is told.
    pub fn call(&self, client: u32, op: Op, ask: impl FnOnce() -> Outcome) -> Outcome {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        self.note(Event::Call { id, client: Some(client), op });
        let outcome = ask();
        if matches!(outcome, Outcome::Ok { .. }) {
            self.inner.answered.fetch_add(1, Ordering::Relaxed);
        }
        self.note(Event::Return { id, outcome: outcome.clone() });
        self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(client, began);
        outcome
    }

    /// How many calls have succeeded.
    pub fn answered(&self) -> u64 {
        self.inner.answered.load(Ordering::Relaxed)
    }

    /// Whether each of so many clients has been told something of a call that it has begun since then.
    pub fn have_asked_since(&self, clients: u32, then: Instant) -> bool {
        let asked = self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner);
        (0..clients).all(|client| asked.get(&client).is_some_and(|began| *began >= then))
    }

    /// Writes out what was noted.
    ///
    /// # Errors
    /// When anything could not be written: the history is then not whole.
    pub fn finish(&self) -> io::Result<()> {
        let mut file = self.inner.file.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut file.1, Ok(()))?;
        file.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Value;

    #[test]
    fn a_client_has_asked_since_then_once_it_is_told_of_a_call_that_it_began_later() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::create(&folder.path().join("history"), Run::of_nobody()).unwrap();
        let before = Instant::now();
        let call = |client, ask: &dyn Fn()| {
            journal.call(client, Op::LedgerRead {}, || {
                ask();
                Outcome::Ok { value: Value::Entries { entries: Vec::new() } }
            })
        };
        assert!(journal.have_asked_since(0, before) && !journal.have_asked_since(1, before));
        let during = std::cell::Cell::new(before);
        call(0, &|| {
            assert!(!journal.have_asked_since(1, before), "nothing was told yet");
            during.set(Instant::now());
        });
        assert!(journal.have_asked_since(1, before));
        assert!(!journal.have_asked_since(1, during.get()), "it was begun earlier");
        assert!(!journal.have_asked_since(2, before), "the other has not asked");
    }
}
