//! What the checkers say, for people and for programs.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

/// The exit codes. They are part of the contract: scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Kept,
    Violated,
    /// The history, or the tool itself.
    Harness,
    /// Somebody stopped it.
    Aborted,
    Inconclusive,
}

impl Exit {
    /// What an exit code says, if it is one of them.
    pub fn of(code: i32) -> Option<Self> {
        let all = [Self::Kept, Self::Violated, Self::Harness, Self::Aborted, Self::Inconclusive];
        all.into_iter().find(|exit| i32::from(exit.code()) == code)
    }

    pub fn code(self) -> u8 {
        match self {
            Self::Kept => 0,
            Self::Violated => 1,
            Self::Harness => 2,
            Self::Aborted => 3,
            Self::Inconclusive => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What came of one promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Kept,
    /// What broke it, the first ones.
    Violated {
        violations: Vec<String>,
        count: u64,
    },
    /// The history has nothing to judge it by.
    NotTested,
    Inconclusive {
        reason: String,
    },
}

/// A promise, and how it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The checker's name.
    pub check: &'static str,
    /// What is promised.
    pub promise: &'static str,
    /// How many things were looked at.
    pub looked_at: u64,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What else is worth telling, such as the longest gap.
    pub figures: Vec<String>,
    /// Whether keeping it says anything of the farm. A host that had time, and agents of which nobody asks
    /// anything, keep what is promised of them by doing nothing.
    #[serde(skip)]
    pub is_proof: bool,
}

/// Violations, and doubts, that are told one by one.
const TOLD_MAX: usize = 10;

/// Collects what breaks a promise, and what can not be judged.
#[derive(Debug, Default)]
pub struct Violations {
    told: Vec<String>,
    count: u64,
    doubts: Vec<String>,
    doubt_count: u64,
}

impl Violations {
    pub fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(what());
        }
    }

    /// What has to happen within a time breaks a promise only where the host had time for it.
    pub fn add_late(&mut self, was_starved: bool, what: impl FnOnce() -> String) {
        if was_starved {
            self.doubt(|| format!("on a starved host: {}", what()));
        } else {
            self.add(what);
        }
    }

    /// What keeps a promise from being called kept, and breaks none.
    pub fn doubt(&mut self, what: impl FnOnce() -> String) {
        self.doubt_count += 1;
        if self.doubts.len() < TOLD_MAX {
            self.doubts.push(what());
        }
    }

    /// The verdict over so many things that were looked at. What is broken is so whatever else is in doubt.
    pub fn verdict(self, looked_at: u64) -> Verdict {
        match (self.count, self.doubt_count, looked_at) {
            (0, 0, 0) => Verdict::NotTested,
            (0, 0, _) => Verdict::Kept,
            (0, all, _) => {
                let untold = match all - self.doubts.len() as u64 {
                    0 => String::new(),
                    more => format!("; and {more} more"),
                };
                Verdict::Inconclusive { reason: self.doubts.join("; ") + &untold }
            }
            (count, _, _) => Verdict::Violated { violations: self.told, count },
        }
    }
}

/// All findings about one history.
#[derive(Debug, Serialize)]
pub struct Report {
    pub experiment: String,
    pub seed: u64,
    /// The history's last line was cut.
    pub is_cut: bool,
    pub findings: Vec<Finding>,
}

impl Report {
    /// A broken promise outweighs everything; a history that tests nothing proves nothing.
    pub fn exit(&self) -> Exit {
        let any = |is_one: fn(&Finding) -> bool| self.findings.iter().any(is_one);
        if any(|finding| matches!(finding.verdict, Verdict::Violated { .. })) {
            Exit::Violated
        } else if any(|finding| matches!(finding.verdict, Verdict::Inconclusive { .. }))
            || !any(|finding| finding.is_proof && finding.verdict == Verdict::Kept)
        {
            Exit::Inconclusive
        } else {
            Exit::Kept
        }
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data always serialises")
    }

    pub fn text(&self) -> String {
        let mut text = format!("{}, seed {}\n", one_line(&self.experiment), self.seed);
        if self.is_cut {
            text += "the history's last line was cut; what it said is left out\n";
        }
        for finding in &self.findings {
            let (word, detail) = match &finding.verdict {
                Verdict::Kept => ("kept", confidence(finding.looked_at)),
                Verdict::Violated { count, .. } => {
                    ("VIOLATED", format!("{count} times in {}", finding.looked_at))
                }
                Verdict::NotTested => ("not tested", String::new()),
                Verdict::Inconclusive { reason } => ("no verdict", reason.clone()),
            };
            // Writing into a String does not fail.
            let _ = writeln!(text, "{word:<11}{:<14}{}", finding.check, finding.promise);
            for line in std::iter::once(&detail).filter(|line| !line.is_empty()).chain(&finding.figures) {
                let _ = writeln!(text, "{:<25}{}", "", one_line(line));
            }
            if let Verdict::Violated { violations, count } = &finding.verdict {
                for violation in violations {
                    let _ = writeln!(text, "{:<25}- {}", "", one_line(violation));
                }
                let untold = count - violations.len() as u64;
                if untold > 0 {
                    let _ = writeln!(text, "{:<25}- and {untold} more", "");
                }
            }
        }
        text
    }
}

/// What "none of so many" says: with 95 % confidence the rate is below three in so many (the rule of
/// three: Hanley and Lippman-Hand, JAMA 1983).
pub fn confidence(looked_at: u64) -> String {
    match looked_at {
        0 => String::new(),
        1..=3 => format!("none of {looked_at}"),
        _ => format!("none of {looked_at}: below {:.2e} with 95 % confidence", 3.0 / looked_at as f64),
    }
}

/// A history may come from anywhere: what it says must not move the terminal's cursor.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Report {
        let finding = |verdict: &Verdict| Finding {
            check: "ledger",
            promise: "p",
            looked_at: 5,
            verdict: verdict.clone(),
            figures: Vec::new(),
            is_proof: true,
        };
        let findings = verdicts.iter().map(finding).collect();
        Report { experiment: "x\u{1b}[2J".to_owned(), seed: 1, is_cut: false, findings }
    }

    #[test]
    fn the_worst_finding_decides() {
        let inconclusive = Verdict::Inconclusive { reason: "too hard".to_owned() };
        let violated = Verdict::Violated { violations: vec!["lost".to_owned()], count: 1 };
        let exit = |verdicts: &[Verdict]| report(verdicts).exit();
        assert_eq!(exit(&[Verdict::Kept, Verdict::NotTested]), Exit::Kept);
        assert_eq!(exit(&[Verdict::Kept, inconclusive.clone()]), Exit::Inconclusive);
        assert_eq!(exit(&[inconclusive, violated, Verdict::Kept]), Exit::Violated);
        assert_eq!(exit(&[Verdict::NotTested]), Exit::Inconclusive, "nothing was proved");
        let mut idle = report(&[Verdict::Kept]);
        idle.findings[0].is_proof = false;
        assert_eq!(idle.exit(), Exit::Inconclusive, "an idle farm keeps it too");
    }

    #[test]
    fn a_doubt_breaks_nothing_and_keeps_nothing() {
        let verdict = |is_starved: bool, is_broken: bool| {
            let mut violations = Violations::default();
            violations.add_late(is_starved, || "late".to_owned());
            if is_broken {
                violations.add(|| "lost".to_owned());
            }
            violations.verdict(5)
        };
        assert!(matches!(verdict(false, false), Verdict::Violated { count: 1, .. }));
        let reason = "on a starved host: late".to_owned();
        assert_eq!(verdict(true, false), Verdict::Inconclusive { reason });
        assert_eq!(verdict(true, true), Verdict::Violated { violations: vec!["lost".to_owned()], count: 1 });
    }

    #[test]
    fn what_is_told_of_many_violations_is_bounded_and_has_no_control_characters() {
        let mut violations = Violations::default();
        for number in 0..1_000 {
            violations.add(|| format!("lost {number}\r"));
        }
        let text = report(&[violations.verdict(5)]).text();
        assert!(text.contains("1000 times") && text.contains("and 990 more"), "{text}");
        assert!(!text.contains('\r') && !text.contains('\u{1b}'), "{text}");
    }
}
