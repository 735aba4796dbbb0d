//! What is to be broken, and what must hold: a TOML file, as [`FORMAT`] says.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::fault::Fault;
use crate::fault::clash;
use crate::workload::Kind;

/// The format, for `--help`.
pub const FORMAT: &str = r#"An experiment is a TOML file:

  name, steady_state      what it is called, and what must hold before and after, in the users' words
  nodes                   3 to 9 servers
  zones                   over which they are dealt out [default: 1]
  workloads               what clients do: ledger, counters, registers, requests, prices, deploys
                          [default: all but deploys]
  steady_seconds          before the method, and after the recovery
  recovery_seconds_max    how long everything may take to be whole again
  failed_requests_max     requests that may fail in the method [default: nothing is promised]
  repeat                  how often the method is gone through [default: 1]
  meanwhile               faults that begin before the method and end after it [default: none]
  [abort]                 when it is given up: memory_mib_min [256], disk_mib_min [512] are left, or
                          nobody succeeded for silent_seconds_max [180]
  [[method]]              its steps, one after the other: faults, which begin one after the other
                          and end together after seconds; then nothing for then_seconds

Targets of a fault: any (one node, by the seed), minority and zone (by the seed), controller,
leader (of most session groups), all, each (every node in turn; the farm is whole in between).

Faults, and what they take:
  kill, restart           kill -9; told to stop
  pause, freeze           SIGSTOP; stopped with all that it has started
  version                 is of the version --other, and at the end of the first one again
  partition               direction (both, in, out), from (all, one, bridge), flap_ms: off and on
  loss                    percent of the packets that come to it, by the firewall
  link                    every frame, both ways: delay_ms, jitter_ms, loss_percent,
                          duplicate_percent, reorder_percent, corrupt_percent, rate_kib (a second)
  power_cut, disk_dies    what was not synced is lost, and the agent ended, or left without a disk
  disk_full               down to its last block
  fsync_fails, fsync_slow   with EIO; by delay_ms
  bit_rot, truncate       bits of its databases turn; the largest file loses its end
  old_database, wipe      one of its databases is as it was; its disk is empty, and it joins anew
  clock                   its wall clock jumps by seconds, and back
  cpu, memory, descriptors   it has percent of a core; mib or so many more than it has

Example:
  name = "pause the controller while a link is lossy"
  steady_state = "Whatever was stored is there, and counters count, at every server."
  nodes = 5
  steady_seconds = 3
  recovery_seconds_max = 60

  [[method]]
  faults = [
    { fault = "pause", target = "controller" },
    { fault = "loss", percent = 20, target = "any" },
  ]
  seconds = 8
  then_seconds = 5
"#;

/// A farm smaller than this has no quorum without one; larger ones do not fit a laptop.
const NODES: std::ops::RangeInclusive<u8> = 3..=9;
/// Whoever judges it has all of its history in memory, in which the ledger is read back in one line. Longer
/// than this is better done in several runs, with a seed each.
const SECONDS_MAX: u64 = 3_600;
/// Each time takes a while, whatever its seconds say, and leaves its lines in the plan and in the history.
const REPEAT_MAX: u32 = 10_000;
/// Faults at a time. More than a few of them can not be told apart in a report.
const FAULTS_MAX: usize = 12;

/// An experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    pub name: String,
    /// What must be true before and after, in the users' terms.
    pub steady_state: String,
    pub nodes: u8,
    /// The nodes are dealt out over so many zones.
    #[serde(default = "one")]
    pub zones: u8,
    pub steady_seconds: u64,
    /// How long everything may take to be whole again.
    pub recovery_seconds_max: u64,
    /// How often the method is gone through.
    #[serde(default = "once")]
    pub repeat: u32,
    /// What clients do meanwhile.
    #[serde(default = "Kind::usual")]
    pub workloads: Vec<Kind>,
    /// Requests that may fail, where that is promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_requests_max: Option<u64>,
    #[serde(default)]
    pub abort: Abort,
    /// Faults that begin before the method and end after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub meanwhile: Vec<Blow>,
    pub method: Vec<Step>,
}

fn one() -> u8 {
    1
}

fn once() -> u32 {
    1
}

/// When to stop, and to put everything back, because going on would prove nothing or harm the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Abort {
    pub memory_mib_min: u64,
    pub disk_mib_min: u64,
    /// Nobody was told of success for so long, in the whole farm.
    pub silent_seconds_max: u64,
}

impl Default for Abort {
    fn default() -> Self {
        Self { memory_mib_min: 256, disk_mib_min: 512, silent_seconds_max: 180 }
    }
}

/// Faults that begin and end together, after those before them have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub faults: Vec<Blow>,
    /// How long they last, and how long nothing is done afterwards.
    pub seconds: u64,
    pub then_seconds: u64,
}

/// A fault, and whom it hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Blow {
    pub target: Target,
    #[serde(flatten)]
    pub fault: Fault,
}

impl Blow {
    fn make_sense(&self, zones: u8) -> Result<(), String> {
        self.fault.make_sense()?;
        let is_all = self.target == Target::All || (self.target == Target::Zone && zones == 1);
        if is_all && self.fault.cuts_from_the_rest() {
            return Err("a partition of all nodes from the rest breaks nothing: there is no rest".to_owned());
        }
        Ok(())
    }
}

impl TryFrom<Map<String, Value>> for Blow {
    type Error = String;

    /// By hand, as serde takes no unknown key amiss beside a flattened enum, and a mistyped one would
    /// silently be a default.
    fn try_from(mut fields: Map<String, Value>) -> Result<Self, String> {
        let target = fields.remove("target").ok_or("a fault has no target")?;
        let target = serde_json::from_value(target).map_err(|error| format!("target: {error}"))?;
        let fault: Fault =
            serde_json::from_value(Value::Object(fields.clone())).map_err(|error| error.to_string())?;
        let known = serde_json::to_value(&fault).map_err(|error| error.to_string())?;
        match fields.keys().find(|key| known.get(key.as_str()).is_none()) {
            Some(key) => Err(format!("the fault {} has no {key:?}", fault.name())),
            None => Ok(Self { target, fault }),
        }
    }
}

impl Step {
    fn make_sense(&self, zones: u8) -> Result<(), String> {
        if self.faults.is_empty() || self.faults.len() > FAULTS_MAX {
            return Err(format!("a step of the method has 1 to {FAULTS_MAX} faults"));
        }
        let each = self.faults.iter().filter(|blow| blow.target == Target::Each).count();
        if each > 0 && self.faults.len() > 1 {
            return Err("a fault that hits each node in turn is alone in its step".to_owned());
        }
        for Blow { fault, .. } in &self.faults {
            if self.seconds == 0 && !fault.bites_at_once() {
                let name = fault.name();
                return Err(format!("{name} for 0 s breaks nothing: give its step some seconds"));
            }
            if let Fault::Partition { flap_ms: Some(flap_ms), .. } = fault
                && *flap_ms > self.seconds.saturating_mul(1_000)
            {
                let seconds = self.seconds;
                return Err(format!("flap_ms is {flap_ms}, which is longer than its step: {seconds} s"));
            }
        }
        self.faults.iter().try_for_each(|blow| blow.make_sense(zones))
    }
}

/// Whether none of the faults that last at the same time is in another's way.
fn go_together<'a>(blows: impl Iterator<Item = &'a Blow>) -> Result<(), String> {
    let faults: Vec<&Fault> = blows.map(|blow| &blow.fault).collect();
    let pairs = faults
        .iter()
        .enumerate()
        .flat_map(|(place, later)| faults[..place].iter().map(move |earlier| (*earlier, *later)));
    pairs.map(|(earlier, later)| clash(earlier, later)).find_map(|why| why).map_or(Ok(()), Err)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One of the nodes, by the seed.
    Any,
    Controller,
    /// The node that leads most of the session groups.
    Leader,
    /// As many as the farm can do without, by the seed.
    Minority,
    /// Every node of one zone, by the seed.
    Zone,
    All,
    /// Every node, one after the other; the farm is whole in between.
    Each,
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
        experiment.make_sense().map_err(ExperimentError::Sense)?;
        Ok(experiment)
    }

    /// Whether it can be meant, in which way ever it was read.
    ///
    /// # Errors
    /// In words, why not.
    pub fn make_sense(&self) -> Result<(), String> {
        self.make_clients_sense()?;
        if !NODES.contains(&self.nodes) {
            return Err(format!("nodes must be {} to {}", NODES.start(), NODES.end()));
        }
        if self.zones == 0 || self.zones > self.nodes {
            return Err("zones must be at least 1, and no more than there are nodes".to_owned());
        }
        if self.method.is_empty() || self.repeat == 0 {
            return Err("it breaks nothing: there is no [[method]]".to_owned());
        }
        if self.meanwhile.len() > FAULTS_MAX {
            return Err(format!("meanwhile has more than {FAULTS_MAX} faults"));
        }
        for blow in &self.meanwhile {
            if blow.target == Target::Each {
                return Err("what lasts all the while can not hit each node in turn".to_owned());
            }
            blow.make_sense(self.zones)?;
        }
        if self.repeat > REPEAT_MAX {
            return Err(format!("repeat is more than {REPEAT_MAX}"));
        }
        for step in &self.method {
            step.make_sense(self.zones)?;
            go_together(self.meanwhile.iter().chain(&step.faults))?;
        }
        self.make_time_sense()
    }

    fn make_time_sense(&self) -> Result<(), String> {
        if self.steady_seconds == 0 {
            return Err("steady_seconds is 0: nobody would be asked before and after".to_owned());
        }
        let times = |step: &Step| {
            let is_each = step.faults.iter().any(|blow| blow.target == Target::Each);
            if is_each { u64::from(self.nodes) } else { 1 }
        };
        let steps = self
            .method
            .iter()
            .map(|step| step.seconds.saturating_add(step.then_seconds).saturating_mul(times(step)));
        let method = steps.fold(0_u64, u64::saturating_add).saturating_mul(self.repeat.into());
        let all = [method, self.steady_seconds, self.recovery_seconds_max];
        if all.into_iter().fold(0_u64, u64::saturating_add) > SECONDS_MAX {
            return Err(format!("it takes more than {SECONDS_MAX} s: make several runs of it"));
        }
        Ok(())
    }

    /// Clients of a kind are told apart by their host, so there is one of each.
    fn make_clients_sense(&self) -> Result<(), String> {
        let twice = self
            .workloads
            .iter()
            .enumerate()
            .find_map(|(place, kind)| self.workloads[..place].contains(kind).then_some(kind));
        match twice {
            Some(kind) => Err(format!("workloads has {kind:?} twice")),
            None => Ok(()),
        }
    }

    /// Every fault that it makes.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        let blows = self.method.iter().flat_map(|step| &step.faults);
        blows.chain(&self.meanwhile).map(|blow| &blow.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"x\"\nsteady_state = \"s\"\nnodes = 3\nsteady_seconds = 1\n\
                        recovery_seconds_max = 9\n[[method]]\n\
                        faults = [{ fault = \"kill\", target = \"any\" }]\nseconds = 1\nthen_seconds = 1\n";

    #[test]
    fn what_makes_no_sense_is_refused_with_words() {
        assert_eq!(Experiment::parse(GOOD).unwrap().method[0].faults[0].fault, Fault::Kill);
        for (from, to, wanted) in [
            ("nodes = 3", "nodes = 2", "3 to 9"),
            ("nodes = 3", "nodes = 3\nzones = 4", "zones"),
            ("nodes = 3", "nodes = 3\nrepeat = 0", "breaks nothing"),
            ("nodes = 3", "nodes = 3\nrepeat = 4000000000", "repeat"),
            ("nodes = 3", "nodes = 3\nworkloads = [\"ledger\", \"prices\", \"ledger\"]", "twice"),
            ("\"kill\", target = \"any\"", "\"partition\", target = \"all\"", "no rest"),
            ("\"kill\", target = \"any\"", "\"partition\", target = \"zone\"", "no rest"),
            ("\"kill\"", "\"flood\"", "flood"),
            ("\"kill\"", "\"loss\"", "percent"),
            ("\"kill\"", "\"loss\", percent = 101", "percent"),
            ("\"kill\"", "\"partition\", direction = \"up\"", "up"),
            ("\"kill\"", "\"partition\", flap = 9", "flap"),
            ("\"any\"", "\"some\"", "some"),
            ("name", "nmae", "nmae"),
            ("[{ fault = \"kill\", target = \"any\" }]", "[]", "1 to 12"),
            ("\"any\" }", "\"each\" }, { fault = \"kill\", target = \"any\" }", "alone"),
            ("steady_seconds = 1", "steady_seconds = 0", "steady_seconds"),
            (
                "\"kill\", target = \"any\" }]\nseconds = 1",
                "\"pause\", target = \"any\" }]\nseconds = 0",
                "0 s",
            ),
            ("\"kill\"", "\"partition\", flap_ms = 1001", "longer than its step"),
            (
                "nodes = 3",
                "nodes = 3\nmeanwhile = [{ fault = \"pause\", target = \"all\" }]",
                "steps of their own",
            ),
            ("recovery_seconds_max = 9", "recovery_seconds_max = 3600", "takes more"),
            ("nodes = 3", "nodes = 3\nmeanwhile = [{ fault = \"kill\", target = \"each\" }]", "each node"),
            (
                "nodes = 3",
                "nodes = 3\nmeanwhile = [{ fault = \"loss\", percent = 101, target = \"any\" }]",
                "of a hundred",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let error = Experiment::parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(wanted), "{to}: {error}");
        }
        let idle = GOOD.replace("\nseconds = 1\n", "\nseconds = 0\n");
        assert_eq!(Experiment::parse(&idle).unwrap().method[0].seconds, 0, "who is killed is killed");
        let often = idle.replacen("nodes = 3", "nodes = 3\nrepeat = 4000000000", 1);
        assert!(Experiment::parse(&often).unwrap_err().to_string().contains("repeat"), "{often}");
        let nothing = GOOD.split_once("[[method]]").unwrap().0.to_owned() + "method = []\n";
        assert!(Experiment::parse(&nothing).unwrap_err().to_string().contains("breaks nothing"));
    }

    #[test]
    fn the_help_has_an_experiment_and_every_fault_and_what_it_takes() {
        let example = FORMAT.split_once("Example:\n").unwrap().1;
        let experiment = Experiment::parse(example).unwrap();
        assert_eq!(experiment.faults().count(), 2);
        let says = |word: &str| {
            let mut words = FORMAT.split(|other: char| !other.is_alphanumeric() && other != '_');
            assert!(words.any(|other| other == word), "{word}");
        };
        for text in crate::fault::tests::ALL {
            let fault: Map<String, Value> = serde_json::from_str(text).unwrap();
            says(fault["fault"].as_str().unwrap());
            fault.keys().filter(|key| *key != "fault").for_each(|key| says(key));
        }
        let Value::Object(fields) = serde_json::to_value(&experiment).unwrap() else { panic!() };
        fields.keys().for_each(|key| says(key));
    }

    #[test]
    fn the_experiments_that_come_with_it_are_experiments() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
        let files = std::fs::read_dir(folder).unwrap().flatten();
        let read: Vec<String> = files
            .filter(|file| file.path().extension().is_some_and(|extension| extension == "toml"))
            .map(|file| {
                Experiment::load(&file.path()).unwrap_or_else(|error| panic!("{file:?}: {error}")).name
            })
            .collect();
        assert!(read.len() >= 15, "{read:?}");
    }
}
