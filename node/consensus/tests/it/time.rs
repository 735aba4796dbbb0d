use std::time::{Duration, Instant};

use node_consensus::{Settings, WriteError};

use crate::cluster::{Dead, GROUP, Net, Node, formed, ids, leader, until};

const HOUR: Duration = Duration::from_secs(3_600);
const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;

#[tokio::test]
async fn a_leader_that_begins_again_with_a_clock_an_hour_ahead_leads_by_the_groups_time() {
    let net = Net::default();
    let mut nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    nodes[place].write("before").await.unwrap();
    let before_ms = nodes[place].group.now_ms();
    let ahead = nodes.remove(place).kill().await.restart_ahead(HOUR).await;
    let id = ahead.id;
    nodes.push(ahead);
    // It leads on, or somebody else does; in the end it is alone with one that follows it.
    for _ in 0..3 {
        let place = leader(&nodes).await;
        nodes[place].write("after").await.unwrap();
        let now_ms = nodes[place].group.now_ms();
        assert!((before_ms..before_ms + MINUTE_MS).contains(&now_ms), "{} ms later", now_ms - before_ms);
        if nodes[place].id == id {
            return;
        }
        let other = nodes.remove(place).kill().await;
        leader(&nodes).await;
        nodes.push(other.restart().await);
    }
}

#[tokio::test]
async fn after_an_outage_of_all_what_has_gone_by_counts() {
    let (dead, before_ms) = outage().await;
    let mut nodes = Vec::new();
    for (number, node) in dead.into_iter().enumerate() {
        // One of three has it wrong.
        let wall = if number == 0 { 5 * HOUR } else { HOUR };
        nodes.push(node.restart_ahead(wall).await);
    }
    let place = leader(&nodes).await;
    until("the time is known", || nodes[place].group.now_ms() >= before_ms + HOUR_MS).await;
    nodes[place].write("after").await.unwrap();
    assert!(nodes[place].group.now_ms() < before_ms + HOUR_MS + MINUTE_MS);
}

/// Three that have written and are all dead, and what time it was then.
async fn outage() -> (Vec<Dead>, u64) {
    let net = Net::default();
    let nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    nodes[place].write("before").await.unwrap();
    let before_ms = nodes[place].group.now_ms();
    let mut dead = Vec::new();
    for node in nodes {
        dead.push(node.kill().await);
    }
    (dead, before_ms)
}

/// Writes a word, and says at what time of the group.
async fn stamped_ms(node: &Node, word: &str) -> u64 {
    node.write(word).await.unwrap();
    node.group.local(|words| *words.1.last().unwrap())
}

#[tokio::test]
async fn what_is_written_right_after_an_outage_of_all_is_not_over_when_the_time_is_settled() {
    let (mut dead, before_ms) = outage().await;
    // One stays away.
    let late = dead.pop().unwrap();
    let mut nodes = Vec::new();
    for node in dead {
        nodes.push(node.restart_ahead(HOUR).await);
    }
    let place = leader(&nodes).await;
    let since = Instant::now();
    let written_ms = stamped_ms(&nodes[place], "after").await;
    assert!(since.elapsed() < Settings::default().write_timeout, "it took {:?}", since.elapsed());
    assert!(written_ms >= before_ms + HOUR_MS, "the outage does not count");
    nodes.push(late.restart_ahead(5 * HOUR).await);
    let place = leader(&nodes).await;
    let id = nodes[2].id;
    until("the last one has caught up", || nodes[place].group.watch().borrow().caught_up.contains(&id)).await;
    let later_ms = stamped_ms(&nodes[place], "later").await;
    assert!((written_ms..written_ms + MINUTE_MS).contains(&later_ms), "{} ms", later_ms - written_ms);
}

#[tokio::test]
async fn a_leader_that_does_not_know_the_time_refuses_to_write_and_has_not_written() {
    let net = Net::default();
    let nodes = formed(&net, 3).await;
    let place = leader(&nodes).await;
    nodes[place].write("before").await.unwrap();
    let mut dead = Vec::new();
    for node in nodes {
        dead.push(node.kill().await);
    }
    // It does not notice for an hour that nobody follows it.
    let patient = Settings { lease: HOUR, write_timeout: Duration::from_millis(500), ..Settings::default() };
    let alone = dead.swap_remove(place).with_settings(patient).restart_ahead(HOUR).await;
    alone.group.watch().wait_for(|view| view.is_leader).await.unwrap();
    let before = alone.group.watch().borrow().last_log;
    assert_eq!(alone.write("refused").await, Err(WriteError::NoQuorum));
    assert_eq!(alone.group.watch().borrow().last_log, before, "nothing is appended for it");
}

#[tokio::test]
async fn a_leader_that_begins_again_goes_by_the_entries_that_it_has_not_applied_yet() {
    let net = Net::default();
    let hasty = Settings { write_timeout: Duration::from_millis(300), ..Settings::default() };
    let patient = Settings { silence: HOUR, ..Settings::default() };
    let mut nodes = vec![Node::start_with(&net, 1, hasty).await, Node::start_with(&net, 2, patient).await];
    nodes[0].group.initialize(ids(&[1, 2])).await.unwrap();
    assert_eq!(leader(&nodes).await, 0);
    let is_level = || {
        let view = nodes[0].group.watch().borrow().clone();
        view.applied > 0 && view.applied == view.last_log
    };
    until("the term's first entry", is_level).await;
    net.isolate(nodes[0].id);
    let first_ms = nodes[0].group.now_ms();
    assert_eq!(nodes[0].write("first").await, Err(WriteError::Unknown));
    let again = nodes.remove(0).kill().await.with_settings(Settings::default()).restart_ahead(HOUR).await;
    again.group.watch().wait_for(|view| view.is_leader).await.unwrap();
    // It is asked to write before it hears of anybody what of its log was committed.
    let (second_ms, ()) = tokio::join!(stamped_ms(&again, "second"), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        net.heal();
    });
    assert!((first_ms..first_ms + MINUTE_MS).contains(&second_ms), "{} ms later", second_ms - first_ms);
}

#[tokio::test]
async fn a_single_voter_that_begins_again_is_told_the_time_by_its_learner() {
    let net = Net::default();
    let mut nodes = formed(&net, 1).await;
    nodes.push(Node::start(&net, 2).await);
    nodes[0].group.reconfigure(ids(&[1]), ids(&[2])).await.unwrap();
    let before_ms = stamped_ms(&nodes[0], "before").await;
    until("the learner knows", || net.has_heard(nodes[1].id, nodes[0].id)).await;
    let dead = nodes.remove(0).kill().await;
    nodes.push(dead.restart_ahead(HOUR).await);
    let after_ms = stamped_ms(&nodes[1], "after").await;
    assert!((before_ms..before_ms + MINUTE_MS).contains(&after_ms), "{} ms later", after_ms - before_ms);
}

#[tokio::test]
async fn a_single_voter_whose_learner_is_gone_does_not_wait_long_for_it() {
    let net = Net::default();
    let mut nodes = formed(&net, 1).await;
    nodes.push(Node::start(&net, 2).await);
    nodes[0].group.reconfigure(ids(&[1]), ids(&[2])).await.unwrap();
    let before_ms = stamped_ms(&nodes[0], "before").await;
    nodes.pop().unwrap().kill().await;
    let alone = nodes.pop().unwrap().kill().await.restart_ahead(HOUR).await;
    alone.group.watch().wait_for(|view| view.is_leader).await.unwrap();
    let after_ms = stamped_ms(&alone, "after").await;
    assert!((before_ms + HOUR_MS..before_ms + HOUR_MS + MINUTE_MS).contains(&after_ms));
}

#[tokio::test]
async fn who_takes_no_part_in_a_group_may_ask_for_its_time_all_the_same() {
    let net = Net::default();
    let mut nodes = formed(&net, 1).await;
    nodes.push(Node::start(&net, 2).await);
    nodes[0].group.reconfigure(ids(&[1]), ids(&[2])).await.unwrap();
    nodes[0].write("word").await.unwrap();
    // A learner sends nothing else.
    until("the question", || net.last_message(nodes[1].id, nodes[0].id).is_some()).await;
    let question = net.last_message(nodes[1].id, nodes[0].id).unwrap();
    let answer = nodes[0].groups.handle_outsider(question.from, GROUP, GROUP, question.payload).await;
    assert!(answer.is_ok(), "{answer:?}");
}
