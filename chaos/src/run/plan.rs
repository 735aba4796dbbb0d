//! The plan: all that it takes to do a run again. It is written down before anything is done, and again with what
//! was left to the seed.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Wish;
use super::error::{RunError, folder};
use crate::experiment::Experiment;
use crate::method::Chosen;
use crate::programs::Programs;

const PLAN: &str = "plan.json";

#[derive(Debug, Serialize)]
struct Plan<'a> {
    experiment: &'a Experiment,
    seed: u64,
    loopback: bool,
    programs: &'a Programs,
    /// What was left to the seed, in order, as far as it has come.
    chosen: &'a [Chosen],
}

/// What a run was, as it has written it down.
#[derive(Debug, Deserialize)]
pub struct Planned {
    pub experiment: Experiment,
    pub seed: u64,
    #[serde(default)]
    pub loopback: bool,
    /// Of what it was. An older plan does not say.
    #[serde(default)]
    pub programs: Option<Programs>,
}

impl Planned {
    /// # Errors
    /// When the folder has no plan that is understood, and can be meant.
    pub fn load(folder: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(folder.join(PLAN))?;
        let planned: Self = serde_json::from_str(&text).map_err(io::Error::other)?;
        // A file can be changed, and comes from whatever version has written it.
        planned.experiment.make_sense().map_err(io::Error::other)?;
        Ok(planned)
    }
}

/// Writes down what is to be done, before and after it is.
pub(super) fn write(wish: &Wish<'_>, chosen: &[Chosen]) -> Result<(), RunError> {
    let Wish { experiment, seed, loopback, programs, .. } = wish;
    let plan = Plan { experiment, seed: *seed, loopback: *loopback, programs, chosen };
    let text = serde_json::to_string_pretty(&plan).expect("plain data always serialises");
    let (new, path) = (wish.folder.join("plan.new"), wish.folder.join(PLAN));
    // At no time is there half a plan.
    fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(folder(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_can_not_be_meant_is_not_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let plan = |nodes: u8| {
            let step = serde_json::json!({"faults": [{"fault": "kill", "target": "any"}], "seconds": 1, "then_seconds": 1});
            let experiment = serde_json::json!({
                "name": "x", "steady_state": "s", "nodes": nodes, "steady_seconds": 1,
                "recovery_seconds_max": 9, "method": [step],
            });
            let plan = serde_json::json!({"experiment": experiment, "seed": 7});
            fs::write(folder.path().join(PLAN), plan.to_string()).unwrap();
            Planned::load(folder.path()).map(|plan| plan.experiment.nodes)
        };
        assert_eq!(plan(3).unwrap(), 3);
        assert!(plan(0).unwrap_err().to_string().contains("nodes"));
    }
}
