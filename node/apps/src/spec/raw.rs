//! The file as it is written, and the step from there to an [`AppSpec`]: defaults and bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;

use super::duration::{self, seconds};
use super::{
    AppSpec, Health, Keep, Limits, RELEASES_KEPT, Readiness, Restart, Rollout, Route, Run, SpecError,
    Startup, Stop, StopSignal, is_name,
};
use crate::manifest::EntryPath;

/// Instances of an app on one node: more is a job for more nodes.
const INSTANCES_MAX: u32 = 100;
/// Arguments of the command, and bytes of each.
const ARGUMENTS_MAX: usize = 256;
const ARGUMENT_BYTES_MAX: usize = 4 << 10;
/// Variables of `[env]`. The kernel refuses a single one above 128 KiB.
const VARIABLES_MAX: usize = 256;
/// Host names of one app.
const HOSTS_MAX: usize = 100;
/// Longest path of a probe or a route.
const PATH_BYTES_MAX: usize = 1 << 10;

/// What the agent puts into an instance's environment itself.
const RESERVED: [&str; 2] = ["PORT", "REDIS_URL"];

/// Whom Redis takes a client for that names no user. An app logs in under its own name, and as this one
/// it would get the operator's keyspace.
const DEFAULT_USER: &str = "default";

#[derive(Deserialize)]
pub(super) struct Raw {
    app: Option<RawApp>,
    run: Option<RawRun>,
    #[serde(default)]
    env: BTreeMap<String, Scalar>,
    #[serde(default)]
    health: RawHealth,
    #[serde(default)]
    stop: RawStop,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    restart: RawRestart,
    #[serde(default)]
    rollout: RawRollout,
    #[serde(default)]
    route: RawRoute,
    #[serde(default)]
    keep: RawKeep,
}

#[derive(Deserialize)]
struct RawApp {
    name: Option<String>,
}

#[derive(Deserialize)]
struct RawRun {
    command: Option<Vec<String>>,
    instances: Option<u32>,
    workdir: Option<String>,
}

/// `PORT_HINT = 8080` and `DEBUG = true` mean their text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawHealth {
    startup: RawProbe,
    ready: RawProbe,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawProbe {
    path: Option<String>,
    interval: Option<String>,
    timeout: Option<String>,
    rise: Option<u32>,
    fall: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawStop {
    signal: Option<String>,
    drain: Option<String>,
    grace: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawLimits {
    nofile: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawRestart {
    backoff: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawRollout {
    deadline: Option<String>,
    max_unavailable: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawRoute {
    hosts: Vec<String>,
    path: Option<String>,
    policy: Option<String>,
    timeout: Option<String>,
    retries: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawKeep {
    releases: Option<u32>,
}

impl Raw {
    pub(super) fn check(self) -> Result<AppSpec, SpecError> {
        let name = self.app.and_then(|app| app.name);
        let app = name.ok_or_else(|| SpecError::invalid("app.name", "is missing"))?;
        if !is_name(&app) {
            return Err(SpecError::invalid(
                "app.name",
                format!("must have at most 63 of a-z, 0-9 and inner '-', unlike {:?}", short(&app)),
            ));
        }
        if app == DEFAULT_USER {
            let problem = format!("can not be {app:?}: the Redis port's own user has that name");
            return Err(SpecError::invalid("app.name", problem));
        }
        let run = self.run.ok_or_else(|| SpecError::invalid("run", "is missing: it names the command"))?;
        let max_unavailable = self.rollout.max_unavailable.unwrap_or(1);
        if max_unavailable != 1 {
            return Err(SpecError::NotSupported {
                what: format!("rollout.max_unavailable = {max_unavailable}"),
            });
        }
        let keep = Keep { releases: self.keep.releases.unwrap_or(RELEASES_KEPT) };
        if keep.releases != RELEASES_KEPT {
            let what = format!("keep.releases = {} (other than {RELEASES_KEPT})", keep.releases);
            return Err(SpecError::NotSupported { what });
        }
        Ok(AppSpec {
            app,
            run: run.check()?,
            env: environment(self.env)?,
            health: self.health.check()?,
            stop: self.stop.check()?,
            limits: self.limits.check()?,
            restart: self.restart.check()?,
            rollout: self.rollout.check()?,
            route: self.route.check()?,
            keep,
        })
    }
}

impl RawRun {
    fn check(self) -> Result<Run, SpecError> {
        let command = self.command.unwrap_or_default();
        if command.first().is_none_or(String::is_empty) {
            return Err(SpecError::invalid("run.command", "must name a program"));
        }
        let bad = |argument: &String| argument.len() > ARGUMENT_BYTES_MAX || argument.contains('\0');
        if command.len() > ARGUMENTS_MAX || command.iter().any(bad) {
            let problem =
                format!("may have {ARGUMENTS_MAX} arguments of {ARGUMENT_BYTES_MAX} bytes without NUL");
            return Err(SpecError::invalid("run.command", problem));
        }
        let instances = number("run.instances", self.instances, 1, 1..=INSTANCES_MAX)?;
        let workdir = self.workdir.unwrap_or_default();
        if !matches!(workdir.as_str(), "" | ".") {
            EntryPath::try_from(workdir.clone()).map_err(|error| {
                SpecError::invalid("run.workdir", format!("must be inside the release: {error}"))
            })?;
        }
        let workdir = if workdir == "." { String::new() } else { workdir };
        Ok(Run { command, instances, workdir })
    }
}

fn environment(raw: BTreeMap<String, Scalar>) -> Result<BTreeMap<String, String>, SpecError> {
    if raw.len() > VARIABLES_MAX {
        return Err(SpecError::invalid("env", format!("may have {VARIABLES_MAX} variables")));
    }
    let mut checked = BTreeMap::new();
    for (name, value) in raw {
        let key = format!("env.{}", short(&name));
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(SpecError::invalid(&key, "can not be the name of a variable"));
        }
        if RESERVED.contains(&name.as_str()) || name.starts_with("HOLDFAST_") {
            return Err(SpecError::invalid(&key, "is set by the agent"));
        }
        let value = match value {
            Scalar::Text(text) => text,
            Scalar::Integer(number) => number.to_string(),
            Scalar::Boolean(truth) => truth.to_string(),
        };
        if value.contains('\0') {
            return Err(SpecError::invalid(&key, "contains a NUL"));
        }
        checked.insert(name, value);
    }
    Ok(checked)
}

impl RawHealth {
    fn check(self) -> Result<Health, SpecError> {
        let defaults = Health::default();
        let startup = Startup {
            path: path("health.startup.path", self.startup.path)?,
            timeout: time(
                "health.startup.timeout",
                self.startup.timeout,
                defaults.startup.timeout,
                seconds(1, 3_600),
            )?,
        };
        let RawProbe { path: ready_path, interval, timeout, rise, fall } = self.ready;
        let ready = Readiness {
            path: path("health.ready.path", ready_path)?,
            interval: time("health.ready.interval", interval, defaults.ready.interval, probe_times())?,
            timeout: time("health.ready.timeout", timeout, defaults.ready.timeout, probe_times())?,
            rise: number("health.ready.rise", rise, defaults.ready.rise, 1..=100)?,
            fall: number("health.ready.fall", fall, defaults.ready.fall, 1..=100)?,
        };
        Ok(Health { startup, ready })
    }
}

/// A probe that runs more often than this is a load.
fn probe_times() -> RangeInclusive<Duration> {
    Duration::from_millis(100)..=Duration::from_secs(300)
}

impl RawStop {
    fn check(self) -> Result<Stop, SpecError> {
        let defaults = Stop::default();
        let signal = match self.signal.as_deref().map(|name| name.strip_prefix("SIG").unwrap_or(name)) {
            None => defaults.signal,
            Some("TERM") => StopSignal::Term,
            Some("INT") => StopSignal::Int,
            Some("QUIT") => StopSignal::Quit,
            Some("HUP") => StopSignal::Hup,
            Some("USR1") => StopSignal::Usr1,
            Some("USR2") => StopSignal::Usr2,
            Some(other) => {
                let problem = format!("is one of TERM, INT, QUIT, HUP, USR1, USR2, not {:?}", short(other));
                return Err(SpecError::invalid("stop.signal", problem));
            }
        };
        Ok(Stop {
            signal,
            drain: time("stop.drain", self.drain, defaults.drain, seconds(0, 3_600))?,
            grace: time("stop.grace", self.grace, defaults.grace, seconds(0, 3_600))?,
        })
    }
}

impl RawLimits {
    fn check(self) -> Result<Limits, SpecError> {
        let nofile = self.nofile.unwrap_or(Limits::default().nofile);
        if !(64..=1 << 20).contains(&nofile) {
            return Err(SpecError::invalid("limits.nofile", "must be between 64 and 1048576"));
        }
        Ok(Limits { nofile })
    }
}

impl RawRestart {
    fn check(self) -> Result<Restart, SpecError> {
        let Some(text) = self.backoff else { return Ok(Restart::default()) };
        let key = "restart.backoff";
        let range = || Duration::from_millis(100)..=Duration::from_secs(3_600);
        let (min, max) = text.split_once("..").ok_or_else(|| {
            SpecError::invalid(key, format!("is LEAST..MOST such as \"1s..60s\", not {:?}", short(&text)))
        })?;
        let backoff_min = duration::parse(key, min, range())?;
        let backoff_max = duration::parse(key, max, range())?;
        if backoff_min > backoff_max {
            return Err(SpecError::invalid(key, format!("ends before it begins: {text:?}")));
        }
        Ok(Restart { backoff_min, backoff_max })
    }
}

impl RawRollout {
    fn check(self) -> Result<Rollout, SpecError> {
        let default = Rollout::default().deadline;
        Ok(Rollout { deadline: time("rollout.deadline", self.deadline, default, seconds(1, 86_400))? })
    }
}

impl RawRoute {
    fn check(self) -> Result<Route, SpecError> {
        let defaults = Route::default();
        if let Some(policy) = self.policy.filter(|policy| policy != "round_robin") {
            return Err(SpecError::NotSupported { what: format!("route.policy = {:?}", short(&policy)) });
        }
        if self.hosts.len() > HOSTS_MAX {
            return Err(SpecError::invalid("route.hosts", format!("may have {HOSTS_MAX} names")));
        }
        Ok(Route {
            hosts: self.hosts.iter().map(|host| host_name(host)).collect::<Result<BTreeSet<_>, _>>()?,
            path: path("route.path", self.path)?.unwrap_or(defaults.path),
            timeout: time("route.timeout", self.timeout, defaults.timeout, seconds(1, 3_600))?,
            retries: number("route.retries", self.retries, defaults.retries, 0..=5)?,
        })
    }
}

/// A host name without a port, in lower case (RFC 1123 names; a literal address is one too).
fn host_name(host: &str) -> Result<String, SpecError> {
    let fits = (1..=253).contains(&host.len());
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if fits && host.bytes().all(inner) && !host.starts_with(['.', '-']) && !host.ends_with(['.', '-']) {
        return Ok(host.to_ascii_lowercase());
    }
    Err(SpecError::invalid("route.hosts", format!("has {:?}, which is not a host name", short(host))))
}

/// An absolute path as it stands in a request line.
fn path(key: &str, path: Option<String>) -> Result<Option<String>, SpecError> {
    let Some(path) = path else { return Ok(None) };
    let fits = path.starts_with('/') && path.len() <= PATH_BYTES_MAX;
    if fits && path.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Some(path));
    }
    Err(SpecError::invalid(key, format!("must begin with '/' and have no blanks, unlike {:?}", short(&path))))
}

fn time(
    key: &str,
    text: Option<String>,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Result<Duration, SpecError> {
    text.map_or(Ok(default), |text| duration::parse(key, &text, range))
}

fn number(key: &str, value: Option<u32>, default: u32, range: RangeInclusive<u32>) -> Result<u32, SpecError> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        return Ok(value);
    }
    Err(SpecError::invalid(
        key,
        format!("must be between {} and {}, not {value}", range.start(), range.end()),
    ))
}

/// As much of somebody's text as belongs into an error.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
