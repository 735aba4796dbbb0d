//! When all is healed every node runs the same release of an app, one that may be there, and made of the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Event, History, Op, Operation, Phase, Value};
use crate::pressure::Starvation;
use crate::report::{Finding, Violations};

pub const NAME: &str = "deploys";

/// Once a release was acknowledged every node of the run has to run the app, and no earlier release: what
/// was acknowledged is not lost. A release that was asked for later may have come about, and one of unknown
/// outcome at any time.
pub fn check(history: &History) -> Finding {
    let mut violations = Violations::default();
    let starvation = Starvation::of(history);
    let wanted = wanted(history);
    let ran = ran(history);
    let mut looked_at = 0;
    for (app, nodes) in &ran {
        let wanted = wanted.get(app);
        let is_starved = starvation.excuses(final_us(history), i64::MAX);
        looked_at += judge(app, wanted, nodes, is_starved, &mut violations);
        if wanted.is_none_or(|wanted| !wanted.is_acknowledged) {
            continue;
        }
        for node in history.run.nodes.iter().filter(|node| is_bare(nodes, node)) {
            looked_at += 1;
            violations
                .add_late(is_starved, || format!("{node} does not run {app} at the end, which was deployed"));
        }
    }
    judge_digests(history, &mut violations);
    Finding {
        check: NAME,
        promise: "all nodes end on one release, the last that was acknowledged or a later one, made of the same",
        looked_at,
        verdict: violations.verdict(looked_at),
        figures: Vec::new(),
        is_proof: true,
    }
}

/// For each node what runs on it: nothing, or a release, or more than one while they are exchanged.
type Nodes<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn is_bare(nodes: &Nodes<'_>, node: &str) -> bool {
    nodes.get(node).is_none_or(BTreeSet::is_empty)
}

/// What the nodes run at the end, by app.
fn ran(history: &History) -> BTreeMap<&str, Nodes<'_>> {
    let mut ran: BTreeMap<&str, Nodes<'_>> = BTreeMap::new();
    for (_, event) in &history.events {
        if let Event::Runs { node, app, release, .. } = event {
            let releases = ran.entry(app).or_default().entry(node).or_default();
            if !release.is_empty() {
                releases.insert(release);
            }
        }
    }
    ran
}

/// A release is made of the same, by the word of who has deployed it and of every node.
fn judge_digests(history: &History, violations: &mut Violations) {
    let mut told: BTreeMap<(&str, &str), BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    let mut tell = |app, release, digest, who| {
        told.entry((app, release)).or_default().entry(digest).or_default().push(who);
    };
    for operation in &history.operations {
        if let (Op::Deploy { app, release }, Some((_, Value::Release { digest }))) =
            (&operation.op, operation.ok())
        {
            tell(app, release, digest, "who has deployed it");
        }
    }
    for (_, event) in &history.events {
        // Who does not know a release's name knows its digest all the same.
        if let Event::Runs { node, app, release, digest: Some(digest) } = event
            && !release.is_empty()
        {
            tell(app, release, digest, node);
        }
    }
    for ((app, release), digests) in told.iter().filter(|(_, digests)| digests.len() > 1) {
        violations.add(|| format!("{release} of {app} is not made of the same everywhere: {digests:?}"));
    }
}

/// Which releases of an app may be there at the end.
#[derive(Default)]
struct Wanted<'a> {
    asked: BTreeSet<&'a str>,
    possible: BTreeSet<&'a str>,
    is_acknowledged: bool,
}

fn wanted(history: &History) -> BTreeMap<&str, Wanted<'_>> {
    let mut deploys: BTreeMap<&str, Vec<(&str, &Operation)>> = BTreeMap::new();
    for operation in &history.operations {
        if let Op::Deploy { app, release } = &operation.op {
            deploys.entry(app).or_default().push((release, operation));
        }
    }
    deploys.into_iter().map(|(app, deploys)| (app, Wanted::of(&deploys))).collect()
}

impl<'a> Wanted<'a> {
    fn of(deploys: &[(&'a str, &'a Operation)]) -> Self {
        // Whatever was acknowledged before this moment has been followed by another that was, too.
        let succeeded = deploys.iter().filter(|(_, one)| one.ok().is_some());
        let last_called_us = succeeded.map(|(_, one)| one.called_us).max();
        let is_possible = |one: &Operation| match one.ok() {
            Some((at_us, _)) => last_called_us.is_none_or(|last| at_us >= last),
            None => !one.was_refused(),
        };
        let possible = deploys.iter().filter(|(_, one)| is_possible(one));
        Self {
            asked: deploys.iter().map(|(release, _)| *release).collect(),
            possible: possible.map(|(release, _)| *release).collect(),
            is_acknowledged: last_called_us.is_some(),
        }
    }
}

/// Judges what there is of an app. Returns how many nodes run it.
///
/// A node that runs an earlier release yet, beside others that run one that may be there, is late. If all of
/// them run an earlier one the later ones are lost, whatever the host was like.
fn judge(
    app: &str,
    wanted: Option<&Wanted<'_>>,
    nodes: &Nodes<'_>,
    is_starved: bool,
    violations: &mut Violations,
) -> u64 {
    let mut releases: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, here) in nodes {
        for release in here {
            releases.entry(release).or_default().push(node);
        }
    }
    let is_possible = |release: &str| wanted.is_some_and(|wanted| wanted.possible.contains(release));
    let is_excused = is_starved && releases.keys().any(|release| is_possible(release));
    if releases.len() > 1 {
        violations
            .add_late(is_excused, || format!("{app} runs in several releases at the end: {releases:?}"));
    }
    for (release, nodes) in &releases {
        match wanted {
            Some(wanted) if wanted.possible.contains(release) => {}
            Some(wanted) if wanted.asked.contains(release) => violations.add_late(is_excused, || {
                let possible = &wanted.possible;
                format!("{nodes:?} run {release} of {app}, though only {possible:?} may be left by now")
            }),
            Some(_) | None => {
                violations.add(|| format!("{nodes:?} run {release} of {app}, which nobody has deployed"))
            }
        }
    }
    nodes.values().filter(|here| !here.is_empty()).count() as u64
}

/// When reading back began.
fn final_us(history: &History) -> i64 {
    let is_final = |event: &Event| matches!(event, Event::Phase { phase: Phase::Final });
    history.events.iter().find(|(_, event)| is_final(event)).map_or(0, |(at_us, _)| *at_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;
    use crate::report::Verdict;

    const OK: &str = r#""outcome":"ok","value":{"is":"done"}"#;
    const UNKNOWN: &str = r#""outcome":"unknown","reason":"r""#;
    const REFUSED: &str = r#""outcome":"refused","reason":"r""#;

    /// Deploys r1, r2 and so on, one after the other, with these outcomes.
    fn verdict(outcomes: &[&str], runs: &[(&str, &str)]) -> Verdict {
        verdict_on(&[], outcomes, runs)
    }

    /// The same on a host that was as these lines say.
    fn verdict_on(host: &[&str], outcomes: &[&str], runs: &[(&str, &str)]) -> Verdict {
        let mut lines: Vec<String> = host.iter().map(|line| (*line).to_owned()).collect();
        for (number, outcome) in (1..).zip(outcomes) {
            let at = 10 * number;
            lines.push(format!(
                r#"{{"t_us":{at},"event":"call","id":{number},"client":0,"op":"deploy","app":"shop","release":"r{number}"}}"#
            ));
            lines.push(format!(r#"{{"t_us":{},"event":"return","id":{number},{outcome}}}"#, at + 5));
        }
        for (node, release) in runs {
            lines.push(format!(
                r#"{{"t_us":900,"event":"runs","node":"{node}","app":"shop","release":"{release}"}}"#
            ));
        }
        let mut history = history(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        history.run.nodes = ["a", "b"].map(str::to_owned).to_vec();
        check(&history).verdict
    }

    fn is_violated(outcomes: &[&str], runs: &[(&str, &str)]) -> bool {
        matches!(verdict(outcomes, runs), Verdict::Violated { .. })
    }

    #[test]
    fn a_mixture_and_an_unwanted_release_are_found() {
        assert_eq!(verdict(&[OK], &[("a", "r1"), ("b", "r1")]), Verdict::Kept);
        assert!(is_violated(&[OK, UNKNOWN], &[("a", "r1"), ("b", "r2")]));
        assert!(is_violated(&[OK], &[("a", "r3"), ("b", "r3")]));
        assert!(is_violated(&[], &[("a", "r1"), ("b", "r1")]));
        assert_eq!(verdict(&[], &[]), Verdict::NotTested);
        assert_eq!(verdict(&[OK], &[]), Verdict::NotTested, "nobody has said what runs");
    }

    #[test]
    fn a_release_that_is_made_of_something_else_on_a_node_is_found() {
        let verdict = |acknowledged: &str, at_a: &str, at_b: &str| {
            let mut lines = vec![
                r#"{"t_us":1,"event":"call","id":1,"client":0,"op":"deploy","app":"x","release":"1"}"#
                    .to_owned(),
                format!(
                    r#"{{"t_us":2,"event":"return","id":1,"outcome":"ok","value":{{"is":"release","digest":"{acknowledged}"}}}}"#
                ),
            ];
            for (node, digest) in [("a", at_a), ("b", at_b)] {
                lines.push(format!(
                    r#"{{"t_us":3,"event":"runs","node":"{node}","app":"x","release":"1","digest":"{digest}"}}"#
                ));
            }
            check(&history(&lines.iter().map(String::as_str).collect::<Vec<_>>())).verdict
        };
        assert_eq!(verdict("d", "d", "d"), Verdict::Kept);
        assert!(matches!(verdict("d", "d", "e"), Verdict::Violated { .. }));
        assert!(matches!(verdict("d", "e", "e"), Verdict::Violated { .. }));
    }

    #[test]
    fn on_a_starved_host_a_mixture_is_late_and_a_lost_release_is_lost() {
        let starved = [
            r#"{"t_us":1,"event":"pressure","late_ms":5000,"lost_percent":1,"steal_percent":0,"busy_percent":9}"#,
        ];
        let on_starved = |outcomes: &[&str], runs: &[(&str, &str)]| verdict_on(&starved, outcomes, runs);
        let is_doubt = |verdict: &Verdict| matches!(verdict, Verdict::Inconclusive { .. });
        assert!(is_doubt(&on_starved(&[OK, UNKNOWN], &[("a", "r1"), ("b", "r2")])));
        assert!(is_doubt(&on_starved(&[OK, OK], &[("a", "r1"), ("b", "r2")])));
        assert!(is_doubt(&on_starved(&[OK], &[("a", "r1")])));
        let lost = on_starved(&[OK, OK], &[("a", "r1"), ("b", "r1")]);
        assert!(matches!(lost, Verdict::Violated { .. }), "{lost:?}");
        let unknown = on_starved(&[OK], &[("a", "r1"), ("b", "r9")]);
        assert!(matches!(unknown, Verdict::Violated { .. }), "{unknown:?}");
    }

    #[test]
    fn an_instance_of_another_release_beside_the_wanted_one_is_found() {
        assert!(is_violated(&[UNKNOWN, OK], &[("a", "r1"), ("b", "r2"), ("a", "r2")]));
        assert_eq!(
            verdict(&[OK], &[("a", "r1"), ("a", "r1"), ("b", "r1")]),
            Verdict::Kept,
            "two of the same"
        );
    }

    #[test]
    fn a_node_that_runs_nothing_is_found_once_a_release_was_acknowledged() {
        assert!(is_violated(&[OK], &[("a", "r1")]));
        assert!(is_violated(&[OK], &[("a", "r1"), ("b", "")]));
        assert!(is_violated(&[OK], &[("a", ""), ("b", "")]));
        assert_eq!(verdict(&[UNKNOWN], &[("a", "r1"), ("b", "")]), Verdict::Kept);
        assert_eq!(verdict(&[UNKNOWN], &[("a", ""), ("b", "")]), Verdict::NotTested);
    }

    #[test]
    fn an_acknowledged_release_that_an_earlier_one_took_the_place_of_is_lost() {
        let both = |release: &'static str| [("a", release), ("b", release)];
        assert!(is_violated(&[OK, OK], &both("r1")));
        assert_eq!(verdict(&[OK, OK], &both("r2")), Verdict::Kept);
        assert_eq!(verdict(&[OK, UNKNOWN], &both("r1")), Verdict::Kept);
        assert_eq!(verdict(&[OK, UNKNOWN], &both("r2")), Verdict::Kept);
        assert_eq!(verdict(&[UNKNOWN, OK], &both("r1")), Verdict::Kept, "it may have come late");
        assert!(is_violated(&[OK, REFUSED], &both("r2")), "it was certainly not executed");
    }
}
