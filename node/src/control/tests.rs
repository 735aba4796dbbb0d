//! A farm in one process: real TLS, gossip, disks and elections, and agents that only note what they
//! are told.

mod farm;

use std::time::Duration;

use node_core::control::{Command, Fingerprint, ReleaseRecord, Role, Route, Secret, TokenRecord};
use node_security::JoinToken;
use proto::ids::{GroupId, NodeId, ReleaseId};
use proto::peer::JoinRequest;
use proto::peer::join_service_server::JoinService as _;
use tonic::{Code, Request};

use super::{Control, ProposeError};
use crate::bootstrap::{self, BootstrapError};
use farm::{Farm, Node, eventually};

const RELEASE: ReleaseId = ReleaseId([3; 32]);

fn token(id: &str) -> Command {
    let hash = Fingerprint([1; 32]);
    let token = TokenRecord { hash, role: Role::Server, expires_ms: u64::MAX, uses_left: None };
    Command::CreateToken { id: id.to_owned(), token }
}

async fn deploy(control: &Control) {
    let record = ReleaseRecord {
        app: "shop".to_owned(),
        version: "v1".to_owned(),
        size_bytes: 1,
        files: 1,
        route: Some(Route::default()),
        rollout_ms: 600_000,
        created_ms: 0,
        registered_index: 0,
    };
    control.propose(&Command::RegisterRelease { release: RELEASE, record }).await.unwrap();
    let secret = Secret::new("secret".to_owned());
    control.propose(&Command::SetTarget { app: "shop".to_owned(), release: RELEASE, secret }).await.unwrap();
}

fn is_stable(node: &Node) -> bool {
    node.control.state().apps.get("shop").is_some_and(|app| app.stable == Some(RELEASE))
}

/// Three nodes of which all vote.
async fn three() -> (Farm, Vec<Node>) {
    let mut farm = Farm::new(3);
    let first = farm.init().await;
    farm.join(1, 0).await.unwrap();
    let second = farm.start(1).await;
    // The second has no CA key yet, and hands the request on.
    farm.join(2, 1).await.unwrap();
    let third = farm.start(2).await;
    let nodes = vec![first, second, third];
    for node in &nodes {
        eventually("three voters", || node.control.group_view().borrow().voters.len() == 3).await;
    }
    (farm, nodes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_grows_to_three_voters_that_hold_everything_and_outlives_its_controller() {
    let (farm, mut nodes) = three().await;
    for node in &nodes {
        eventually("the CA's key", || node.identity.authority().is_some()).await;
        let placed = |state: &super::ControlState| {
            state.placement.get(&GroupId(16)).is_some_and(|held| held.len() == 3)
        };
        eventually("three replicas", || placed(&node.control.state())).await;
    }
    deploy(&nodes[2].control).await;
    eventually("the rollout's end", || is_stable(&nodes[2])).await;
    assert!(nodes.iter().all(|node| node.runs("shop") == Some(RELEASE)));

    let controller = nodes[0].control.state().controller.unwrap();
    let epoch = nodes[0].control.state().epoch;
    let at = nodes.iter().position(|node| node.identity.node == controller).unwrap();
    let which = nodes.remove(at).stop().await;
    eventually("a new controller", || nodes[0].control.state().epoch > epoch).await;
    for (number, node) in nodes.iter().enumerate() {
        node.control.propose(&token(&format!("after {number}"))).await.unwrap();
    }
    let back = farm.start(which).await;
    assert!(back.control.state().tokens.contains_key("after 1"), "it has caught up when it says so");
    eventually("its app again", || back.runs("shop") == Some(RELEASE)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_wrong_token_or_a_live_nodes_name_stays_outside() {
    let mut farm = Farm::new(3);
    let first = farm.init().await;
    let digest = farm.token().parse::<JoinToken>().unwrap().ca_digest();
    let wrong = format!("{}@{}", JoinToken::generate(digest), farm.address(0));
    let refused = bootstrap::join(farm.config(1), &wrong).await.unwrap_err();
    assert!(
        matches!(&refused, BootstrapError::Refused(words) if words.contains("no such token")),
        "{refused}"
    );
    let other_ca = format!("{}@{}", JoinToken::generate([9; 32]), farm.address(0));
    let refused = bootstrap::join(farm.config(1), &other_ca).await.unwrap_err();
    assert!(matches!(refused, BootstrapError::WrongCluster { .. }), "{refused}");

    let mut double = farm.config(1).clone();
    double.node.name = first.identity.name.clone();
    let target = format!("{}@{}", farm.token(), farm.address(0));
    let refused = bootstrap::join(&double, &target).await.unwrap_err();
    assert!(
        matches!(&refused, BootstrapError::Refused(words) if words.contains("has the name")),
        "{refused}"
    );
    assert_eq!(first.control.state().members().count(), 1);

    farm.join(1, 0).await.unwrap();
    let state = first.control.state();
    assert_eq!(state.members().count(), 2);
    assert_ne!(state.member_named("node-2").unwrap().0, NodeId(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_disk_comes_back_under_its_name_and_the_node_it_was_is_forgotten() {
    let (farm, mut nodes) = three().await;
    let lost = nodes.pop().unwrap();
    let (old, name) = (lost.identity.node, lost.identity.name.clone());
    let which = lost.stop().await;
    std::fs::remove_dir_all(&farm.config(which).node.data_dir).unwrap();
    // Until its death is known the name is its own.
    let began = std::time::Instant::now();
    while let Err(refused) = farm.join(which, 0).await {
        assert!(refused.to_string().contains("has the name"), "{refused}");
        assert!(began.elapsed() < Duration::from_secs(30), "{refused}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    nodes.push(farm.start(which).await);
    for node in &nodes {
        eventually("the new voter", || {
            let state = node.control.state();
            let now = state.member_named(&name).map(|(node, _)| node);
            let voters = node.control.group_view().borrow().voters.clone();
            now.is_some_and(|now| now != old && voters.contains(&now) && !voters.contains(&old))
        })
        .await;
        eventually("the old one's end", || !node.knows(old)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_knock_have_nothing_written() {
    let mut farm = Farm::new(1);
    let first = farm.init().await;
    let csr = node_security::NodeKey::generate().unwrap().csr().unwrap();
    let knock = |csr: &[u8]| {
        let request = JoinRequest {
            token: JoinToken::generate([1; 32]).to_string(),
            csr: csr.to_vec().into(),
            name: "stranger".to_owned(),
            zone: "a".to_owned(),
            region: "r".to_owned(),
            peer_addr: "127.0.0.1:1".to_owned(),
            gossip_addr: "127.0.0.1:2".to_owned(),
            roles: Vec::new(),
        };
        let control = first.control.clone();
        async move { control.join(Request::new(request)).await.unwrap_err() }
    };
    let before = first.control.group_view().borrow().applied;
    let refused = futures::future::join_all((0..100).map(|_| knock(&csr))).await;
    assert!(refused.iter().all(|status| status.message().contains("no such token")), "{refused:?}");
    // The controller of a cluster that has just begun writes a few of its own.
    let written = first.control.group_view().borrow().applied - before;
    assert!(written < 50, "{written} entries for 100 strangers");
    let no_request = knock(b"no signing request").await;
    assert_eq!(no_request.code(), Code::InvalidArgument, "before its token is looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_a_command_is_refused_with_the_reason_and_nothing_is_lost() {
    let (farm, mut nodes) = three().await;
    nodes[1].control.propose(&token("kept")).await.unwrap();
    let third = nodes.pop().unwrap().stop().await;
    let second = nodes.pop().unwrap().stop().await;
    let first = nodes.pop().unwrap();
    let error = first.control.propose(&token("refused")).await.unwrap_err();
    assert!(matches!(error, ProposeError::NoQuorum(_) | ProposeError::Unknown(_)), "{error}");
    let revoke = Command::RevokeToken { id: "kept".to_owned() };
    // By now the leader, if it was this node, has noticed that nobody answers it.
    let error = first.control.propose(&revoke).await.unwrap_err();
    assert!(error.to_string().contains("no quorum"), "{error}");
    assert!(first.control.state().tokens.contains_key("kept"), "what was applied is still read");

    let first = first.stop().await;
    let all = tokio::time::timeout(Duration::from_secs(60), async {
        tokio::join!(farm.start(first), farm.start(second), farm.start(third))
    });
    let (first, second, third) = all.await.expect("a whole farm comes back");
    for node in [&first, &second, &third] {
        assert!(node.control.state().tokens.contains_key("kept"));
        node.control.propose(&token("after")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_can_not_rule_through_the_mesh() {
    let (_farm, nodes) = three().await;
    let state = nodes[0].control.state();
    let forged = Command::Order {
        epoch: state.epoch,
        order: node_core::control::Order::Place { groups: [(GroupId(1), vec![NodeId(1)])].into() },
    };
    let follower = nodes.iter().find(|node| Some(node.identity.node) != state.controller).unwrap();
    let error = follower.control.propose(&forged).await.unwrap_err();
    assert!(matches!(error, ProposeError::Forbidden(_)), "{error}");
    assert_eq!(nodes[0].control.state().placement[&GroupId(1)].len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_which_the_log_says_something_else_tells_it_what_is_so() {
    let mut farm = Farm::new(1);
    let node = farm.init().await;
    let me = node.identity.node;
    let record = node.control.state().nodes[&me].clone();
    assert!(!record.roles.is_empty());
    let stale = Command::UpdateNode {
        node: me,
        peer_addr: record.peer_addr,
        gossip_addr: record.gossip_addr,
        roles: ["voter".to_owned()].into(),
    };
    node.control.propose(&stale).await.unwrap();
    let is_told = || node.control.state().nodes[&me] == record;
    assert!(!is_told());
    tokio::select! {
        never = node.control.stay_introduced() => match never {},
        () = eventually("what is so is in the log", is_told) => {}
    }
    node.stop().await;
}
