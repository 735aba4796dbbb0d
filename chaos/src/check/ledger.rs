//! Whatever was acknowledged is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{History, Op, Value};
use crate::report::{Finding, Violations};

pub const NAME: &str = "ledger";

/// Entries that were acknowledged before a read was called are in what it says. What nobody ever tried to
/// add is in none. What was acknowledged after the last read was called may be lost, and nobody has looked.
pub fn check(history: &History) -> Finding {
    let mut violations = Violations::default();
    let adds = Adds::of(history);
    let mut acknowledged = Acknowledged::new(&adds);
    let (mut reads, mut last_us) = (0_u64, i64::MIN);
    for operation in &history.operations {
        let Some((_, Value::Entries { entries })) = operation.ok() else { continue };
        reads += 1;
        // Reads come in the order of their calls.
        last_us = operation.called_us;
        let found: BTreeSet<&str> = entries.iter().map(String::as_str).collect();
        for (at, entry) in acknowledged.lost_in(operation.called_us, &found) {
            violations.add(|| {
                format!("{entry}, acknowledged at {at} us, is lost in the read of {} us", operation.called_us)
            });
        }
        for entry in found {
            if !adds.tried.contains(entry) {
                violations.add(|| format!("{entry} is there, and nobody has added it"));
            } else if adds.refused.contains(entry) {
                violations.add(|| format!("{entry} is there, and was refused as not executed"));
            }
        }
    }
    let looked_at = adds.acknowledged.values().filter(|at| **at < last_us).count() as u64;
    let unread = adds.acknowledged.len() as u64 - looked_at;
    if reads > 0 && unread > 0 {
        violations.doubt(|| format!("{unread} entries were acknowledged after the last read was called"));
    }
    let figures = match reads {
        0 => Vec::new(),
        _ => vec![format!(
            "{} acknowledged, {} refused, {} unknown; {reads} reads",
            adds.acknowledged.len(),
            adds.refused.len(),
            adds.unknown
        )],
    };
    Finding {
        check: NAME,
        promise: "what was acknowledged is there",
        looked_at,
        verdict: violations.verdict(looked_at),
        figures,
        is_proof: true,
    }
}

/// What became of what clients tried to add.
#[derive(Default)]
struct Adds<'a> {
    tried: BTreeSet<&'a str>,
    /// And when.
    acknowledged: BTreeMap<&'a str, i64>,
    refused: BTreeSet<&'a str>,
    unknown: u64,
}

impl<'a> Adds<'a> {
    fn of(history: &'a History) -> Self {
        let mut adds = Self::default();
        for operation in &history.operations {
            let Op::LedgerAdd { entry } = &operation.op else { continue };
            adds.tried.insert(entry);
            match operation.ok() {
                Some((at, _)) => drop(adds.acknowledged.insert(entry, at)),
                None if operation.was_refused() => drop(adds.refused.insert(entry)),
                None => adds.unknown += 1,
            }
        }
        adds
    }
}

/// Entries that have to be in a read, by the time from which on they have to.
struct Acknowledged<'a> {
    /// Those that no read has missed yet, in order.
    by_time: Vec<(i64, &'a str)>,
    at: BTreeMap<&'a str, i64>,
}

impl<'a> Acknowledged<'a> {
    fn new(adds: &Adds<'a>) -> Self {
        let mut by_time: Vec<_> = adds.acknowledged.iter().map(|(entry, at)| (*at, *entry)).collect();
        by_time.sort_unstable();
        Self { by_time, at: adds.acknowledged.clone() }
    }

    /// Those that a read has lost. Each is told once, so that all reads together take about as long as they
    /// are: what has to be there is counted, and looked for one by one only where some of it is missing.
    fn lost_in(&mut self, called_us: i64, found: &BTreeSet<&str>) -> Vec<(i64, &'a str)> {
        let wanted = self.by_time.partition_point(|(at, _)| *at < called_us);
        let there = found.iter().filter(|entry| self.at.get(**entry).is_some_and(|at| *at < called_us));
        if there.count() == wanted {
            return Vec::new();
        }
        let lost: Vec<_> =
            self.by_time[..wanted].iter().filter(|(_, entry)| !found.contains(entry)).copied().collect();
        for (_, entry) in &lost {
            self.at.remove(entry);
        }
        self.by_time.retain(|(_, entry)| self.at.contains_key(entry));
        lost
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
            Verdict::Kept | Verdict::NotTested | Verdict::Inconclusive { .. } => true,
            Verdict::Violated { .. } => false,
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
    fn what_was_acknowledged_after_the_last_read_was_not_looked_for() {
        let late = ADDED.replace("\"t_us\":5", "\"t_us\":8");
        let finding = check(&history(&[ADD, READ, &late, &found("\"a\"")]));
        assert!(matches!(finding.verdict, Verdict::Inconclusive { .. }), "{finding:?}");
        assert_eq!(finding.looked_at, 0);
        // What was looked for and lost is lost all the same.
        let other = ADD.replace("\"id\":1", "\"id\":7").replace("\"a\"", "\"b\"");
        let added = ADDED.replace("\"id\":1", "\"id\":7");
        let finding = check(&history(&[ADD, &other, &added, READ, &late, &found("")]));
        assert!(matches!(finding.verdict, Verdict::Violated { count: 1, .. }), "{finding:?}");
    }

    #[test]
    fn an_entry_counts_once_however_often_it_is_read_or_lost() {
        let again = READ.replace("\"id\":2", "\"id\":3").replace("\"t_us\":6", "\"t_us\":11");
        let then = |entries: &str| {
            found(entries).replace("\"id\":2", "\"id\":3").replace("\"t_us\":9", "\"t_us\":12")
        };
        let kept = check(&history(&[ADD, ADDED, READ, &found("\"a\""), &again, &then("\"a\"")]));
        assert_eq!((kept.verdict, kept.looked_at), (Verdict::Kept, 1));
        let lost = check(&history(&[ADD, ADDED, READ, &found(""), &again, &then("")]));
        assert!(matches!(lost.verdict, Verdict::Violated { count: 1, .. }), "{lost:?}");
    }

    #[test]
    fn many_reads_that_miss_many_entries_are_judged_at_once() {
        const MANY: u64 = 20_000;
        let mut lines = Vec::new();
        for number in 0..MANY {
            let id = format!("\"id\":{number},");
            let entry = format!("\"{number}\"");
            lines.push(ADD.replace("\"id\":1,", &id).replace("\"a\"", &entry));
        }
        for number in 0..MANY {
            lines.push(ADDED.replace("\"id\":1,", &format!("\"id\":{number},")));
        }
        for number in MANY..2 * MANY {
            let id = format!("\"id\":{number},");
            lines.push(READ.replace("\"id\":2,", &id));
            lines.push(found("").replace("\"id\":2,", &id).replace("\"t_us\":9", "\"t_us\":6"));
        }
        let history = history(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let began = std::time::Instant::now();
        let verdict = check(&history).verdict;
        assert!(matches!(verdict, Verdict::Violated { count: MANY, .. }), "{verdict:?}");
        // Read by read and entry by entry it would be 400 million.
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    }

    #[test]
    fn without_a_read_nothing_was_tested() {
        assert_eq!(check(&history(&[ADD, ADDED])).verdict, Verdict::NotTested);
    }
}
