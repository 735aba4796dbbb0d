//! What the operator sets: `/etc/holdfast/agent.toml`, `conf.d/*.toml`, `HOLDFAST_*`, flags.
//!
//! The layers are merged as TOML tables first and become meaning once, here: everything behind
//! this module holds addresses, sizes and roles, never text. A key that nobody knows is an error
//! that names the nearest one, because a silently ignored setting is found on the day it matters.

mod keys;
mod layers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use layers::ConfigError;

/// Where the configuration is looked for when no `--config` is given.
pub const DEFAULT_PATH: &str = "/etc/holdfast/agent.toml";

/// An agent's settings, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub node: Node,
    pub network: Network,
    pub api: Api,
    pub resp: Resp,
    pub balancer: Balancer,
    pub sessions: Sessions,
    pub apps: Apps,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub name: String,
    pub zone: String,
    pub region: String,
    pub data_dir: PathBuf,
    pub labels: BTreeMap<String, String>,
    /// Relative size of this server, 1.0 being the usual one.
    pub capacity: f64,
    pub roles: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    pub bind: IpAddr,
    /// The address that others use for this node.
    pub advertise: IpAddr,
    pub gossip_port: u16,
    pub peer_port: u16,
    /// Gossip addresses to announce to, besides the members known from the last run.
    pub join: Vec<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Api {
    pub socket: PathBuf,
    /// The apps' own socket, with the session and cache services only.
    pub apps_socket: PathBuf,
    pub admin: SocketAddr,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Resp {
    pub bind: SocketAddr,
    /// When set, the `default` user does not exist and this file holds the operator's password.
    pub password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Balancer {
    pub http: Vec<SocketAddr>,
    pub trusted_proxies: Vec<IpAddr>,
    /// Proxy threads; 0 is one per core.
    pub workers: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sessions {
    /// Bytes of keys and values that this node holds at most.
    pub memory_max: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Apps {
    /// Loopback ports that instances get.
    pub ports: RangeInclusive<u16>,
}

impl Config {
    /// Reads and merges all layers: defaults < `path` and its `conf.d/*.toml` < `environment`
    /// (`HOLDFAST_SECTION_KEY`) < `sets` (`section.key=value`).
    ///
    /// Without `path` the default one is read where it exists.
    ///
    /// # Errors
    /// A file that can not be read or parsed, an unknown key, a value of the wrong kind.
    pub fn load(
        path: Option<&Path>,
        sets: &[String],
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let table = layers::merged(path, sets, environment)?;
        let raw: Raw = table.try_into().map_err(|source| ConfigError::Value { source })?;
        raw.check()
    }

    pub fn gossip_bind(&self) -> SocketAddr {
        SocketAddr::new(self.network.bind, self.network.gossip_port)
    }

    pub fn peer_bind(&self) -> SocketAddr {
        SocketAddr::new(self.network.bind, self.network.peer_port)
    }

    pub fn gossip_advertise(&self) -> SocketAddr {
        SocketAddr::new(self.network.advertise, self.network.gossip_port)
    }

    pub fn peer_advertise(&self) -> SocketAddr {
        SocketAddr::new(self.network.advertise, self.network.peer_port)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    node: RawNode,
    network: RawNetwork,
    api: RawApi,
    resp: RawResp,
    balancer: RawBalancer,
    sessions: RawSessions,
    apps: RawApps,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawNode {
    name: Option<String>,
    zone: Option<String>,
    region: Option<String>,
    data_dir: Option<PathBuf>,
    labels: BTreeMap<String, String>,
    capacity: Option<f64>,
    roles: Option<BTreeSet<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawNetwork {
    bind: Option<IpAddr>,
    advertise: Option<IpAddr>,
    gossip_port: Option<u16>,
    peer_port: Option<u16>,
    join: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawApi {
    socket: Option<PathBuf>,
    apps_socket: Option<PathBuf>,
    admin: Option<SocketAddr>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawResp {
    bind: Option<SocketAddr>,
    password_file: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawBalancer {
    http: Option<Vec<SocketAddr>>,
    https: Vec<String>,
    trusted_proxies: Vec<IpAddr>,
    workers: usize,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawSessions {
    durability: Option<String>,
    memory_max: Option<RawSize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawSize {
    Bytes(u64),
    Text(String),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawApps {
    ports: Option<String>,
}

/// What a node may be for.
const ROLES: [&str; 4] = ["apps", "balancer", "sessions", "voter"];

impl Raw {
    fn check(self) -> Result<Config, ConfigError> {
        let node = self.node.check()?;
        let network = self.network.check()?;
        let socket = self.api.socket.unwrap_or_else(|| PathBuf::from("/run/holdfast/agent.sock"));
        let apps_socket = self.api.apps_socket.unwrap_or_else(|| socket.with_file_name("apps.sock"));
        if !self.balancer.https.is_empty() {
            return Err(ConfigError::unsupported("balancer.https", "TLS for users' connections"));
        }
        Ok(Config {
            node,
            network,
            api: Api {
                socket,
                apps_socket,
                admin: loopback("api.admin", self.api.admin.unwrap_or_else(|| local(7403)))?,
            },
            resp: Resp {
                bind: loopback("resp.bind", self.resp.bind.unwrap_or_else(|| local(7379)))?,
                password_file: self.resp.password_file,
            },
            balancer: Balancer {
                http: self.balancer.http.unwrap_or_else(|| vec![SocketAddr::from(([0, 0, 0, 0], 80))]),
                trusted_proxies: self.balancer.trusted_proxies,
                workers: self.balancer.workers,
            },
            sessions: self.sessions.check()?,
            apps: Apps { ports: ports(self.apps.ports.as_deref().unwrap_or("20000-29999"))? },
        })
    }
}

impl RawNode {
    fn check(self) -> Result<Node, ConfigError> {
        let roles = self.roles.unwrap_or_else(|| ROLES.iter().map(|role| (*role).to_owned()).collect());
        if let Some(odd) = roles.iter().find(|role| !ROLES.contains(&role.as_str())) {
            return Err(ConfigError::invalid(
                "node.roles",
                format!("no such role: {odd:?}; there are {ROLES:?}"),
            ));
        }
        let capacity = self.capacity.unwrap_or(1.0);
        if !(capacity.is_finite() && capacity > 0.0) {
            return Err(ConfigError::invalid("node.capacity", "not a positive number"));
        }
        Ok(Node {
            name: label("node.name", self.name.unwrap_or_else(hostname))?,
            zone: label("node.zone", self.zone.unwrap_or_else(|| "default".to_owned()))?,
            region: label("node.region", self.region.unwrap_or_else(|| "default".to_owned()))?,
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from("/var/lib/holdfast")),
            labels: self.labels,
            capacity,
            roles,
        })
    }
}

impl RawNetwork {
    fn check(self) -> Result<Network, ConfigError> {
        let bind = self.bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let advertise = match self.advertise {
            Some(address) => address,
            None if !bind.is_unspecified() => bind,
            None => outward_address().ok_or_else(|| {
                ConfigError::invalid(
                    "network.advertise",
                    "not set, and this server has no route to tell it from",
                )
            })?,
        };
        if advertise.is_unspecified() {
            return Err(ConfigError::invalid("network.advertise", "others can not reach 0.0.0.0"));
        }
        let join = self.join.iter().map(|seed| seed_address(seed)).collect::<Result<_, _>>()?;
        Ok(Network {
            bind,
            advertise,
            gossip_port: self.gossip_port.unwrap_or(7401),
            peer_port: self.peer_port.unwrap_or(7402),
            join,
        })
    }
}

impl RawSessions {
    fn check(self) -> Result<Sessions, ConfigError> {
        if self.durability.as_deref().unwrap_or("fsync") != "fsync" {
            return Err(ConfigError::unsupported("sessions.durability", "anything but \"fsync\""));
        }
        let memory_max = match self.memory_max {
            None => 1 << 30,
            Some(RawSize::Bytes(bytes)) => bytes,
            Some(RawSize::Text(text)) => size("sessions.memory_max", &text)?,
        };
        Ok(Sessions { memory_max })
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Both ports answer without authentication, so they may not leave the server (invariant 8).
fn loopback(key: &str, address: SocketAddr) -> Result<SocketAddr, ConfigError> {
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(ConfigError::invalid(
        key,
        format!("{address} is not a loopback address, and this port has no authentication"),
    ))
}

/// A name that fits a DNS label, since names become parts of host names and paths.
fn label(key: &str, text: String) -> Result<String, ConfigError> {
    let fits = !text.is_empty()
        && text.len() <= proto::limits::NAME_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if fits {
        return Ok(text);
    }
    Err(ConfigError::invalid(key, format!("{text:?} is not a name of at most 63 of a-z, 0-9 and inner '-'")))
}

fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// The address that the kernel would send from; connecting a datagram socket sends nothing.
fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // TEST-NET-1 (RFC 5737): only the routing table is asked.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn seed_address(seed: &str) -> Result<SocketAddr, ConfigError> {
    if seed.starts_with("dns+srv://") || seed.starts_with("exec=") {
        return Err(ConfigError::unsupported("network.join", "discovery by DNS or by a command"));
    }
    seed.parse().map_err(|_| ConfigError::invalid("network.join", format!("{seed:?} is not IP:PORT")))
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, ConfigError> {
    let range = text.split_once('-').and_then(|(low, high)| Some(low.parse().ok()?..=high.parse().ok()?));
    range.filter(|range| *range.start() >= 1024 && range.start() <= range.end()).ok_or_else(|| {
        ConfigError::invalid("apps.ports", format!("{text:?} is not LOW-HIGH with LOW >= 1024"))
    })
}

/// `512M`, `2G`, `65536`: powers of 1,024.
fn size(key: &str, text: &str) -> Result<u64, ConfigError> {
    let (digits, factor) = match text.chars().last() {
        Some('K') => (&text[..text.len() - 1], 1u64 << 10),
        Some('M') => (&text[..text.len() - 1], 1 << 20),
        Some('G') => (&text[..text.len() - 1], 1 << 30),
        Some(_) | None => (text, 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| ConfigError::invalid(key, format!("{text:?} is not a size such as \"512M\"")))
}

#[cfg(test)]
mod tests;
