use super::*;
use crate::bootstrap;
use crate::config::Config;
use crate::identity::Identity;
use crate::members::MembersParts;
use crate::mesh::listen;

const ORIGIN: NodeId = NodeId(77);

/// The invalidation of a node that is alone.
fn alone(folder: &std::path::Path) -> (Invalidation, Tasks) {
    let gossip = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sets = [
        "node.name=\"node-1\"".to_owned(),
        format!("node.data_dir=\"{}\"", folder.join("data").display()),
        "network.bind=\"127.0.0.1\"".to_owned(),
        format!("network.gossip_port={gossip}"),
    ];
    let config = Config::load(None, &sets, std::iter::empty()).unwrap();
    bootstrap::init(&config).unwrap();
    let identity = Arc::new(Identity::load(&config.node.data_dir).unwrap());
    let tasks = Tasks::new();
    let tls = node_security::client_config(&identity.tls, &[listen::ALPN_RPC]).unwrap();
    let mesh = Mesh::new(identity.node, identity.cluster, tls, tasks.clone());
    let (generation, life) = (identity.generation, identity.life);
    let members =
        Members::start(MembersParts { identity, config, mesh: mesh.clone(), tasks: tasks.clone() }).unwrap();
    let parts = InvalidationParts { generation, life, mesh, members, tasks: tasks.clone() };
    (Invalidation::start(parts), tasks)
}

fn push(sequence: u64) -> PushInvalidationsRequest {
    let event = InvalidationEvent {
        node: ORIGIN.0,
        generation: 1,
        sequence,
        keyspace: "shop".to_owned(),
        keys: vec![Bytes::from_static(b"key")],
    };
    PushInvalidationsRequest { events: vec![event] }
}

/// Runs something on a thread and a runtime of its own, which end with it.
fn elsewhere(task: impl Future<Output = ()> + Send) {
    std::thread::scope(|threads| {
        threads.spawn(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task)
        });
    });
}

#[tokio::test]
async fn who_asked_for_what_is_missing_and_was_ended_leaves_the_place_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let (invalidation, tasks) = alone(folder.path());
    // The runtime ends with the question, as a panic would end it.
    elsewhere(async {
        invalidation.handle_push(ORIGIN, push(1)).await.unwrap();
        invalidation.handle_push(ORIGIN, push(3)).await.unwrap();
        assert!(invalidation.state().filling.contains(&ORIGIN));
    });
    assert!(invalidation.state().filling.is_empty());
    tasks.stop().cancel();
    tasks.drained().await;
}

#[tokio::test]
async fn nobody_tells_another_ones_events() {
    let folder = tempfile::tempdir().unwrap();
    let (invalidation, tasks) = alone(folder.path());
    let error = invalidation.handle_push(NodeId(78), push(1)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(invalidation.state().streams.vector().iter().all(|position| position.node != ORIGIN));
    tasks.stop().cancel();
    tasks.drained().await;
}
