//! What will happen, in the order of virtual time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Which of two events at the same moment comes first. An agent reads its socket empty before it looks at
/// its timers, which matters after it was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Arrival,
    Timer,
}

struct Entry<E> {
    key: (u64, Class, u64),
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

/// Events that wait; two of the same time and class come in the order in which they were put in.
pub struct Schedule<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    put: u64,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), put: 0 }
    }
}

impl<E> Schedule<E> {
    pub fn put(&mut self, at_us: u64, class: Class, event: E) {
        self.put += 1;
        self.heap.push(Reverse(Entry { key: (at_us, class, self.put), event }));
    }

    /// The next event and its time, unless it is later than that.
    pub fn take(&mut self, until_us: u64) -> Option<(u64, Class, E)> {
        if self.heap.peek()?.0.key.0 > until_us {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.key.0, entry.key.1, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_comes_first_then_what_arrives_then_who_was_first() {
        let mut schedule = Schedule::default();
        for (at, class, what) in [
            (5, Class::Timer, "timer"),
            (5, Class::Arrival, "first"),
            (5, Class::Arrival, "second"),
            (1, Class::Timer, "early"),
            (9, Class::Arrival, "late"),
        ] {
            schedule.put(at, class, what);
        }
        let taken: Vec<_> = std::iter::from_fn(|| schedule.take(5)).map(|(_, _, what)| what).collect();
        assert_eq!(taken, ["early", "first", "second", "timer"]);
        assert_eq!(schedule.take(9).map(|(at, _, _)| at), Some(9));
    }
}
