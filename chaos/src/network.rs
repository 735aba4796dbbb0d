//! Hosts of our own: a network namespace each, on a bridge in another.
//!
//! ```text
//!   hfc…1 eth0 10.231.77.1 ──┐
//!   hfc…2 eth0 10.231.77.2 ──┼── bridge in hfc…m
//!   hfc…3 eth0 10.231.77.3 ──┘
//! ```
//!
//! The addresses are the same in every lab, as nothing of it is seen outside. In place of the bridge there
//! can be a [`Switch`] of our own, which does to frames what a kernel without netem does not.
//!
//! Who is not root gets hosts that are no more than addresses of this machine's loopback, of which it has
//! a network each (127/8): nothing can be done to what goes between those.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::{CommandError, run};
use crate::lab::{Lab, LabError, Thing};
use crate::switch::Switch;

/// A host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Of its namespace, if it has one.
    pub name: String,
    pub address: Ipv4Addr,
    pub has_namespace: bool,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("network namespaces need root")]
    Root,
    #[error("can not make a switch of TAP devices: {0}")]
    Switch(io::Error),
    #[error(transparent)]
    Lab(#[from] LabError),
}

impl From<CommandError> for NetworkError {
    fn from(error: CommandError) -> Self {
        Self::Lab(error.into())
    }
}

/// Makes so many hosts that reach each other over a bridge. They end with the lab.
///
/// # Errors
/// Without root, iproute2 or the kernel's leave.
pub fn hosts(lab: &mut Lab, count: u8) -> Result<Vec<Host>, NetworkError> {
    let hosts = namespaces(lab, count)?;
    let middle = lab.name("m");
    namespace(lab, &middle)?;
    // What is in a namespace goes with it.
    run("ip", &["-n", &middle, "link", "add", "bridge", "type", "bridge"])?;
    run("ip", &["-n", &middle, "link", "set", "bridge", "up"])?;
    for (number, host) in hosts.iter().enumerate() {
        let port = format!("port{}", number + 1);
        run(
            "ip",
            &["-n", &middle, "link", "add", &port, "type", "veth", "peer", "eth0", "netns", &host.name],
        )?;
        run("ip", &["-n", &middle, "link", "set", &port, "master", "bridge", "up"])?;
        configure(host)?;
    }
    Ok(hosts)
}

/// So many hosts on this machine's loopback. Two labs at a time rarely get the same addresses; if they do,
/// the agents of one do not start.
pub fn loopback(count: u8) -> Vec<Host> {
    let lab = u8::try_from(std::process::id() % 250).unwrap_or_default() + 1;
    let host = |number: u8| Host {
        name: format!("host-{number}"),
        address: Ipv4Addr::new(127, 77, lab, number),
        has_namespace: false,
    };
    (1..=count).map(host).collect()
}

/// Makes so many hosts that reach each other over a switch. They end with the lab, and are cut off once
/// the switch is dropped.
///
/// # Errors
/// Without root, iproute2 or the kernel's TAP driver.
pub fn switched(lab: &mut Lab, count: u8, seed: u64) -> Result<(Vec<Host>, Switch), NetworkError> {
    let hosts = namespaces(lab, count)?;
    let switch = Switch::new(&hosts, seed).map_err(NetworkError::Switch)?;
    for host in &hosts {
        configure(host)?;
    }
    Ok((hosts, switch))
}

fn namespaces(lab: &mut Lab, count: u8) -> Result<Vec<Host>, NetworkError> {
    if !crate::lab::is_root() {
        return Err(NetworkError::Root);
    }
    let mut hosts = Vec::new();
    for number in 1..=count {
        let (name, address) = (lab.name(&number.to_string()), Ipv4Addr::new(10, 231, 77, number));
        let host = Host { name, address, has_namespace: true };
        namespace(lab, &host.name)?;
        hosts.push(host);
    }
    Ok(hosts)
}

fn configure(host: &Host) -> Result<(), NetworkError> {
    run("ip", &["-n", &host.name, "addr", "add", &format!("{}/24", host.address), "dev", "eth0"])?;
    for link in ["lo", "eth0"] {
        run("ip", &["-n", &host.name, "link", "set", link, "up"])?;
    }
    Ok(())
}

fn namespace(lab: &mut Lab, name: &str) -> Result<(), NetworkError> {
    lab.note(Thing::Namespace { name: name.to_owned() })?;
    run("ip", &["netns", "add", name])?;
    Ok(())
}

impl Host {
    /// Where a program on it finds what listens for its own host alone.
    pub fn local(&self) -> Ipv4Addr {
        if self.has_namespace { Ipv4Addr::LOCALHOST } else { self.address }
    }

    /// A program that runs on it, in the network's namespace alone: `ip netns exec` would make one of
    /// mounts too, in which a disk of our own stays mounted when it is no more here.
    pub fn command(&self, program: &str) -> Command {
        if !self.has_namespace {
            return Command::new(program);
        }
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/run/netns/{}", self.name), program]);
        command
    }

    /// Runs a program on it to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, CommandError> {
        if !self.has_namespace {
            return run(program, arguments);
        }
        let network = format!("--net=/run/netns/{}", self.name);
        run("nsenter", &[&[network.as_str(), program][..], arguments].concat())
    }

    /// Moves the calling thread onto it, for good: give it a thread of its own.
    ///
    /// # Errors
    /// When the host is no more.
    pub fn enter(&self) -> io::Result<()> {
        if self.has_namespace {
            let namespace = File::open(format!("/run/netns/{}", self.name))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_on_loopback_have_addresses_of_their_own_and_listen_there_alone() {
        let hosts = loopback(9);
        let addresses: std::collections::BTreeSet<Ipv4Addr> = hosts.iter().map(|host| host.address).collect();
        assert_eq!(addresses.len(), 9);
        assert!(hosts.iter().all(|host| host.address.is_loopback() && host.local() == host.address));
    }
}
