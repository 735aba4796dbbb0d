//! Agents that end, stop and start.

use std::time::{Duration, Instant};

use super::{FaultError, Field};
use crate::cgroup::{Cgroup, Controller};
use crate::farm::FarmError;
use crate::history::Event;

/// An agent that finds its data damaged says so within its first moments.
const REFUSES_WITHIN: Duration = Duration::from_secs(5);
/// A frozen group is not frozen at once.
const FREEZES_WITHIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

pub(super) fn kill(targets: &[usize], field: &mut Field<'_>) {
    for target in targets {
        field.farm.kill(*target);
    }
}

/// All of them are told before the first is waited for. One that does not stop is ended, which is written down.
pub(super) fn stop(targets: &[usize], field: &mut Field<'_>) -> Result<(), FaultError> {
    for target in targets {
        field.farm.tell_to_stop(*target);
    }
    for target in targets {
        match field.farm.wait_stopped(*target, field.watch) {
            Err(error @ FarmError::NotStopped { .. }) => {
                note_stuck(*target, field, &error);
                field.farm.kill(*target);
            }
            stopped => stopped?,
        }
    }
    Ok(())
}

/// A new node in place of one that is lost. One that can not join stays away, which is written down.
fn replace(target: usize, field: &mut Field<'_>) -> Result<(), FaultError> {
    match field.farm.replace(field.lab, target, field.watch) {
        Err(error @ FarmError::NotJoined { .. }) => {
            note_stuck(target, field, &error);
            Ok(())
        }
        replaced => Ok(replaced?),
    }
}

fn note_stuck(target: usize, field: &Field<'_>, error: &FarmError) {
    let node = field.farm.nodes[target].name.clone();
    field.journal.note(Event::Stuck { node, what: error.to_string() });
}

/// One after the other, as a rolling upgrade goes.
pub(super) fn change_version(
    targets: &[usize],
    field: &mut Field<'_>,
    other: bool,
) -> Result<(), FaultError> {
    for target in targets {
        stop(&[*target], field)?;
        field.farm.set_version(*target, other)?;
        field.farm.start_agent(field.lab, *target)?;
    }
    Ok(())
}

pub(super) fn pause(targets: &[usize], field: &mut Field<'_>) -> Result<(), FaultError> {
    for (done, target) in targets.iter().enumerate() {
        if let Err(error) = field.pid(*target) {
            go_on(&targets[..done], field);
            return Err(error);
        }
        field.farm.pause(*target, true);
    }
    Ok(())
}

pub(super) fn go_on(targets: &[usize], field: &Field<'_>) {
    for target in targets {
        field.farm.pause(*target, false);
    }
}

/// Puts the agents, each with what it has started, into groups of this kind.
pub(super) fn group(
    targets: &[usize],
    field: &mut Field<'_>,
    controller: Controller,
) -> Result<Vec<Cgroup>, FaultError> {
    let mut groups = Vec::new();
    for target in targets {
        if field.pid(*target)?.is_none() {
            continue;
        }
        let name = field.lab.unique("g");
        let group = Cgroup::new(field.lab, controller, &name)?;
        for pid in field.farm.pids(*target) {
            group.add(pid)?;
        }
        groups.push(group);
    }
    Ok(groups)
}

pub(super) fn freeze(targets: &[usize], field: &mut Field<'_>) -> Result<Vec<Cgroup>, FaultError> {
    let groups = group(targets, field, Controller::Freezer)?;
    for group in &groups {
        group.freeze(true)?;
    }
    let began = Instant::now();
    while groups.iter().any(|group| !group.is_frozen()) {
        if began.elapsed() > FREEZES_WITHIN {
            release(&groups)?;
            return Err(FaultError::Absent("an agent does not freeze".to_owned()));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(groups)
}

/// How often the groups' limits have held anything up, where that is counted.
pub(super) fn bit(groups: &[Cgroup]) -> Option<u64> {
    groups.iter().filter_map(Cgroup::bit).reduce(u64::saturating_add)
}

/// Lets what is in the groups go on, as much as it likes.
pub(super) fn release(groups: &[Cgroup]) -> Result<(), FaultError> {
    for group in groups {
        group.release()?;
    }
    Ok(())
}

/// Starts those that are not running, but for those whose disks are away. Where the data `may_damage`, one that ends at once is replaced.
pub(super) fn start(targets: &[usize], field: &mut Field<'_>, may_damage: bool) -> Result<(), FaultError> {
    for target in targets {
        if field.farm.is_running(*target) || field.ended.contains(target) {
            continue;
        }
        if field.farm.has_data(*target) {
            field.farm.start_agent(field.lab, *target)?;
        } else {
            replace(*target, field)?;
        }
    }
    if !may_damage {
        return Ok(());
    }
    let began = Instant::now();
    while began.elapsed() < REFUSES_WITHIN {
        field.watch.host().map_err(FarmError::GivenUp)?;
        for target in targets {
            if !field.farm.is_running(*target)
                && field.farm.has_data(*target)
                && !field.ended.contains(target)
            {
                replace(*target, field)?;
            }
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
