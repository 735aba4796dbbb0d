//! Faults of one process.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Lack, lack, needs_root};
use crate::cgroup::{Cgroup, Controller};
use crate::lab::{Lab, Thing, start_of};

/// Longer than any state takes to be reached on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process of our own to break.
pub(super) fn victim(lab: &mut Lab, mut command: Command) -> Result<Child, Lack> {
    let child = command.spawn()?;
    match start_of(child.id()) {
        Some(start) => lab.note(Thing::Process { pid: child.id(), start })?,
        None => return lack("a process of our own ended at once"),
    }
    Ok(child)
}

/// One that works, and not for ever: it may outlive whoever was about to write it down.
pub(super) fn busy() -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "i=0; while [ $i -lt 20000000 ]; do i=$((i+1)); done"]);
    shell
}

fn sleeper(lab: &mut Lab) -> Result<Child, Lack> {
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    victim(lab, sleep)
}

fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.get(stat.rfind(')')? + 2..)?.chars().next()
}

fn until(what: &str, holds: impl Fn() -> bool) -> Result<(), Lack> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > PATIENCE {
            return lack(format!("the process did not {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn signal(child: &Child, signal: Signal) -> Result<(), Lack> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return lack("the process has no pid") };
    kill_process(pid, signal).map_err(|error| Lack::Words(error.to_string()))
}

pub(super) fn signals(lab: &mut Lab) -> Result<(), Lack> {
    let child = sleeper(lab)?;
    signal(&child, Signal::STOP)?;
    until("stop", || state(child.id()) == Some('T'))?;
    signal(&child, Signal::CONT)?;
    until("go on", || state(child.id()) == Some('S'))?;
    for (mut child, end) in [(child, Signal::KILL), (sleeper(lab)?, Signal::TERM)] {
        signal(&child, end)?;
        if child.wait()?.signal() != Some(end.as_raw()) {
            return lack("a signal did not end it");
        }
    }
    Ok(())
}

pub(super) fn freezer(lab: &mut Lab) -> Result<(), Lack> {
    needs_root()?;
    let group = Cgroup::new(lab, Controller::Freezer, &lab.name("f"))?;
    let mut child = victim(lab, busy())?;
    group.add(child.id())?;
    group.freeze(true)?;
    until("freeze", || group.is_frozen())?;
    let before = cpu_ticks(child.id());
    std::thread::sleep(Duration::from_millis(100));
    if cpu_ticks(child.id()) != before {
        return lack("a frozen process went on");
    }
    group.freeze(false)?;
    until("go on", || cpu_ticks(child.id()) > before)?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// User and system time.
pub(super) fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// A program that does something whenever it is told to, and says in a line what came of it.
pub(super) struct Talker {
    child: Child,
    told: BufReader<ChildStdout>,
}

impl Talker {
    pub(super) fn new(lab: &mut Lab, mut program: Command) -> Result<Self, Lack> {
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = victim(lab, program)?;
        let Some(stdout) = child.stdout.take() else { return lack("a program has no output") };
        Ok(Self { child, told: BufReader::new(stdout) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn ask(&mut self) -> Result<String, Lack> {
        let Some(stdin) = &mut self.child.stdin else { return lack("a program has no input") };
        stdin.write_all(b"\n")?;
        let mut line = String::new();
        self.told.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    pub(super) fn end(mut self) -> Result<(), Lack> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}
