//! Which node has which name, zone, folder and ports, and the settings that say so.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::farm::{Farm, FarmNode};
use crate::args::Demo;
use crate::failure::Failure;

const DEFAULT_NODES: u16 = 3;
const DEFAULT_BASE_PORT: u16 = 7400;

/// Ports between two nodes.
const PORTS_STEP: u16 = 10;

/// Loopback ports for the instances of one node: enough for a release beside its successor, times
/// a dozen apps.
const APP_PORTS: u16 = 100;

/// The longest path that a unix socket may have is 107 bytes (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// The farm that the folder holds, else a new one by the options; its settings are on disk.
pub fn plan(dir: &Path, options: &Demo) -> Result<Farm, Failure> {
    let farm = match Farm::load(dir)? {
        Some(farm) => known(farm, dir, options)?,
        None => new(dir, options)?,
    };
    for node in &farm.nodes {
        if !node.config.exists() {
            write_settings(node)?;
        }
    }
    Ok(farm)
}

/// What has an identity can not be laid out anew: the folder decides, and a contradiction is told.
fn known(farm: Farm, dir: &Path, options: &Demo) -> Result<Farm, Failure> {
    let contradiction = |what: String| {
        let advice = format!("leave the option away, or remove {} to start afresh", dir.display());
        Failure::usage(format!("{} holds a farm {what}", dir.display()), advice)
    };
    let count = farm.nodes.len();
    if options.nodes.is_some_and(|wanted| usize::from(wanted) != count) {
        return Err(contradiction(format!("of {count} nodes")));
    }
    let first = farm.nodes.first().map(|node| node.gossip.port());
    if options.base_port.is_some_and(|wanted| first != Some(wanted + 1)) {
        return Err(contradiction("on other ports".to_owned()));
    }
    Ok(farm)
}

fn new(dir: &Path, options: &Demo) -> Result<Farm, Failure> {
    let count = options.nodes.unwrap_or(DEFAULT_NODES);
    let base = options.base_port.unwrap_or(DEFAULT_BASE_PORT);
    let nodes = (0..count).map(|index| node(dir, base, options.zones, index)).collect::<Result<_, _>>()?;
    Ok(Farm { cluster_id: String::new(), nodes })
}

fn node(dir: &Path, base: u16, zones: u16, index: u16) -> Result<FarmNode, Failure> {
    let name = format!("node-{}", index + 1);
    let home = dir.join(&name);
    let socket = home.join("agent.sock");
    // "agent.sock" is the longer of the two sockets of an agent.
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(Failure::usage(
            format!("{} is too long for a unix socket ({SOCKET_PATH_MAX} bytes)", socket.display()),
            "name a shorter folder with --dir",
        ));
    }
    let first = base + PORTS_STEP * index;
    let address = |offset: u16| SocketAddr::from(([127, 0, 0, 1], first + offset));
    Ok(FarmNode {
        zone: zone(index % zones),
        pid: 0,
        data_dir: home.join("data"),
        config: home.join("agent.toml"),
        socket,
        gossip: address(1),
        peer: address(2),
        admin: address(3),
        resp: address(4),
        http: address(5),
        https: address(6),
        name,
    })
}

/// a, b, c, ... The options allow fewer zones than there are letters.
fn zone(index: u16) -> String {
    let letter = u8::try_from(index).map_or('z', |index| char::from(b'a' + index.min(25)));
    letter.to_string()
}

/// A hundred ports from 20000 on by the node's place among all bases, so that two farms on one
/// machine do not meet unless their own ports are 1,000 apart.
fn app_ports(node: &FarmNode) -> (u16, u16) {
    let place = node.gossip.port() / PORTS_STEP % 100;
    let low = 20_000 + place * APP_PORTS;
    (low, low + APP_PORTS - 1)
}

fn settings(node: &FarmNode) -> Table {
    let text = |text: &dyn ToString| Value::String(text.to_string());
    let path = |path: &PathBuf| Value::String(path.display().to_string());
    let port = |address: SocketAddr| Value::Integer(i64::from(address.port()));
    let (low, high) = app_ports(node);
    let section = |pairs: Vec<(&str, Value)>| {
        Value::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let sections = [
        (
            "node",
            section(vec![
                ("name", text(&node.name)),
                ("zone", text(&node.zone)),
                ("data_dir", path(&node.data_dir)),
            ]),
        ),
        (
            "network",
            section(vec![
                ("bind", text(&node.gossip.ip())),
                ("advertise", text(&node.gossip.ip())),
                ("gossip_port", port(node.gossip)),
                ("peer_port", port(node.peer)),
            ]),
        ),
        ("api", section(vec![("socket", path(&node.socket)), ("admin", text(&node.admin))])),
        ("resp", section(vec![("bind", text(&node.resp))])),
        ("balancer", section(vec![("http", Value::Array(vec![text(&node.http)]))])),
        ("apps", section(vec![("ports", Value::String(format!("{low}-{high}")))])),
    ];
    sections.into_iter().map(|(name, table)| (name.to_owned(), table)).collect()
}

fn write_settings(node: &FarmNode) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(
            format!("can not write {}: {error}", node.config.display()),
            "make room, or use another --dir",
        )
    };
    if let Some(home) = node.config.parent() {
        fs::create_dir_all(home).map_err(failed)?;
    }
    fs::write(&node.config, settings(node).to_string()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn options(words: &[&str]) -> Demo {
        let words = ["holdfast", "demo"].iter().chain(words);
        let crate::args::Verb::Demo(options) = crate::args::Line::try_parse_from(words).unwrap().verb else {
            panic!("the words are those of a demonstration");
        };
        options
    }

    #[test]
    fn node_k_takes_the_ports_and_the_zone_that_the_contract_names() {
        let farm =
            new(Path::new("/d"), &options(&["--nodes", "4", "--zones", "3", "--base-port", "9000"])).unwrap();
        let node = &farm.nodes[1];
        assert_eq!((node.name.as_str(), node.zone.as_str()), ("node-2", "b"));
        let ports = [node.gossip, node.peer, node.admin, node.resp, node.http, node.https].map(|a| a.port());
        assert_eq!(ports, [9011, 9012, 9013, 9014, 9015, 9016]);
        assert_eq!(farm.nodes[3].zone, "a");
    }

    #[test]
    fn no_two_nodes_share_the_ports_of_their_instances() {
        let farm = new(Path::new("/d"), &options(&["--nodes", "20"])).unwrap();
        let mut ranges: Vec<(u16, u16)> = farm.nodes.iter().map(app_ports).collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
        assert!(ranges.iter().all(|range| range.0 >= 20_000 && range.1 <= 29_999));
    }

    #[test]
    fn the_settings_quote_paths_as_toml_wants_them() {
        let farm = new(Path::new("/a \"b\""), &options(&[])).unwrap();
        let text = settings(&farm.nodes[0]).to_string();
        let table: Table = text.parse().unwrap();
        assert_eq!(table["node"]["data_dir"].as_str(), Some("/a \"b\"/node-1/data"));
        assert_eq!(table["network"]["gossip_port"].as_integer(), Some(7401));
    }

    #[test]
    fn a_folder_too_deep_for_a_socket_is_refused_in_words() {
        let deep = format!("/{}", "x".repeat(100));
        let failure = new(Path::new(&deep), &options(&[])).unwrap_err();
        assert!(failure.to_string().contains("too long for a unix socket"), "{failure}");
    }

    #[test]
    fn a_folder_with_a_farm_decides_and_a_contradiction_is_a_usage_error() {
        let farm = new(Path::new("/d"), &options(&[])).unwrap();
        assert!(known(farm.clone(), Path::new("/d"), &options(&["--nodes", "3"])).is_ok());
        let failure = known(farm, Path::new("/d"), &options(&["--nodes", "5"])).unwrap_err();
        assert_eq!(failure.exit().code(), 2);
    }
}
