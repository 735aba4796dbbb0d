//! Connections of those who have not proved who they are, or can not.
//!
//! They are few, of each source and together, and when there is one too many, the one that has been
//! there longest has to go, not the one that comes: whoever means well is through within milliseconds,
//! and who only sits there would otherwise keep everybody out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

#[derive(Clone)]
pub(super) struct Strangers {
    max: usize,
    per_source_max: usize,
    here: Arc<Mutex<Here>>,
}

#[derive(Default)]
struct Here {
    last: u64,
    /// In the order in which they came.
    all: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

/// One stranger's place, given back when it is dropped.
pub(super) struct Stranger {
    number: u64,
    sent_away: CancellationToken,
    here: Arc<Mutex<Here>>,
}

impl Strangers {
    pub(super) fn new(max: usize, per_source_max: usize) -> Self {
        Self { max, per_source_max, here: Arc::default() }
    }

    /// Takes one in, and sends the oldest of its source or of all away when it is one too many.
    pub(super) fn admit(&self, source: IpAddr) -> Stranger {
        let source = source.to_canonical();
        let mut here = lock(&self.here);
        let of_source = here.all.values().filter(|(other, _)| *other == source).count();
        let oldest = if of_source >= self.per_source_max {
            here.all.iter().find(|(_, (other, _))| *other == source).map(|(number, _)| *number)
        } else if here.all.len() >= self.max {
            here.all.keys().next().copied()
        } else {
            None
        };
        if let Some((_, sent_away)) = oldest.and_then(|number| here.all.remove(&number)) {
            sent_away.cancel();
        }
        here.last += 1;
        let (number, sent_away) = (here.last, CancellationToken::new());
        here.all.insert(number, (source, sent_away.clone()));
        Stranger { number, sent_away, here: Arc::clone(&self.here) }
    }
}

impl Stranger {
    /// Ends when another needs the place.
    pub(super) fn sent_away(&self) -> WaitForCancellationFutureOwned {
        self.sent_away.clone().cancelled_owned()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        lock(&self.here).all.remove(&self.number);
    }
}

fn lock(here: &Mutex<Here>) -> MutexGuard<'_, Here> {
    here.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(strangers: &[Stranger]) -> Vec<usize> {
        let is_gone = |(at, stranger): (usize, &Stranger)| stranger.sent_away.is_cancelled().then_some(at);
        strangers.iter().enumerate().filter_map(is_gone).collect()
    }

    #[test]
    fn one_too_many_of_a_source_costs_the_oldest_of_that_source_its_place() {
        let strangers = Strangers::new(10, 2);
        let admit = |source: &str| strangers.admit(source.parse().unwrap());
        let here = ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.2", "10.0.0.2"].map(admit);
        assert_eq!(gone(&here), [1], "an address is the same however it is written");
    }

    #[test]
    fn one_too_many_of_all_costs_the_oldest_its_place_and_who_has_left_counts_no_more() {
        let strangers = Strangers::new(2, 2);
        let admit = |number: u8| strangers.admit(IpAddr::from([10, 0, 0, number]));
        drop(admit(1));
        let here = [2, 3].map(admit);
        assert!(gone(&here).is_empty());
        let _one_more = admit(4);
        assert_eq!(gone(&here), [0]);
    }
}
