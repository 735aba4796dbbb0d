//! Ports for instances: the next one that nobody has.
//!
//! Ports are handed out in turn, so that an instance which is started again does not get the port that
//! its predecessor's last connections still occupy.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

/// The ports of one range.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    range: RangeInclusive<u16>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u16,
    taken: BTreeSet<u16>,
}

/// A port until it is dropped.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    inner: Arc<Inner>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no port of {first} to {last} is free")]
pub(super) struct NoPort {
    first: u16,
    last: u16,
}

impl Ports {
    /// `start` is any number: agents that share a range on one machine do well to begin apart.
    pub(super) fn new(range: RangeInclusive<u16>, start: u16) -> Self {
        let length = u32::from(range.end().saturating_sub(*range.start())) + 1;
        let offset = u16::try_from(u32::from(start) % length).unwrap_or(0);
        let next = range.start().saturating_add(offset);
        Self { inner: Arc::new(Inner { range, state: Mutex::new(State { next, taken: BTreeSet::new() }) }) }
    }

    /// The next port that is neither handed out nor listened on.
    pub(super) fn take(&self) -> Result<Port, NoPort> {
        let (first, last) = (*self.inner.range.start(), *self.inner.range.end());
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in first..=last {
            let number = state.next;
            state.next = if number >= last { first } else { number + 1 };
            if !state.taken.contains(&number) && is_free(number) {
                state.taken.insert(number);
                return Ok(Port { number, inner: Arc::clone(&self.inner) });
            }
        }
        Err(NoPort { first, last })
    }
}

/// Whether somebody could listen there now. Another program may take it before the instance does; then
/// the instance ends and is started again, on another port.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

impl Port {
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three neighbouring ports of which the middle one is listened on.
    fn range() -> (RangeInclusive<u16>, TcpListener) {
        loop {
            let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = busy.local_addr().unwrap().port();
            if port > 1_024 && port < u16::MAX && is_free(port - 1) && is_free(port + 1) {
                return (port - 1..=port + 1, busy);
            }
        }
    }

    #[test]
    fn a_port_is_given_once_until_it_is_back_and_busy_ones_are_left_out() {
        let (range, busy) = range();
        let ports = Ports::new(range.clone(), 0);
        let one = ports.take().unwrap();
        let two = ports.take().unwrap();
        assert_eq!((one.number(), two.number()), (*range.start(), *range.end()));
        assert_eq!(ports.take().unwrap_err(), NoPort { first: *range.start(), last: *range.end() });
        drop(two);
        assert_eq!(ports.take().unwrap().number(), *range.end());
        drop(busy);
        assert_eq!(ports.take().unwrap().number(), *range.start() + 1);
    }

    #[test]
    fn any_start_is_inside_the_range() {
        for start in [0, 1, 2, 3, u16::MAX] {
            let ports = Ports::new(u16::MAX..=u16::MAX, start);
            assert_eq!(ports.inner.state.lock().unwrap().next, u16::MAX);
            let ports = Ports::new(0..=u16::MAX, start);
            assert_eq!(ports.inner.state.lock().unwrap().next, start);
        }
    }
}
