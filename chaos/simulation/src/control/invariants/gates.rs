//! A release that fails its gates never becomes stable (invariant 4 of the design).

use node_core::control::Command;

use super::{Rest, Seen};
use crate::control::{Quality, quality};
use crate::servers::jury::Invariant;

pub struct WhatFailsIsNeverStable;

impl Invariant<Seen, Rest> for WhatFailsIsNeverStable {
    fn name(&self) -> &'static str {
        "gates"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        let Seen::Applied { command, state, .. } = seen else { return None };
        let Command::Order { .. } = &**command else { return None };
        let stable = state.apps.iter().filter_map(|(app, record)| Some((app, record.stable?)));
        let mut failed =
            stable.filter(|(_, release)| matches!(quality(*release), Quality::Bad | Quality::Hangs));
        let (app, release) = failed.next()?;
        Some(format!("release {} of {app} is stable after {command:?}", release.0[0]))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use node_core::control::{AppRecord, ControlState, Order, Outcome};

    use super::super::examples::{applied, breaks, order};
    use super::*;
    use crate::control::release;

    #[test]
    fn a_stable_release_that_fails_wherever_it_is_started_is_found() {
        let after = |stable| {
            let record = AppRecord { stable: Some(release(stable)), ..AppRecord::default() };
            let state = ControlState {
                apps: BTreeMap::from([("shop".to_owned(), record)]),
                ..ControlState::default()
            };
            let command = order(1, Order::Place { groups: BTreeMap::new() });
            breaks(&mut WhatFailsIsNeverStable, &[applied(1, command, Outcome::Done, state)])
        };
        assert_eq!([1, 3].map(after), [None; 2], "good, and on one server bad");
        assert_eq!([6, 7].map(after), [Some(0); 2], "bad, and hanging");
    }
}
