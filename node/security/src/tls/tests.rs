use std::io;

use rustls::{ClientConnection, ServerConnection};

use super::*;
use crate::{CertificateAuthority, NodeKey, Role, identify, server_name};

const CLUSTER: ClusterId = ClusterId([7; 16]);

struct Cluster {
    authority: CertificateAuthority,
    id: ClusterId,
}

impl Cluster {
    fn new(id: ClusterId) -> Self {
        Self { authority: CertificateAuthority::generate(id).unwrap(), id }
    }

    fn member(&self, node: u64) -> TlsIdentity {
        let key = NodeKey::generate().unwrap();
        let node = NodeId(node);
        let certificate = self.authority.issue(&key.csr().unwrap(), self.id, node, Role::Server).unwrap();
        let ca = self.authority.certificate_der().to_vec();
        TlsIdentity::new(self.id, node, certificate, key.key_der().to_vec(), ca)
    }
}

/// Runs a handshake in memory to its end; what the server then knows of the client.
fn handshake(
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
    server: Arc<ServerConfig>,
) -> Result<Option<CertificateDer<'static>>, rustls::Error> {
    let mut client = ClientConnection::new(client, name)?;
    let mut server = ServerConnection::new(server)?;
    for _ in 0..10 {
        pump(&mut |buffer| client.write_tls(buffer), &mut |bytes| server.read_tls(bytes));
        server.process_new_packets()?;
        pump(&mut |buffer| server.write_tls(buffer), &mut |bytes| client.read_tls(bytes));
        client.process_new_packets()?;
        if !client.is_handshaking() && !server.is_handshaking() {
            break;
        }
    }
    assert!(!server.is_handshaking());
    Ok(server.peer_certificates().and_then(<[_]>::first).map(|cert| cert.clone().into_owned()))
}

fn pump(
    write: &mut dyn FnMut(&mut Vec<u8>) -> io::Result<usize>,
    read: &mut dyn FnMut(&mut &[u8]) -> io::Result<usize>,
) {
    let mut wire = Vec::new();
    while write(&mut wire).unwrap() > 0 {}
    let mut rest = &wire[..];
    while !rest.is_empty() {
        read(&mut rest).unwrap();
    }
}

#[test]
fn two_members_prove_themselves_to_each_other() {
    let cluster = Cluster::new(CLUSTER);
    let server = server_config(&cluster.member(7), &[b"h2"]).unwrap();
    let client = client_config(&cluster.member(8), &[b"h2"]).unwrap();
    let seen = handshake(client, server_name(CLUSTER, Some(NodeId(7))), server).unwrap().unwrap();
    assert_eq!(identify(&seen).unwrap().node, NodeId(8));
}

#[test]
fn a_dialler_that_means_another_node_is_not_fooled() {
    let cluster = Cluster::new(CLUSTER);
    let server = server_config(&cluster.member(7), &[b"h2"]).unwrap();
    let client = client_config(&cluster.member(8), &[b"h2"]).unwrap();
    assert!(handshake(client, server_name(CLUSTER, Some(NodeId(6))), server).is_err());
}

#[test]
fn a_member_of_another_cluster_is_refused_by_both_sides() {
    let (ours, theirs) = (Cluster::new(CLUSTER), Cluster::new(ClusterId([8; 16])));
    let server = server_config(&ours.member(7), &[b"h2"]).unwrap();
    let stranger = client_config(&theirs.member(7), &[b"h2"]).unwrap();
    assert!(handshake(stranger, server_name(CLUSTER, Some(NodeId(7))), server).is_err());
    let server = server_config(&theirs.member(7), &[b"h2"]).unwrap();
    let client = client_config(&ours.member(8), &[b"h2"]).unwrap();
    assert!(handshake(client, server_name(CLUSTER, Some(NodeId(7))), server).is_err());
}

#[test]
fn the_servers_side_refuses_a_certificate_that_another_ca_signed() {
    let (ours, theirs) = (Cluster::new(CLUSTER), Cluster::new(CLUSTER));
    let server = server_config(&ours.member(7), &[b"h2"]).unwrap();
    // It trusts our CA, so only the server can object.
    let mut forged = theirs.member(8);
    forged.ca = ours.member(1).ca;
    let client = client_config(&forged, &[b"h2"]).unwrap();
    assert!(handshake(client, server_name(CLUSTER, Some(NodeId(7))), server).is_err());
}

#[test]
fn a_joiner_knows_the_cluster_by_its_cas_digest() {
    let cluster = Cluster::new(CLUSTER);
    let member = cluster.member(7);
    let server = server_config(&member, &[b"h2"]).unwrap();
    let joiner = joiner_config(ca_digest(member.ca_der()));
    let seen = handshake(joiner, joiner_server_name(), Arc::clone(&server)).unwrap();
    assert_eq!(seen, None);
    let fooled = joiner_config(ca_digest(Cluster::new(CLUSTER).authority.certificate_der()));
    assert!(handshake(fooled, joiner_server_name(), server).is_err());
}
