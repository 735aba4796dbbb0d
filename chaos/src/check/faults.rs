//! Faults: what was to be broken was broken. One that has hit nobody tests nothing, whatever its name says.

use crate::history::{Event, FaultEvent, History};
use crate::report::{Finding, Violations};

/// Of those that tell how often they bit: not at all is no test. Where another fault hit the same node at the
/// time there may have been nothing left to be hit.
pub fn check(history: &History) -> Finding {
    let mut doubts = Violations::default();
    let faults = faults(history);
    let mut figures = Vec::new();
    for (place, fault) in faults.iter().enumerate() {
        let Some(bit) = fault.bit else { continue };
        let (name, nodes) = (&fault.begun.fault, fault.begun.targets.join(", "));
        figures.push(format!("{name} at {nodes} bit {bit} times"));
        let others = faults.iter().enumerate().filter(|(other, _)| *other != place);
        if bit == 0 && !others.into_iter().any(|(_, other)| fault.meets(other)) {
            doubts.doubt(|| format!("{name} at {nodes} has hit nobody"));
        }
    }
    let more = figures.len().saturating_sub(FIGURES_MAX);
    figures.truncate(FIGURES_MAX);
    if more > 0 {
        figures.push(format!("and {more} more"));
    }
    let looked_at = faults.len() as u64;
    Finding {
        check: "faults",
        promise: "what was to be broken was broken",
        looked_at,
        verdict: doubts.verdict(looked_at),
        figures,
        is_proof: false,
    }
}

/// Faults that are told one by one.
const FIGURES_MAX: usize = 10;

struct Fault<'a> {
    begun: &'a FaultEvent,
    from_us: i64,
    to_us: i64,
    bit: Option<u64>,
}

impl Fault<'_> {
    /// Whether both hit a node at a time.
    fn meets(&self, other: &Self) -> bool {
        self.from_us <= other.to_us
            && other.from_us <= self.to_us
            && self.begun.hits().any(|node| other.begun.hits().any(|one| one == node))
    }
}

/// Those that have begun, with what their ends say of them.
fn faults(history: &History) -> Vec<Fault<'_>> {
    let mut faults: Vec<Fault<'_>> = Vec::new();
    for (at_us, event) in &history.events {
        let Event::Fault(told) = event else { continue };
        if told.begins {
            faults.push(Fault { begun: told, from_us: *at_us, to_us: i64::MAX, bit: None });
            continue;
        }
        let is_it = |one: &&mut Fault<'_>| {
            one.to_us == i64::MAX && one.begun.fault == told.fault && one.begun.targets == told.targets
        };
        if let Some(open) = faults.iter_mut().rev().find(is_it) {
            (open.to_us, open.bit) = (*at_us, told.bit);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;
    use crate::report::Verdict;

    fn fault(at_us: i64, name: &str, begins: bool, bit: Option<u64>) -> String {
        let bit = bit.map_or(String::new(), |bit| format!(r#","bit":{bit}"#));
        format!(
            r#"{{"t_us":{at_us},"event":"fault","fault":"{name}","targets":["a"],"begins":{begins}{bit}}}"#
        )
    }

    fn verdict(lines: &[String]) -> Verdict {
        check(&history(&lines.iter().map(String::as_str).collect::<Vec<_>>())).verdict
    }

    #[test]
    fn a_fault_that_did_not_bite_is_no_test() {
        let memory = |bit| vec![fault(1, "memory", true, None), fault(9, "memory", false, bit)];
        assert_eq!(verdict(&memory(Some(3))), Verdict::Kept);
        assert_eq!(verdict(&memory(None)), Verdict::Kept, "nobody knows");
        assert!(matches!(verdict(&memory(Some(0))), Verdict::Inconclusive { .. }));
        assert_eq!(verdict(&memory(Some(0))[..1]), Verdict::Kept, "it has not ended");
        assert_eq!(verdict(&[]), Verdict::NotTested);
    }

    #[test]
    fn whom_another_fault_has_hit_need_not_be_there_to_be_hit() {
        let both = [
            fault(1, "pause", true, None),
            fault(2, "cpu", true, None),
            fault(8, "cpu", false, Some(0)),
            fault(9, "pause", false, None),
        ];
        assert_eq!(verdict(&both), Verdict::Kept);
        let apart =
            [&both[..1], &[both[3].replace("9", "2")], &[fault(3, "cpu", true, None), both[2].clone()]];
        assert!(matches!(verdict(&apart.concat()), Verdict::Inconclusive { .. }));
    }
}
