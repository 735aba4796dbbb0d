//! Disks that fail, fill up, forget and lie.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::Rng as _;
use rustix::process::{Pid, Signal, kill_process};

use super::{FaultError, Field, damage, io, process};
use crate::disk::Disk;
use crate::lab::{Lab, Thing, start_of};
use crate::programs::quoted;

/// For strace to be attached to every thread of an agent.
const ATTACHED_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

fn disk<'a>(field: &'a Field<'_>, target: usize) -> Result<&'a Disk, FaultError> {
    let absent = || FaultError::Absent("the agents have no disks of their own".to_owned());
    field.farm.nodes[target].disk.as_ref().ok_or_else(absent)
}

/// All agents stand still while the power goes, so that none of them sees another's disk fail first.
pub(super) fn cut_power(targets: &[usize], field: &mut Field<'_>) -> Result<(), FaultError> {
    process::pause(targets, field)?;
    kill_disks(targets, field)?;
    process::kill(targets, field);
    Ok(())
}

/// From here on they answer everything with EIO.
pub(super) fn kill_disks(targets: &[usize], field: &Field<'_>) -> Result<(), FaultError> {
    let disks = targets.iter().map(|target| disk(field, *target)).collect::<Result<Vec<_>, _>>()?;
    Ok(Disk::cut(&disks)?)
}

pub(super) fn restore_power(targets: &[usize], field: &Field<'_>) -> Result<(), FaultError> {
    for target in targets {
        let disk = disk(field, *target)?;
        disk.unmount()?;
        disk.mount()?;
    }
    Ok(())
}

pub(super) fn fill(targets: &[usize], field: &Field<'_>) -> Result<Vec<PathBuf>, FaultError> {
    targets.iter().map(|target| Ok(disk(field, *target)?.fill()?)).collect()
}

pub(super) fn empty(files: &[PathBuf]) -> Result<(), FaultError> {
    for file in files {
        fs::remove_file(file).map_err(io(format!("remove {}", file.display())))?;
    }
    Ok(())
}

/// strace, at work on one agent.
pub struct Tracer {
    strace: Child,
    /// In which it is told at the end how many calls it has meddled with.
    count: PathBuf,
}

/// Has strace meddle with every sync of the agents.
pub(super) fn trace_agents(
    targets: &[usize],
    field: &mut Field<'_>,
    meddle: &str,
) -> Result<Vec<Tracer>, FaultError> {
    let mut tracers = Vec::new();
    for target in targets {
        let traced = match field.pid(*target) {
            Ok(None) => continue,
            Ok(Some(pid)) => trace_syncs(pid, field.lab, meddle),
            Err(error) => Err(error),
        };
        match traced {
            Ok(tracer) => tracers.push(tracer),
            Err(error) => {
                detach(tracers)?;
                return Err(error);
            }
        }
    }
    Ok(tracers)
}

/// Has strace meddle with every sync of a process, in strace's words: `error=EIO`, `delay_enter=9000`.
///
/// # Errors
/// Without strace, or the kernel's leave.
pub fn trace_syncs(pid: u32, lab: &mut Lab, meddle: &str) -> Result<Tracer, FaultError> {
    let calls = "fsync,fdatasync,sync_file_range";
    let count = lab.folder().join(lab.unique("syncs"));
    // Counted while it goes on: what it tells of every call would fill a small disk.
    let counts = format!("|grep -c -e INJECTED -e DELAYED >{}", quoted(&count));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-q", "-q", "-o", &counts, "-e", &format!("trace={calls}")]);
    strace.args(["-e", &format!("inject={calls}:{meddle}"), "-p", &pid.to_string()]);
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // As its agent, it is not ended from a terminal.
    strace.process_group(0);
    let strace = strace.spawn().map_err(io("run strace"))?;
    let mut tracer = Tracer { strace, count };
    if let Some(start) = start_of(tracer.strace.id()) {
        lab.note(Thing::Process { pid: tracer.strace.id(), start })?;
    }
    let began = Instant::now();
    while !is_traced(pid) {
        if began.elapsed() > ATTACHED_WITHIN || !matches!(tracer.strace.try_wait(), Ok(None)) {
            detach(vec![tracer])?;
            return Err(FaultError::Absent("strace does not get hold of an agent".to_owned()));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(tracer)
}

/// Whether every thread of a process is.
fn is_traced(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        fs::read_to_string(thread.path().join("status"))
            .is_ok_and(|status| !status.lines().any(|line| line == "TracerPid:\t0"))
    })
}

/// Lets the agents go. strace detaches when it is asked to end. Returns how many calls were meddled with, if
/// anybody was traced.
pub fn detach(tracers: Vec<Tracer>) -> Result<Option<u64>, FaultError> {
    let mut all = None;
    for Tracer { mut strace, count } in tracers {
        if let Some(pid) = i32::try_from(strace.id()).ok().and_then(Pid::from_raw) {
            // It has ended if its agent has.
            let _ended = kill_process(pid, Signal::INT);
        }
        // It waits for who counts.
        strace.wait().map_err(io("wait for strace"))?;
        let told = fs::read_to_string(count).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(told) = told {
            all = Some(told.saturating_add(all.unwrap_or(0)));
        }
    }
    Ok(all)
}

pub(super) fn turn_bits(targets: &[usize], field: &mut Field<'_>, bits: u32) -> Result<(), FaultError> {
    for target in targets {
        damage::turn_bits(&field.farm.databases(*target), bits, field.random)?;
    }
    Ok(())
}

pub(super) fn truncate(targets: &[usize], field: &Field<'_>) -> Result<(), FaultError> {
    for target in targets {
        damage::truncate(&field.farm.databases(*target))?;
    }
    Ok(())
}

pub(super) fn wipe(targets: &[usize], field: &Field<'_>) -> Result<(), FaultError> {
    for target in targets {
        damage::wipe(&field.farm.data_dir(*target))?;
    }
    Ok(())
}

/// Copies one database of each, chosen by chance, while its agent stands still.
pub(super) fn copy(targets: &[usize], field: &mut Field<'_>) -> Result<Vec<damage::Copy>, FaultError> {
    let mut copies = Vec::new();
    for target in targets {
        let folders = field.farm.databases(*target);
        let absent = || FaultError::Absent(format!("{} has no databases", field.farm.nodes[*target].name));
        let which = field.random.random_range(0..folders.len().max(1));
        let of = folders.get(which).ok_or_else(absent)?.clone();
        field.farm.pause(*target, true);
        let copied = damage::Copy::of(of);
        field.farm.pause(*target, false);
        copies.push(copied?);
    }
    Ok(copies)
}
