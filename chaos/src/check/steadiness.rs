//! The steady state: before anything is broken and after everything was put right, everybody is answered.

use crate::history::{Event, History, Operation, Outcome, Phase};
use crate::report::{Finding, Verdict, Violations};

pub const NAME: &str = "steady state";

pub fn check(history: &History) -> Finding {
    let begins = |wanted: Phase| {
        let is_it = |event: &Event| matches!(event, Event::Phase { phase } if *phase == wanted);
        history.events.iter().find(|(_, event)| is_it(event)).map(|(at_us, _)| *at_us)
    };
    let finding = |looked_at, verdict, figures| Finding {
        check: NAME,
        promise: "before anything is broken, and once all is put right, everybody is answered",
        looked_at,
        verdict,
        figures,
    };
    let (Some(steady), Some(method)) = (begins(Phase::Steady), begins(Phase::Method)) else {
        return finding(0, Verdict::NotTested, Vec::new());
    };
    let (before, failed_before) = tally(history, steady, method);
    if before == 0 || !failed_before.is_empty() {
        let reason = format!(
            "the farm was not steady before anything was broken: {} of {before} operations failed {}",
            failed_before.len(),
            failed_before.first().map(|failed| told(failed)).unwrap_or_default()
        );
        return finding(before, Verdict::Inconclusive { reason }, Vec::new());
    }
    let mut violations = Violations::default();
    for (_, event) in &history.events {
        if let Event::NotWhole { seconds, status } = event {
            violations.add(|| format!("the farm was not whole within {seconds} s: {status}"));
        }
    }
    let Some(after) = begins(Phase::After) else {
        return finding(before, violations.verdict(0), Vec::new());
    };
    // Reading everything back is part of it.
    let (later, failed) = tally(history, after, i64::MAX);
    for operation in &failed {
        let at_ms = operation.called_us / 1_000;
        violations.add(|| format!("after all was put right, at {at_ms} ms: {}", told(operation)));
    }
    if later == 0 {
        violations.add(|| "nothing was asked after all was put right".to_owned());
    }
    finding(before + later, violations.verdict(before + later), Vec::new())
}

/// How many operations were called within a time, and which of them failed.
fn tally(history: &History, from_us: i64, to_us: i64) -> (u64, Vec<&Operation>) {
    let within = || history.operations.iter().filter(|one| (from_us..to_us).contains(&one.called_us));
    // What was still going on when the next phase began is that phase's.
    let ended = |one: &&Operation| one.returned.as_ref().is_some_and(|(at_us, _)| *at_us < to_us);
    let failed = within().filter(ended).filter(|one| one.ok().is_none());
    (within().count() as u64, failed.collect())
}

fn told(operation: &Operation) -> String {
    let outcome = match &operation.returned {
        Some((_, Outcome::Refused { reason })) => format!("was refused: {reason}"),
        Some((_, Outcome::Unknown { reason })) => format!("came to an unknown end: {reason}"),
        Some((_, Outcome::Ok { .. })) => "was answered".to_owned(),
        None => "was not answered".to_owned(),
    };
    format!("{:?} {outcome}", operation.op)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;

    fn phase(at_us: i64, name: &str) -> String {
        format!(r#"{{"t_us":{at_us},"event":"phase","phase":"{name}"}}"#)
    }

    fn counted(at_us: i64, id: u64, outcome: &str) -> [String; 2] {
        [
            format!(
                r#"{{"t_us":{at_us},"event":"call","id":{id},"client":0,"op":"counter_add","key":"c","delta":1}}"#
            ),
            format!(r#"{{"t_us":{},"event":"return","id":{id},{outcome}}}"#, at_us + 1),
        ]
    }

    const OK: &str = r#""outcome":"ok","value":{"is":"total","total":1}"#;
    const REFUSED: &str = r#""outcome":"refused","reason":"no""#;

    fn verdict(before: &str, between: &str, after: &str) -> Verdict {
        let [first, second, third] = [counted(2, 1, before), counted(12, 2, between), counted(22, 3, after)];
        let phases = [phase(1, "steady"), phase(10, "method"), phase(20, "after")];
        let lines = [
            &phases[0], &first[0], &first[1], &phases[1], &second[0], &second[1], &phases[2], &third[0],
            &third[1],
        ];
        check(&history(&lines.map(String::as_str))).verdict
    }

    #[test]
    fn what_fails_while_things_are_broken_is_no_matter_and_later_it_is() {
        assert_eq!(verdict(OK, OK, OK), Verdict::Kept);
        assert_eq!(verdict(OK, REFUSED, OK), Verdict::Kept);
        assert!(matches!(verdict(OK, OK, REFUSED), Verdict::Violated { .. }));
        assert!(matches!(verdict(REFUSED, OK, OK), Verdict::Inconclusive { .. }));
        assert_eq!(check(&history(&[])).verdict, Verdict::NotTested);
        let never = r#"{"t_us":20,"event":"not_whole","seconds":9,"status":"down"}"#;
        let [call, told] = counted(2, 1, OK);
        let lines = [&phase(1, "steady"), &call, &told, &phase(10, "method"), never].map(str::to_owned);
        let verdict = check(&history(&lines.each_ref().map(String::as_str))).verdict;
        assert!(matches!(verdict, Verdict::Violated { .. }));
    }
}
