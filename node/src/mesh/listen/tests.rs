use std::net::{IpAddr, Ipv4Addr};

use node_security::{CertificateAuthority, NodeKey, Role, TlsIdentity, client_config, joiner_config};
use proto::ids::{ClusterId, NodeId};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use super::*;

/// Longer than anything takes on a busy machine: only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than any test takes.
const FOR_EVER: Duration = Duration::from_secs(3_600);
const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Nothing ends because of the time.
fn patient() -> Limits {
    Limits { handshake_time: FOR_EVER, anonymous_life: FOR_EVER, ..Limits::default() }
}

#[test]
fn few_descriptors_are_shared_among_all_who_come() {
    for descriptors in [16, 64, 1_000, 100_000] {
        let limits = Limits::within(descriptors);
        let all = limits.handshakes_max + limits.anonymous_max;
        let all = all + limits.rpc_max + limits.proxied_max + limits.surplus_max;
        assert!(all <= descriptors, "{limits:?} of {descriptors}");
        assert!(limits.handshakes_per_source_max > 0 && limits.anonymous_per_source_max > 0);
        assert!(limits.rpc_max >= (descriptors / 4).min(1_024), "{limits:?} of {descriptors}");
        assert!(limits.proxied_max >= (descriptors / 4).min(4_096), "{limits:?} of {descriptors}");
        assert!(limits.surplus_max > 0, "{limits:?} of {descriptors}");
    }
}

struct Port {
    address: SocketAddr,
    authority: CertificateAuthority,
    rpc: mpsc::Receiver<io::Result<PeerStream>>,
    proxied: mpsc::Receiver<PeerStream>,
    tasks: Tasks,
}

type Client = tokio_rustls::client::TlsStream<TcpStream>;

impl Port {
    async fn open(limits: Limits) -> Self {
        let authority = CertificateAuthority::generate(CLUSTER).unwrap();
        let tls = node_security::server_config(&member(&authority, 1), &[ALPN_RPC, ALPN_PROXY]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to_rpc, rpc) = mpsc::channel(1_024);
        let (proxy, proxied) = mpsc::channel(1_024);
        let tasks = Tasks::new();
        tasks.essential(
            "peer port",
            run(listener, tls, limits, Accepted { rpc: to_rpc, proxy }, tasks.clone()),
        );
        Self { address, authority, rpc, proxied, tasks }
    }

    async fn silent(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn dial(&self, from: IpAddr, tls: Arc<rustls::ClientConfig>) -> io::Result<Client> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        let tcp = socket.connect(self.address).await?;
        let name = ServerName::try_from("join.holdfast").unwrap();
        let name = if tls.client_auth_cert_resolver.has_certs() {
            node_security::server_name(CLUSTER, Some(NodeId(1)))
        } else {
            name
        };
        TlsConnector::from(tls).connect(name, tcp).await
    }

    /// Both ends of a node's connection.
    async fn node(&mut self) -> (Client, PeerStream) {
        let tls = client_config(&member(&self.authority, 2), &[ALPN_RPC]).unwrap();
        let dialled = tokio::time::timeout(PATIENCE, self.dial(Ipv4Addr::LOCALHOST.into(), tls)).await;
        (dialled.expect("the node waits").unwrap(), self.next().await)
    }

    /// Both ends of a balancer's connection.
    async fn balancer(&mut self) -> (Client, PeerStream) {
        let tls = client_config(&member(&self.authority, 2), &[ALPN_PROXY]).unwrap();
        let client = self.dial(Ipv4Addr::LOCALHOST.into(), tls).await.unwrap();
        let accepted = tokio::time::timeout(PATIENCE, self.proxied.recv()).await;
        (client, accepted.expect("nobody was let in").unwrap())
    }

    /// Both ends of a connection without a certificate.
    async fn anonymous(&mut self) -> (Client, PeerStream) {
        let tls = joiner_config(node_security::ca_digest(self.authority.certificate_der()));
        let client = self.dial(Ipv4Addr::LOCALHOST.into(), tls).await.unwrap();
        (client, self.next().await)
    }

    async fn next(&mut self) -> PeerStream {
        let accepted = tokio::time::timeout(PATIENCE, self.rpc.recv()).await;
        accepted.expect("nobody was let in").unwrap().unwrap()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

fn member(authority: &CertificateAuthority, node: u64) -> TlsIdentity {
    let (key, node) = (NodeKey::generate().unwrap(), NodeId(node));
    let certificate = authority.issue(&key.csr().unwrap(), CLUSTER, node, Role::Server).unwrap();
    let ca = authority.certificate_der().to_vec();
    TlsIdentity::new(CLUSTER, node, certificate, key.key_der().to_vec(), ca)
}

/// Waits for the other side to end the connection.
async fn ended(mut io: impl AsyncRead + Unpin) {
    let end = tokio::time::timeout(PATIENCE, async {
        while io.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
    });
    end.await.expect("the connection is still open");
}

async fn assert_passes((client, server): &mut (Client, PeerStream)) {
    client.write_all(b"here").await.unwrap();
    let mut heard = [0; 4];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"here");
}

#[tokio::test]
async fn a_node_comes_in_past_any_number_of_silent_connections() {
    let mut port =
        Port::open(Limits { handshakes_max: 20, handshakes_per_source_max: 10, ..patient() }).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(port.silent().await);
    }
    let mut node = port.node().await;
    assert_passes(&mut node).await;
    // The oldest had to make room, though nobody's time was over.
    ended(silent.remove(0)).await;
}

#[tokio::test]
async fn who_says_nothing_takes_no_nodes_connection() {
    let mut port = Port::open(Limits { rpc_max: 1, ..patient() }).await;
    let _silent = port.silent().await;
    let _anonymous = port.anonymous().await;
    let mut node = port.node().await;
    assert_passes(&mut node).await;
}

#[tokio::test]
async fn who_does_not_prove_in_time_who_it_is_has_to_go() {
    let port = Port::open(Limits { handshake_time: Duration::from_millis(20), ..patient() }).await;
    let silent = [port.silent().await, port.silent().await];
    for silent in silent {
        ended(silent).await;
    }
}

#[tokio::test]
async fn one_without_a_certificate_has_to_go_after_a_time_however_busy_and_a_node_stays() {
    let mut port = Port::open(Limits { anonymous_life: Duration::from_millis(20), ..patient() }).await;
    let mut node = port.node().await;
    let (mut client, mut server) = port.anonymous().await;
    let chat = async {
        // Never idle, as one that answers pings; what it sends is read until the end of its time.
        while client.write_all(b"ping").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let served = async {
        let mut bytes = [0; 64];
        let error = loop {
            if let Err(error) = server.read(&mut bytes).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let written = server.write(b"more").await.map_err(|error| error.kind());
        assert_eq!(written, Err(io::ErrorKind::TimedOut), "nor is it written to");
        drop(server);
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(chat, served) }).await.expect("it is still open");
    assert_passes(&mut node).await;
}

#[tokio::test]
async fn of_those_without_a_certificate_the_oldest_makes_room() {
    let mut port = Port::open(Limits { anonymous_max: 2, ..patient() }).await;
    let mut node = port.node().await;
    let first = port.anonymous().await;
    let mut others = [port.anonymous().await, port.anonymous().await];
    ended(first.1).await;
    for other in &mut others {
        assert_passes(other).await;
    }
    assert_passes(&mut node).await;
}

#[tokio::test]
async fn however_many_requests_are_proxied_raft_goes_on_and_one_too_many_is_told_so() {
    let mut port = Port::open(Limits { proxied_max: 1, surplus_max: 1, ..patient() }).await;
    let (_client, served) = port.balancer().await;
    let (_other_client, surplus) = port.balancer().await;
    assert!(!served.is_surplus() && surplus.is_surplus());
    let mut node = port.node().await;
    assert_passes(&mut node).await;
    drop(served);
    assert!(!port.balancer().await.1.is_surplus());
}
