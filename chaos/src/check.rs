//! One checker per promise. Each is a pure function of a history.

mod agents;
mod deploys;
mod epochs;
mod host;
mod invalidation;
mod leaks;
mod ledger;
mod registers;
mod requests;
mod steadiness;

use crate::history::History;
use crate::report::{Finding, Report, Verdict};

/// Checks of what has to happen within a time.
const TIMELY: [&str; 3] = [steadiness::NAME, requests::NAME, agents::NAME];

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
        host::check(history),
    ];
    let findings = excuse(findings);
    Report {
        experiment: history.run.experiment.clone(),
        seed: history.run.seed,
        is_cut: history.is_cut,
        findings,
    }
}

/// On a starved host nothing passes. What depends on time is no violation there either; what was
/// acknowledged and is lost, or was never so, is one on any host.
fn excuse(mut findings: Vec<Finding>) -> Vec<Finding> {
    let is_starved = |finding: &Finding| {
        finding.check == host::NAME && matches!(finding.verdict, Verdict::Inconclusive { .. })
    };
    if findings.iter().any(is_starved) {
        for finding in findings.iter_mut().filter(|finding| TIMELY.contains(&finding.check)) {
            if let Verdict::Violated { violations, .. } = &finding.verdict {
                let reason = format!("on a starved host: {}", violations.join("; "));
                finding.verdict = Verdict::Inconclusive { reason };
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(check: &'static str, verdict: Verdict) -> Finding {
        Finding { check, promise: "p", looked_at: 1, verdict, figures: Vec::new() }
    }

    #[test]
    fn a_starved_host_excuses_what_is_late_and_nothing_that_is_lost() {
        let broken = || Verdict::Violated { violations: vec!["so".to_owned()], count: 1 };
        let starved = || finding(host::NAME, Verdict::Inconclusive { reason: "busy".to_owned() });
        let judged = |check, host| {
            let findings = excuse(vec![finding(check, broken()), host]);
            matches!(findings[0].verdict, Verdict::Violated { .. })
        };
        assert!(!judged("steady state", starved()));
        assert!(judged("ledger", starved()));
        assert!(judged("steady state", finding(host::NAME, Verdict::Kept)));
    }
}
