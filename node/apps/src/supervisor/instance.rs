//! One place for an instance: a process, its successors when it ends, and their end.
//!
//! ```text
//!            ┌───────────── pause ◀──────────────┐
//!            ▼                                   │ ends, or is not ready in time
//!   start ─▶ starting ──passes──▶ ready ◀──▶ unready
//!                                   │ told to retire
//!                                   ▼
//!                  stopping: drained ─▶ signal ─▶ grace ─▶ kill the group ─▶ gone
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::health::{Change, Readiness};
use super::leftovers::Record;
use super::output::{self, Logs};
use super::ports::{Port, Ports};
use super::probe::{self, Question};
use super::restart::Restarts;
use super::spawn::{Program, Running, Spawner, describe};
use super::status::{InstanceState, InstanceStatus};
use super::{Drain, Launch, environment};
use crate::spec::StopSignal;

/// What all instances share.
pub(super) struct Means {
    pub(super) spawner: Spawner,
    pub(super) ports: Ports,
    pub(super) logs: Logs,
    pub(super) records: PathBuf,
    pub(super) drain: Arc<dyn Drain>,
    /// Counts the instances of this life of the agent.
    pub(super) counter: AtomicU64,
    /// Cancelled: everything ends at once.
    pub(super) stop: CancellationToken,
}

/// What a place tells the app that it is of.
#[derive(Debug)]
pub(super) enum Event {
    Status(u64, InstanceStatus),
    /// No process is left.
    Gone(u64),
}

/// One place, run by a task of its own.
pub(super) struct Place {
    slot: u64,
    launch: Arc<Launch>,
    means: Arc<Means>,
    retire: CancellationToken,
    events: mpsc::Sender<Event>,
    restarts: Restarts,
    status: InstanceStatus,
    /// Since it was started or last failed: until then it has to be ready.
    ready_by: Instant,
    /// It has failed, and has not been ready since.
    has_failed: bool,
}

/// One process, on its port, with what it prints.
struct Instance {
    running: Running,
    log: PathBuf,
    _port: Port,
}

/// How a process came to its end.
enum End {
    /// By itself.
    Exited {
        words: String,
        ready_for: Option<Duration>,
    },
    NeverReady {
        words: String,
    },
    /// It was to end, or everything was.
    Retired,
}

impl Place {
    pub(super) fn new(
        slot: u64,
        launch: Arc<Launch>,
        means: Arc<Means>,
        retire: CancellationToken,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let status = InstanceStatus {
            id: String::new(),
            release: launch.release,
            state: InstanceState::Starting,
            pid: 0,
            port: 0,
            started_ms: 0,
            restarts: 0,
            message: String::new(),
        };
        let restarts = Restarts::new(launch.spec.restart.clone());
        let ready_by = Instant::now() + launch.spec.health.startup.timeout;
        Self { slot, launch, means, retire, events, restarts, status, ready_by, has_failed: false }
    }

    pub(super) async fn run(mut self) {
        loop {
            let end = match self.start().await {
                Ok(instance) => self.follow(instance).await,
                Err(words) => End::Exited { words, ready_for: None },
            };
            let Some(pause) = self.judge(end) else { break };
            self.tell().await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.retire.cancelled() => break,
                () = self.means.stop.cancelled() => break,
            }
            self.status.restarts = self.status.restarts.saturating_add(1);
        }
        // Nobody listens any more only when everything ends.
        let _everything_ends = self.events.send(Event::Gone(self.slot)).await;
    }

    /// What an end means; the pause before the next start, or none.
    fn judge(&mut self, end: End) -> Option<Duration> {
        let (words, pause, failed) = match end {
            End::Retired => return None,
            End::NeverReady { words } => {
                let timeout = humantime::format_duration(self.launch.spec.health.startup.timeout);
                (format!("not ready in {timeout}: {words}"), self.restarts.timed_out(rand::random()), true)
            }
            End::Exited { words, ready_for } => {
                let verdict = self.restarts.ended(Instant::now(), ready_for, rand::random());
                let late = !self.has_failed && ready_for.is_none() && Instant::now() >= self.ready_by;
                let words = if verdict.crash_loop { format!("ends again and again: {words}") } else { words };
                (words, verdict.pause, verdict.crash_loop || late)
            }
        };
        if failed {
            self.has_failed = true;
        }
        if self.has_failed {
            self.ready_by = Instant::now() + pause + self.launch.spec.health.startup.timeout;
        }
        tracing::warn!(app = self.launch.spec.app, instance = self.status.id, failed, "{words}");
        self.status.state = self.not_ready();
        self.status.pid = 0;
        self.status.port = 0;
        self.status.message = words;
        Some(pause)
    }

    /// What it is while it is neither ready nor was.
    fn not_ready(&self) -> InstanceState {
        if self.has_failed { InstanceState::Failed } else { InstanceState::Starting }
    }

    async fn tell(&self) {
        let _everything_ends = self.events.send(Event::Status(self.slot, self.status.clone())).await;
    }

    /// Starts a process. The error is what to tell a person.
    async fn start(&mut self) -> Result<Instance, String> {
        let Launch { spec, root, .. } = &*self.launch;
        let number = self.means.counter.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", spec.app);
        let port = self.means.ports.take().map_err(|error| error.to_string())?;
        let (file, log) =
            self.means.logs.open(&spec.app, &id).map_err(|error| format!("can not open its log: {error}"))?;
        let mark = format!("{id}/{:016x}", rand::random::<u64>());
        let environment = environment::own(&self.launch, port.number(), &mark);
        let argv = spec.run.command.iter().map(|argument| environment::expand(argument, &environment));
        let program = Program {
            argv: argv.collect(),
            folder: root.join(&spec.run.workdir),
            nofile: spec.limits.nofile,
            environment,
            log: file,
        };
        let running =
            self.means.spawner.spawn(program).await.map_err(|error| format!("can not start: {error}"))?;
        // Without it nobody would know this process after a crash.
        let (pid, records, name) = (running.pid(), self.means.records.clone(), id.clone());
        let record = move || Record::of(pid, &mark)?.write(&records, &name);
        let recorded = tokio::task::spawn_blocking(record).await.map_err(io::Error::other).flatten();
        recorded.map_err(|error| format!("can not record its process: {error}"))?;
        self.status.id = id;
        self.status.state = self.not_ready();
        self.status.pid = running.pid().unsigned_abs();
        self.status.port = port.number();
        self.status.started_ms = unix_ms();
        self.tell().await;
        tracing::info!(app = spec.app, instance = self.status.id, pid = running.pid(), "started");
        Ok(Instance { running, log, _port: port })
    }

    /// Watches a process to its end.
    async fn follow(&mut self, instance: Instance) -> End {
        let mut readiness = Readiness::new(self.launch.spec.health.clone(), self.ready_by);
        let mut ready_since = None;
        let (retire, stop) = (self.retire.clone(), self.means.stop.clone());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.finish(instance).await;
                    return End::Retired;
                }
                () = retire.cancelled() => {
                    self.retire(instance).await;
                    return End::Retired;
                }
                () = instance.running.ended() => {
                    let ready_for = ready_since.map(|since: Instant| since.elapsed());
                    let words = self.finish(instance).await;
                    return End::Exited { words, ready_for };
                }
                change = next_change(&mut readiness, &self.launch, self.status.port) => match change {
                    Change::TimedOut(words) => {
                        self.finish(instance).await;
                        return End::NeverReady { words };
                    }
                    Change::Ready => {
                        ready_since.get_or_insert_with(Instant::now);
                        self.has_failed = false;
                        self.change(InstanceState::Ready, String::new()).await;
                    }
                    Change::Unready(words) => self.change(InstanceState::Unready, words).await,
                    Change::Words(words) => self.change(self.status.state, words).await,
                },
            }
        }
    }

    async fn change(&mut self, state: InstanceState, message: String) {
        if self.status.state != state {
            tracing::info!(
                app = self.launch.spec.app,
                instance = self.status.id,
                state = state.as_str(),
                message,
                "changed"
            );
        }
        self.status.state = state;
        self.status.message = message;
        self.tell().await;
    }

    /// No new requests, then the ones in flight, then the signal, then the kill.
    async fn retire(&mut self, instance: Instance) {
        let stop_spec = self.launch.spec.stop.clone();
        self.change(InstanceState::Stopping, String::new()).await;
        let (stop, running) = (self.means.stop.clone(), &instance.running);
        let drain = self.means.drain.drain(&self.launch.spec.app, &self.status.id);
        let drained = tokio::time::timeout(stop_spec.drain, drain);
        tokio::select! {
            () = stop.cancelled() => {}
            () = running.ended() => {}
            drained = drained => {
                if drained.is_err() {
                    tracing::warn!(instance = self.status.id, "still has requests after its time to drain");
                }
                running.signal(signal(stop_spec.signal));
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = running.ended() => {}
                    () = tokio::time::sleep(stop_spec.grace) => {
                        tracing::warn!(instance = self.status.id, "did not end in its grace; killed");
                    }
                }
            }
        }
        self.finish(instance).await;
    }

    /// Ends what is left of a process and its group, and tells how it ended.
    async fn finish(&self, instance: Instance) -> String {
        let words = match instance.running.finish().await {
            Ok(status) => describe(status),
            Err(error) => format!("ended, and how is not known: {error}"),
        };
        if let Err(error) = Record::remove(&self.means.records, &self.status.id) {
            tracing::warn!(%error, instance = self.status.id, "can not remove the record of an instance");
        }
        let printed = output::tail(&instance.log);
        if printed.is_empty() { words } else { format!("{words}: {printed}") }
    }
}

/// Probes until something has changed. Cancelled between two probes or in one, nothing is lost.
async fn next_change(readiness: &mut Readiness, launch: &Launch, port: u16) -> Change {
    let default = format!("127.0.0.1:{port}");
    let host = launch.spec.route.hosts.first().unwrap_or(&default);
    loop {
        tokio::time::sleep(readiness.pause()).await;
        let timeout = readiness.timeout(Instant::now());
        let answer = probe::ask(Question { port, path: readiness.path(), host }, timeout).await;
        if let Some(change) = readiness.observe(Instant::now(), answer) {
            return change;
        }
    }
}

fn signal(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Usr1 => Signal::USR1,
        StopSignal::Usr2 => Signal::USR2,
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
