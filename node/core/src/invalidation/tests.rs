use proptest::prelude::*;

use super::*;

const ORIGIN: NodeId = NodeId(1);
const LIFE: Generation = Generation(10);

/// A server that is new, and one that has followed it from the beginning.
fn origin() -> Streams {
    Streams::new(ORIGIN, LIFE, Life::First)
}

fn follower() -> Streams {
    let mut follower = stranger();
    assert_eq!(follower.heartbeat(ORIGIN, LIFE, 0), Outcome::default());
    follower
}

/// The origin, started again.
fn reborn(generation: u64) -> Streams {
    Streams::new(ORIGIN, Generation(generation), Life::Later)
}

/// One that has heard of nobody yet.
fn stranger() -> Streams {
    Streams::new(NodeId(2), Generation(1), Life::First)
}

fn append(origin: &mut Streams, key: &str) -> Event {
    origin.append("shop".to_owned(), vec![Bytes::copy_from_slice(key.as_bytes())])
}

fn gap(from: u64) -> Gap {
    Gap { node: ORIGIN, generation: LIFE, from }
}

#[test]
fn an_event_is_delivered_once_however_often_it_comes() {
    let (mut origin, mut follower) = (origin(), follower());
    let event = append(&mut origin, "a");
    assert_eq!(follower.receive(event.clone()).deliveries, [Delivery::Event(event.clone())]);
    assert_eq!(follower.receive(event), Outcome::default());
}

#[test]
fn a_hole_is_noticed_and_filled_in_order() {
    let (mut origin, mut follower) = (origin(), follower());
    let events: Vec<Event> = ["a", "b", "c"].iter().map(|key| append(&mut origin, key)).collect();
    follower.receive(events[0].clone());
    let outcome = follower.receive(events[2].clone());
    assert_eq!(outcome, Outcome { deliveries: vec![], gap: Some(gap(2)) });
    let filled = follower.fill(gap(2), origin.pull(LIFE, 2, 100));
    let expected: Vec<Delivery> = events[1..].iter().cloned().map(Delivery::Event).collect();
    assert_eq!(filled, Outcome { deliveries: expected, gap: None });
}

#[test]
fn a_lost_tail_is_noticed_by_what_the_origin_says_of_itself() {
    let (mut origin, mut follower) = (origin(), follower());
    let event = append(&mut origin, "a");
    assert_eq!(follower.heartbeat(ORIGIN, LIFE, 1).gap, Some(gap(1)));
    follower.receive(event);
    assert_eq!(follower.heartbeat(ORIGIN, LIFE, 1), Outcome::default());
}

#[test]
fn what_has_left_the_ring_is_made_up_for_by_a_flush() {
    let (mut origin, mut follower) = (origin(), follower());
    for n in 0..RING_EVENTS_MAX + 10 {
        append(&mut origin, &n.to_string());
    }
    let pulled = origin.pull(LIFE, 1, 5);
    assert_eq!(pulled.oldest, Some(11));
    let outcome = follower.fill(gap(1), pulled);
    assert!(matches!(outcome.deliveries[0], Delivery::Flush { .. }));
    assert_eq!(outcome.deliveries.len(), 6);
    assert_eq!(follower.heartbeat(ORIGIN, LIFE, 16).gap, Some(gap(16)));
}

#[test]
fn a_restart_of_the_origin_flushes_and_its_old_life_counts_no_more() {
    let (mut origin, mut follower) = (origin(), follower());
    let old = append(&mut origin, "a");
    follower.receive(old);
    let late = append(&mut origin, "b");
    let mut reborn = reborn(11);
    let event = append(&mut reborn, "c");
    let outcome = follower.receive(event.clone());
    assert!(matches!(outcome.deliveries[0], Delivery::Flush { .. }));
    assert_eq!(outcome.deliveries[1], Delivery::Event(event));
    assert_eq!(follower.receive(late), Outcome::default());
    assert_eq!(follower.heartbeat(ORIGIN, Generation(11), reborn.own_sequence()), Outcome::default());
}

#[test]
fn a_restart_that_is_heard_of_flushes_once() {
    let (mut origin, mut follower, mut reborn) = (origin(), follower(), reborn(11));
    follower.receive(append(&mut origin, "a"));
    let outcome = follower.heartbeat(ORIGIN, Generation(11), reborn.own_sequence());
    assert!(matches!(outcome.deliveries[..], [Delivery::Flush { .. }]), "{outcome:?}");
    assert_eq!(outcome.gap, None);
    let event = append(&mut reborn, "b");
    assert_eq!(follower.receive(event.clone()).deliveries, [Delivery::Event(event)]);
}

#[test]
fn who_hears_of_a_server_first_in_a_later_life_flushes_for_the_earlier_ones() {
    // By its first event, which comes with its next one or is pulled, and by what it says of itself.
    let mut origin = reborn(11);
    let before = origin.own_sequence();
    let events = [append(&mut origin, "a"), append(&mut origin, "b")];
    for first in &events {
        let mut stranger = stranger();
        let outcome = stranger.receive(first.clone());
        assert!(
            matches!(&outcome.deliveries[..], [Delivery::Flush { .. }, Delivery::Event(event)] if event == first)
        );
        stranger.receive(events[1].clone());
        assert_eq!(stranger.heartbeat(ORIGIN, Generation(11), origin.own_sequence()), Outcome::default());
    }
    for highest in [before, origin.own_sequence()] {
        let mut stranger = stranger();
        let gap = stranger.heartbeat(ORIGIN, Generation(11), highest).gap.unwrap();
        let outcome = stranger.fill(gap, origin.pull(gap.generation, gap.from, 100));
        assert!(matches!(outcome.deliveries[0], Delivery::Flush { .. }), "{outcome:?}");
        let told: Vec<Delivery> = events.iter().cloned().map(Delivery::Event).collect();
        assert_eq!(outcome.deliveries[1..], told);
    }
}

#[test]
fn a_server_that_is_new_makes_nobody_flush() {
    let mut origin = origin();
    let events = [append(&mut origin, "a"), append(&mut origin, "b")];
    let told: Vec<Delivery> = events.iter().cloned().map(Delivery::Event).collect();
    let mut by_events = stranger();
    let got: Vec<Delivery> =
        events.iter().flat_map(|event| by_events.receive(event.clone()).deliveries).collect();
    assert_eq!(got, told);
    let mut by_word = stranger();
    let gap = by_word.heartbeat(ORIGIN, LIFE, 2).gap.unwrap();
    assert_eq!(by_word.fill(gap, origin.pull(LIFE, gap.from, 100)).deliveries, told);
}

#[test]
fn a_pull_of_a_life_that_is_over_says_that_nothing_is_left_of_it() {
    let mut origin = origin();
    append(&mut origin, "a");
    assert_eq!(origin.pull(Generation(9), 1, 10), Pulled { events: vec![], oldest: Some(u64::MAX) });
}

#[test]
fn a_subscriber_resumes_where_it_was_or_is_told_to_flush() {
    let (mut origin, mut follower) = (origin(), follower());
    let first = append(&mut origin, "a");
    let seen = origin.vector();
    let second = append(&mut origin, "b");
    assert_eq!(origin.missed_since(&seen), Some(vec![second.clone()]));
    assert_eq!(origin.missed_since(&origin.vector()), Some(vec![]));
    // Of another node's stream the follower keeps no events.
    follower.receive(first);
    let seen = follower.vector();
    assert_eq!(follower.missed_since(&seen), Some(vec![]));
    follower.receive(second);
    assert_eq!(follower.missed_since(&seen), None);
}

#[test]
fn who_has_seen_an_earlier_life_of_this_node_is_told_to_flush() {
    let before = Position { node: ORIGIN, generation: Generation(9), sequence: 5 };
    let mut reborn = origin();
    assert_eq!(reborn.missed_since(&[before]), None, "its last events may have been lost");
    let event = append(&mut reborn, "a");
    assert_eq!(reborn.missed_since(&[before]), None);
    // It has been told to flush since, and only keeps what it saw before that.
    let since = Position { sequence: event.position.sequence - 1, ..event.position };
    assert_eq!(reborn.missed_since(&[since, before]), Some(vec![event]));
}

#[test]
fn who_has_seen_an_earlier_life_of_another_node_is_told_to_flush() {
    let (mut origin, mut follower) = (origin(), follower());
    follower.receive(append(&mut origin, "a"));
    let seen = follower.vector();
    follower.heartbeat(ORIGIN, Generation(11), 0);
    assert_eq!(follower.missed_since(&seen), None);
    assert_eq!(follower.missed_since(&follower.vector()), Some(vec![]));
}

#[test]
fn who_has_seen_a_stream_that_is_followed_no_more_is_told_to_flush() {
    let (mut origin, mut follower) = (origin(), follower());
    follower.receive(append(&mut origin, "a"));
    let seen = follower.vector();
    assert_eq!(follower.missed_since(&seen), Some(vec![]));
    follower.forget([ORIGIN].into_iter());
    assert_eq!(follower.missed_since(&seen), None);
    assert_eq!(follower.missed_since(&follower.vector()), Some(vec![]));
}

#[test]
fn what_nobody_can_tell_any_more_makes_a_flush_and_is_not_asked_for_again() {
    let (mut origin, mut follower) = (origin(), follower());
    follower.receive(append(&mut origin, "a"));
    for key in ["b", "c", "d"] {
        append(&mut origin, key);
    }
    let gap = follower.heartbeat(ORIGIN, LIFE, 3).gap.unwrap();
    let outcome = follower.abandon(gap, 3);
    assert!(matches!(outcome.deliveries[..], [Delivery::Flush { .. }]), "{outcome:?}");
    assert_eq!(follower.heartbeat(ORIGIN, LIFE, 3), Outcome::default());
    assert_eq!(follower.abandon(gap, 3), Outcome::default());
    // It was not dead after all: what it has told since is had.
    let gap = follower.heartbeat(ORIGIN, LIFE, 4).gap.unwrap();
    assert_eq!(gap.from, 4);
}

#[test]
fn who_is_gone_for_good_may_have_told_what_nobody_knows() {
    let (mut origin, mut follower) = (origin(), follower());
    follower.receive(append(&mut origin, "a"));
    let outcome = follower.forget([ORIGIN].into_iter());
    assert!(matches!(outcome.deliveries[..], [Delivery::Flush { .. }]), "{outcome:?}");
    assert!(follower.vector().iter().all(|position| position.node != ORIGIN));
}

#[test]
fn nothing_is_taken_of_one_who_is_gone_however_late_it_comes() {
    let (mut origin, mut follower) = (origin(), follower());
    let (first, second) = (append(&mut origin, "a"), append(&mut origin, "b"));
    follower.receive(first.clone());
    let gap = follower.heartbeat(ORIGIN, LIFE, 2).gap.unwrap();
    follower.forget([ORIGIN].into_iter());
    assert_eq!(follower.fill(gap, origin.pull(LIFE, 2, 10)), Outcome::default());
    assert_eq!(follower.abandon(gap, 2), Outcome::default());
    for event in [first, second] {
        assert_eq!(follower.receive(event), Outcome::default());
    }
    assert_eq!(follower.heartbeat(ORIGIN, LIFE, 2), Outcome::default());
    assert!(follower.vector().iter().all(|position| position.node != ORIGIN));
}

#[test]
fn the_ring_is_bounded_in_bytes() {
    let mut origin = origin();
    for _ in 0..200 {
        origin.append("shop".to_owned(), vec![Bytes::from(vec![0; 1_000]); 100]);
    }
    assert!(origin.ring_bytes <= RING_BYTES_MAX);
}

proptest! {
    /// However events are lost, doubled and reordered: pulling what the gaps say delivers every one,
    /// once, in order.
    #[test]
    fn nothing_is_missed_and_nothing_comes_twice(
        count in 1usize..60,
        order in proptest::collection::vec(0usize..60, 0..120),
    ) {
        let (mut origin, mut follower) = (origin(), follower());
        let events: Vec<Event> = (0..count).map(|n| append(&mut origin, &n.to_string())).collect();
        let mut delivered = Vec::new();
        let pull = |follower: &mut Streams, gap: Option<Gap>| {
            gap.map(|gap| follower.fill(gap, origin.pull(LIFE, gap.from, 7)).deliveries).unwrap_or_default()
        };
        for index in order.into_iter().filter(|index| *index < count) {
            let mut outcome = follower.receive(events[index].clone());
            delivered.append(&mut outcome.deliveries);
            delivered.append(&mut pull(&mut follower, outcome.gap));
        }
        for _ in 0..count {
            let outcome = follower.heartbeat(ORIGIN, LIFE, origin.own_sequence());
            delivered.append(&mut pull(&mut follower, outcome.gap));
        }
        let expected: Vec<Delivery> = events.into_iter().map(Delivery::Event).collect();
        prop_assert_eq!(delivered, expected);
    }

    /// Whatever numbers others tell, by malice or by mistake: nothing overflows, and what a node tells
    /// afterwards is still taken.
    #[test]
    fn no_number_from_outside_breaks_anything(told in proptest::collection::vec(extremes(), 1..20)) {
        let (mut origin, mut follower) = (origin(), follower());
        let event = append(&mut origin, "a");
        for (what, generation, number) in told {
            let position = Position { node: ORIGIN, generation: Generation(generation), sequence: number };
            let said = Event { position, ..event.clone() };
            let gap = Gap { node: ORIGIN, generation: position.generation, from: number };
            match what {
                0 => follower.receive(said),
                1 => follower.heartbeat(ORIGIN, position.generation, number),
                2 => follower.fill(gap, Pulled { events: vec![said], oldest: None }),
                3 => follower.fill(gap, Pulled { events: vec![said], oldest: Some(number) }),
                _ => follower.abandon(gap, number),
            };
            let own = Position { node: NodeId(2), generation: Generation(1), sequence: number };
            let _missed = follower.missed_since(&[position, own]);
            let _stretch = follower.pull(own.generation, number, 10);
            prop_assert!(follower.vector().iter().all(|position| position.sequence <= SEQUENCE_MAX));
        }
        let mut reborn = reborn(u64::MAX);
        let event = append(&mut reborn, "b");
        prop_assert!(follower.receive(event.clone()).deliveries.contains(&Delivery::Event(event)));
    }
}

/// What is told, of which life, and a number.
fn extremes() -> impl Strategy<Value = (u8, u64, u64)> {
    let numbers = prop_oneof![
        Just(u64::MAX),
        Just(u64::MAX - 1),
        Just(SEQUENCE_MAX + 1),
        Just(SEQUENCE_MAX),
        Just(SEQUENCE_MAX - 1),
        0u64..4,
        any::<u64>()
    ];
    (0u8..5, 9u64..12, numbers)
}

#[test]
fn an_impossible_number_makes_nothing_that_comes_later_look_old() {
    let (mut origin, mut follower) = (origin(), follower());
    assert_eq!(follower.heartbeat(ORIGIN, LIFE, u64::MAX), Outcome::default());
    follower.abandon(gap(1), u64::MAX);
    append(&mut origin, "a");
    let event = append(&mut origin, "b");
    assert_eq!(follower.receive(event.clone()).deliveries, [Delivery::Event(event)]);
}
