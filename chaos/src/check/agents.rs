//! Agents: none ends by itself, unless what was done to it excuses that, and none panics. Want of time
//! excuses neither.

use crate::history::{Event, History};
use crate::report::{Finding, Violations};

pub fn check(history: &History) -> Finding {
    let mut violations = Violations::default();
    let mut looked_at = 0;
    for (at_us, event) in &history.events {
        if let Event::Sample(_) = event {
            looked_at += 1;
        }
        if let Event::Ended(ended) = event {
            looked_at += 1;
            let (at_ms, node, reason) = (at_us / 1_000, &ended.node, &ended.reason);
            violations.add(|| format!("the agent of {node} ended by itself at {at_ms} ms: {reason}"));
        }
    }
    Finding {
        check: "agents",
        promise: "no agent ends unless somebody or its failing disk ends it",
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

    #[test]
    fn one_that_ends_by_itself_is_told() {
        let alive = r#"{"t_us":1,"event":"sample","node":"a","pid":1,"fds":1,"threads":1,"rss_kib":1}"#;
        let ended = r#"{"t_us":2,"event":"ended","node":"a","reason":"panicked"}"#;
        assert_eq!(check(&history(&[alive])).verdict, Verdict::Kept);
        assert_eq!(check(&history(&[])).verdict, Verdict::NotTested);
        assert!(matches!(check(&history(&[alive, ended])).verdict, Verdict::Violated { .. }));
    }
}
