//! Faults of what a process may have: time, processor, descriptors.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::{busy, cpu_ticks, victim};
use super::{Lack, lack, needs_root};
use crate::cgroup::{Cgroup, Controller};
use crate::command::run;
use crate::lab::Lab;

/// Where distributions put libfaketime.
const FAKETIME: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
];
const HOUR_SECONDS: i64 = 3_600;

/// The library that gives a program a clock of its own.
pub fn faketime() -> Option<&'static Path> {
    FAKETIME.iter().map(Path::new).find(|path| path.exists())
}

pub(super) fn clock(_lab: &mut Lab) -> Result<(), Lack> {
    let Some(library) = faketime() else { return lack("libfaketime is not installed") };
    let library = library.display();
    let now = || run("date", &["+%s"])?.trim().parse::<i64>().or_else(|error| lack(error.to_string()));
    let before = now()?;
    let told = run("env", &[&format!("LD_PRELOAD={library}"), "FAKETIME=+1h", "date", "+%s"])?;
    let jump = told.trim().parse::<i64>().or_else(|error| lack(error.to_string()))? - before;
    if (HOUR_SECONDS..HOUR_SECONDS + 60).contains(&jump) {
        Ok(())
    } else {
        lack(format!("a jump of an hour is one of {jump} s"))
    }
}

pub(super) fn cpu(lab: &mut Lab) -> Result<(), Lack> {
    needs_root()?;
    let group = Cgroup::new(lab, Controller::Cpu, &lab.name("c"))?;
    group.limit_cpu(5)?;
    let mut child = victim(lab, busy())?;
    group.add(child.id())?;
    let before = cpu_ticks(child.id());
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu_ticks(child.id()).zip(before).map(|(now, before)| now - before);
    child.kill()?;
    child.wait()?;
    // In hundredths of a second, of which an unbounded one takes a hundred.
    match used {
        Some(0..=25) => Ok(()),
        Some(used) => lack(format!("a process with 5 % of a core took {used} %")),
        None => lack("the busy process ended"),
    }
}

/// A program that asks for more than its group may have is ended by the kernel.
pub(super) fn memory(lab: &mut Lab) -> Result<(), Lack> {
    needs_root()?;
    let group = Cgroup::new(lab, Controller::Memory, &lab.name("y"))?;
    group.limit_memory(16 << 20)?;
    let mut eater = Command::new("python3");
    // It waits until it is in its group.
    eater.args(["-c", "import sys\nsys.stdin.readline()\nx=bytearray(96<<20)\nprint(len(x))"]);
    eater.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = victim(lab, eater)?;
    group.add(child.id())?;
    drop(child.stdin.take());
    let status = child.wait()?;
    if status.success() { lack("a program with 16 MiB took 96") } else { Ok(()) }
}

pub(super) fn descriptors(_lab: &mut Lab) -> Result<(), Lack> {
    let script = "exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</dev/null 8</dev/null";
    match run("prlimit", &["--nofile=6:6", "sh", "-c", script]) {
        Err(crate::command::CommandError::Failed { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => lack("a process had more descriptors than it may"),
    }
}
