//! The method of an experiment: whom each fault hits, and when it begins and ends.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::abort::Watch;
use crate::experiment::{Blow, Experiment, Step, Target};
use crate::farm::Farm;
use crate::fault::{self, Active, Fault, FaultError, Field};
use crate::history::{Ended, Event, FaultEvent};
use crate::journal::Journal;
use crate::lab::Lab;
use crate::run::RunError;
use crate::switch::Switch;
use crate::workload;

/// How often it is looked at while nothing is done.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For an agent that has just ended by itself to be started again: its supervisor waits a second.
const RUNS_WITHIN_SECONDS: u64 = 10;
/// For a controller or a leader to be elected, and known: some elections, on a busy machine.
const KNOWN_WITHIN_SECONDS: u64 = 10;

/// What was decided by chance, and when.
#[derive(Debug, Serialize)]
pub struct Chosen {
    pub fault: Fault,
    pub nodes: Vec<String>,
}

/// A method that is being gone through.
pub struct Method<'a> {
    pub experiment: &'a Experiment,
    pub farm: &'a mut Farm,
    pub lab: &'a mut Lab,
    pub switch: Option<&'a Switch>,
    pub journal: &'a Journal,
    pub watch: &'a mut Watch,
    pub random: StdRng,
    pub chosen: Vec<Chosen>,
    /// Faults that last all the while.
    pub lasting: Vec<Active>,
}

impl Method<'_> {
    /// Goes through all of it.
    ///
    /// # Errors
    /// When a fault can not be made, or somebody wants to stop. Whatever has begun is ended.
    pub fn run(&mut self, tell: &mut impl FnMut(&str)) -> Result<(), RunError> {
        let mut lasting = Vec::new();
        let begun = self.begin(&self.experiment.meanwhile, None, &mut lasting, tell);
        self.lasting = lasting;
        let done = begun.and_then(|()| self.go_through(tell));
        let lasting = std::mem::take(&mut self.lasting);
        let mended = self.mend(lasting);
        done?;
        mended
    }

    fn go_through(&mut self, tell: &mut impl FnMut(&str)) -> Result<(), RunError> {
        let experiment = self.experiment;
        for _ in 0..experiment.repeat {
            for step in &experiment.method {
                if step.faults.iter().any(|blow| blow.target == Target::Each) {
                    for node in 0..self.farm.nodes.len() {
                        self.step(step, Some(node), tell)?;
                        self.wait_whole(tell)?;
                    }
                } else {
                    self.step(step, None, tell)?;
                    self.rest(step.then_seconds, &mut Vec::new())?;
                }
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        step: &Step,
        each: Option<usize>,
        tell: &mut impl FnMut(&str),
    ) -> Result<(), RunError> {
        let mut active = Vec::new();
        let begun = self.begin(&step.faults, each, &mut active, tell);
        let done = begun.and_then(|()| self.rest(step.seconds, &mut active));
        let mended = self.mend(active);
        done?;
        mended
    }

    /// Lets faults begin, one after the other. Those that have are in `active`, also when another can not.
    fn begin(
        &mut self,
        blows: &[Blow],
        each: Option<usize>,
        active: &mut Vec<Active>,
        tell: &mut impl FnMut(&str),
    ) -> Result<(), RunError> {
        for blow in blows {
            // Each draws from numbers of its own, so that what one does with them changes no other.
            let mut random = StdRng::seed_from_u64(self.random.random());
            let targets = match each {
                Some(node) => vec![node],
                None => self.choose(blow.target, &mut random, active)?,
            };
            self.ready(&targets, active)?;
            let nodes = self.names(&targets);
            tell(&format!("{} at {}", blow.fault.name(), nodes.join(", ")));
            self.note(&blow.fault, &targets, true, None);
            self.chosen.push(Chosen { fault: blow.fault.clone(), nodes });
            let ended = ended(active.iter().chain(&self.lasting));
            active.push(Active::begin(&blow.fault, &targets, &mut self.field(&mut random, ended))?);
        }
        Ok(())
    }

    /// Ends faults in any case, the last one first, and all of them.
    fn mend(&mut self, mut active: Vec<Active>) -> Result<(), RunError> {
        let mut mended = Ok(());
        while let Some(last) = active.pop() {
            let (fault, targets) = (last.fault().clone(), last.targets().to_vec());
            let mut random = StdRng::seed_from_u64(self.random.random());
            let without_disk = without_disk(active.iter().chain(&self.lasting));
            let ended = last.end(&mut self.field(&mut random, without_disk));
            let (bit, ended) = match ended {
                Ok(bit) => (bit, Ok(())),
                Err(error) => (None, Err(error)),
            };
            self.note(&fault, &targets, false, bit);
            mended = mended.and(ended);
        }
        Ok(mended?)
    }

    /// Waits for a whole farm, sees to it that agents run that should, and writes it down if there is none in
    /// time.
    ///
    /// # Errors
    /// When it is given up, or an agent can not be started.
    pub fn wait_whole(&mut self, tell: &mut impl FnMut(&str)) -> Result<(), RunError> {
        let seconds = self.experiment.recovery_seconds_max;
        let began = Instant::now();
        while let Err(status) = self.farm.whole() {
            self.watch.host().map_err(RunError::Aborted)?;
            if began.elapsed() > Duration::from_secs(seconds) {
                tell("the farm is not whole in time");
                self.journal.note(Event::NotWhole { seconds, status });
                return Ok(());
            }
            for fault in &mut self.lasting {
                fault.tick()?;
            }
            self.supervise(&[])?;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn field<'b>(&'b mut self, random: &'b mut StdRng, ended: BTreeSet<usize>) -> Field<'b> {
        Field {
            farm: self.farm,
            lab: self.lab,
            switch: self.switch,
            random,
            ended,
            watch: self.watch,
            journal: self.journal,
        }
    }

    /// Whom a fault hits.
    fn choose(
        &mut self,
        target: Target,
        random: &mut StdRng,
        active: &mut [Active],
    ) -> Result<Vec<usize>, RunError> {
        let count = self.farm.nodes.len();
        let any = random.random_range(0..count);
        Ok(match target {
            Target::Any | Target::Each => vec![any],
            Target::Controller => vec![self.known("the controller", Farm::controller, active)?],
            Target::Leader => vec![self.known("the leader of the session groups", leader, active)?],
            Target::All => (0..count).collect(),
            Target::Minority => {
                let mut all: Vec<usize> = (0..count).collect();
                all.shuffle(random);
                all.truncate((count - 1) / 2);
                all
            }
            Target::Zone => {
                let zone = &self.farm.nodes[any].zone;
                (0..count).filter(|number| self.farm.nodes[*number].zone == *zone).collect()
            }
        })
    }

    /// Asks until somebody says who it is. Another node in its place would pass for it.
    fn known(
        &mut self,
        who: &str,
        ask: impl Fn(&Farm) -> Option<usize>,
        active: &mut [Active],
    ) -> Result<usize, RunError> {
        for _ in 0..KNOWN_WITHIN_SECONDS {
            if let Some(number) = ask(self.farm) {
                return Ok(number);
            }
            self.rest(1, active)?;
        }
        let nobody = format!("nobody knew for {KNOWN_WITHIN_SECONDS} s which node is {who}");
        Err(FaultError::Absent(nobody).into())
    }

    /// Waits until the agents run that are to be hit, but for those that have been ended.
    fn ready(&mut self, targets: &[usize], active: &mut [Active]) -> Result<(), RunError> {
        for _ in 0..RUNS_WITHIN_SECONDS {
            let ended = ended(active.iter().chain(&self.lasting));
            if targets.iter().all(|target| ended.contains(target) || self.farm.is_running(*target)) {
                break;
            }
            self.rest(1, active)?;
        }
        Ok(())
    }

    fn note(&self, fault: &Fault, targets: &[usize], begins: bool, bit: Option<u64>) {
        let others = fault::also_hit(fault, targets, self.farm.nodes.len());
        self.journal.note(Event::Fault(FaultEvent {
            fault: fault.name().to_owned(),
            targets: self.names(targets),
            begins,
            others: self.names(&others.into_iter().collect::<Vec<_>>()),
            bit,
        }));
    }

    fn names(&self, numbers: &[usize]) -> Vec<String> {
        numbers.iter().map(|number| self.farm.nodes[*number].name.clone()).collect()
    }

    /// Waits, unless somebody wants to stop, and sees to it that agents run that should.
    pub fn rest(&mut self, seconds: u64, active: &mut [Active]) -> Result<(), RunError> {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            self.watch.look().map_err(RunError::Aborted)?;
            for fault in active.iter_mut().chain(&mut self.lasting) {
                fault.tick()?;
            }
            self.supervise(active)?;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Starts agents again that have ended by themselves, as a server's supervisor does. Those whose fault
    /// may end them are started when it is over.
    fn supervise(&mut self, active: &[Active]) -> Result<(), FaultError> {
        for number in 0..self.farm.nodes.len() {
            let is_excused =
                |fault: &Active| fault.fault().may_end_agents() && fault.targets().contains(&number);
            let is_stopped =
                |fault: &Active| matches!(fault.fault(), Fault::Restart) && fault.targets().contains(&number);
            if self.farm.is_running(number)
                || active.iter().chain(&self.lasting).any(is_stopped)
                || self.farm.was_just_started(number)
                || self.farm.nodes[number].is_lost
            {
                continue;
            }
            if active.iter().chain(&self.lasting).any(is_excused) {
                continue;
            }
            let node = self.farm.nodes[number].name.clone();
            let reason = self.farm.last_words(number);
            self.journal.note(Event::Ended(Ended { node, reason }));
            self.farm.start_agent(self.lab, number)?;
        }
        Ok(())
    }
}

/// The nodes whose agents these faults have ended, or may have: what comes on top finds them down.
fn ended<'a>(active: impl Iterator<Item = &'a Active>) -> BTreeSet<usize> {
    let ends = |fault: &&Active| fault.fault().may_end_agents() || matches!(fault.fault(), Fault::Restart);
    active.filter(ends).flat_map(Active::targets).copied().collect()
}

/// The nodes whose disks these faults have taken away: no agent can be started there.
fn without_disk<'a>(active: impl Iterator<Item = &'a Active>) -> BTreeSet<usize> {
    let takes = |fault: &&Active| matches!(fault.fault(), Fault::PowerCut | Fault::DiskDies);
    active.filter(takes).flat_map(Active::targets).copied().collect()
}

/// The place of the node that leads most of the session groups, as each says of itself.
fn leader(farm: &Farm) -> Option<usize> {
    let hosts = farm.hosts();
    let led = hosts.iter().enumerate();
    led.filter_map(|(number, host)| Some((workload::groups_led(host)?, number)))
        .filter(|(groups, _)| *groups > 0)
        .max()
        .map(|(_, number)| number)
}
