//! Agents: none ends by itself, unless what was done to it excuses that, and none panics, unless its files were
//! damaged. Want of time excuses neither; it does excuse one that does not end, or join, when it is told to,
//! and so do faults that last meanwhile.

use std::collections::BTreeSet;

use crate::history::{Event, FaultEvent, History};
use crate::pressure::Starvation;
use crate::report::{Finding, Violations};

pub fn check(history: &History) -> Finding {
    let mut violations = Violations::default();
    let starvation = Starvation::of(history);
    let (mut looked_at, mut damaged) = (0, BTreeSet::new());
    for (at_us, event) in &history.events {
        let at_ms = at_us / 1_000;
        if let Event::Fault(fault) = event
            && DAMAGES.contains(&fault.fault.as_str())
        {
            damaged.extend(&fault.targets);
        }
        if let Event::Sample(_) = event {
            looked_at += 1;
        }
        if let Event::Ended(ended) = event {
            looked_at += 1;
            let (node, reason) = (&ended.node, &ended.reason);
            violations.add(|| format!("the agent of {node} ended by itself at {at_ms} ms: {reason}"));
        }
        if let Event::Panicked { node, words } = event
            && !damaged.contains(node)
        {
            looked_at += 1;
            violations.add(|| format!("the agent of {node} told of a panic at {at_ms} ms: {words}"));
        }
        if let Event::Stuck { node, what } = event {
            looked_at += 1;
            let since_us = at_us.saturating_sub(STUCK_US);
            let is_excused = starvation.excuses(since_us, *at_us) || lasting(history, since_us, *at_us) > 1;
            violations.add_late(is_excused, || format!("{node} was stuck at {at_ms} ms: {what}"));
        }
    }
    Finding {
        check: "agents",
        promise: "no agent panics, ends by itself without reason, or is stuck when it has to stop or to join",
        looked_at,
        verdict: violations.verdict(looked_at),
        figures: Vec::new(),
        is_proof: false,
    }
}

/// Faults after which the database may be of what it finds.
const DAMAGES: [&str; 3] = ["bit_rot", "truncate", "old_database"];

/// How many faults last at any moment between two: the one that ends the agent, or is ended by its start, and
/// others.
fn lasting(history: &History, from_us: i64, to_us: i64) -> usize {
    let faults = || {
        let told = history.events.iter().filter(|(at_us, _)| *at_us <= to_us);
        told.filter_map(
            |(at_us, event)| if let Event::Fault(fault) = event { Some((*at_us, fault)) } else { None },
        )
    };
    let is_same =
        |one: &FaultEvent, other: &FaultEvent| one.fault == other.fault && one.targets == other.targets;
    let begun = faults().filter(|(_, fault)| fault.begins);
    let lasts = |(begun_us, fault): &(i64, &FaultEvent)| {
        let mut ends =
            faults().filter(|(at_us, other)| *at_us >= *begun_us && !other.begins && is_same(fault, other));
        ends.next().is_none_or(|(at_us, _)| at_us >= from_us)
    };
    begun.filter(lasts).count()
}

/// For so long somebody has waited for whoever is stuck.
const STUCK_US: i64 = 60_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;
    use crate::report::Verdict;

    #[test]
    fn one_that_ends_by_itself_is_told() {
        let alive = r#"{"t_us":1,"event":"sample","node":"a","pid":1,"fds":1,"threads":1,"rss_kib":1}"#;
        let ended = r#"{"t_us":2,"event":"ended","node":"a","reason":"panicked"}"#;
        assert_eq!(check(&history(&[alive])).verdict, Verdict::Kept);
        assert_eq!(check(&history(&[])).verdict, Verdict::NotTested);
        assert!(matches!(check(&history(&[alive, ended])).verdict, Verdict::Violated { .. }));
    }

    #[test]
    fn a_panic_is_told_though_it_ends_nobody() {
        let panicked = r#"{"t_us":2,"event":"panicked","node":"a","words":"thread 'x' panicked at y"}"#;
        assert!(matches!(check(&history(&[panicked])).verdict, Verdict::Violated { .. }));
        let rotten = r#"{"t_us":1,"event":"fault","fault":"bit_rot","targets":["a"],"begins":true}"#;
        assert_eq!(check(&history(&[rotten, panicked])).verdict, Verdict::NotTested);
    }

    #[test]
    fn one_that_is_stuck_under_faults_beside_its_own_proves_nothing() {
        let stuck = r#"{"t_us":90000000,"event":"stuck","node":"a","what":"it was told to stop"}"#;
        let fault = |t_us: u64, fault: &str, begins: bool| {
            format!(
                r#"{{"t_us":{t_us},"event":"fault","fault":"{fault}","targets":["a"],"begins":{begins}}}"#
            )
        };
        let verdict = |faults: &[String]| {
            let lines: Vec<&str> = faults.iter().map(String::as_str).chain([stuck]).collect();
            check(&history(&lines)).verdict
        };
        let restart = fault(50_000_000, "restart", true);
        assert!(matches!(verdict(std::slice::from_ref(&restart)), Verdict::Violated { .. }));
        let cut = fault(1, "partition", true);
        assert!(matches!(verdict(&[cut.clone(), restart.clone()]), Verdict::Inconclusive { .. }));
        let healed = [cut, fault(2, "partition", false), restart];
        assert!(matches!(verdict(&healed), Verdict::Violated { .. }));
    }

    #[test]
    fn one_that_is_stuck_on_a_starved_host_proves_nothing() {
        let stuck = r#"{"t_us":60000000,"event":"stuck","node":"a","what":"it was told to stop"}"#;
        assert!(matches!(check(&history(&[stuck])).verdict, Verdict::Violated { .. }));
        let starved = |second: u64| {
            format!(
                r#"{{"t_us":{second}000000,"event":"pressure","late_ms":900,"lost_percent":90,"steal_percent":0,"busy_percent":100}}"#
            )
        };
        let lines: Vec<String> = (1..60).map(starved).chain([stuck.to_owned()]).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert!(matches!(check(&history(&lines)).verdict, Verdict::Inconclusive { .. }));
    }
}
