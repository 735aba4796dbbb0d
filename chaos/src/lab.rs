//! What the tool makes on this machine, written down before it is made.
//!
//! Namespaces, mounts and control groups outlive whoever made them. So each goes into a list first: what
//! ends in order undoes its own list from the back, and what was killed leaves it to its guard, a process that
//! waits for its end, or to `holdfast-chaos clean`: both undo the lists of those that are no more. Nothing
//! that is in no list is ever touched, but for what runs in a namespace that is.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::command::{self, CommandError};

const LIST: &str = "made";
/// Whoever cleans up holds its lock.
const TURN: &str = "turn";
/// Longer than any command takes that makes one thing.
const SETTLED: Duration = Duration::from_secs(1);
/// For a process that was killed to be gone.
const GONE_SECONDS_MAX: u8 = 5;
const GONE_MAX: Duration = Duration::from_secs(GONE_SECONDS_MAX as u64);
/// The kernel's limit for a socket's name, without its end.
const SOCKET_BYTES_MAX: usize = 107;
/// What a lab, a node and its socket add to it.
const BELOW_BYTES: usize = "/4194304-999999999999/node-9/agent.sock".len();
/// Of a folder's mode: its group may write, or everybody.
const OTHERS_WRITE: u32 = 0o022;

/// One thing that has to be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "made", rename_all = "snake_case")]
pub enum Thing {
    Namespace { name: String },
    Mount { path: PathBuf },
    Cgroup { path: PathBuf },
    Process { pid: u32, start: u64 },
}

/// Everything that one run of the tool has made.
#[derive(Debug)]
pub struct Lab {
    folder: PathBuf,
    made: Vec<Thing>,
}

/// Why something can not be made or undone.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("can not {what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("process {0} can not be ended")]
    Immortal(u32),
    #[error("{} is not ours alone: it has to be a folder that nobody else may write, of the user who calls", path.display())]
    Foreign { path: PathBuf },
    #[error("{} is too long a name: those of sockets below it may have {SOCKET_BYTES_MAX} bytes", path.display())]
    Long { path: PathBuf },
}

fn file<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LabError + use<'a> {
    move |source| LabError::File { what, path: path.to_owned(), source }
}

impl Lab {
    /// A new one under `root`, for this process.
    ///
    /// # Errors
    /// When the folder can not be made.
    pub fn open(root: &Path) -> Result<Self, LabError> {
        let me = std::process::id();
        let folder = root.join(format!("{me}-{}", start_of(me).unwrap_or(0)));
        fs::create_dir_all(&folder).map_err(file("make", &folder))?;
        Ok(Self { folder, made: Vec::new() })
    }

    /// For files, which end with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A name that no other lab has, short enough for a network interface.
    pub fn name(&self, short: &str) -> String {
        format!("hfc{}{short}", std::process::id())
    }

    /// A name that nothing else of this lab has either.
    pub fn unique(&self, short: &str) -> String {
        self.name(&format!("{short}{}", self.made.len()))
    }

    /// Writes down what is about to be made.
    ///
    /// # Errors
    /// When it can not be written: then it must not be made.
    pub fn note(&mut self, thing: Thing) -> Result<(), LabError> {
        let path = self.folder.join(LIST);
        let line = serde_json::to_string(&thing).expect("plain data always serialises") + "\n";
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        opened.and_then(|mut list| list.write_all(line.as_bytes())).map_err(file("write", &path))?;
        self.made.push(thing);
        Ok(())
    }

    /// Undoes everything.
    ///
    /// # Errors
    /// The first thing that could not be undone; the others are all the same.
    pub fn close(mut self) -> Result<(), LabError> {
        let made = std::mem::take(&mut self.made);
        undo(&self.folder, made)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let made = std::mem::take(&mut self.made);
        if !made.is_empty()
            && let Err(error) = undo(&self.folder, made)
        {
            crate::output::note!("warning: {error}; `holdfast-chaos clean` tries again");
        }
    }
}

/// Names another place for labs, such as one with more room.
pub const ROOT_VARIABLE: &str = "HOLDFAST_CHAOS_LAB";

/// Where labs are, unless somebody names another place: below /run, which a restart of the machine empties,
/// or in what the session of a user who is not root has there; where there is none, among temporary files. It
/// is made if it is not there.
///
/// # Errors
/// When others could have made it, or can write there: what its lists say is undone.
pub fn root() -> Result<PathBuf, LabError> {
    let named = std::env::var_os(ROOT_VARIABLE).filter(|named| !named.is_empty());
    let root = match named {
        Some(named) => std::path::absolute(&named).map_err(file("find", Path::new(&named)))?,
        None if is_root() => PathBuf::from("/run/holdfast-chaos"),
        None => unprivileged_root(),
    };
    keep_root(&root)?;
    Ok(root)
}

fn unprivileged_root() -> PathBuf {
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match session.filter(|folder| is_ours(folder)) {
        Some(folder) => folder.join("holdfast-chaos"),
        None => std::env::temp_dir().join(format!("holdfast-chaos-{}", rustix::process::geteuid().as_raw())),
    }
}

fn keep_root(root: &Path) -> Result<(), LabError> {
    if root.as_os_str().len() + BELOW_BYTES > SOCKET_BYTES_MAX {
        return Err(LabError::Long { path: root.to_owned() });
    }
    // Apps of root's agents may be of other users, who have to find what is theirs.
    let mode = if is_root() { 0o755 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(root) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(file("make", root)(error)),
        _made_or_there if is_ours(root) => Ok(()),
        _of_somebody => Err(LabError::Foreign { path: root.to_owned() }),
    }
}

/// Whether a path is a folder itself, of ours, and nobody else's to write.
fn is_ours(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|about| {
        about.is_dir()
            && about.uid() == rustix::process::geteuid().as_raw()
            && about.mode() & OTHERS_WRITE == 0
    })
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Has a process of its own wait for the end of this one, and undo what it has left.
///
/// # Errors
/// When it can not be started; then `clean` has to be called after a kill.
pub fn keep_guard() -> io::Result<()> {
    let me = std::process::id();
    let mut guard = Command::new(std::env::current_exe()?);
    guard.args(["guard", "--pid", &me.to_string(), "--start", &start_of(me).unwrap_or(0).to_string()]);
    guard.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // What ends this process from a terminal must not end the guard.
    guard.process_group(0);
    guard.spawn().map(drop)
}

/// Is a guard: waits until a process is no more, and undoes what it has left.
///
/// # Errors
/// When something can not be undone.
pub fn guard(root: &Path, pid: u32, start: u64) -> Result<(), LabError> {
    let handle = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let handle = handle.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // With the handle open it is known whether the pid is that process's.
    while let Some(handle) = handle.as_ref().filter(|_| start_of(pid) == Some(start)) {
        if poll(&mut [PollFd::new(handle, PollFlags::IN)], None).is_err() {
            std::thread::sleep(SETTLED);
        }
    }
    if root.join(format!("{pid}-{start}")).exists() {
        clean(root)?;
    }
    Ok(())
}

/// Undoes what those left that are no more. Returns how many they were.
///
/// # Errors
/// When something can not be undone; it is tried again the next time.
pub fn clean(root: &Path) -> Result<usize, LabError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(file("read", root)(error)),
    };
    // One at a time: a guard may be at it.
    let turn = root.join(TURN);
    let mut taken = OpenOptions::new();
    taken.write(true).create(true).truncate(false).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let _turn = taken.open(&turn).and_then(|file| file.lock().map(|()| file)).map_err(file("lock", &turn))?;
    let (mut cleaned, mut failed) = (0, None);
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner =
            name.split_once('-').and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
        let Some((pid, start)): Option<(u32, u64)> = owner else { continue };
        if start_of(pid) == Some(start) {
            continue;
        }
        let list = entry.path().join(LIST);
        if !entry.path().exists() {
            // Somebody else has done it in the meantime.
            continue;
        }
        settle(&list);
        let text = fs::read_to_string(&list).unwrap_or_default();
        // The last line may be cut: then the thing was not made.
        let made = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        match undo(&entry.path(), made) {
            Ok(()) => cleaned += 1,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(cleaned), Err)
}

/// A command that a killed run had just begun, such as `ip netns add`, goes on without it. It makes what
/// the list says already, so it is waited for.
fn settle(list: &Path) {
    let age = || fs::metadata(list).ok()?.modified().ok()?.elapsed().ok();
    if let Some(rest) = age().and_then(|age| SETTLED.checked_sub(age)) {
        std::thread::sleep(rest);
    }
}

/// The folder goes last, and only when nothing is left.
fn undo(folder: &Path, made: Vec<Thing>) -> Result<(), LabError> {
    // First of all: a frozen process does not even die.
    for thing in &made {
        if let Thing::Cgroup { path } = thing {
            cgroup::thaw(path);
        }
    }
    // Then what runs: it keeps groups, mounts and namespaces, whichever of them came first.
    let (processes, rest): (Vec<_>, Vec<_>) =
        made.into_iter().rev().partition(|thing| matches!(thing, Thing::Process { .. }));
    let mut failed = None;
    for thing in processes.into_iter().chain(rest) {
        if let Err(error) = thing.undo() {
            failed.get_or_insert(error);
        }
    }
    match failed {
        Some(error) => Err(error),
        None => fs::remove_dir_all(folder).map_err(file("remove", folder)),
    }
}

impl Thing {
    fn undo(&self) -> Result<(), LabError> {
        match self {
            Self::Namespace { name } if Path::new("/run/netns").join(name).exists() => {
                end_all_in(name)?;
                command::run("ip", &["netns", "del", name])?;
            }
            Self::Mount { path } if is_mounted(path) => {
                command::run("umount", &["--lazy", &path.to_string_lossy()])?;
            }
            Self::Cgroup { path } if path.exists() => {
                empty(path);
                fs::remove_dir(path).map_err(file("remove", path))?;
            }
            Self::Process { pid, start } if start_of(*pid) == Some(*start) => end(*pid, *start)?,
            Self::Namespace { .. } | Self::Mount { .. } | Self::Cgroup { .. } | Self::Process { .. } => {}
        }
        Ok(())
    }
}

/// What was started in a namespace of ours and is in no list yet: its starter was killed in between.
fn end_all_in(namespace: &str) -> Result<(), LabError> {
    let pids = command::run("ip", &["netns", "pids", namespace])?;
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        if let Some(start) = start_of(pid) {
            end(pid, start)?;
        }
    }
    Ok(())
}

/// Waits a moment until nothing is in a control group, as one that was just killed still is.
fn empty(path: &Path) {
    let began = std::time::Instant::now();
    let has_any = || fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|text| !text.is_empty());
    while has_any() && began.elapsed() < GONE_MAX {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends exactly this process, whoever else gets its pid.
pub fn end(pid: u32, start: u64) -> Result<(), LabError> {
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let handle = match pidfd_open(target, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Ok(()),
        Err(_) => return Err(LabError::Immortal(pid)),
    };
    // With the handle open it is known whether the pid is that process's, and the signal goes to no other.
    if start_of(pid) != Some(start) {
        return Ok(());
    }
    // It fails only when the process has just ended, which is what was wanted.
    let _gone = pidfd_send_signal(&handle, Signal::KILL);
    let limit = Timespec { tv_sec: GONE_SECONDS_MAX.into(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit)) {
        Ok(1..) => Ok(()),
        Ok(0) | Err(_) if start_of(pid) == Some(start) => Err(LabError::Immortal(pid)),
        Ok(0) | Err(_) => Ok(()),
    }
}

/// When a process began, in the kernel's ticks; `None` once it has ended, a zombie included. With the pid
/// it names one process for ever.
pub fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, parentheses included.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _alive => fields.nth(18)?.parse().ok(),
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = path.to_string_lossy();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_place_that_others_could_have_made_or_can_write_is_not_used() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        keep_root(&root).unwrap();
        keep_root(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(keep_root(&root), Err(LabError::Foreign { .. })));
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        let link = dir.path().join("link");
        symlink(&root, &link).unwrap();
        assert!(matches!(keep_root(&link), Err(LabError::Foreign { .. })));
        // Nor is a turn taken through a link, or what it names cut.
        let precious = dir.path().join("precious");
        fs::write(&precious, "x").unwrap();
        symlink(&precious, root.join(TURN)).unwrap();
        assert!(clean(&root).is_err());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "x");
    }

    #[test]
    fn a_process_that_is_not_the_one_is_not_ended() {
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let start = start_of(other.id()).unwrap();
        end(other.id(), start + 1).unwrap();
        assert_eq!(start_of(other.id()), Some(start));
        end(other.id(), start).unwrap();
        assert_eq!(start_of(other.id()), None);
        other.wait().unwrap();
        end(other.id(), start).unwrap();
    }

    #[test]
    fn what_a_killed_run_left_is_cleaned_and_what_a_living_one_has_is_not() {
        let root = tempfile::tempdir().unwrap();
        let mut left = Command::new("sleep").arg("60").spawn().unwrap();
        let (pid, start) = (left.id(), start_of(left.id()).unwrap());
        let thing = Thing::Process { pid, start };
        // Of a process that was never there, as pids end below this.
        let dead = root.path().join("99999999-1");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LIST), serde_json::to_string(&thing).unwrap() + "\n{\"made\":\"mou").unwrap();
        let mut mine = Lab::open(root.path()).unwrap();
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let of_mine = Thing::Process { pid: other.id(), start: start_of(other.id()).unwrap() };
        mine.note(of_mine).unwrap();
        assert_eq!(clean(root.path()).unwrap(), 1);
        assert!(!dead.exists());
        assert_eq!((start_of(pid), start_of(other.id()).is_some()), (None, true));
        left.wait().unwrap();
        let folder = mine.folder().to_owned();
        mine.close().unwrap();
        assert!(!folder.exists() && start_of(other.id()).is_none());
        other.wait().unwrap();
    }
}
