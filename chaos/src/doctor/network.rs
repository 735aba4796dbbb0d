//! Faults of the network: two hosts of our own on a bridge, and datagrams between them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::{Lack, lack, needs_root};
use crate::command::run;
use crate::lab::{Lab, Thing};

/// For a datagram between two namespaces of one machine.
const ARRIVES: Duration = Duration::from_millis(500);
const LOSS_PERCENT: u32 = 40;
const SAMPLES: usize = 500;

/// Two hosts, each in a namespace of its own, and the bridge in a third.
struct Pair {
    names: [String; 2],
    sockets: [UdpSocket; 2],
}

impl Pair {
    fn new(lab: &mut Lab) -> Result<Self, Lack> {
        needs_root()?;
        let middle = lab.name("m");
        let names = [lab.name("a"), lab.name("b")];
        for name in [&middle, &names[0], &names[1]] {
            lab.note(Thing::Namespace { name: name.clone() })?;
            run("ip", &["netns", "add", name])?;
        }
        // What is in a namespace goes with it.
        run("ip", &["-n", &middle, "link", "add", "bridge", "type", "bridge"])?;
        run("ip", &["-n", &middle, "link", "set", "bridge", "up"])?;
        for (number, name) in names.iter().enumerate() {
            let port = format!("port{number}");
            run("ip", &["-n", &middle, "link", "add", &port, "type", "veth", "peer", "eth0", "netns", name])?;
            run("ip", &["-n", &middle, "link", "set", &port, "master", "bridge", "up"])?;
            run("ip", &["-n", name, "addr", "add", &format!("{}/24", address(number)), "dev", "eth0"])?;
            run("ip", &["-n", name, "link", "set", "eth0", "up"])?;
        }
        let sockets = [socket(&names[0], 0)?, socket(&names[1], 1)?];
        Ok(Self { names, sockets })
    }

    /// How many of so many datagrams from one to the other arrive.
    fn arrive(&self, from: usize, count: usize) -> io::Result<usize> {
        let to = self.sockets[1 - from].local_addr()?;
        let mut arrived = 0;
        for _ in 0..count {
            // A firewall may refuse it here already.
            let _refused = self.sockets[from].send_to(b"here", to);
        }
        while arrived < count && self.sockets[1 - from].recv_from(&mut [0; 16]).is_ok() {
            arrived += 1;
        }
        Ok(arrived)
    }

    fn firewall(&self, host: usize, rule: &str) -> Result<(), Lack> {
        let name = &self.names[host];
        let nft = |words: &[&str]| run("ip", &[&["netns", "exec", name.as_str(), "nft"][..], words].concat());
        nft(&["add", "table", "inet", "chaos"])?;
        nft(&["add", "chain", "inet", "chaos", "in", "{ type filter hook input priority 0 ; }"])?;
        let rule: Vec<&str> =
            ["add", "rule", "inet", "chaos", "in"].into_iter().chain(rule.split(' ')).collect();
        nft(&rule)?;
        Ok(())
    }

    fn works(&self) -> Result<(), Lack> {
        for from in [0, 1] {
            // The first ones may be lost while the bridge learns and addresses are asked for.
            if (0..10).all(|_| self.arrive(from, 1).is_ok_and(|arrived| arrived == 0)) {
                return lack("nothing arrives between two namespaces on a bridge");
            }
        }
        Ok(())
    }
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 231, 77, if number == 0 { 1 } else { 2 })
}

/// A socket stays in the namespace in which it was made, whoever uses it.
fn socket(name: &str, number: usize) -> Result<UdpSocket, Lack> {
    let namespace = std::fs::File::open(format!("/run/netns/{name}"))?;
    let made = std::thread::spawn(move || -> io::Result<UdpSocket> {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(kind))?;
        let socket = UdpSocket::bind(SocketAddr::from((address(number), 7_777)))?;
        socket.set_read_timeout(Some(ARRIVES))?;
        Ok(socket)
    });
    match made.join() {
        Ok(socket) => Ok(socket?),
        Err(_) => lack("a thread in a namespace panicked"),
    }
}

pub(super) fn namespaces(lab: &mut Lab) -> Result<(), Lack> {
    Pair::new(lab)?.works()
}

pub(super) fn partition(lab: &mut Lab) -> Result<(), Lack> {
    let pair = Pair::new(lab)?;
    pair.works()?;
    pair.firewall(1, &format!("ip saddr {} drop", address(0)))?;
    if pair.arrive(0, 5)? > 0 {
        return lack("what was cut arrives");
    }
    if pair.arrive(1, 5)? == 0 {
        return lack("the other way is cut too");
    }
    Ok(())
}

pub(super) fn loss(lab: &mut Lab) -> Result<(), Lack> {
    let pair = Pair::new(lab)?;
    pair.works()?;
    pair.firewall(1, &format!("numgen random mod 100 < {LOSS_PERCENT} drop"))?;
    let arrived = pair.arrive(0, SAMPLES)?;
    // Six standard deviations about the expected 300 are 66.
    if !(SAMPLES * 45 / 100..=SAMPLES * 75 / 100).contains(&arrived) {
        return lack(format!("{arrived} of {SAMPLES} arrive at {LOSS_PERCENT} % loss"));
    }
    Ok(())
}
