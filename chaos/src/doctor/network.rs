//! Faults of the network: hosts of our own on a bridge, and datagrams between them.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use super::{Lack, lack};
use crate::fault::{Direction, Others, Walls};
use crate::lab::Lab;
use crate::network::{self, Host};

/// For a datagram between two namespaces of one machine.
const ARRIVES: Duration = Duration::from_millis(500);
const LOSS_PERCENT: u8 = 40;
const SAMPLES: usize = 500;

/// Two hosts, and a socket on each.
pub(super) struct Pair {
    hosts: Vec<Host>,
    pub sockets: [UdpSocket; 2],
}

impl Pair {
    fn new(lab: &mut Lab) -> Result<Self, Lack> {
        let hosts = network::hosts(lab, 2)?;
        Self::on(hosts)
    }

    pub fn on(hosts: Vec<Host>) -> Result<Self, Lack> {
        let sockets = [socket(&hosts[0])?, socket(&hosts[1])?];
        Ok(Self { hosts, sockets })
    }

    /// How many of so many datagrams from one to the other arrive.
    pub fn arrive(&self, from: usize, count: usize) -> io::Result<usize> {
        arrive(&self.sockets[from], &self.sockets[1 - from], count)
    }

    pub fn works(&self) -> Result<(), Lack> {
        let [one, other] = &self.sockets;
        works(one, other)?;
        works(other, one)
    }
}

/// How many of so many datagrams arrive.
fn arrive(from: &UdpSocket, to: &UdpSocket, count: usize) -> io::Result<usize> {
    let address = to.local_addr()?;
    for _ in 0..count {
        // A firewall may refuse it here already.
        let _refused = from.send_to(b"here", address);
    }
    let mut arrived = 0;
    while arrived < count && to.recv_from(&mut [0; 16]).is_ok() {
        arrived += 1;
    }
    Ok(arrived)
}

/// The first ones may be lost while the bridge learns and addresses are asked for.
fn works(from: &UdpSocket, to: &UdpSocket) -> Result<(), Lack> {
    if (0..10).all(|_| arrive(from, to, 1).is_ok_and(|arrived| arrived == 0)) {
        return lack("nothing arrives between two namespaces on a bridge");
    }
    Ok(())
}

pub(super) fn flapping(lab: &mut Lab) -> Result<(), Lack> {
    let pair = Pair::new(lab)?;
    pair.works()?;
    let walls = Walls::plan(&[0], Direction::Both, Others::All, &pair.hosts);
    for _ in 0..2 {
        walls.raise()?;
        if pair.arrive(0, 5)? > 0 || pair.arrive(1, 5)? > 0 {
            return lack("what was cut arrives");
        }
        walls.raze()?;
        pair.works()?;
    }
    Ok(())
}

/// A socket stays on the host on which it was made, whoever uses it.
fn socket(host: &Host) -> Result<UdpSocket, Lack> {
    let host = host.clone();
    let made = std::thread::spawn(move || -> io::Result<UdpSocket> {
        host.enter()?;
        let socket = UdpSocket::bind((host.address, 7_777))?;
        socket.set_read_timeout(Some(ARRIVES))?;
        Ok(socket)
    });
    match made.join() {
        Ok(socket) => Ok(socket?),
        Err(_) => lack("a thread on a host of our own panicked"),
    }
}

pub(super) fn namespaces(lab: &mut Lab) -> Result<(), Lack> {
    Pair::new(lab)?.works()
}

/// For each shape of a cut at the second of three hosts, from whom to whom nothing arrives any more.
const CUTS: &[(Direction, Others, &[(usize, usize)])] = &[
    (Direction::In, Others::All, &[(0, 1), (2, 1)]),
    (Direction::Out, Others::All, &[(1, 0), (1, 2)]),
    (Direction::Both, Others::All, &[(0, 1), (2, 1), (1, 0), (1, 2)]),
    (Direction::Both, Others::One, &[(1, 2), (2, 1)]),
    (Direction::Both, Others::Bridge, &[(0, 2), (2, 0)]),
];

pub(super) fn partition(lab: &mut Lab) -> Result<(), Lack> {
    let hosts = network::hosts(lab, 3)?;
    let sockets = hosts.iter().map(socket).collect::<Result<Vec<_>, _>>()?;
    let ways = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
    for (from, to) in ways {
        works(&sockets[from], &sockets[to])?;
    }
    for (direction, others, cut) in CUTS {
        let walls = Walls::plan(&[1], *direction, *others, &hosts);
        walls.raise()?;
        for (from, to) in ways {
            let arrives = arrive(&sockets[from], &sockets[to], 3)? > 0;
            if arrives == cut.contains(&(from, to)) {
                let does = if arrives { "arrives" } else { "does not arrive" };
                return lack(format!("cut {direction:?} from {others:?}: what {from} sends to {to} {does}"));
            }
        }
        walls.raze()?;
    }
    Ok(())
}

pub(super) fn loss(lab: &mut Lab) -> Result<(), Lack> {
    let pair = Pair::new(lab)?;
    pair.works()?;
    Walls::sieves(&[1], LOSS_PERCENT, &pair.hosts).raise()?;
    let arrived = pair.arrive(0, SAMPLES)?;
    // Six standard deviations about the expected 300 are 66.
    if !(SAMPLES * 45 / 100..=SAMPLES * 75 / 100).contains(&arrived) {
        return lack(format!("{arrived} of {SAMPLES} arrive at {LOSS_PERCENT} % loss"));
    }
    Ok(())
}
