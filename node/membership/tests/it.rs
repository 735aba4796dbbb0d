//! Members on real sockets of loopback.

#![allow(clippy::unwrap_used, reason = "a test that can not go on should say where")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use node_membership::{Member, MemberEvent, MemberStatus, Membership, Settings, start};
use node_security::{GossipKey, Sealer};
use proto::ids::{ClusterId, Generation, NodeId};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const PATIENCE: Duration = Duration::from_secs(30);

struct Node {
    id: u64,
    address: SocketAddr,
    membership: Membership,
    seen: Arc<(Mutex<Vec<Member>>, Condvar)>,
}

fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn node(id: u64, generation: u64, address: SocketAddr, key: &GossipKey) -> Node {
    let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
    let settings = Settings {
        cluster: CLUSTER,
        node: NodeId(id),
        generation: Generation(generation),
        zone: "a".to_owned(),
        bind: address,
        advertise: address,
        peer: address,
        key: key.clone(),
    };
    let shared = Arc::clone(&seen);
    let membership = start(settings, move |MemberEvent::Changed(members)| {
        *shared.0.lock().unwrap() = members;
        shared.1.notify_all();
    })
    .unwrap();
    Node { id, address, membership, seen }
}

impl Node {
    fn wait(&self, what: &str, done: impl Fn(&[Member]) -> bool) {
        let members = self.seen.0.lock().unwrap();
        let (members, timeout) =
            self.seen.1.wait_timeout_while(members, PATIENCE, |members| !done(members)).unwrap();
        assert!(!timeout.timed_out(), "node {} waits until {what}; it sees {members:?}", self.id);
    }

    fn wait_for(&self, node: u64, state: MemberStatus) {
        self.wait(&format!("node {node} is {state:?}"), |members| {
            members.iter().any(|member| member.node == NodeId(node) && member.state == state)
        });
    }
}

/// Nodes that have all found each other through the first.
fn farm(count: u64, key: &GossipKey) -> Vec<Node> {
    let nodes: Vec<Node> = (1..=count).map(|id| node(id, 1, free_address(), key)).collect();
    for node in &nodes[1..] {
        // Only its address is known.
        node.membership.announce(None, nodes[0].address);
    }
    for node in &nodes {
        node.wait("all are alive", |members| {
            members.len() as u64 == count - 1
                && members.iter().all(|member| member.state == MemberStatus::Alive)
        });
    }
    nodes
}

#[test]
fn members_find_each_other_through_one_seed_and_a_dead_one_is_down_for_all() {
    let key = GossipKey::generate();
    let mut nodes = farm(5, &key);
    nodes.pop().unwrap().membership.stop();
    for node in &nodes {
        node.wait_for(5, MemberStatus::Down);
    }
}

#[test]
fn one_that_says_goodbye_has_left_and_is_not_down() {
    let key = GossipKey::generate();
    let mut nodes = farm(3, &key);
    nodes.pop().unwrap().membership.leave();
    for node in &nodes {
        node.wait_for(3, MemberStatus::Left);
    }
}

#[test]
fn a_restarted_member_is_the_same_node_in_a_newer_generation() {
    let key = GossipKey::generate();
    let mut nodes = farm(3, &key);
    nodes.pop().unwrap().membership.stop();
    for node in &nodes {
        node.wait_for(3, MemberStatus::Down);
    }
    // At another address.
    let back = node(3, 2, free_address(), &key);
    back.membership.announce(Some(NodeId(1)), nodes[0].address);
    for node in &nodes {
        node.wait("node 3 is back", |members| {
            members.iter().any(|member| {
                member.node == NodeId(3)
                    && member.generation == Generation(2)
                    && member.gossip == back.address
                    && member.state == MemberStatus::Alive
            })
        });
        node.wait("there is one node 3", |members| {
            members.iter().filter(|member| member.node == NodeId(3)).count() == 1
        });
    }
}

#[test]
fn a_refused_connection_makes_a_suspect_until_it_is_heard_again() {
    let key = GossipKey::generate();
    let nodes = farm(2, &key);
    nodes[0].membership.report_unreachable(NodeId(2));
    nodes[0].wait_for(2, MemberStatus::Suspect);
    // It answers the next probe.
    nodes[0].wait_for(2, MemberStatus::Alive);
}

#[test]
fn strangers_get_no_answer_and_change_nothing() {
    let key = GossipKey::generate();
    let nodes = farm(2, &key);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut forged = Vec::new();
    let mut sealer = Sealer::new(&GossipKey::generate(), CLUSTER, NodeId(9), Generation(9));
    sealer.seal(b"\0hello", &mut forged).unwrap();
    let huge = vec![1; 60_000];
    for datagram in [&b""[..], b"x", &[0; 1_360], &forged, &huge] {
        stranger.send_to(datagram, nodes[0].address).unwrap();
    }
    let answer = stranger.recv_from(&mut [0; 2_000]);
    assert!(answer.is_err(), "{answer:?}");
    // One that has the key but not the language.
    let mut sealer = Sealer::new(&key, CLUSTER, NodeId(9), Generation(9));
    for payload in [&b""[..], b"\0", b"\0garbage", b"\x01garbage", b"\xffwhatever", &[0; 1_000]] {
        sealer.seal(payload, &mut forged).unwrap();
        stranger.send_to(&forged, nodes[0].address).unwrap();
    }
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        let members = nodes[0].seen.0.lock().unwrap().clone();
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].state, MemberStatus::Alive);
        std::thread::sleep(Duration::from_millis(20));
    }
}
