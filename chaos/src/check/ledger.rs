//! Whatever was acknowledged is there.

use std::collections::BTreeSet;

use crate::history::{History, Op, Value};
use crate::report::{Finding, Violations};

/// Entries that were acknowledged before a read was called are in what it says. What nobody ever tried to
/// add is in none.
pub fn check(history: &History) -> Finding {
    let mut violations = Violations::default();
    let mut looked_at = 0;
    let (mut tried, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let mut acknowledged: Vec<(i64, &str)> = Vec::new();
    let mut unknown = 0_u64;
    for operation in &history.operations {
        let Op::LedgerAdd { entry } = &operation.op else { continue };
        tried.insert(entry.as_str());
        match operation.ok() {
            Some((at, _)) => acknowledged.push((at, entry)),
            None if operation.was_refused() => drop(refused.insert(entry.as_str())),
            None => unknown += 1,
        }
    }
    acknowledged.sort_unstable();
    let mut reads = 0_u64;
    for operation in &history.operations {
        let Some((_, Value::Entries { entries })) = operation.ok() else { continue };
        reads += 1;
        let found: BTreeSet<&str> = entries.iter().map(String::as_str).collect();
        for (at, entry) in acknowledged.iter().take_while(|(at, _)| *at < operation.called_us) {
            looked_at += 1;
            if !found.contains(entry) {
                violations.add(|| {
                    format!(
                        "{entry}, acknowledged at {at} us, is lost in the read of {} us",
                        operation.called_us
                    )
                });
            }
        }
        for entry in found {
            if !tried.contains(entry) {
                violations.add(|| format!("{entry} is there, and nobody has added it"));
            } else if refused.contains(entry) {
                violations.add(|| format!("{entry} is there, and was refused as not executed"));
            }
        }
    }
    let figures = match reads {
        0 => Vec::new(),
        _ => vec![format!(
            "{} acknowledged, {} refused, {unknown} unknown; {reads} reads",
            acknowledged.len(),
            refused.len()
        )],
    };
    Finding {
        check: "ledger",
        promise: "what was acknowledged is there",
        looked_at,
        verdict: violations.verdict(looked_at),
        figures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;
    use crate::report::Verdict;

    const ADD: &str = r#"{"t_us":1,"event":"call","id":1,"client":0,"op":"ledger_add","entry":"a"}"#;
    const ADDED: &str = r#"{"t_us":5,"event":"return","id":1,"outcome":"ok","value":{"is":"done"}}"#;
    const REFUSED: &str = r#"{"t_us":5,"event":"return","id":1,"outcome":"refused","reason":"r"}"#;
    const READ: &str = r#"{"t_us":6,"event":"call","id":2,"client":0,"op":"ledger_read"}"#;

    fn found(entries: &str) -> String {
        format!(
            r#"{{"t_us":9,"event":"return","id":2,"outcome":"ok","value":{{"is":"entries","entries":[{entries}]}}}}"#
        )
    }

    fn is_kept(lines: &[&str]) -> bool {
        match check(&history(lines)).verdict {
            Verdict::Kept | Verdict::NotTested => true,
            Verdict::Violated { .. } => false,
            Verdict::Inconclusive { reason } => panic!("{reason}"),
        }
    }

    #[test]
    fn an_acknowledged_entry_that_is_not_there_is_lost() {
        assert!(is_kept(&[ADD, ADDED, READ, &found("\"a\"")]));
        assert!(!is_kept(&[ADD, ADDED, READ, &found("")]));
    }

    #[test]
    fn an_entry_of_unknown_outcome_may_be_there_or_not_and_a_refused_one_may_not() {
        assert!(is_kept(&[ADD, READ, &found("")]));
        assert!(is_kept(&[ADD, READ, &found("\"a\"")]));
        assert!(is_kept(&[ADD, REFUSED, READ, &found("")]));
        assert!(!is_kept(&[ADD, REFUSED, READ, &found("\"a\"")]));
        assert!(!is_kept(&[READ, &found("\"b\"")]));
    }

    #[test]
    fn an_entry_that_is_acknowledged_while_it_is_read_may_be_missing() {
        let late = ADDED.replace("\"t_us\":5", "\"t_us\":8");
        assert!(is_kept(&[ADD, READ, &late, &found("")]));
    }

    #[test]
    fn without_a_read_nothing_was_tested() {
        assert_eq!(check(&history(&[ADD, ADDED])).verdict, Verdict::NotTested);
    }
}
