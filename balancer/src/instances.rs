//! This node's own instances: which of them peers may send requests to, and what is with each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What an instance is called on the wire and in the table: `app/instance`.
pub fn label(app: &str, instance: &str) -> String {
    format!("{app}/{instance}")
}

struct Entry {
    /// `None`: nothing new goes there.
    address: Option<SocketAddr>,
    in_flight: Arc<watch::Sender<u32>>,
}

/// Whether a request may go to an instance.
pub enum Admission {
    Visit(SocketAddr, Visit),
    Stopped,
    Unknown,
}

/// The table of instances.
#[derive(Default)]
pub struct Instances {
    entries: Mutex<HashMap<String, Entry>>,
}

/// A request that is with an instance.
pub struct Visit {
    in_flight: Arc<watch::Sender<u32>>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.in_flight.send_modify(|count| *count -= 1);
    }
}

impl Instances {
    pub fn serve(&self, app: &str, instance: &str, address: SocketAddr) {
        let mut entries = self.entries();
        let entry = entries.entry(label(app, instance)).or_insert_with(Entry::new);
        entry.address = Some(address);
    }

    pub fn stop(&self, app: &str, instance: &str) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&label(app, instance)) {
            entry.address = None;
        }
        // Those that are empty are of no more use.
        entries.retain(|_, entry| entry.address.is_some() || *entry.in_flight.borrow() > 0);
    }

    /// Begins a visit, if the instance takes any. Deciding and counting is one step, so that a drain
    /// that begins in between can not miss it.
    pub fn visit(&self, label: &str) -> Admission {
        let entries = self.entries();
        let Some(entry) = entries.get(label) else { return Admission::Unknown };
        let Some(address) = entry.address else { return Admission::Stopped };
        entry.in_flight.send_modify(|count| *count += 1);
        Admission::Visit(address, Visit { in_flight: Arc::clone(&entry.in_flight) })
    }

    pub async fn drained(&self, app: &str, instance: &str) {
        let counted = {
            let entries = self.entries();
            entries.get(&label(app, instance)).map(|entry| entry.in_flight.subscribe())
        };
        if let Some(mut counted) = counted {
            // An error means that nobody counts any more.
            let _none_left = counted.wait_for(|count| *count == 0).await;
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new() -> Self {
        Self { address: None, in_flight: Arc::new(watch::Sender::new(0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stopped_instance_is_drained_when_its_last_visit_ends() {
        let instances = Instances::default();
        instances.serve("shop", "1", ([127, 0, 0, 1], 1).into());
        let Admission::Visit(_, visit) = instances.visit("shop/1") else { panic!("it serves") };
        instances.stop("shop", "1");
        assert!(matches!(instances.visit("shop/1"), Admission::Stopped));
        let drained = instances.drained("shop", "1");
        tokio::pin!(drained);
        assert!(futures_poll(&mut drained).is_pending());
        drop(visit);
        drained.await;
    }

    fn futures_poll<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut context)
    }
}
