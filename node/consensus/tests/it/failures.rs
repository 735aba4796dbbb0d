use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use node_consensus::{HandleError, ReadError, Settings, WriteError};
use proto::ids::{GroupId, NodeId};

use crate::cluster::{GROUP, Message, Net, Node, applied, formed, formed_with, ids, leader, until};

#[tokio::test]
async fn the_loss_of_the_leader_costs_no_acknowledged_write() {
    let net = Net::default();
    let mut nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    nodes[place].write("kept").await.unwrap();
    let dead = nodes.remove(place).kill().await;
    let place = leader(&nodes).await;
    nodes[place].write("later").await.unwrap();
    assert_eq!(nodes[place].words(), ["kept", "later"]);
    let back = dead.restart().await;
    applied(&back, &["kept", "later"]).await;
}

#[tokio::test]
async fn with_two_of_three_dead_writes_and_reads_are_refused_and_do_not_hang() {
    let net = Net::default();
    let mut nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    let survivor = nodes.remove(place);
    for node in nodes {
        node.kill().await;
    }
    // The first may have been sent before the silence was noticed; then nobody knows.
    let first = survivor.write("lost").await;
    assert!(matches!(first, Err(WriteError::Unknown | WriteError::NoQuorum)), "{first:?}");
    assert_eq!(survivor.write("refused").await, Err(WriteError::NoQuorum));
    assert_eq!(survivor.group.read(|_| ()).await, Err(ReadError::NoQuorum));
}

#[tokio::test]
async fn a_restart_of_all_forgets_nothing() {
    let net = Net::default();
    let nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    for n in 0..50 {
        nodes[place].write(&n.to_string()).await.unwrap();
    }
    let mut dead = Vec::new();
    for node in nodes {
        dead.push(node.kill().await);
    }
    let mut nodes = Vec::new();
    for node in dead {
        nodes.push(node.restart().await);
    }
    let place = leader(&nodes).await;
    let read = nodes[place].group.read(|words| words.0.len()).await;
    assert_eq!(read, Ok(50));
}

#[tokio::test]
async fn a_deposed_leader_that_does_not_know_it_serves_no_stale_read() {
    let net = Net::default();
    let nodes = formed(&net, 3).await;
    let old = leader(&nodes).await;
    nodes[old].write("old").await.unwrap();
    net.isolate(nodes[old].id);
    let others: Vec<&_> = nodes.iter().filter(|node| node.id != nodes[old].id).collect();
    let elected = async {
        loop {
            if let Some(new) = others.iter().find(|node| node.group.watch().borrow().is_leader) {
                return *new;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let new = tokio::time::timeout(Duration::from_secs(20), elected).await.unwrap();
    new.write("new").await.unwrap();
    assert!(nodes[old].group.watch().borrow().is_leader, "it can not know yet");
    assert_eq!(nodes[old].group.read(|words| words.0.clone()).await, Err(ReadError::NoQuorum));
    net.heal();
    applied(&nodes[old], &["old", "new"]).await;
}

#[tokio::test]
async fn a_replica_that_comes_back_from_isolation_does_not_depose_the_leader() {
    let net = Net::default();
    let nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    let term = nodes[place].group.watch().borrow().term;
    let lonely = (place + 1) % 3;
    net.isolate(nodes[lonely].id);
    // Long enough for it to look for a leader several times.
    let searched = async {
        let mut view = nodes[lonely].group.watch();
        view.wait_for(|view| view.leader.is_none()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    tokio::time::timeout(Duration::from_secs(20), searched).await.unwrap();
    net.heal();
    assert_eq!(leader(&nodes).await, place);
    assert_eq!(nodes[place].group.watch().borrow().term, term);
}

#[tokio::test]
async fn a_hint_that_the_leader_lives_badly_does_not_depose_a_leader_that_is_heard() {
    let net = Net::default();
    let nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    let term = nodes[place].group.watch().borrow().term;
    // One replica is told a lie; the other one hears the leader and does not consent.
    let fooled = (place + 1) % 3;
    nodes[fooled].groups.set_suspects(BTreeSet::from([nodes[place].id]));
    tokio::time::sleep(Duration::from_secs(2)).await;
    nodes[fooled].groups.set_suspects(BTreeSet::new());
    assert_eq!(leader(&nodes).await, place);
    assert_eq!(nodes[place].group.watch().borrow().term, term);
}

#[tokio::test]
async fn a_disk_that_fails_stops_the_group_and_acknowledges_nothing() {
    let net = Net::default();
    let nodes = formed(&net, 1).await;
    let mut fault = nodes[0].groups.fault();
    nodes[0].disk.break_with("fsync: Input/output error");
    let written = nodes[0].write("lost").await;
    assert!(written.is_err(), "{written:?}");
    let told = tokio::time::timeout(Duration::from_secs(10), fault.wait_for(Option::is_some)).await;
    let told = told.unwrap().unwrap().clone().unwrap();
    assert!(told.contains("Input/output error"), "{told}");
}

#[tokio::test]
async fn a_state_machine_that_panics_ends_the_agent() {
    let net = Net::default();
    let nodes = formed(&net, 1).await;
    let mut fault = nodes[0].groups.fault();
    let written = nodes[0].write("unbearable");
    let told = tokio::time::timeout(Duration::from_secs(10), fault.wait_for(Option::is_some));
    let (written, told) = tokio::join!(written, told);
    assert!(written.is_err(), "{written:?}");
    assert!(told.unwrap().unwrap().as_ref().unwrap().contains("panicked"));
}

#[tokio::test]
async fn garbage_breaks_nothing() {
    let net = Net::default();
    let nodes = formed(&net, 1).await;
    for length in 0..64u8 {
        let garbage: Bytes = (0..length).map(|n| n.wrapping_mul(37)).collect();
        assert!(nodes[0].groups.handle(NodeId(9), GROUP, garbage).await.is_err());
    }
    let large = Bytes::from(vec![1; proto::limits::MESSAGE_BYTES_MAX + 1]);
    assert!(matches!(nodes[0].groups.handle(NodeId(9), GROUP, large).await, Err(HandleError::Malformed(_))));
    nodes[0].write("still here").await.unwrap();
}

/// Two nodes, the leader first, and the last part of a write between them.
async fn overheard() -> (Vec<Node>, Message) {
    let net = Net::default();
    // No heartbeats in between.
    let never = Duration::from_secs(3_600);
    let mut nodes =
        formed_with(&net, 2, Settings { heartbeat: never, silence: never, ..Settings::default() }).await;
    let place = leader(&nodes).await;
    nodes.swap(0, place);
    nodes[0].write("word").await.unwrap();
    let message = net.last_message(nodes[0].id, nodes[1].id).unwrap();
    (nodes, message)
}

#[tokio::test]
async fn a_message_is_taken_only_from_its_sender_and_by_whom_it_is_meant_for() {
    let (nodes, message) = overheard().await;
    let (sender, receiver) = (&nodes[0], &nodes[1]);
    let hand = async |to: &Node, from| to.groups.handle(from, message.group, message.payload.clone()).await;
    assert!(hand(receiver, sender.id).await.is_ok());
    assert!(matches!(hand(receiver, NodeId(9)).await, Err(HandleError::Malformed(_))));
    assert!(matches!(hand(sender, sender.id).await, Err(HandleError::Malformed(_))));
}

#[tokio::test]
async fn who_takes_no_part_in_a_group_leads_it_neither_by_entries_nor_by_heartbeats() {
    let (nodes, message) = overheard().await;
    let (from, receiver) = (message.from, &nodes[1].groups);
    let answer = receiver.handle_outsider(from, message.group, message.group, message.payload.clone()).await;
    assert_eq!(answer, Err(HandleError::Outsider { node: from, group: message.group }));
    assert!(
        receiver.handle_outsider(from, GroupId(77), message.group, message.payload.clone()).await.is_ok()
    );

    let net = Net::default();
    let nodes = formed(&net, 2).await;
    let place = leader(&nodes).await;
    let receiver = &nodes[1 - place].groups;
    // Heartbeats of several groups travel together, so that the message's own group says nothing.
    let elsewhere = GroupId(77);
    let heartbeats = loop {
        let message = net.last_message(nodes[place].id, nodes[1 - place].id);
        if let Some(message) = message
            && receiver.handle(message.from, elsewhere, message.payload.clone()).await.is_ok()
        {
            break message;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let payload = || heartbeats.payload.clone();
    let taken = receiver.handle(heartbeats.from, elsewhere, payload()).await.unwrap();
    let refused = receiver.handle_outsider(heartbeats.from, GROUP, elsewhere, payload()).await.unwrap();
    assert_ne!(taken, refused);
    let unconcerned = receiver.handle_outsider(heartbeats.from, GroupId(78), elsewhere, payload()).await;
    assert_eq!(unconcerned, Ok(taken));
}

#[tokio::test]
async fn a_group_that_is_not_here_is_said_not_to_be_here() {
    let (nodes, message) = overheard().await;
    let elsewhere = GroupId(77);
    let answer = nodes[1].groups.handle(message.from, elsewhere, message.payload).await;
    assert_eq!(answer, Err(HandleError::UnknownGroup(elsewhere)));
}

#[tokio::test]
async fn a_hint_of_the_leaders_death_is_enough_and_is_not_needed() {
    for (silence, hinted) in [(Duration::from_secs(3_600), true), (Settings::default().silence, false)] {
        let net = Net::default();
        let mut nodes = formed_with(&net, 3, Settings { silence, ..Settings::default() }).await;
        let place = leader(&nodes).await;
        let dead = nodes.remove(place).kill().await;
        if hinted {
            for node in &nodes {
                node.groups.set_suspects(BTreeSet::from([dead.id()]));
            }
        }
        leader(&nodes).await;
    }
}

#[tokio::test]
async fn a_lone_voter_that_nobody_asked_for_a_while_still_leads() {
    let net = Net::default();
    let nodes = formed(&net, 1).await;
    tokio::time::sleep(Settings::default().lease * 3).await;
    nodes[0].write("word").await.unwrap();
    assert_eq!(nodes[0].group.read(|words| words.0.len()).await, Ok(1));
}

#[tokio::test]
async fn a_write_that_was_on_its_way_when_its_node_ended_may_have_been_executed() {
    let net = Net::default();
    let mut nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    let ending = nodes.remove(place);
    net.isolate(ending.id);
    let door = ending.group.clone();
    let (begun, ended) = tokio::join!(door.write("perhaps".into()), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ending.kill().await
    });
    assert_eq!(begun, Err(WriteError::Unknown));
    // It is in that node's log, which others may yet follow; what comes later is not.
    assert_eq!(door.write("no".into()).await, Err(WriteError::Stopped));
    nodes.push(ended.restart().await);
    net.heal();
    let place = leader(&nodes).await;
    nodes[place].write("after").await.unwrap();
    let words = nodes[place].words();
    assert!(!words.contains(&"no".to_owned()));
    for node in &nodes {
        applied(node, &words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
}

#[tokio::test]
async fn a_leader_whose_log_was_cut_short_since_it_was_opened_answers_reads() {
    let net = Net::default();
    // The first leader writes often, and never waits long; the third node calls no elections.
    let hasty = Settings { write_timeout: Duration::from_millis(5), ..Settings::default() };
    let patient = Settings { silence: Duration::from_secs(3_600), ..Settings::default() };
    let first = Node::start_with(&net, 1, hasty).await;
    let mut nodes = vec![first, Node::start(&net, 2).await, Node::start_with(&net, 3, patient).await];
    nodes[0].group.initialize(ids(&[1, 2, 3])).await.unwrap();
    assert_eq!(leader(&nodes).await, 0);
    net.isolate(NodeId(1));
    for n in 0..20 {
        assert!(nodes[0].write(&n.to_string()).await.is_err());
    }
    let tail = nodes[0].group.watch().borrow().last_log;
    let dead = nodes.remove(0).kill().await;
    assert_eq!(leader(&nodes).await, 0);
    net.heal();
    nodes.push(dead.restart().await);
    assert_eq!(leader(&nodes).await, 0);
    let end = nodes[0].group.watch().borrow().last_log;
    assert!(end < tail, "{end} of {tail} entries");
    until("the log cut short", || nodes[2].group.watch().borrow().last_log == end).await;
    nodes.remove(0).kill().await;
    assert_eq!(leader(&nodes).await, 1);
    assert_eq!(nodes[1].group.read(|words| words.0.len()).await, Ok(0));
}

#[tokio::test]
async fn a_leader_that_is_restarted_alone_soon_says_that_there_is_no_quorum() {
    let net = Net::default();
    let mut nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    let alone = nodes.remove(place);
    for node in nodes {
        node.kill().await;
    }
    let alone = alone.kill().await.restart().await;
    let mut view = alone.group.watch();
    view.wait_for(|view| view.is_leader).await.unwrap();
    tokio::time::sleep(Settings::default().lease * 3).await;
    let before = view.borrow().last_log;
    assert_eq!(alone.write("refused").await, Err(WriteError::NoQuorum));
    assert_eq!(alone.group.watch().borrow().last_log, before, "nothing is appended for it");
}

#[tokio::test]
async fn a_leader_that_is_restarted_answers_no_read_without_what_it_acknowledged() {
    let net = Net::default();
    // The others call no elections.
    let patient = Settings { silence: Duration::from_secs(3_600), ..Settings::default() };
    let mut nodes = vec![Node::start(&net, 1).await];
    for id in [2, 3] {
        nodes.push(Node::start_with(&net, id, patient).await);
    }
    nodes[0].group.initialize(ids(&[1, 2, 3])).await.unwrap();
    assert_eq!(leader(&nodes).await, 0);
    let large = "x".repeat(10_000);
    nodes[0].write("small").await.unwrap();
    nodes[0].write(&large).await.unwrap();
    // It goes on in its term, and those who prove that it leads do so before they say that they have all.
    net.slow_down(large.len(), Duration::from_millis(200));
    let dead = nodes.remove(0).crash().await;
    let back = dead.restart().await;
    back.group.watch().wait_for(|view| view.is_leader).await.unwrap();
    assert_eq!(back.group.read(|words| words.0.len()).await, Ok(2));
}
