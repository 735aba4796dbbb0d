//! The steady state: before anything is broken and after everything was put right, everybody is answered.

use std::collections::BTreeSet;

use crate::history::{Event, History, Op, Operation, Outcome, Phase};
use crate::pressure::Starvation;
use crate::report::{Finding, Verdict, Violations};

/// Who asked before all was put right may be told so late that nobody answered: clients of ours wait ten
/// seconds for an answer.
const GRACE_US: i64 = 12_000_000;

/// A history without phases has no steady state to judge. One that has some and ends before the last of them
/// is of an experiment that was not brought to its end: what was to come may have failed.
pub fn check(history: &History) -> Finding {
    let begins = |wanted: Phase| {
        let is_it = |event: &Event| matches!(event, Event::Phase { phase } if *phase == wanted);
        history.events.iter().find(|(_, event)| is_it(event)).map(|(at_us, _)| *at_us)
    };
    let finding = |looked_at, verdict| Finding {
        check: "steady state",
        promise: "before anything is broken, and once all is put right, everybody is answered",
        looked_at,
        verdict,
        figures: Vec::new(),
        is_proof: true,
    };
    let inconclusive = |reason: &str| Verdict::Inconclusive { reason: reason.to_owned() };
    let (steady, method) = match (begins(Phase::Steady), begins(Phase::Method)) {
        (Some(steady), Some(method)) => (steady, method),
        (None, None) => return finding(0, Verdict::NotTested),
        (Some(_), None) => return finding(0, inconclusive("it ends before anything was broken")),
        (None, Some(_)) => return finding(0, inconclusive("nobody was asked before something was broken")),
    };
    let before = Tally::of(history, steady, method);
    if let Some(reason) = before.unsteady() {
        return finding(before.called, inconclusive(&reason));
    }
    let mut violations = Violations::default();
    let starvation = Starvation::of(history);
    whole(history, &starvation, &mut violations);
    let Some(after) = begins(Phase::After) else {
        violations.doubt(|| "it ends before all was put right".to_owned());
        return finding(before.called, violations.verdict(before.called));
    };
    let is_finished = begins(Phase::Final).is_some();
    if !is_finished {
        violations.doubt(|| "it ends before everything was read back".to_owned());
    }
    // Reading everything back is part of it.
    let later = Tally::of(history, after, i64::MAX);
    // Who was cut off in the middle of a call does not know how it ends.
    let silent = later.silent.iter().filter(|_| is_finished && !history.is_cut);
    for operation in later.failed.iter().chain(silent) {
        let ended_us = operation.returned.as_ref().map_or(i64::MAX, |(at_us, _)| *at_us);
        violations.add_late(starvation.excuses(operation.called_us, ended_us), || {
            let at_ms = operation.called_us / 1_000;
            format!("after all was put right, at {at_ms} ms: {}", told(operation))
        });
    }
    if is_finished && !history.is_cut {
        Overdue { history, after, starvation: &starvation }.judge(&mut violations);
    }
    if later.called == 0 && is_finished {
        let is_excused = starvation.excuses(after, i64::MAX);
        violations.add_late(is_excused, || "nothing was asked after all was put right".to_owned());
    }
    let looked_at = before.called + later.called;
    finding(looked_at, violations.verdict(looked_at))
}

/// Calls that were made before all was put right and had no answer yet.
///
/// A call may be lost in what was broken, and its client may wait for it as long as he likes: so one that ends
/// badly soon afterwards is no matter, if its client is answered later on. A server that hangs, from before
/// to the end, is known by clients whom nobody answers any more. A rollout that was begun while nodes were down
/// may fail of that as late as it likes, and what came of it is judged by what runs.
struct Overdue<'a> {
    history: &'a History,
    after: i64,
    starvation: &'a Starvation,
}

impl Overdue<'_> {
    fn judge(&self, violations: &mut Violations) {
        let answered = self.answered();
        let healed_us = self.healed_us();
        let is_rollout = |one: &Operation| matches!(one.op, Op::Deploy { .. });
        let earlier = self.history.operations.iter().filter(|one| one.called_us < self.after);
        for operation in earlier.filter(|one| !is_rollout(one)) {
            let ended_us = operation.returned.as_ref().map_or(i64::MAX, |(at_us, _)| *at_us);
            if ended_us < self.after || operation.succeeded() {
                continue;
            }
            let is_starved = self.starvation.excuses(operation.called_us, ended_us);
            let words = || format!("asked at {} ms: {}", operation.called_us / 1_000, told(operation));
            if ended_us.saturating_sub(self.after) > GRACE_US {
                let words = || format!("long after all was put right, who was {}", words());
                violations.add_late(is_starved, words);
                continue;
            }
            let Some(client) = operation.client.filter(|client| !answered.contains(client)) else { continue };
            let words = || format!("client {client} was never answered after all was put right; {}", words());
            if operation.called_us >= healed_us {
                violations.add_late(is_starved, words);
            } else {
                violations.doubt(|| format!("{}; it asked while something was broken", words()));
            }
        }
    }

    /// Who was told of success from then on.
    fn answered(&self) -> BTreeSet<u32> {
        let is_later = |one: &&Operation| one.ok().is_some_and(|(at_us, _)| at_us >= self.after);
        let answered = self.history.operations.iter().filter(|one| one.succeeded()).filter(is_later);
        answered.filter_map(|one| one.client).collect()
    }

    /// When the last fault ended.
    fn healed_us(&self) -> i64 {
        let ends = |event: &Event| matches!(event, Event::Fault(fault) if !fault.begins);
        self.history.events.iter().filter(|(_, event)| ends(event)).map(|(at, _)| *at).max().unwrap_or(0)
    }
}

/// A farm that takes too long is late, too.
fn whole(history: &History, starvation: &Starvation, violations: &mut Violations) {
    for (at_us, event) in &history.events {
        if let Event::NotWhole { seconds, status } = event {
            let waited_us = i64::try_from(*seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            violations.add_late(starvation.excuses(at_us.saturating_sub(waited_us), *at_us), || {
                format!("the farm was not whole within {seconds} s: {status}")
            });
        }
    }
}

/// The operations that were called within a time.
struct Tally<'a> {
    called: u64,
    /// Refused, of unknown end, or answered that it failed.
    failed: Vec<&'a Operation>,
    /// Never answered at all.
    silent: Vec<&'a Operation>,
}

impl<'a> Tally<'a> {
    /// What was still going on when the next phase began is that phase's.
    fn of(history: &'a History, from_us: i64, to_us: i64) -> Self {
        let mut tally = Self { called: 0, failed: Vec::new(), silent: Vec::new() };
        for operation in &history.operations {
            if !(from_us..to_us).contains(&operation.called_us) {
                continue;
            }
            tally.called += 1;
            match &operation.returned {
                Some((at_us, _)) if *at_us < to_us && !operation.succeeded() => tally.failed.push(operation),
                Some(_) => {}
                None => tally.silent.push(operation),
            }
        }
        tally
    }

    /// Why this is no steady state to begin with.
    fn unsteady(&self) -> Option<String> {
        let failed = self.failed.first().map(|failed| told(failed));
        (self.called == 0 || failed.is_some()).then(|| {
            format!(
                "the farm was not steady before anything was broken: {} of {} operations failed {}",
                self.failed.len(),
                self.called,
                failed.unwrap_or_default()
            )
        })
    }
}

fn told(operation: &Operation) -> String {
    let outcome = match &operation.returned {
        Some((_, Outcome::Refused { reason })) => format!("was refused: {reason}"),
        Some((_, Outcome::Unknown { reason })) => format!("came to an unknown end: {reason}"),
        Some((_, Outcome::Ok { value })) => format!("was answered with {value:?}"),
        None => "was not answered".to_owned(),
    };
    format!("{:?} {outcome}", operation.op)
}

#[cfg(test)]
mod tests;
