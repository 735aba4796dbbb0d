//! Faults of the disk, on a file system of our own.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use super::{Lack, lack, needs_root};
use crate::command::run;
use crate::lab::{Lab, Thing};

/// EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32), with EXT4_GOING_FLAGS_NOLOGFLUSH: what was not synced is gone,
/// as by a power cut.
const SHUT_DOWN: &str = "import fcntl,os,struct,sys\n\
    fd=os.open(sys.argv[1],os.O_RDONLY)\n\
    fcntl.ioctl(fd,0x8004587d,struct.pack('I',2))";

/// An ext4 on a loop file.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn new(lab: &mut Lab, bytes: u64) -> Result<Self, Lack> {
        needs_root()?;
        let disk = Self { image: lab.folder().join("image"), mount: lab.folder().join("mount") };
        fs::create_dir(&disk.mount)?;
        File::create(&disk.image)?.set_len(bytes)?;
        run("mkfs.ext4", &["-q", "-F", &disk.image.to_string_lossy()])?;
        lab.note(Thing::Mount { path: disk.mount.clone() })?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), Lack> {
        run("mount", &["-o", "loop", &self.image.to_string_lossy(), &self.mount.to_string_lossy()])?;
        Ok(())
    }
}

pub(super) fn power_cut(lab: &mut Lab) -> Result<(), Lack> {
    let disk = Disk::new(lab, 32 << 20)?;
    let [synced, unsynced] = ["synced", "unsynced"].map(|name| disk.mount.join(name));
    let mut kept = File::create(&synced)?;
    kept.write_all(b"here")?;
    kept.sync_all()?;
    File::open(&disk.mount)?.sync_all()?;
    drop(kept);
    fs::write(&unsynced, b"here")?;
    run("python3", &["-c", SHUT_DOWN, &disk.mount.to_string_lossy()])?;
    run("umount", &[&disk.mount.to_string_lossy()])?;
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
    let disk = Disk::new(lab, 4 << 20)?;
    let mut file = File::create(disk.mount.join("fill"))?;
    for _ in 0..64 {
        if let Err(error) = file.write_all(&[0; 256 << 10]).and_then(|()| file.sync_data()) {
            return if error.kind() == ErrorKind::StorageFull { Ok(()) } else { Err(error.into()) };
        }
    }
    lack("16 MiB fit on 4")
}

pub(super) fn failing_sync(lab: &mut Lab) -> Result<(), Lack> {
    let path = lab.folder().join("file");
    fs::write(&path, b"here")?;
    let path = path.to_string_lossy().into_owned();
    run("sync", &["--data", &path])?;
    let inject = ["-f", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "sync", "--data", &path];
    match run("strace", &inject) {
        Err(crate::command::CommandError::Failed { words, .. }) if words.contains("Input/output error") => {
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(_) => lack("a sync that should fail succeeded"),
    }
}
