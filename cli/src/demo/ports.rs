//! Whether the ports of the farm are free, and who has them where they are not.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use super::farm::FarmNode;
use crate::failure::Failure;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Tcp,
    Udp,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Fails with the first port that somebody else has.
pub fn refuse_taken(nodes: &[FarmNode]) -> Result<(), Failure> {
    for node in nodes {
        let ports = [
            (Kind::Udp, node.gossip),
            (Kind::Tcp, node.peer),
            (Kind::Tcp, node.admin),
            (Kind::Tcp, node.resp),
            (Kind::Tcp, node.http),
        ];
        for (kind, address) in ports {
            try_bind(kind, address).map_err(|error| taken(node, kind, address, &error))?;
        }
    }
    Ok(())
}

fn try_bind(kind: Kind, address: SocketAddr) -> io::Result<()> {
    match kind {
        Kind::Tcp => TcpListener::bind(address).map(drop),
        Kind::Udp => UdpSocket::bind(address).map(drop),
    }
}

fn taken(node: &FarmNode, kind: Kind, address: SocketAddr, error: &io::Error) -> Failure {
    let who = match (error.kind(), holder(kind, address.port())) {
        (io::ErrorKind::AddrInUse, Some((pid, name))) => format!("in use by process {pid} ({name})"),
        (io::ErrorKind::AddrInUse, None) => "in use".to_owned(),
        (_, _) => error.to_string(),
    };
    Failure::failed(
        format!("{} can not have port {}/{}: {who}", node.name, address.port(), kind.name()),
        "end that process, or choose other ports with --base-port",
    )
}

/// The process that holds a port, as far as this user may know.
fn holder(kind: Kind, port: u16) -> Option<(u32, String)> {
    let inodes: Vec<String> = ["", "6"]
        .iter()
        .filter_map(|suffix| fs::read_to_string(format!("/proc/net/{}{suffix}", kind.name())).ok())
        .flat_map(|table| {
            table.lines().filter_map(|line| listener_inode(kind, line, port)).collect::<Vec<_>>()
        })
        .collect();
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid| holds(*pid, &inodes)).map(|pid: u32| (pid, program(pid)))
}

/// The inode of the socket in a line of /proc/net/tcp or udp, if it waits on `port`.
fn listener_inode(kind: Kind, line: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, state) = (fields.get(1)?, fields.get(3)?);
    let local_port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    // 0A is LISTEN; a datagram socket is 07 (unconnected).
    let waits = match kind {
        Kind::Tcp => *state == "0A",
        Kind::Udp => true,
    };
    (local_port == port && waits).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
}

fn holds(pid: u32, inodes: &[String]) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    links.filter_map(|link| fs::read_link(link.path()).ok()).any(|target| {
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.iter().any(|wanted| wanted == inode))
    })
}

fn program(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_the_process_that_has_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let (pid, _) = holder(Kind::Tcp, port).unwrap();
        assert_eq!(pid, std::process::id());
        drop(taken);
        assert_eq!(holder(Kind::Tcp, port), None);
    }

    #[test]
    fn a_connection_from_a_port_does_not_make_it_a_listener() {
        let line = "0: 0100007F:1CE9 0100007F:0050 01 00000000:00000000 00:00000000 00000000 0 0 4242 1";
        assert_eq!(listener_inode(Kind::Tcp, line, 0x1ce9), None);
        let line = line.replace(" 01 ", " 0A ");
        assert_eq!(listener_inode(Kind::Tcp, &line, 0x1ce9), Some("4242".to_owned()));
    }
}
