//! A real power cut, as far as a filesystem can tell: ext4 on a loop file, shut down without a
//! flush (EXT4_IOC_SHUTDOWN with NOLOGFLUSH), unmounted and mounted again. What was synced is there;
//! the rest is gone.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ROUNDS, WRITES};
use crate::writer::{Writer, lost};

#[test]
fn what_was_acknowledged_before_a_power_cut_is_there_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path()) else {
        println!(
            "not run: the power cut needs root, mkfs.ext4, loop devices and python3 \
             (sudo cargo test -p node-storage power)"
        );
        return;
    };
    for round in 1..=ROUNDS {
        let folder = disk.mount.join(format!("round-{round}"));
        let mut writer = Writer::start(&folder, 0);
        writer.wait_for(WRITES);
        disk.cut_power();
        // What it says between the cut and its end was acknowledged by a dead disk, so only what
        // was read before counts: the kill reads the rest, and the filesystem refuses it anyway.
        let _later = writer.kill();
        disk.mount_again();
        assert_eq!(lost(&folder, WRITES), Vec::<String>::new(), "round {round}");
    }
}

/// An ext4 on a loop file.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// `None` where this machine does not let us.
    fn new(dir: &Path) -> Option<Self> {
        let disk = Self { image: dir.join("image"), mount: dir.join("mount") };
        std::fs::create_dir(&disk.mount).unwrap();
        std::fs::File::create(&disk.image).unwrap().set_len(256 << 20).unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", text(&disk.image)])
            && run("python3", &["-c", "import fcntl"])
            && run("mount", &["-o", "loop", text(&disk.image), text(&disk.mount)]);
        made.then_some(disk)
    }

    fn cut_power(&self) {
        // _IOR('X', 125, __u32), EXT4_GOING_FLAGS_NOLOGFLUSH
        let script = "import fcntl,os,struct,sys\n\
                      fd=os.open(sys.argv[1],os.O_RDONLY)\n\
                      fcntl.ioctl(fd,0x8004587d,struct.pack('I',2))";
        assert!(run("python3", &["-c", script, text(&self.mount)]), "the filesystem does not shut down");
    }

    fn mount_again(&self) {
        assert!(run("umount", &[text(&self.mount)]), "the filesystem is still in use");
        assert!(run("mount", &["-o", "loop", text(&self.image), text(&self.mount)]));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: after a failed assertion sled may not have let go of its file yet.
        run("umount", &["--lazy", text(&self.mount)]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}
