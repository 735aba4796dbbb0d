use std::collections::BTreeSet;
use std::time::Duration;

use node_consensus::memory::MemorySnapshots;
use node_consensus::{ReadError, ReconfigureError, Settings, Snapshots as _, WriteError};
use proto::ids::{GroupId, NodeId};

use crate::cluster::{GROUP, Net, Node, Words, applied, formed, formed_with, ids, leader, until};

#[tokio::test]
async fn one_voter_becomes_three_and_the_new_ones_have_everything() {
    let net = Net::default();
    let mut nodes = formed(&net, 1).await;
    nodes[0].write("alone").await.unwrap();
    nodes.push(Node::start(&net, 2).await);
    nodes.push(Node::start(&net, 3).await);
    nodes[0].group.reconfigure(ids(&[1, 2, 3]), ids(&[])).await.unwrap();
    nodes[0].write("together").await.unwrap();
    for node in &nodes {
        applied(node, &["alone", "together"]).await;
        assert_eq!(node.group.watch().borrow().voters, ids(&[1, 2, 3]));
    }
}

#[tokio::test]
async fn a_voter_is_replaced_and_the_old_one_is_forgotten() {
    let net = Net::default();
    let mut nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    let gone = nodes.iter().position(|node| node.id != nodes[place].id).unwrap();
    let dead = nodes.remove(gone);
    let old = dead.id;
    dead.kill().await;
    nodes.push(Node::start(&net, 4).await);
    let place = leader(&nodes[..2]).await;
    let mut voters = ids(&[1, 2, 3, 4]);
    voters.remove(&old);
    nodes[place].group.reconfigure(voters.clone(), ids(&[])).await.unwrap();
    let view = nodes[place].group.watch().borrow().clone();
    assert_eq!(view.voters, voters);
    assert!(view.learners.is_empty());
}

#[tokio::test]
async fn a_learner_follows_without_a_vote() {
    let net = Net::default();
    let mut nodes = formed(&net, 1).await;
    nodes.push(Node::start(&net, 2).await);
    nodes[0].group.reconfigure(ids(&[1]), ids(&[2])).await.unwrap();
    nodes[0].write("word").await.unwrap();
    applied(&nodes[1], &["word"]).await;
    assert_eq!(nodes[1].group.watch().borrow().voters, ids(&[1]));
    let refused = nodes[1].write("no").await;
    assert_eq!(refused, Err(WriteError::NotLeader { leader: Some(NodeId(1)) }));
    let refused = nodes[1].group.read(|_| ()).await;
    assert_eq!(refused, Err(ReadError::NotLeader { leader: Some(NodeId(1)) }));
}

#[tokio::test]
async fn a_replica_that_is_far_behind_gets_a_snapshot() {
    let net = Net::default();
    let settings = Settings { snapshot_entries: 20, ..Settings::default() };
    let mut nodes = formed_with(&net, 1, settings).await;
    // More than stays in the log after a snapshot.
    let words: Vec<String> = (0..700).map(|n| n.to_string()).collect();
    for word in &words {
        nodes[0].write(word).await.unwrap();
    }
    nodes.push(Node::start_with(&net, 2, settings).await);
    nodes[0].group.reconfigure(ids(&[1, 2]), ids(&[])).await.unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    applied(&nodes[1], &words).await;
}

#[tokio::test]
async fn operations_that_come_together_share_entries_and_keep_their_answers() {
    let net = Net::default();
    let nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    let before = nodes[place].group.watch().borrow().last_log;
    let writes = (0..200).map(|n| {
        let node = &nodes[place];
        async move { (n, node.write(&format!("w{n}")).await.unwrap()) }
    });
    let answers = futures::future::join_all(writes).await;
    let words = nodes[place].words();
    for (n, answer) in answers {
        let position: usize = std::str::from_utf8(&answer).unwrap().parse().unwrap();
        assert_eq!(words[position - 1], format!("w{n}"));
    }
    let entries = nodes[place].group.watch().borrow().last_log - before;
    assert!(entries < 100, "{entries} entries for 200 operations");
}

#[tokio::test]
async fn a_restart_goes_on_from_the_snapshot_and_the_log_after_it() {
    let net = Net::default();
    let settings = Settings { snapshot_entries: 20, ..Settings::default() };
    let mut nodes = formed_with(&net, 1, settings).await;
    let words: Vec<String> = (0..700).map(|n| n.to_string()).collect();
    for word in &words {
        nodes[0].write(word).await.unwrap();
    }
    let snapshots = nodes[0].snapshots.clone();
    until("a snapshot", || snapshots.load(GROUP).unwrap().is_some()).await;
    let back = nodes.remove(0).kill().await.restart().await;
    let nodes = [back];
    leader(&nodes).await;
    assert_eq!(nodes[0].group.read(|words| words.0.clone()).await, Ok(words));
    nodes[0].write("more").await.unwrap();
}

#[tokio::test]
async fn few_large_entries_make_a_snapshot_as_many_small_ones_do() {
    let net = Net::default();
    let settings = Settings { snapshot_bytes: 100_000, ..Settings::default() };
    let nodes = formed_with(&net, 1, settings).await;
    for _ in 0..3 {
        nodes[0].write(&"x".repeat(40_000)).await.unwrap();
    }
    until("a snapshot", || nodes[0].snapshots.load(GROUP).unwrap().is_some()).await;
}

#[tokio::test]
async fn a_snapshot_that_can_not_be_written_now_is_written_later_and_ends_nothing() {
    let net = Net::default();
    let settings = Settings { snapshot_entries: 20, ..Settings::default() };
    let mut nodes = formed_with(&net, 1, settings).await;
    nodes[0].snapshots.set_exhausted(true);
    let words: Vec<String> = (0..700).map(|n| n.to_string()).collect();
    for word in &words {
        nodes[0].write(word).await.unwrap();
    }
    nodes[0].snapshots.set_exhausted(false);
    until("a snapshot", || nodes[0].snapshots.load(GROUP).unwrap().is_some()).await;
    // One that is received waits in the same way.
    let late = Node::start_with(&net, 2, settings).await;
    late.snapshots.set_exhausted(true);
    nodes.push(late);
    let relieved = async {
        until("the snapshot's arrival", || !nodes[1].words().is_empty()).await;
        nodes[1].snapshots.set_exhausted(false);
    };
    let (grown, ()) = tokio::join!(nodes[0].group.reconfigure(ids(&[1, 2]), ids(&[])), relieved);
    grown.unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    applied(&nodes[1], &words).await;
    for node in &nodes {
        assert_eq!(*node.groups.fault().borrow(), None);
    }
}

/// A node of words, and one that receives them as a snapshot which it can not save.
async fn received_and_not_saved(hinder: impl Fn(&MemorySnapshots)) -> Vec<Node> {
    let net = Net::default();
    let settings = Settings { snapshot_entries: 20, log_kept_entries: 5, ..Settings::default() };
    let mut nodes = formed_with(&net, 1, settings).await;
    for n in 0..100 {
        nodes[0].write(&n.to_string()).await.unwrap();
    }
    let late = Node::start_with(&net, 2, settings).await;
    hinder(&late.snapshots);
    nodes.push(late);
    let (grows, late) = (nodes[0].group.clone(), &nodes[1]);
    tokio::select! {
        grown = grows.reconfigure(ids(&[1, 2]), ids(&[])) => panic!("{grown:?}"),
        () = until("the snapshot's arrival", || !late.words().is_empty()) => {}
    }
    nodes
}

#[tokio::test]
async fn a_node_that_dies_before_it_has_saved_what_it_received_starts_again() {
    let mut nodes = received_and_not_saved(|snapshots| snapshots.set_exhausted(true)).await;
    // Time for raft to forget the log that the snapshot would replace.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let dead = nodes.remove(1).kill().await;
    nodes.push(dead.with_snapshots(MemorySnapshots::new()).restart().await);
    nodes[0].group.reconfigure(ids(&[1, 2]), ids(&[])).await.unwrap();
    nodes[0].write("on").await.unwrap();
    until("all words", || nodes[1].words() == nodes[0].words()).await;
}

#[tokio::test]
async fn a_snapshot_that_can_not_be_installed_ends_the_group_and_not_the_next_start() {
    let mut nodes = received_and_not_saved(|snapshots| snapshots.set_broken(true)).await;
    let mut fault = nodes[1].groups.fault();
    let told = tokio::time::timeout(Duration::from_secs(20), fault.wait_for(Option::is_some)).await;
    told.expect("the fault is told").unwrap();
    let dead = nodes.remove(1).kill().await;
    nodes.push(dead.with_snapshots(MemorySnapshots::new()).restart().await);
    nodes[0].group.reconfigure(ids(&[1, 2]), ids(&[])).await.unwrap();
    until("all words", || nodes[1].words() == nodes[0].words()).await;
}

#[tokio::test]
async fn idle_groups_share_their_heartbeats() {
    const GROUPS: u16 = 16;
    let net = Net::default();
    let nodes = formed(&net, 3).await;
    let mut others = Vec::new();
    for id in 2..=GROUPS {
        for node in &nodes {
            let (disk, snapshots) = (node.disk.clone(), node.snapshots.clone());
            let opened = node
                .groups
                .open(GroupId(id), disk, snapshots, Settings::default(), Words::default())
                .await
                .unwrap();
            opened.initialize(ids(&[1, 2, 3])).await.unwrap();
            others.push(opened);
        }
    }
    for group in &others {
        let mut view = group.watch();
        view.wait_for(|view| view.leader.is_some()).await.unwrap();
    }
    let period = Duration::from_secs(2);
    let before = net.messages();
    tokio::time::sleep(period).await;
    let sent = net.messages() - before;
    let heartbeats = period.as_millis() / Settings::default().heartbeat.as_millis();
    let unshared = u64::from(GROUPS) * 2 * u64::try_from(heartbeats).unwrap();
    assert!(sent < unshared / 2, "{sent} messages, and {unshared} if none were shared");
    assert!(others.iter().all(|group| group.watch().borrow().leader.is_some()), "all are heard");
}

#[tokio::test]
async fn a_leader_that_removes_itself_leaves_what_is_left_to_its_successor() {
    let net = Net::default();
    let mut nodes = formed(&net, 3).await;
    nodes.push(Node::start(&net, 4).await);
    let place = leader(&nodes[..3]).await;
    nodes[place].group.reconfigure(ids(&[1, 2, 3]), ids(&[4])).await.unwrap();
    let old = nodes.remove(place);
    let voters = nodes.iter().map(|node| node.id).filter(|id| *id != NodeId(4)).collect::<BTreeSet<_>>();
    // Both a voter and a learner go, which are two changes.
    let changed = old.group.reconfigure(voters.clone(), ids(&[])).await;
    assert!(matches!(changed, Ok(()) | Err(ReconfigureError::NotLeader)), "{changed:?}");
    nodes.retain(|node| node.id != NodeId(4));
    let place = leader(&nodes).await;
    nodes[place].group.reconfigure(voters.clone(), ids(&[])).await.unwrap();
    let view = nodes[place].group.watch().borrow().clone();
    assert_eq!((view.voters, view.learners), (voters, ids(&[])));
    assert_eq!(*old.groups.fault().borrow(), None);
    nodes[place].write("on").await.unwrap();
}

#[tokio::test]
async fn a_leader_that_is_a_voter_no_more_and_follows_the_log_still_takes_changes() {
    let net = Net::default();
    let mut nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    let me = nodes[place].id;
    let mut others = ids(&[1, 2, 3]);
    others.remove(&me);
    nodes[place].group.reconfigure(others, [me].into()).await.unwrap();
    nodes.push(Node::start(&net, 4).await);
    // Whoever leads then: openraft lets a learner lead on until somebody else is elected.
    let place = leader(&nodes[..3]).await;
    nodes[place].group.reconfigure(ids(&[1, 2, 3]), ids(&[4])).await.unwrap();
    nodes[place].write("word").await.unwrap();
    applied(&nodes[3], &["word"]).await;
    assert_eq!(nodes[3].group.watch().borrow().voters, ids(&[1, 2, 3]));
}

#[tokio::test]
async fn one_change_of_the_members_at_a_time() {
    let net = Net::default();
    let mut nodes = formed(&net, 1).await;
    nodes.push(Node::start(&net, 2).await);
    let door = nodes[0].group.clone();
    let (first, second) =
        tokio::join!(door.reconfigure(ids(&[1, 2]), ids(&[])), door.reconfigure(ids(&[1]), ids(&[2])),);
    assert_eq!(first, Ok(()));
    assert!(matches!(second, Err(ReconfigureError::Refused(_))), "{second:?}");
}

#[tokio::test]
async fn a_change_that_its_leader_left_half_done_is_finished_when_it_is_asked_for_again() {
    let net = Net::default();
    let mut nodes = formed(&net, 1).await;
    nodes.push(Node::start(&net, 2).await);
    nodes.push(Node::start(&net, 3).await);
    nodes[0].group.reconfigure(ids(&[1]), ids(&[2, 3])).await.unwrap();
    let mut view = nodes[0].group.watch();
    view.wait_for(|view| ids(&[2, 3]).is_subset(&view.caught_up)).await.unwrap();
    // The first of the two entries gets into the leader's log, and nowhere else.
    net.isolate(NodeId(1));
    tokio::select! {
        changed = nodes[0].group.reconfigure(ids(&[1, 2, 3]), ids(&[])) => panic!("{changed:?}"),
        half = view.wait_for(|view| view.voters == ids(&[1, 2, 3])) => drop(half.unwrap()),
    }
    let back = nodes.remove(0).kill().await.restart().await;
    net.heal();
    // It is refused while the first entry is on its way.
    let asked_again = async {
        while back.group.reconfigure(ids(&[1, 2, 3]), ids(&[])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked_again).await.unwrap();
    // Two of three: enough, unless the only old voter still has to consent.
    back.kill().await;
    let place = leader(&nodes).await;
    nodes[place].write("on").await.unwrap();
    let view = nodes[place].group.watch().borrow().clone();
    assert_eq!((view.voters, view.learners), (ids(&[1, 2, 3]), ids(&[])));
}
