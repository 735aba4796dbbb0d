//! A farm in one process, spoken to by a stock Redis client at every node.

mod farm;

use std::collections::BTreeMap;

use node_core::control::{Command, ReleaseRecord, Route, Secret};
use proto::ids::{NodeId, ReleaseId};
use proto::v1;
use proto::v1::session_service_server::SessionService as _;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use tonic::{Code, Request};

use super::service::SessionApi;
use farm::{Farm, Node, eventually};

/// Gives an app a secret, as its first deploy does.
async fn deploy(node: &Node, app: &str, secret: &str) {
    let release = ReleaseId([app.len() as u8; 32]);
    let route = Route { path: format!("/{app}"), ..Route::default() };
    let record = ReleaseRecord {
        app: app.to_owned(),
        version: "v1".to_owned(),
        size_bytes: 1,
        files: 1,
        route: Some(route),
        rollout_ms: 600_000,
        created_ms: 0,
        registered_index: 0,
    };
    node.control.propose(&Command::RegisterRelease { release, record }).await.unwrap();
    let secret = Secret::new(secret.to_owned());
    node.control.propose(&Command::SetTarget { app: app.to_owned(), release, secret }).await.unwrap();
}

/// Writes numbered keys and remembers what was acknowledged; whatever was not must say why.
async fn write_some(client: &mut MultiplexedConnection, from: usize, kept: &mut BTreeMap<String, usize>) {
    for number in from..from + 50 {
        let key = format!("key-{number}");
        match client.set::<_, _, ()>(&key, number).await {
            Ok(()) => drop(kept.insert(key, number)),
            Err(error) => assert!(matches!(error.code(), Some("TRYAGAIN" | "CLUSTERDOWN")), "{error}"),
        }
    }
}

async fn assert_kept(client: &mut MultiplexedConnection, kept: &BTreeMap<String, usize>) {
    for (key, number) in kept {
        let found: Option<usize> = client.get(key).await.unwrap();
        assert_eq!(found, Some(*number), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_at_one_node_is_read_at_every_other_at_once() {
    let (_farm, nodes) = Farm::start(3, &[]).await;
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(node.client("").await);
    }
    for number in 0..30 {
        let key = format!("key-{number}");
        let () = clients[number % 3].set_ex(&key, number, 100).await.unwrap();
        for client in &mut clients {
            assert_eq!(client.get::<_, usize>(&key).await.unwrap(), number);
            assert!((1..=100).contains(&client.ttl::<_, i64>(&key).await.unwrap()));
        }
    }
    let counted = futures::future::join_all(clients.iter().cloned().map(|mut client| async move {
        for _ in 0..20 {
            client.incr::<_, _, i64>("counter", 1).await.unwrap();
        }
    }));
    counted.await;
    assert_eq!(clients[0].get::<_, i64>("counter").await.unwrap(), 60);
    let keys: Vec<String> = (0..30).map(|number| format!("key-{number}")).collect();
    assert_eq!(clients[1].mget::<_, Vec<usize>>(&keys).await.unwrap(), (0..30).collect::<Vec<_>>());
    assert_eq!(clients[2].del::<_, usize>(&keys).await.unwrap(), 30);
    let info: String = redis::cmd("INFO").arg("holdfast").query_async(&mut clients[0]).await.unwrap();
    assert!(info.contains("quorum:yes") && info.contains("replicas_here:16"), "{info}");
}

/// The first node forms every group, and hands most of them on in a farm that has more nodes than a group
/// has replicas.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_a_node_has_handed_on_is_found_from_there() {
    let (_farm, nodes) = Farm::start(5, &[]).await;
    let elsewhere = || {
        let state = nodes[0].control.state();
        let moved = state.placement.values().filter(|holders| !holders.contains(&NodeId(1))).count();
        moved > 0 && nodes.iter().all(Node::agrees_with_placement)
    };
    eventually("groups that are not on the first node", elsewhere).await;
    for (number, node) in nodes.iter().enumerate() {
        let mut client = node.client("").await;
        for key in 0..60 {
            let key = format!("key-{key}");
            let () = client.set(&key, number).await.unwrap();
            assert_eq!(client.get::<_, usize>(&key).await.unwrap(), number, "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_sees_its_keyspace_and_only_with_its_secret() {
    let (_farm, nodes) = Farm::start(1, &[]).await;
    deploy(&nodes[0], "shop", "secret").await;
    deploy(&nodes[0], "blog-2", "words").await;
    let mut shop = nodes[0].client("shop:secret@").await;
    let mut blog = nodes[0].client("blog-2:words@").await;
    let mut operator = nodes[0].client("").await;
    let () = shop.set("basket", "three").await.unwrap();
    for other in [&mut blog, &mut operator] {
        assert_eq!(other.get::<_, Option<String>>("basket").await.unwrap(), None);
    }
    for (user, password) in [("shop", "words"), ("shop", ""), ("nobody", "secret"), ("", "secret")] {
        let mut auth = redis::cmd("AUTH");
        let refused = auth.arg(user).arg(password).query_async::<()>(&mut operator).await.unwrap_err();
        assert_eq!(refused.code(), Some("WRONGPASS"), "{user}:{password}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_password_file_nobody_comes_in_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "open sesame\n").unwrap();
    let set = format!("resp.password_file=\"{}\"", file.display());
    let (_farm, nodes) = Farm::start(1, &[&set]).await;
    for (login, code) in [("", "NOAUTH"), (":guess@", "WRONGPASS"), ("default:guess@", "WRONGPASS")] {
        let refused =
            nodes[0].try_client(login).await.err().and_then(|error| error.code().map(str::to_owned));
        assert_eq!(refused.as_deref(), Some(code), "{login}");
    }
    let mut client = nodes[0].client(":open%20sesame@").await;
    let () = client.set("k", "v").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leaders_die_writes_go_on_and_none_that_was_acknowledged_is_lost() {
    let (farm, mut nodes) = Farm::start(3, &[]).await;
    let mut client = nodes[2].client("").await;
    let mut kept = BTreeMap::new();
    write_some(&mut client, 0, &mut kept).await;
    assert_eq!(kept.len(), 50);
    // The first node formed all groups, and leads them until it dies.
    assert_eq!(nodes[0].sessions.info().leaders_here, 16);
    let died = nodes.remove(0).stop().await;
    write_some(&mut client, 50, &mut kept).await;
    assert_kept(&mut client, &kept).await;
    let again = client.set::<_, _, ()>("after", 1).await;
    assert!(again.is_ok(), "{again:?}");
    kept.insert("after".to_owned(), 1);

    let back = farm.run(died).await;
    let mut at_the_returned = back.client("").await;
    assert_kept(&mut at_the_returned, &kept).await;
    // It holds everything again: now the other one may die.
    let caught_up = || back.sessions.info().replicas_here == 16;
    eventually("its replicas", caught_up).await;
    nodes.remove(0).stop().await;
    write_some(&mut at_the_returned, 100, &mut kept).await;
    assert_kept(&mut at_the_returned, &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_gets_lost_is_told_as_unknown_and_not_tried_again() {
    let (_farm, nodes) = Farm::start(3, &[]).await;
    let mut client = nodes[2].client("").await;
    assert_eq!(client.incr::<_, _, i64>("visits", 1).await.unwrap(), 1);
    nodes[0].lose_next_answer();
    let error = client.incr::<_, _, i64>("visits", 1).await.unwrap_err();
    assert!(nodes[0].has_lost_answer(), "it was asked, as it leads all groups");
    assert_eq!(error.code(), Some("TRYAGAIN"));
    assert!(error.to_string().contains("outcome unknown: "), "{error}");
    assert_eq!(client.get::<_, i64>("visits").await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_of_three_dead_nothing_is_acknowledged_and_the_reason_is_told() {
    let (farm, mut nodes) = Farm::start(3, &[]).await;
    let mut client = nodes[2].client("").await;
    let mut kept = BTreeMap::new();
    write_some(&mut client, 0, &mut kept).await;
    let first = nodes.remove(0).stop().await;
    let second = nodes.remove(0).stop().await;
    let mut refused = 0;
    for number in 0..5 {
        let error = client.set::<_, _, ()>(format!("key-{number}"), "never").await.unwrap_err();
        match error.code() {
            Some("CLUSTERDOWN") => {
                assert!(error.to_string().contains("no quorum for this key's group"), "{error}");
                refused += 1;
            }
            Some("TRYAGAIN") => assert!(error.to_string().contains("outcome unknown"), "{error}"),
            other => panic!("{other:?}: {error}"),
        }
    }
    assert!(refused > 0);
    let error = client.get::<_, Option<String>>("key-1").await.unwrap_err();
    assert_eq!(error.code(), Some("CLUSTERDOWN"), "a read that can not be proved is not answered");

    let third = nodes.remove(0).stop().await;
    let (first, _second, _third) = tokio::join!(farm.run(first), farm.run(second), farm.run(third));
    let mut client = first.client("").await;
    for (key, number) in &kept {
        let found: String = client.get(key).await.unwrap();
        assert!(found == number.to_string() || found == "never", "{key}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_values_travel_between_nodes_one_by_one_and_many_at_a_time() {
    let (_farm, nodes) = Farm::start(3, &[]).await;
    // One slot, so that all are in one group and do not fit one message.
    let keys: Vec<String> = (0..10).map(|number| format!("{{large}}{number}")).collect();
    let value = vec![b'x'; 1 << 20];
    let mut writer = nodes[1].client("").await;
    for key in &keys {
        let () = writer.set(key, &value).await.unwrap();
    }
    for node in &nodes {
        let mut reader = node.client("").await;
        let values: Vec<Vec<u8>> = reader.mget(&keys).await.unwrap();
        assert!(values.iter().all(|found| *found == value));
    }
    let mut pipeline = redis::pipe();
    for key in &keys {
        pipeline.cmd("GETDEL").arg(key);
    }
    let values: Vec<Vec<u8>> = pipeline.query_async(&mut nodes[2].client("").await).await.unwrap();
    assert!(values.iter().all(|found| *found == value));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_says_so_and_takes_deletes() {
    let (_farm, nodes) = Farm::start(1, &["sessions.memory_max=\"1M\""]).await;
    let mut client = nodes[0].client("").await;
    let mut stored = 0;
    let refused = loop {
        match client.set::<_, _, ()>(format!("key-{stored}"), vec![0; 100_000]).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "a megabyte holds no ten");
    };
    assert_eq!(refused.code(), Some("OOM"), "{refused}");
    assert_eq!(stored, 10);
    assert_eq!(client.get::<_, Vec<u8>>("key-0").await.unwrap().len(), 100_000, "nothing is evicted");
    assert_eq!(client.del::<_, i64>("key-0").await.unwrap(), 1);
    let () = client.set("key-0", vec![0; 100_000]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_gone_from_every_replica_though_nobody_reads_it() {
    let (_farm, nodes) = Farm::start(3, &[]).await;
    let mut client = nodes[0].client("").await;
    for number in 0..100 {
        let () = client.pset_ex(format!("key-{number}"), "v", 200).await.unwrap();
    }
    for node in &nodes {
        eventually("an empty store", || node.sessions.info().used_bytes == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_puts_by_version_touches_and_deletes() {
    let (_farm, nodes) = Farm::start(1, &[]).await;
    deploy(&nodes[0], "shop", "secret").await;
    let api = SessionApi::new(nodes[0].sessions.clone());
    let put = |value: &'static str, if_version| v1::PutRequest {
        keyspace: "shop".to_owned(),
        key: "k".into(),
        value: value.into(),
        ttl_ms: None,
        if_version,
    };
    let get = || v1::GetRequest { keyspace: "shop".to_owned(), key: "k".into() };
    assert_eq!(api.get(Request::new(get())).await.unwrap().into_inner(), v1::GetResponse::default());
    let first = api.put(Request::new(put("1", Some(0)))).await.unwrap().into_inner();
    assert!(first.applied);
    let late = api.put(Request::new(put("2", Some(0)))).await.unwrap().into_inner();
    assert_eq!(late, v1::PutResponse { applied: false, version: first.version });
    let second = api.put(Request::new(put("2", Some(first.version)))).await.unwrap().into_inner();
    assert!(second.applied && second.version > first.version);

    let touch = v1::TouchRequest { keyspace: "shop".to_owned(), key: "k".into(), ttl_ms: 60_000 };
    assert!(api.touch(Request::new(touch.clone())).await.unwrap().into_inner().found);
    let found = api.get(Request::new(get())).await.unwrap().into_inner();
    assert_eq!((&found.value[..], found.version), (&b"2"[..], second.version));
    assert!(found.ttl_ms.is_some_and(|ttl| ttl <= 60_000));
    let never = v1::TouchRequest { ttl_ms: 0, ..touch };
    assert_eq!(api.touch(Request::new(never)).await.unwrap_err().code(), Code::InvalidArgument);

    let delete = || v1::DeleteRequest { keyspace: "shop".to_owned(), key: "k".into() };
    assert!(api.delete(Request::new(delete())).await.unwrap().into_inner().found);
    assert!(!api.delete(Request::new(delete())).await.unwrap().into_inner().found);
    let foreign = v1::GetRequest { keyspace: "nobody".to_owned(), ..get() };
    assert_eq!(api.get(Request::new(foreign)).await.unwrap_err().code(), Code::NotFound);
}
