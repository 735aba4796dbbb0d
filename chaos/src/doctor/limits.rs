//! Faults of what a process may have: time, processor, descriptors.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::{Talker, busy, cpu_ticks, victim};
use super::{Lack, lack, needs_root};
use crate::cgroup::{Cgroup, Controller};
use crate::farm::own_clock;
use crate::fault::Limit;
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

/// A program that goes on while its wall clock jumps, as an agent does, and whose other clock must not.
pub(super) fn clock(lab: &mut Lab) -> Result<(), Lack> {
    let Some(library) = faketime() else { return lack("libfaketime is not installed") };
    let file = lab.folder().join("clock");
    let set = |seconds: i64| {
        fs::write(&file, format!("{seconds:+}\n"))?;
        // It looks again when the second after the next one has begun.
        std::thread::sleep(Duration::from_millis(2_100));
        Ok::<(), Lack>(())
    };
    set(0)?;
    let mut python = Command::new("python3");
    let clocks =
        "import sys,time\nfor line in sys.stdin: print(int(time.time()),int(time.monotonic()),flush=True)";
    python.args(["-c", clocks]);
    own_clock(&mut python, library, &file);
    let mut program = Talker::new(lab, python)?;
    let mut tells = || -> Result<(i64, i64), Lack> {
        let line = program.ask()?;
        let clocks =
            line.split_once(' ').and_then(|(wall, other)| Some((wall.parse().ok()?, other.parse().ok()?)));
        clocks.ok_or_else(|| Lack::Words(format!("the clocks are {line:?}")))
    };
    let before = tells()?;
    set(HOUR_SECONDS)?;
    let ahead = tells()?;
    set(0)?;
    let after = tells()?;
    program.end()?;
    let soon = 0..60;
    if !soon.contains(&(ahead.0 - before.0 - HOUR_SECONDS)) {
        return lack(format!("a jump of an hour is one of {} s", ahead.0 - before.0));
    }
    if !soon.contains(&(ahead.1 - before.1)) {
        return lack(format!("time that is measured jumps too, by {} s", ahead.1 - before.1));
    }
    if soon.contains(&(after.0 - before.0)) { Ok(()) } else { lack("it does not end") }
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

/// A program that opens a file a line, until it may not.
pub(super) fn descriptors(lab: &mut Lab) -> Result<(), Lack> {
    let opens = "import sys\nfiles=[]\nfor line in sys.stdin:\n\
                 \ttry: files.append(open('/dev/null')); print('open',flush=True)\n\
                 \texcept OSError as error: print(error.errno,flush=True)";
    let mut python = Command::new("python3");
    python.args(["-c", opens]);
    let mut program = Talker::new(lab, python)?;
    program.ask()?;
    let limit = Limit::new(program.pid(), 2)?;
    let told = [program.ask()?, program.ask()?, program.ask()?];
    limit.restore();
    let after = program.ask()?;
    program.end()?;
    // EMFILE.
    if told != ["open", "open", "24"] {
        return lack(format!("a process that may open two files comes to {told:?}"));
    }
    if after == "open" { Ok(()) } else { lack("it does not end") }
}
