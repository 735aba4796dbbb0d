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
