//! One checker per promise. Each is a pure function of a history.

mod agents;
mod deploys;
mod epochs;
mod invalidation;
mod leaks;
mod ledger;
mod registers;
mod requests;
mod steadiness;

use crate::history::History;
use crate::report::Report;

/// Has every checker look at a history.
pub fn all(history: &History) -> Report {
    let findings = vec![
        ledger::check(history),
        registers::check(history),
        registers::check_counters(history),
        epochs::check(history),
        invalidation::check(history),
        deploys::check(history),
        requests::check(history),
        leaks::check(history),
        agents::check(history),
        steadiness::check(history),
    ];
    Report {
        experiment: history.run.experiment.clone(),
        seed: history.run.seed,
        is_cut: history.is_cut,
        findings,
    }
}
