//! A disk of our own: ext4 on a loop file, which can be filled, and whose power can be cut.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use crate::command::{CommandError, run};
use crate::lab::{Lab, LabError, Thing};

/// EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32), with EXT4_GOING_FLAGS_NOLOGFLUSH: what was not synced is gone,
/// as by a power cut.
const SHUT_DOWN: &str = "import fcntl,os,struct,sys\n\
    for path in sys.argv[1:]:\n\
    \tfcntl.ioctl(os.open(path,os.O_RDONLY),0x8004587d,struct.pack('I',2))";
/// For those that were just killed to let go of their files.
const BUSY_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// What a disk's last room is filled by hand with: agents go on writing meanwhile.
const LEFT_BYTES: u64 = 4 << 20;
/// And so much at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// A file system in a file.
#[derive(Debug, Clone)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("a disk of its own needs root")]
    Root,
    #[error("can not {what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("{bytes} bytes fit on the disk {} and more", path.display())]
    Endless { path: PathBuf, bytes: u64 },
}

impl Disk {
    /// Makes one, mounted. It ends with the lab.
    ///
    /// # Errors
    /// Without root, e2fsprogs or the kernel's leave.
    pub fn new(lab: &mut Lab, name: &str, bytes: u64) -> Result<Self, DiskError> {
        if !crate::lab::is_root() {
            return Err(DiskError::Root);
        }
        let image = lab.folder().join(format!("{name}.image"));
        let mount = lab.folder().join(format!("{name}.disk"));
        let file = |what, path: &Path| {
            let path = path.to_owned();
            move |source| DiskError::File { what, path, source }
        };
        fs::create_dir(&mount).map_err(file("make", &mount))?;
        // Sparse: what is not used costs nothing.
        File::create(&image).and_then(|made| made.set_len(bytes)).map_err(file("make", &image))?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image.to_string_lossy()])?;
        lab.note(Thing::Mount { path: mount.clone() })?;
        let disk = Self { image, mount };
        disk.mount()?;
        Ok(disk)
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    pub fn mount(&self) -> Result<(), DiskError> {
        run("mount", &["-o", "loop", &self.image.to_string_lossy(), &self.mount.to_string_lossy()])?;
        Ok(())
    }

    /// Waits until nobody uses it.
    pub fn unmount(&self) -> Result<(), DiskError> {
        let began = Instant::now();
        loop {
            match run("umount", &[&self.mount.to_string_lossy()]) {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > BUSY_MAX => return Err(error.into()),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Cuts the power of all of them, as nearly at once as a system call each can be. They have to be
    /// unmounted and mounted to be used again.
    pub fn cut(disks: &[&Self]) -> Result<(), DiskError> {
        let paths: Vec<_> = disks.iter().map(|disk| disk.mount.to_string_lossy().into_owned()).collect();
        let words: Vec<&str> =
            ["-c", SHUT_DOWN].into_iter().chain(paths.iter().map(String::as_str)).collect();
        run("python3", &words)?;
        Ok(())
    }

    /// Writes until there is no room, and returns what has to be removed.
    pub fn fill(&self) -> Result<PathBuf, DiskError> {
        let path = self.mount.join("filled-by-chaos");
        let file = |what| {
            let path = path.clone();
            move |source| DiskError::File { what, path, source }
        };
        let size = fs::metadata(&self.image).map_err(file("look at"))?.len();
        let mut filling = File::create(&path).map_err(file("make"))?;
        // Nearly all of it at once, which writes nothing; by hand what is left.
        let free = rustix::fs::statvfs(&self.mount).map_err(|error| file("look at")(error.into()))?;
        let most = free.f_bavail.saturating_mul(free.f_frsize).saturating_sub(LEFT_BYTES);
        if most > 0 {
            rustix::fs::fallocate(&filling, FallocateFlags::empty(), 0, most)
                .map_err(|error| file("fill")(error.into()))?;
            filling.seek(SeekFrom::End(0)).map_err(file("fill"))?;
        }
        let (mut chunk, mut bytes) = (vec![0; CHUNK_BYTES], 0);
        while bytes <= size {
            match filling.write_all(&chunk).and_then(|()| filling.sync_data()) {
                Ok(()) => bytes += chunk.len() as u64,
                // Down to the last byte: a small write has to fail as well.
                Err(error) if error.kind() == ErrorKind::StorageFull && chunk.len() > 1 => {
                    chunk.truncate(chunk.len() / 8);
                }
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(path),
                Err(error) => return Err(file("fill")(error)),
            }
        }
        Err(DiskError::Endless { path, bytes })
    }
}
