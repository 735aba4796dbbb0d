//! After everything an agent holds about as much as before.

use std::collections::BTreeMap;

use crate::history::{Event, History, Phase, Sample};
use crate::report::{Finding, Violations};

/// Connections that are kept, threads that wait for work: what comes and goes by itself.
const FDS_SLACK: u64 = 64;
const THREADS_SLACK: u64 = 16;
/// Caches that have filled meanwhile.
const RSS_SLACK_KIB: u64 = 128 << 10;

/// Compares each node's last sample of the steady phase with its last one of all. A restarted agent is
/// compared with the one that it replaced: it must not need more either.
pub fn check(history: &History) -> Finding {
    let mut phase = Phase::Steady;
    let (mut before, mut after): (BTreeMap<&str, &Sample>, BTreeMap<&str, &Sample>) = Default::default();
    for (_, event) in &history.events {
        if let Event::Phase { phase: now } = event {
            phase = *now;
        }
        let Event::Sample(sample) = event else { continue };
        match phase {
            Phase::Steady => drop(before.insert(&sample.node, sample)),
            Phase::Final => drop(after.insert(&sample.node, sample)),
            Phase::Method | Phase::Recovery | Phase::After => {}
        }
    }
    let mut violations = Violations::default();
    let mut looked_at = 0;
    for (node, before) in before {
        let Some(after) = after.get(node) else { continue };
        looked_at += 1;
        let grown = [
            ("descriptors", before.fds, after.fds, FDS_SLACK),
            ("threads", before.threads, after.threads, THREADS_SLACK),
            ("KiB", before.rss_kib, after.rss_kib, RSS_SLACK_KIB),
        ];
        for (what, before, after, slack) in grown {
            if after > before.saturating_add(before / 2).saturating_add(slack) {
                violations.add(|| format!("{node} held {before} {what}, and holds {after} at the end"));
            }
        }
    }
    Finding {
        check: "leaks",
        promise: "an agent holds no more after the faults than before",
        looked_at,
        verdict: violations.verdict(looked_at),
        figures: Vec::new(),
        is_proof: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;
    use crate::report::Verdict;

    fn verdict(fds: u64, rss_kib: u64) -> Verdict {
        let sample = |fds: u64, rss_kib: u64| {
            format!(
                r#"{{"t_us":1,"event":"sample","node":"a","pid":1,"fds":{fds},"threads":9,"rss_kib":{rss_kib}}}"#
            )
        };
        let phase = r#"{"t_us":1,"event":"phase","phase":"final"}"#;
        check(&history(&[&sample(100, 30_000), phase, &sample(fds, rss_kib)])).verdict
    }

    #[test]
    fn what_has_grown_far_beyond_what_it_was_is_a_leak() {
        assert_eq!(verdict(120, 60_000), Verdict::Kept);
        assert!(matches!(verdict(1_000, 60_000), Verdict::Violated { count: 1, .. }));
        assert!(matches!(verdict(1_000, 900_000), Verdict::Violated { count: 2, .. }));
    }
}
