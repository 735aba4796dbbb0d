//! The host: what happened on one that was short of processor proves little, whatever it was.

use crate::history::{Event, History};
use crate::pressure::Seconds;
use crate::report::{Finding, Verdict};

pub fn check(history: &History) -> Finding {
    let mut seconds = Seconds::default();
    let (mut worst_ms, mut others_percent) = (0, 0);
    for (_, event) in &history.events {
        if let Event::Pressure(sample) = event {
            seconds.add(*sample);
            worst_ms = worst_ms.max(sample.late_ms);
            others_percent = others_percent.max(sample.others_percent);
        }
    }
    let verdict = if seconds.all == 0 {
        Verdict::NotTested
    } else if seconds.are_starved() {
        let Seconds { all, starved } = seconds;
        let reason = format!("the host was starved of processor in {starved} of {all} seconds");
        Verdict::Inconclusive { reason }
    } else {
        Verdict::Kept
    };
    let figures = match seconds.all {
        0 => Vec::new(),
        _ => vec![format!(
            "a thread of ours woke up to {worst_ms} ms late; others took up to {others_percent} % of the processors"
        )],
    };
    Finding {
        check: "host",
        promise: "this machine had time for the farm and for its clients",
        looked_at: seconds.all,
        verdict,
        figures,
        is_proof: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;

    #[test]
    fn a_starved_host_proves_nothing() {
        let second = |at: usize, late_ms: u64| {
            format!(
                r#"{{"t_us":{at},"event":"pressure","late_ms":{late_ms},"lost_percent":1,"steal_percent":0,"busy_percent":9}}"#
            )
        };
        let verdict = |starved: usize| {
            let lines: Vec<String> =
                (0..20).map(|at| second(at, if at < starved { 900 } else { 3 })).collect();
            check(&history(&lines.iter().map(String::as_str).collect::<Vec<_>>())).verdict
        };
        assert_eq!(verdict(2), Verdict::Kept);
        assert!(matches!(verdict(5), Verdict::Inconclusive { .. }));
        assert_eq!(check(&history(&[])).verdict, Verdict::NotTested);
    }
}
