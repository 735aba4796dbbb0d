//! Frames that wait for their time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A second's worth of small frames at this machine's best; what comes on top is lost, as in any queue.
const FRAMES_MAX: usize = 50_000;

/// What waits, and the one who waits for it.
#[derive(Default)]
pub struct Waiting {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By time, then by the order in which they came.
    heap: BinaryHeap<Reverse<(Instant, u64, usize, Vec<u8>)>>,
    next: u64,
    closed: bool,
}

impl Waiting {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame is to leave through a port at a time.
    pub fn push(&self, at: Instant, port: usize, frame: Vec<u8>) {
        let mut queue = self.queue();
        if queue.heap.len() >= FRAMES_MAX {
            return;
        }
        let number = queue.next;
        queue.next += 1;
        let is_first = queue.heap.peek().is_none_or(|Reverse((first, ..))| at < *first);
        queue.heap.push(Reverse((at, number, port, frame)));
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Waits for the next frame that is due. `None` once closed.
    pub fn next(&self) -> Option<(usize, Vec<u8>)> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            let now = Instant::now();
            match queue.heap.peek().map(|Reverse((at, ..))| *at) {
                Some(at) if at <= now => {
                    return queue.heap.pop().map(|Reverse((_, _, port, frame))| (port, frame));
                }
                Some(at) => {
                    let waited = self.changed.wait_timeout(queue, at - now);
                    queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Nothing is delivered any more.
    pub fn close(&self) {
        self.queue().closed = true;
        self.changed.notify_all();
    }
}
