//! When all is healed every node runs the same release of an app, and one that somebody asked for.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Event, History, Op};
use crate::report::{Finding, Violations};

pub fn check(history: &History) -> Finding {
    let mut violations = Violations::default();
    let mut asked: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for operation in &history.operations {
        if let Op::Deploy { app, release } = &operation.op {
            asked.entry(app).or_default().insert(release);
        }
    }
    // What a node said last.
    let mut runs: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for (_, event) in &history.events {
        if let Event::Runs { node, app, release } = event {
            runs.insert((app, node), release);
        }
    }
    let looked_at = runs.len() as u64;
    let mut releases: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for ((app, node), release) in runs {
        releases.entry(app).or_default().entry(release).or_default().push(node);
    }
    for (app, releases) in &releases {
        if releases.len() > 1 {
            violations.add(|| format!("{app} runs in several releases at the end: {releases:?}"));
        }
        for (release, nodes) in releases {
            if !asked.get(app).is_some_and(|asked| asked.contains(release)) {
                violations.add(|| format!("{nodes:?} run {release} of {app}, which nobody has deployed"));
            }
        }
    }
    Finding {
        check: "deploys",
        promise: "all nodes end on one release that was asked for",
        looked_at,
        verdict: violations.verdict(looked_at),
        figures: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;
    use crate::report::Verdict;

    fn verdict(runs: &[(&str, &str)]) -> Verdict {
        let deploy = |id: u64, release: &str| {
            format!(
                r#"{{"t_us":1,"event":"call","id":{id},"client":0,"op":"deploy","app":"shop","release":"{release}"}}"#
            )
        };
        let mut lines = vec![deploy(1, "r1"), deploy(2, "r2")];
        for (node, release) in runs {
            lines.push(format!(
                r#"{{"t_us":2,"event":"runs","node":"{node}","app":"shop","release":"{release}"}}"#
            ));
        }
        check(&history(&lines.iter().map(String::as_str).collect::<Vec<_>>())).verdict
    }

    #[test]
    fn a_mixture_and_an_unwanted_release_are_found() {
        assert_eq!(verdict(&[("a", "r1"), ("b", "r1")]), Verdict::Kept);
        assert_eq!(verdict(&[("a", "r1"), ("b", "r2"), ("a", "r2")]), Verdict::Kept, "the last word counts");
        assert!(matches!(verdict(&[("a", "r1"), ("b", "r2")]), Verdict::Violated { .. }));
        assert!(matches!(verdict(&[("a", "r3"), ("b", "r3")]), Verdict::Violated { .. }));
        assert_eq!(verdict(&[]), Verdict::NotTested);
    }
}
