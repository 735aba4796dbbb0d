//! Faults of the disk, on a file system of our own.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::process::Command;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::process::Talker;
use super::{Lack, lack};
use crate::disk::Disk;
use crate::fault::{damage, detach, trace_syncs};
use crate::lab::Lab;

pub(super) fn power_cut(lab: &mut Lab) -> Result<(), Lack> {
    let disk = Disk::new(lab, "probe", 32 << 20)?;
    let [synced, unsynced] = ["synced", "unsynced"].map(|name| disk.path().join(name));
    let mut kept = File::create(&synced)?;
    kept.write_all(b"here")?;
    kept.sync_all()?;
    File::open(disk.path())?.sync_all()?;
    drop(kept);
    fs::write(&unsynced, b"here")?;
    Disk::cut(&[&disk])?;
    if fs::write(disk.path().join("later"), b"here").is_ok() {
        return lack("a disk without power takes writes");
    }
    disk.unmount()?;
    disk.mount()?;
    if fs::read(&synced).ok().as_deref() != Some(b"here") {
        return lack("what was synced is gone");
    }
    if fs::read(&unsynced).is_ok_and(|bytes| bytes == b"here") {
        return lack("what was not synced is still there");
    }
    Ok(())
}

pub(super) fn full(lab: &mut Lab) -> Result<(), Lack> {
    let disk = Disk::new(lab, "probe", 4 << 20)?;
    let filling = disk.fill()?;
    let path = disk.path().join("more");
    match fs::write(&path, b"more").and_then(|()| File::open(&path)?.sync_all()) {
        Err(error) if error.kind() == ErrorKind::StorageFull => {}
        Err(error) => return Err(error.into()),
        Ok(()) => return lack("more fits on a full disk"),
    }
    fs::remove_file(filling)?;
    Ok(fs::write(&path, b"more")?)
}

/// A program that syncs when it is told to, and tells what came of it: how many milliseconds, or that it
/// failed.
struct Syncer(Talker);

const SYNCER: &str = "import os,sys,time\n\
    fd=os.open(sys.argv[1],os.O_CREAT|os.O_WRONLY)\n\
    for line in sys.stdin:\n\
    \tos.write(fd,b'x')\n\
    \tbegan=time.monotonic()\n\
    \ttry: os.fdatasync(fd); print(int((time.monotonic()-began)*1000),flush=True)\n\
    \texcept OSError as error: print(error.errno,'failed',flush=True)";

impl Syncer {
    fn new(lab: &mut Lab) -> Result<Self, Lack> {
        let mut python = Command::new("python3");
        python.args(["-c", SYNCER]).arg(lab.folder().join("file"));
        Ok(Self(Talker::new(lab, python)?))
    }

    /// Whether syncs are as they should be, then as they are made, then as they should be again.
    fn meddle(mut self, lab: &mut Lab, how: &str, bites: impl Fn(&str) -> bool) -> Result<(), Lack> {
        if bites(&self.0.ask()?) {
            return lack("syncs fail or are slow by themselves");
        }
        let tracer = trace_syncs(self.0.pid(), lab, how)?;
        let told = self.0.ask();
        let meddled = detach(vec![tracer])?;
        let told = told?;
        if !bites(&told) {
            return lack(format!("a sync comes to {told:?} under {how}"));
        }
        if meddled != Some(1) {
            return lack(format!("of one call {meddled:?} were meddled with"));
        }
        if bites(&self.0.ask()?) {
            return lack("it does not end");
        }
        self.0.end()
    }
}

pub(super) fn failing_sync(lab: &mut Lab) -> Result<(), Lack> {
    Syncer::new(lab)?.meddle(lab, "error=EIO", |told| told == "5 failed")
}

pub(super) fn slow_sync(lab: &mut Lab) -> Result<(), Lack> {
    let is_slow = |told: &str| told.parse::<u64>().is_ok_and(|ms| ms >= 2_000);
    Syncer::new(lab)?.meddle(lab, "delay_enter=2000000", is_slow)
}

/// A folder as it was, with what has been changed, added and removed since, and then none.
pub(super) fn old_copy(lab: &mut Lab) -> Result<(), Lack> {
    let folder = lab.folder().join("data");
    let [changed, removed, added] = ["changed", "below/removed", "added"].map(|name| folder.join(name));
    fs::create_dir_all(folder.join("below"))?;
    fs::write(&changed, "old")?;
    fs::write(&removed, "old")?;
    let copy = damage::Copy::of(folder.clone())?;
    fs::write(&changed, "new")?;
    fs::remove_file(&removed)?;
    fs::write(&added, "new")?;
    copy.restore()?;
    if fs::read(&changed)? != b"old" || fs::read(&removed)? != b"old" || added.exists() {
        return lack("what is there is not what was there");
    }
    damage::wipe(&folder)?;
    if folder.exists() { lack("something is left") } else { Ok(()) }
}

pub(super) fn damage(lab: &mut Lab) -> Result<(), Lack> {
    let folder = lab.folder().join("data");
    fs::create_dir(&folder)?;
    let file = folder.join("db");
    fs::write(&file, [0_u8; 300])?;
    let mut random = StdRng::seed_from_u64(1);
    damage::turn_bits(std::slice::from_ref(&folder), 1, &mut random)?;
    let turned: u32 = fs::read(&file)?.iter().map(|byte| byte.count_ones()).sum();
    if turned != 1 {
        return lack(format!("{turned} bits turned, of one"));
    }
    damage::truncate(std::slice::from_ref(&folder))?;
    match fs::metadata(&file)?.len() {
        200 => Ok(()),
        length => lack(format!("a third less of 300 bytes are {length}")),
    }
}
