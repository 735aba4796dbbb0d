//! Releases on a farm in one process, run by real programs.

mod farm;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use proto::ids::{BlobHash, Epoch, ReleaseId};
use proto::peer::act_request::What;
use proto::peer::{ActRequest, FetchBlobRequest, ReplicateRequest, RunRelease};
use proto::v1::UploadFile;
use proto::v1::upload_request::Part;
use tonic::Code;

use farm::{Farm, Node, PATIENCE, begin, eventually, file};

/// Serves its folder; needs no build, and nobody here wrote it.
const SPEC: &str = r#"
    [app]
    name = "shop"
    [run]
    command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "$PORT"]
    [health]
    ready = {path = "/index.html", interval = "100ms"}
    [stop]
    drain = "1s"
    grace = "5s"
"#;

/// Gets ready nowhere: there is no such page.
const HOPELESS: &str = r#"
    [app]
    name = "shop"
    [run]
    command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "$PORT"]
    [health]
    startup = {timeout = "2s"}
    ready = {path = "/absent", interval = "100ms"}
"#;

const PAGE: &str = "index.html";

/// Every node runs this release, and nothing else, as this node has heard.
async fn runs_everywhere(nodes: &[Node], version: &str) {
    for node in nodes {
        let began = Instant::now();
        loop {
            let now = node.instances().await;
            let good = now.len() == nodes.len()
                && now.iter().all(|row| row.version == version && row.state == "ready");
            if good {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "not {version} everywhere: {now:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A page by way of an instance's own port.
async fn page(port: u32) -> String {
    let url = format!("http://127.0.0.1:{port}/{PAGE}");
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_goes_to_every_node_is_succeeded_and_comes_back() {
    let (_farm, nodes) = Farm::start(3).await;
    let first = nodes[1].upload(SPEC, "v1", &[(PAGE, b"one"), ("bin/tool", b"#!/bin/sh\n")]).await.unwrap();
    assert_eq!((first.app.as_str(), first.files, first.new_bytes), ("shop", 2, 13));
    let release: ReleaseId = first.release.parse().unwrap();
    let copies = nodes.iter().filter(|node| node.deploy.inner.store.has(release)).count();
    assert!(copies >= 2, "the upload was acknowledged with {copies} copies");
    let (outcome, words) = nodes[1].roll_out(&first).await;
    assert_eq!((outcome.result.as_str(), outcome.version.as_str()), ("done", "v1"), "{words:?}");
    assert!(outcome.behind.is_empty());
    runs_everywhere(&nodes, "v1").await;
    for row in nodes[0].instances().await {
        assert_eq!(page(row.port).await, "one");
    }

    let second = nodes[2].upload(SPEC, "v2", &[(PAGE, b"two"), ("bin/tool", b"#!/bin/sh\n")]).await.unwrap();
    assert_eq!(second.new_bytes, 3, "what is known is not counted again");
    let (outcome, _) = nodes[2].roll_out(&second).await;
    assert_eq!(outcome.result, "done");
    runs_everywhere(&nodes, "v2").await;
    let (outcome, words) = nodes[2].roll_out(&second).await;
    assert_eq!((outcome.result.as_str(), words.len()), ("done", 1), "there was nothing to do");

    let (outcome, _) = nodes[0].roll_back("shop", "").await;
    assert_eq!((outcome.result.as_str(), outcome.version.as_str()), ("done", "v1"));
    runs_everywhere(&nodes, "v1").await;
    let app = nodes[0].app("shop").await.unwrap();
    assert_eq!((app.ready, app.wanted, app.stable_version.as_str()), (3, 3, "v1"));
    let versions: Vec<&str> = app.releases.iter().map(|release| release.version.as_str()).collect();
    assert_eq!(versions, ["v2", "v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_never_gets_ready_is_taken_back_with_its_reason() {
    let (_farm, nodes) = Farm::start(2).await;
    let good = nodes[0].upload(SPEC, "v1", &[(PAGE, b"one")]).await.unwrap();
    nodes[0].roll_out(&good).await;
    runs_everywhere(&nodes, "v1").await;
    let before: BTreeSet<u32> = nodes[0].instances().await.iter().map(|row| row.pid).collect();
    let bad = nodes[0].upload(HOPELESS, "v2", &[(PAGE, b"two")]).await.unwrap();
    let (outcome, _) = nodes[0].roll_out(&bad).await;
    assert_eq!(outcome.result, "rolled_back");
    assert!(outcome.reason.contains("GET /absent: status 404"), "{}", outcome.reason);
    runs_everywhere(&nodes, "v1").await;
    let after: BTreeSet<u32> = nodes[0].instances().await.iter().map(|row| row.pid).collect();
    assert_eq!(before, after, "what served before was never touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_runs_what_was_deployed_meanwhile_and_repairs_what_was_damaged() {
    let (farm, mut nodes) = Farm::start(3).await;
    let first = nodes[0].upload(SPEC, "v1", &[(PAGE, b"one"), ("kept", b"the same")]).await.unwrap();
    nodes[0].roll_out(&first).await;
    runs_everywhere(&nodes, "v1").await;
    let away = nodes.pop().unwrap();
    let (id, data_dir) = (away.id(), away.data_dir.clone());
    let which = away.stop().await;
    damage(&blob(&data_dir, b"the same"));
    for node in &nodes {
        eventually("the verdict", || !is_alive(node, id)).await;
    }
    let second = nodes[0].upload(SPEC, "v2", &[(PAGE, b"two"), ("kept", b"the same")]).await.unwrap();
    let (outcome, _) = nodes[0].roll_out(&second).await;
    assert_eq!((outcome.result.as_str(), outcome.behind), ("done", vec!["node-3".to_owned()]));
    nodes.push(farm.node(which).await);
    runs_everywhere(&nodes, "v2").await;
    assert_eq!(fs::read(blob(&data_dir, b"the same")).unwrap(), b"the same");
}

fn is_alive(node: &Node, of: proto::ids::NodeId) -> bool {
    use node_core::membership::MemberStatus::{Alive, Suspect};
    let view = node.members.view().borrow().clone();
    view.members.get(&of).is_some_and(|member| matches!(member.member.state, Alive | Suspect))
}

fn blob(data_dir: &Path, bytes: &[u8]) -> PathBuf {
    let hash = blake3::hash(bytes).to_hex();
    data_dir.join("apps/store/blobs").join(&hash[..2]).join(hash.as_str())
}

/// Overwrites a read-only file in place, as a bad disk would.
fn damage(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"!").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_given_to_nobody_and_fetched_again_from_who_has_it() {
    let (_farm, nodes) = Farm::start(2).await;
    let uploaded = nodes[0].upload(SPEC, "v1", &[(PAGE, b"one")]).await.unwrap();
    let release: ReleaseId = uploaded.release.parse().unwrap();
    for node in &nodes {
        eventually("two copies", || node.deploy.inner.store.has(release)).await;
    }
    damage(&blob(&nodes[0].data_dir, b"one"));
    let hash = blake3::hash(b"one").as_bytes().to_vec();
    let request = FetchBlobRequest { hash: hash.into(), offset: 0 };
    let stream = nodes[0].deploy.handle_fetch_blob(nodes[1].id(), request.clone()).await.unwrap();
    let last = stream.collect::<Vec<_>>().await.pop().unwrap();
    assert_eq!(last.unwrap_err().code(), Code::DataLoss);
    eventually("the loss to be noticed", || !nodes[0].deploy.inner.store.has(release)).await;
    eventually("the loss to be heard of", || {
        nodes[1].heard(nodes[0].id()).is_some_and(|state| state.releases.is_empty())
    })
    .await;
    let again = ReplicateRequest { release: release.0.to_vec().into() };
    let answer = nodes[0].deploy.handle_replicate(nodes[1].id(), again).await.unwrap();
    assert!(answer.complete, "{}", answer.reason);
    assert_eq!(fs::read(blob(&nodes[0].data_dir, b"one")).unwrap(), b"one");
    let from_the_middle = FetchBlobRequest { offset: 2, ..request };
    let stream = nodes[0].deploy.handle_fetch_blob(nodes[1].id(), from_the_middle).await.unwrap();
    let rest: Vec<u8> = stream.map(|chunk| chunk.unwrap().data.to_vec()).concat().await;
    assert_eq!(rest, b"e");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_wrong_or_breaks_off_is_refused_and_leaves_nothing() {
    let (_farm, nodes) = Farm::start(1).await;
    let node = &nodes[0];
    let link = |path: &str, target: &str| {
        let (path, link_target) = (path.to_owned(), target.to_owned());
        Part::File(UploadFile { path, link_target, ..UploadFile::default() })
    };
    let data = |bytes: &[u8]| Part::Data(bytes.to_vec().into());
    let misspelt = SPEC.replace("grace", "grase");
    let wrong: [(&str, Vec<Part>); 10] = [
        ("begins with its manifest", vec![file(PAGE, 0)]),
        ("\"grase\"", vec![begin(&misspelt, "1")]),
        ("has no files", vec![begin(SPEC, "1")]),
        ("'..'", vec![begin(SPEC, "1"), file("../x", 0)]),
        ("absolute", vec![begin(SPEC, "1"), file("/etc/x", 0)]),
        ("leaves the release", vec![begin(SPEC, "1"), link("x", "../y")]),
        ("there twice", vec![begin(SPEC, "1"), file("x", 0), file("x", 0)]),
        ("broke off, 2 bytes before its end", vec![begin(SPEC, "1"), file("x", 3), data(b"a")]),
        ("other than that came", vec![begin(SPEC, "1"), file("x", 3), data(b"abcd")]),
        ("a file was expected", vec![begin(SPEC, "1"), file("x", 1), data(b"a"), data(b"b")]),
    ];
    for (words, parts) in wrong {
        let status = node.upload_parts(parts).await.unwrap_err();
        assert!(status.message().contains(words), "{words}: {status:?}");
        assert_eq!(status.code(), Code::InvalidArgument, "{words}");
    }
    let huge = vec![begin(SPEC, "1"), file("x", 7 << 40)];
    assert_eq!(node.upload_parts(huge).await.unwrap_err().code(), Code::InvalidArgument);
    let broken = futures::stream::iter([
        Ok(proto::v1::UploadRequest { part: Some(begin(SPEC, "1")) }),
        Ok(proto::v1::UploadRequest { part: Some(file("x", 1)) }),
        Ok(proto::v1::UploadRequest { part: Some(data(b"a")) }),
        Err(tonic::Status::cancelled("the operator is gone")),
    ]);
    assert_eq!(node.deploy.upload(broken).await.unwrap_err().code(), Code::Cancelled);
    let left = |folder: &str| {
        let folders = fs::read_dir(node.data_dir.join("apps/store").join(folder)).unwrap();
        folders
            .filter(|item| {
                let path = item.as_ref().unwrap().path();
                path.is_file() || fs::read_dir(path).unwrap().next().is_some()
            })
            .count()
    };
    assert_eq!((left("incoming"), left("blobs"), left("manifests")), (0, 0, 0));
    assert!(node.control.state().releases.is_empty());
    let good = node.upload(SPEC, "", &[(PAGE, b"one")]).await.unwrap();
    assert_eq!(good.version, "1");
    assert_eq!(node.upload(SPEC, "", &[(PAGE, b"two")]).await.unwrap().version, "2");
}

fn run(epoch: Epoch, app: &str, release: &[u8]) -> ActRequest {
    let run = RunRelease { app: app.to_owned(), release: release.to_vec().into(), attempt: u64::MAX };
    ActRequest { epoch: epoch.0, action: u64::MAX, what: Some(What::Run(run)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_is_malformed_or_of_an_epoch_that_never_began_changes_nothing() {
    let (_farm, nodes) = Farm::start(1).await;
    let node = &nodes[0];
    let reigning = node.control.state().epoch;
    let what_not = ActRequest { what: None, ..run(reigning, "shop", &[]) };
    for act in [what_not, run(reigning, "shop", &[1; 31]), run(reigning, "../shop", &[1; 32])] {
        let status = node.deploy.handle_act(node.id(), act).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let seen = node.deploy.inner.fence.seen();
    let forged = node.deploy.handle_act(node.id(), run(Epoch(u64::MAX), "shop", &[1; 32])).await.unwrap();
    assert!(!forged.accepted && forged.reason.contains("no epoch"), "{forged:?}");
    assert_eq!(node.deploy.inner.fence.seen(), seen, "it is looked at before it is believed");
    assert!(!node.deploy.goals().all().contains_key("shop"));
    let nobody = FetchBlobRequest { hash: BlobHash([9; 32]).0.to_vec().into(), offset: 0 };
    let missing = node.deploy.handle_fetch_blob(node.id(), nobody).await.err().unwrap();
    assert_eq!(missing.code(), Code::NotFound);
}

/// Over the wire: what a controller asked for that was deposed meanwhile, and what a member asks for
/// that is no controller.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_refuses_a_controller_that_was_deposed_and_a_member_that_never_was_one() {
    let (farm, mut nodes) = Farm::start(3).await;
    for node in &nodes {
        eventually("three voters", || node.control.group_view().borrow().voters.len() == 3).await;
    }
    let first = nodes[0].upload(SPEC, "v1", &[(PAGE, b"one")]).await.unwrap();
    nodes[0].roll_out(&first).await;
    runs_everywhere(&nodes, "v1").await;
    let release = nodes[0].control.state().apps["shop"].stable.unwrap();

    let (was, old) = (nodes[0].control.state().controller.unwrap(), nodes[0].control.state().epoch);
    let at = nodes.iter().position(|node| node.id() == was).unwrap();
    let which = nodes.remove(at).stop().await;
    for node in &nodes {
        eventually("a new controller", || node.control.state().epoch > old).await;
    }
    let deposed = farm.node(which).await;
    nodes.insert(at, deposed);
    let now = nodes[at].control.state();
    let now_reigns = now.controller.unwrap();
    assert_ne!(now_reigns, was);
    let agent = nodes.iter().find(|node| ![was, now_reigns].contains(&node.id())).unwrap();
    let reigning = nodes.iter().find(|node| node.id() == now_reigns).unwrap();

    let stop_late = nodes[at].ask(agent, run(old, "shop", &[])).await.unwrap();
    assert!(!stop_late.accepted && stop_late.reason.contains("has been succeeded"), "{stop_late:?}");
    assert!(stop_late.epoch_seen >= now.epoch.0, "the deposed one is told by whom");
    let usurped = nodes[at].ask(agent, run(now.epoch, "shop", &[])).await.unwrap();
    assert!(!usurped.accepted && usurped.reason.contains("is not the controller"), "{usurped:?}");
    let invented = nodes[at].ask(agent, run(Epoch(u64::MAX), "shop", &[])).await.unwrap();
    assert!(!invented.accepted && invented.reason.contains("no epoch"), "{invented:?}");
    assert_eq!(agent.deploy.goals().all()["shop"].release, Some(release), "nothing was stopped");
    assert!(agent.deploy.inner.fence.seen() <= now.epoch, "and the agent is not deaf now");

    let obeyed = reigning.ask(agent, run(now.epoch, "ghost", &[])).await.unwrap();
    assert!(obeyed.accepted && obeyed.epoch_seen == now.epoch.0, "{obeyed:?}");
    assert_eq!(agent.deploy.inner.fence.seen(), now.epoch, "written down before it is done");
    assert_eq!(page(agent.instances().await[0].port).await, "one");
}
