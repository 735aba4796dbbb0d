//! What is to be broken, and what must hold: a TOML file.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// A farm smaller than this has no quorum without one; larger ones do not fit a laptop.
const NODES: std::ops::RangeInclusive<u8> = 3..=9;
const SECONDS_MAX: u64 = 24 * 3_600;

/// An experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    pub name: String,
    /// What must be true before and after, in the users' terms.
    pub steady_state: String,
    pub nodes: u8,
    pub steady_seconds: u64,
    /// How long everything may take to be whole again.
    pub recovery_seconds_max: u64,
    pub method: Vec<Step>,
}

/// One fault, after the one before it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub fault: Fault,
    pub target: Target,
    /// How long it lasts, and how long nothing is done afterwards.
    pub seconds: u64,
    pub then_seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// kill -9 of the agent; it is started again.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Pause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One of the nodes, by the seed.
    Any,
    Controller,
}

/// Why an experiment can not be run.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    #[error("{0}")]
    Read(#[from] std::io::Error),
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    #[error("{0}")]
    Sense(String),
}

impl Experiment {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`ExperimentError`].
    pub fn load(path: &Path) -> Result<Self, ExperimentError> {
        Self::parse(&std::fs::read_to_string(path)?)
    }

    fn parse(text: &str) -> Result<Self, ExperimentError> {
        let experiment: Self = toml::from_str(text)?;
        let sense = |reason: String| Err(ExperimentError::Sense(reason));
        if !NODES.contains(&experiment.nodes) {
            return sense(format!("nodes must be {} to {}", NODES.start(), NODES.end()));
        }
        if experiment.method.is_empty() {
            return sense("it breaks nothing: there is no [[method]]".to_owned());
        }
        let seconds = experiment.method.iter().flat_map(|step| [step.seconds, step.then_seconds]);
        let all = seconds.chain([experiment.steady_seconds, experiment.recovery_seconds_max]);
        if all.fold(0_u64, u64::saturating_add) > SECONDS_MAX {
            return sense(format!("it takes more than {SECONDS_MAX} s"));
        }
        Ok(experiment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"x\"\nsteady_state = \"s\"\nnodes = 3\nsteady_seconds = 1\n\
                        recovery_seconds_max = 9\n[[method]]\nfault = \"kill\"\ntarget = \"any\"\nseconds = 1\n\
                        then_seconds = 1\n";

    #[test]
    fn what_makes_no_sense_is_refused_with_words() {
        assert_eq!(Experiment::parse(GOOD).unwrap().method[0].fault, Fault::Kill);
        for (from, to, wanted) in [
            ("nodes = 3", "nodes = 2", "3 to 9"),
            ("\"kill\"", "\"flood\"", "flood"),
            ("name", "nmae", "nmae"),
            ("seconds = 1\n\n", "", ""),
            ("recovery_seconds_max = 9", "recovery_seconds_max = 99999999", "takes more"),
        ] {
            if !GOOD.contains(from) {
                continue;
            }
            let error = Experiment::parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let nothing = GOOD.split_once("[[method]]").unwrap().0.to_owned() + "method = []\n";
        assert!(Experiment::parse(&nothing).unwrap_err().to_string().contains("breaks nothing"));
    }

    #[test]
    fn the_experiments_that_come_with_it_are_experiments() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
        let files = std::fs::read_dir(folder).unwrap().flatten();
        let read: Vec<String> = files.map(|file| Experiment::load(&file.path()).unwrap().name).collect();
        assert!(read.len() >= 2, "{read:?}");
    }
}
