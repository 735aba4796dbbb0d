//! This node's own instances: which of them take requests, and how many are with each.
//!
//! The one place that decides it, for this node's clients and for peers alike: a snapshot says who could
//! be asked, and is late by nature; this table is not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::link::Link;

/// What an instance is called on the wire and in the table: `app/instance`.
pub fn label(app: &str, instance: &str) -> String {
    format!("{app}/{instance}")
}

struct Entry {
    /// `None`: nothing new goes there.
    door: Option<Door>,
    room: Arc<Room>,
}

/// Where an instance that serves is reached.
#[derive(Debug, Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub link: Link,
}

/// The requests that are with an instance.
#[derive(Default)]
struct Room {
    visits: AtomicUsize,
    emptied: Notify,
}

/// The table of instances.
#[derive(Default)]
pub struct Instances {
    entries: Mutex<HashMap<String, Entry>>,
}

/// A request that is with an instance.
pub struct Visit {
    room: Arc<Room>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.room.visits.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.room.emptied.notify_waiters();
        }
    }
}

impl Room {
    async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Listens before it looks, so that the last one can not leave in between.
            emptied.as_mut().enable();
            if self.visits.load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl Instances {
    pub fn serve(&self, app: &str, instance: &str, address: SocketAddr) {
        let mut entries = self.entries();
        let entry =
            entries.entry(label(app, instance)).or_insert_with(|| Entry { door: None, room: Arc::default() });
        if entry.door.as_ref().is_none_or(|door| door.address != address) {
            entry.close();
            entry.door = Some(Door { address, link: Link::open() });
        }
    }

    pub fn stop(&self, app: &str, instance: &str) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&label(app, instance)) {
            entry.close();
        }
        // Those that nobody is in are of no more use: who is not in the table takes nothing either.
        entries.retain(|_, entry| entry.door.is_some() || entry.room.visits.load(Ordering::Acquire) > 0);
    }

    /// Begins a visit, if the instance takes any. Deciding and counting is one step, so that a drain
    /// that begins in between can not miss it.
    pub fn visit(&self, label: &str) -> Option<(Door, Visit)> {
        let entries = self.entries();
        let entry = entries.get(label)?;
        let door = entry.door.clone()?;
        entry.room.visits.fetch_add(1, Ordering::AcqRel);
        Some((door, Visit { room: Arc::clone(&entry.room) }))
    }

    pub async fn drained(&self, app: &str, instance: &str) {
        let room = self.entries().get(&label(app, instance)).map(|entry| Arc::clone(&entry.room));
        if let Some(room) = room {
            room.empty().await;
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn close(&mut self) {
        if let Some(door) = self.door.take() {
            door.link.set_open(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[tokio::test]
    async fn a_stopped_instance_is_drained_when_its_last_visit_ends() {
        let instances = Instances::default();
        instances.serve("shop", "1", address(1));
        let (door, visit) = instances.visit("shop/1").unwrap();
        instances.stop("shop", "1");
        assert!(instances.visit("shop/1").is_none() && !door.link.is_open());
        let drained = instances.drained("shop", "1");
        tokio::pin!(drained);
        assert!(poll(&mut drained).is_pending());
        drop(visit);
        drained.await;
    }

    #[test]
    fn one_that_was_never_heard_of_or_is_forgotten_takes_nothing() {
        let instances = Instances::default();
        assert!(instances.visit("shop/1").is_none());
        instances.serve("shop", "1", address(1));
        instances.stop("shop", "1");
        assert!(instances.visit("shop/1").is_none());
    }

    #[test]
    fn one_that_comes_back_elsewhere_is_reached_on_other_connections() {
        let instances = Instances::default();
        instances.serve("shop", "1", address(1));
        let (old, _visit) = instances.visit("shop/1").unwrap();
        instances.serve("shop", "1", address(1));
        assert_eq!(instances.visit("shop/1").unwrap().0.link.id(), old.link.id());
        instances.serve("shop", "1", address(2));
        let (new, _visit) = instances.visit("shop/1").unwrap();
        assert!(new.link.id() != old.link.id() && !old.link.is_open());
    }

    fn poll<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut context)
    }
}
