//! At most one node acts as controller in an epoch, and no agent obeys an older epoch after a newer one.

use std::collections::BTreeMap;

use crate::history::{Event, History};
use crate::report::{Finding, Violations};

pub fn check(history: &History) -> Finding {
    let mut violations = Violations::default();
    let (mut looked_at, mut refused) = (0, 0_u64);
    let mut rulers: BTreeMap<u64, &str> = BTreeMap::new();
    let mut obeyed: BTreeMap<&str, u64> = BTreeMap::new();
    for (at, event) in &history.events {
        let Event::Acted(act) = event else { continue };
        if !act.accepted {
            refused += 1;
            continue;
        }
        looked_at += 1;
        let ruler = *rulers.entry(act.epoch).or_insert(&act.controller);
        if ruler != act.controller {
            violations.add(|| {
                format!("at {at} us {} acted in epoch {}, which is {ruler}'s", act.controller, act.epoch)
            });
        }
        let newest = obeyed.entry(&act.agent).or_insert(act.epoch);
        if act.epoch < *newest {
            let newest = *newest;
            violations
                .add(|| format!("at {at} us {} obeyed epoch {} after epoch {newest}", act.agent, act.epoch));
        }
        *newest = act.epoch.max(*newest);
    }
    let figures = match looked_at {
        0 => Vec::new(),
        _ => vec![format!("{} epochs, {looked_at} acts obeyed, {refused} refused", rulers.len())],
    };
    Finding {
        check: "epochs",
        promise: "one controller acts at a time",
        looked_at,
        verdict: violations.verdict(looked_at),
        figures,
        is_proof: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;
    use crate::report::Verdict;

    fn verdict(acts: &[(&str, u64, &str, bool)]) -> Verdict {
        let line = |(controller, epoch, agent, accepted): &(&str, u64, &str, bool)| {
            format!(
                r#"{{"t_us":1,"event":"acted","controller":"{controller}","epoch":{epoch},"agent":"{agent}","accepted":{accepted}}}"#
            )
        };
        let lines: Vec<String> = acts.iter().map(line).collect();
        check(&history(&lines.iter().map(String::as_str).collect::<Vec<_>>())).verdict
    }

    #[test]
    fn a_deposed_controller_that_is_obeyed_is_found() {
        assert_eq!(verdict(&[("a", 1, "x", true), ("b", 2, "x", true)]), Verdict::Kept);
        let obeyed = verdict(&[("a", 1, "x", true), ("b", 2, "x", true), ("a", 1, "x", true)]);
        assert!(matches!(obeyed, Verdict::Violated { count: 1, .. }), "{obeyed:?}");
        let refused = verdict(&[("a", 1, "x", true), ("b", 2, "x", true), ("a", 1, "x", false)]);
        assert_eq!(refused, Verdict::Kept);
        // Another agent may hear of the new one later.
        assert_eq!(verdict(&[("a", 1, "x", true), ("b", 2, "x", true), ("a", 1, "y", true)]), Verdict::Kept);
    }

    #[test]
    fn two_controllers_in_one_epoch_are_found() {
        let two = verdict(&[("a", 1, "x", true), ("b", 1, "y", true)]);
        assert!(matches!(two, Verdict::Violated { count: 1, .. }), "{two:?}");
    }
}
