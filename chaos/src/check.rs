//! One checker per promise. Each is a pure function of a history.

mod agents;
mod deploys;
mod epochs;
mod faults;
mod host;
mod invalidation;
mod leaks;
mod ledger;
mod registers;
mod requests;
mod steadiness;

use crate::history::History;
use crate::report::{Finding, Report, Verdict};
use crate::workload::Kind;

/// Has every checker look at a history.
pub fn all(history: &History) -> Report {
    let mut findings = vec![
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
        faults::check(history),
        host::check(history),
    ];
    miss(&mut findings, &history.run.workloads);
    Report {
        experiment: history.run.experiment.clone(),
        seed: history.run.seed,
        is_cut: history.is_cut,
        findings,
    }
}

/// Who judges what clients of a kind were told.
fn judge(kind: Kind) -> &'static str {
    match kind {
        Kind::Ledger => ledger::NAME,
        Kind::Counters => registers::COUNTERS,
        Kind::Registers => registers::REGISTERS,
        Kind::Requests => requests::NAME,
        Kind::Prices => invalidation::NAME,
        Kind::Deploys => deploys::NAME,
    }
}

/// What was to be asked for and left nothing to judge is no test passed: its clients may have failed.
fn miss(findings: &mut [Finding], workloads: &[Kind]) {
    for finding in findings {
        let was_wanted = workloads.iter().any(|kind| judge(*kind) == finding.check);
        if was_wanted && finding.verdict == Verdict::NotTested {
            let reason = "it was to be tested, and nothing that clients were told could be judged".to_owned();
            finding.verdict = Verdict::Inconclusive { reason };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;
    use crate::report::Exit;

    const PRESSURE: &str =
        r#"{"t_us":1,"event":"pressure","late_ms":1,"lost_percent":1,"steal_percent":0,"busy_percent":9}"#;
    const ADD: &str = r#"{"t_us":2,"event":"call","id":1,"client":0,"op":"counter_add","key":"c","delta":1}"#;
    const ADDED: &str =
        r#"{"t_us":3,"event":"return","id":1,"outcome":"ok","value":{"is":"total","total":1}}"#;

    #[test]
    fn an_idle_farm_on_a_good_host_proves_nothing() {
        let sample = r#"{"t_us":1,"event":"sample","node":"a","pid":1,"fds":1,"threads":1,"rss_kib":1}"#;
        assert_eq!(all(&history(&[PRESSURE, sample])).exit(), Exit::Inconclusive);
        assert_eq!(all(&history(&[PRESSURE, sample, ADD, ADDED])).exit(), Exit::Kept);
    }

    #[test]
    fn a_workload_that_left_nothing_to_judge_is_inconclusive() {
        let mut history = history(&[PRESSURE, ADD, ADDED]);
        history.run.workloads = vec![Kind::Counters];
        assert_eq!(all(&history).exit(), Exit::Kept);
        for kind in [Kind::Ledger, Kind::Registers, Kind::Requests, Kind::Prices, Kind::Deploys] {
            history.run.workloads = vec![Kind::Counters, kind];
            let report = all(&history);
            assert_eq!(report.exit(), Exit::Inconclusive, "{kind:?}");
            assert!(report.text().contains("it was to be tested"), "{}", report.text());
        }
    }

    /// Each has to be somebody's name.
    #[test]
    fn every_workload_has_its_judge() {
        let report = all(&history(&[]));
        for kind in
            [Kind::Ledger, Kind::Counters, Kind::Registers, Kind::Requests, Kind::Prices, Kind::Deploys]
        {
            assert!(report.findings.iter().any(|finding| finding.check == judge(kind)), "{kind:?}");
        }
    }

    #[test]
    fn a_starved_host_excuses_no_order_that_was_executed_twice_and_no_agent_that_ended() {
        let starved: Vec<String> =
            (0..20).map(|_| PRESSURE.replace("\"late_ms\":1", "\"late_ms\":900")).collect();
        let judged = |more: &[&str]| {
            let lines: Vec<&str> = starved.iter().map(String::as_str).chain(more.iter().copied()).collect();
            all(&history(&lines)).exit()
        };
        assert_eq!(judged(&[]), Exit::Inconclusive);
        let order =
            r#"{"t_us":2,"event":"call","id":1,"client":0,"op":"request","uuid":"u","idempotent":false}"#;
        let served = r#"{"t_us":3,"event":"served","uuid":"u","backend":"b"}"#;
        assert_eq!(judged(&[order, served]), Exit::Inconclusive);
        assert_eq!(judged(&[order, served, served]), Exit::Violated);
        assert_eq!(judged(&[r#"{"t_us":2,"event":"ended","node":"a","reason":"panicked"}"#]), Exit::Violated);
    }
}
