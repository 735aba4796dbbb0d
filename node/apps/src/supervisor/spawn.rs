//! The thread that starts instances, and a started process until it is gone.
//!
//! A parent-death signal comes when the *thread* that forked the child ends, not its process (see
//! prctl(2)). A runtime's threads come and go, so one thread does nothing but start instances, and
//! ends with the supervisor.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::environment;

/// Starts that wait for the thread. Each takes about a millisecond.
const QUEUE: usize = 64;

/// What is to be started.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) argv: Vec<String>,
    pub(super) folder: PathBuf,
    pub(super) nofile: u64,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) log: File,
}

type Request = (Program, oneshot::Sender<io::Result<Child>>);

/// Hands programs to the thread. The thread ends, and every instance with it, when this is dropped.
#[derive(Debug)]
pub(super) struct Spawner {
    requests: mpsc::Sender<Request>,
}

impl Spawner {
    /// `launcher` is the program, with its first arguments, that calls [`crate::exec_instance`].
    pub(super) fn start(launcher: Vec<OsString>) -> io::Result<Self> {
        let (requests, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || serve(&launcher, queue))?;
        Ok(Self { requests })
    }

    pub(super) async fn spawn(&self, program: Program) -> io::Result<Running> {
        let gone = || io::Error::other("the thread that starts instances is gone");
        let (reply, child) = oneshot::channel();
        self.requests.send((program, reply)).await.map_err(|_| gone())?;
        Running::new(child.await.map_err(|_| gone())??)
    }
}

fn serve(launcher: &[OsString], mut queue: mpsc::Receiver<Request>) {
    let inherited = environment::inherited();
    while let Some((program, reply)) = queue.blocking_recv() {
        let child = start(launcher, &inherited, program);
        if let Err(Ok(mut orphan)) = reply.send(child) {
            // Nobody waits for it any more. It is this process's child, so the number is its own.
            if let Err(error) = orphan.kill().and_then(|()| orphan.wait().map(drop)) {
                tracing::warn!(%error, "can not end an instance that nobody waits for");
            }
        }
    }
}

fn start(launcher: &[OsString], inherited: &[(OsString, OsString)], program: Program) -> io::Result<Child> {
    let [first, rest @ ..] = launcher else { return Err(io::ErrorKind::InvalidInput.into()) };
    Command::new(first)
        .args(rest)
        .arg(program.nofile.to_string())
        .arg(std::process::id().to_string())
        .args(program.argv)
        .env_clear()
        .envs(inherited.iter().cloned())
        .envs(program.environment)
        .current_dir(program.folder)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(program.log.try_clone()?)
        .stderr(program.log)
        .spawn()
}

/// A process that was started here, with the group that it leads. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    pid: Pid,
    ended: AsyncFd<OwnedFd>,
    /// Waited for: from here on its number may be another's.
    is_reaped: bool,
}

impl Running {
    fn new(mut child: Child) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
        match descriptor.and_then(watch) {
            Ok(ended) => Ok(Self { child, pid, ended, is_reaped: false }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Waits until the leader has ended. It is not reaped, so its number stays its own and the group
    /// can still be signalled.
    pub(super) async fn ended(&self) {
        // The descriptor becomes readable at the end, and stays so. An error would mean that it is not
        // watched at all; then it is the kill after the grace that ends the wait.
        if let Err(error) = self.ended.readable().await {
            tracing::error!(%error, pid = self.pid(), "can not watch an instance");
            std::future::pending::<()>().await;
        }
    }

    /// To the whole group.
    pub(super) fn signal(&self, signal: Signal) {
        if self.is_reaped {
            return;
        }
        // In its first moment the process may not lead a group yet.
        let sent = kill_process_group(self.pid, signal).or_else(|_| kill_process(self.pid, signal));
        match sent {
            // It has ended, with everybody in its group.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, pid = self.pid(), "can not signal an instance"),
        }
    }

    /// Ends whatever is left of the group, and says how the leader ended.
    pub(super) async fn finish(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.ended().await;
        self.reap()
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        self.is_reaped = true;
        self.child.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.signal(Signal::KILL);
            // A killed process ends at once unless the kernel holds it: rather a short wait than a zombie.
            if let Err(error) = self.reap() {
                tracing::warn!(%error, "can not reap an instance");
            }
        }
    }
}

#[expect(deprecated, reason = "the successor is unsafe to call, for what an OwnedFd already upholds")]
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// How a process ended, in words.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
