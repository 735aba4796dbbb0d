//! What is done to a farm that is whole, and what everybody is told meanwhile, written down.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::error::{RunError, folder as kept_in};
use super::{Wish, plan};
use crate::abort::Watch;
use crate::acts::Acts;
use crate::app;
use crate::farm::Farm;
use crate::history::{self, Event, History, Op, Phase, Run, Sample};
use crate::journal::Journal;
use crate::lab::Lab;
use crate::method::Method;
use crate::observer::Observer;
use crate::pressure::Pressure;
use crate::releases::{self, Workshop};
use crate::switch::Switch;
use crate::workload::{self, Kind, Workload};

/// No client waits for two answers as long as that.
const ASKED_WITHIN: Duration = Duration::from_secs(30);

/// Breaks a farm that is whole, and writes down what its clients are told.
pub(super) fn observe(
    wish: &Wish<'_>,
    farm: &mut Farm,
    switch: Option<&Switch>,
    lab: &mut Lab,
    watch: &mut Watch,
    pressure: &Pressure,
    tell: &mut impl FnMut(&str),
) -> Result<(), RunError> {
    let Wish { experiment, seed, folder, .. } = wish;
    let path = folder.join("history.jsonl");
    let journal = Journal::create(&path, heading(wish, farm)).map_err(kept_in(folder))?;
    pressure.tell(&journal);
    let observer = Observer::start(farm.askers(), journal.clone());
    let logs = farm.nodes.iter().map(|node| (node.name.clone(), node.log.clone())).collect();
    let acts = Acts::start(logs, journal.clone());
    let workshop = Workshop::new(lab.folder()).map_err(kept_in(folder))?;
    if experiment.workloads.contains(&Kind::Requests) {
        tell("deploying an app that takes orders");
        releases::deploy_orders(farm, &workshop, watch)?;
    }
    let clients = Workload::start(&clients(farm, *seed), &experiment.workloads, &journal);
    let mut deployer = experiment
        .workloads
        .contains(&Kind::Deploys)
        .then(|| releases::Deployer::start(farm.askers(), workshop.clone(), *seed, journal.clone()));
    watch.listen(journal.clone());
    let mut method = Method {
        experiment,
        farm,
        lab,
        switch,
        journal: &journal,
        watch,
        random: StdRng::seed_from_u64(*seed),
        chosen: Vec::new(),
        lasting: Vec::new(),
    };
    let broken = break_it(&mut method, clients.count(), tell);
    let chosen = std::mem::take(&mut method.chosen);
    if matches!(broken, Err(RunError::Aborted(_))) {
        // Then nobody waits for an answer, nor for the end of a rollout.
        (0..farm.nodes.len()).for_each(|number| farm.kill(number));
    }
    let mut failed = clients.stop();
    if let Some(deployer) = &mut deployer {
        tell("letting the rollout that is going on come to its end");
        failed += usize::from(!deployer.stop());
    }
    drop(observer);
    // Where the disk is full, that is why it was given up, and not why it has failed.
    let written = plan::write(wish, &chosen).and(journal.finish().map_err(kept_in(folder)));
    broken.and(written)?;
    if failed > 0 {
        return Err(RunError::Clients(failed));
    }
    gather(farm, &journal, &path, deployer.is_some(), watch, tell)?;
    drop(acts);
    for (uuid, backend) in app::orders(&workshop.served).map_err(kept_in(folder))? {
        journal.note(Event::Served { uuid, backend });
    }
    journal.finish().map_err(kept_in(folder))?;
    if wish.is_to_stop() { Err(RunError::Aborted("a signal".to_owned())) } else { Ok(()) }
}

/// What the history is of.
fn heading(wish: &Wish<'_>, farm: &Farm) -> Run {
    Run {
        version: 1,
        seed: wish.seed,
        experiment: wish.experiment.name.clone(),
        nodes: farm.nodes.iter().map(|node| node.name.clone()).collect(),
        failed_requests_max: wish.experiment.failed_requests_max,
        workloads: wish.experiment.workloads.clone(),
    }
}

fn clients(farm: &Farm, seed: u64) -> workload::Ground {
    let sockets = farm.nodes.iter().map(|node| node.socket.clone()).collect();
    let names = farm.nodes.iter().map(|node| node.name.clone()).collect();
    workload::Ground { hosts: farm.hosts(), names, sockets, seed }
}

/// What can be asked only once all is over.
fn gather(
    farm: &Farm,
    journal: &Journal,
    path: &Path,
    deploys: bool,
    watch: &mut Watch,
    tell: &mut impl FnMut(&str),
) -> Result<(), RunError> {
    journal.note(Event::Phase { phase: Phase::Final });
    tell("reading everything back at every server");
    let tried = tried(&history::read(path)?);
    for node in &farm.nodes {
        watch.host().map_err(RunError::Aborted)?;
        // What can not be read is in the history, and is judged.
        if let Err(reason) = workload::read_back(&node.host, &tried, journal) {
            tell(&format!("{} does not let us read: {reason}", node.name));
        }
    }
    if deploys {
        match releases::note_runs(farm, journal, watch).map_err(RunError::from) {
            // Nothing of it is in the history then, which is judged.
            Err(RunError::Farm(reason)) => tell(&format!("nobody tells what runs where: {reason}")),
            noted => noted?,
        }
    }
    sample(farm, journal);
    Ok(())
}

/// From the steady state to the steady state.
fn break_it(method: &mut Method<'_>, clients: u32, tell: &mut impl FnMut(&str)) -> Result<(), RunError> {
    let experiment = method.experiment;
    tell(&format!("steady for {} s", experiment.steady_seconds));
    method.journal.note(Event::Phase { phase: Phase::Steady });
    method.rest(experiment.steady_seconds, &mut [])?;
    sample(method.farm, method.journal);
    method.journal.note(Event::Phase { phase: Phase::Method });
    method.run(tell)?;
    tell("waiting until the farm is whole again");
    method.journal.note(Event::Phase { phase: Phase::Recovery });
    method.watch.listen_no_more();
    method.wait_whole(tell)?;
    tell(&format!("steady again for {} s", experiment.steady_seconds));
    method.journal.note(Event::Phase { phase: Phase::After });
    let after = Instant::now();
    method.rest(experiment.steady_seconds, &mut [])?;
    // Who still waits for an answer of before says nothing of now. Each has to ask once more.
    while !method.journal.have_asked_since(clients, after) && after.elapsed() < ASKED_WITHIN {
        method.rest(1, &mut [])?;
    }
    Ok(())
}

/// Every entry that anybody tried to add.
fn tried(history: &History) -> BTreeSet<String> {
    let entry = |operation: &history::Operation| {
        if let Op::LedgerAdd { entry } = &operation.op { Some(entry.clone()) } else { None }
    };
    history.operations.iter().filter_map(entry).collect()
}

fn sample(farm: &Farm, journal: &Journal) {
    for (number, node) in farm.nodes.iter().enumerate() {
        let Some(pid) = farm.agent_pid(number) else { continue };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64);
        let (threads, rss_kib) = (line("Threads:"), line("VmRSS:"));
        journal.note(Event::Sample(Sample { node: node.name.clone(), pid, fds, threads, rss_kib }));
    }
}
