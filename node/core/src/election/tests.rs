use proptest::prelude::*;

use super::*;

mod model;

const PATIENCE: Patience =
    Patience { lease_ms: 400, silence_ms: 600, jitter_ms: 100, ask_ms: 200, elect_ms: 400 };

fn voters(ids: &[u64]) -> Vec<BTreeSet<NodeId>> {
    vec![ids.iter().copied().map(NodeId).collect()]
}

fn view(configs: &[BTreeSet<NodeId>], heard_ms: u64) -> View<'_> {
    View { me: NodeId(1), configs, leading: false, heard_ms, leader_suspect: false }
}

/// Ticks every 10 ms until there is an effect.
fn first_effect(driver: &mut Driver, from_ms: u64, to_ms: u64, view: View<'_>) -> Option<(u64, Effect)> {
    (from_ms..to_ms).step_by(10).find_map(|now| driver.tick(now, view).map(|effect| (now, effect)))
}

#[test]
fn a_leader_that_is_heard_is_left_in_peace() {
    let configs = voters(&[1, 2, 3]);
    let mut driver = Driver::new(PATIENCE, 7);
    for now in (0..10_000).step_by(50) {
        assert_eq!(driver.tick(now, view(&configs, now.saturating_sub(200))), None);
    }
    assert!(!driver.is_searching());
}

#[test]
fn long_silence_leads_to_a_question_and_consent_to_an_election() {
    let configs = voters(&[1, 2, 3]);
    let mut driver = Driver::new(PATIENCE, 7);
    let (at, effect) = first_effect(&mut driver, 0, 1_000, view(&configs, 0)).unwrap();
    assert!((600..=720).contains(&at), "{at}");
    let Effect::Ask { round } = effect else { panic!("it must ask first") };
    assert_eq!(driver.consented(at, round, NodeId(2), view(&configs, 0)), Some(Effect::Elect));
}

#[test]
fn a_hint_from_the_membership_shortens_the_wait_to_the_lease_and_skips_no_question() {
    let configs = voters(&[1, 2, 3]);
    let mut driver = Driver::new(PATIENCE, 7);
    let suspect = View { leader_suspect: true, ..view(&configs, 0) };
    let (at, effect) = first_effect(&mut driver, 10, 1_000, suspect).unwrap();
    assert!((400..=520).contains(&at), "{at}");
    assert!(matches!(effect, Effect::Ask { .. }));
}

#[test]
fn who_was_stalled_itself_begins_to_wait_when_it_wakes_up() {
    let configs = voters(&[1, 2, 3]);
    let mut driver = Driver::new(PATIENCE, 7);
    assert_eq!(driver.tick(0, view(&configs, 0)), None);
    assert_eq!(driver.tick(5_000, view(&configs, 0)), None);
    assert!(!driver.is_searching(), "the leader's words may be waiting to be read");
    assert!(!driver.consents(5_010, asks(2, &4), view(&configs, 0)));
    let (at, _) = first_effect(&mut driver, 5_010, 7_000, view(&configs, 0)).unwrap();
    assert!((5_600..=5_720).contains(&at), "{at}");
}

#[test]
fn a_lone_voter_elects_itself_at_once_and_without_asking() {
    let configs = voters(&[1]);
    let mut driver = Driver::new(PATIENCE, 7);
    assert_eq!(first_effect(&mut driver, 0, 1_000, view(&configs, 0)), Some((0, Effect::Elect)));
}

#[test]
fn a_learner_never_asks() {
    let configs = voters(&[2, 3, 4]);
    let mut driver = Driver::new(PATIENCE, 7);
    assert_eq!(first_effect(&mut driver, 0, 20_000, view(&configs, 0)), None);
}

#[test]
fn a_joint_configuration_needs_a_majority_of_both() {
    let configs = [voters(&[1, 2, 3]), voters(&[1, 4, 5])].concat();
    let mut driver = Driver::new(PATIENCE, 7);
    let (at, Effect::Ask { round }) = first_effect(&mut driver, 0, 1_000, view(&configs, 0)).unwrap() else {
        panic!("it must ask first")
    };
    assert_eq!(driver.consented(at, round, NodeId(2), view(&configs, 0)), None);
    assert_eq!(driver.consented(at, round, NodeId(4), view(&configs, 0)), Some(Effect::Elect));
}

#[test]
fn an_answer_to_an_earlier_round_counts_for_nothing() {
    let configs = voters(&[1, 2, 3]);
    let mut driver = Driver::new(PATIENCE, 7);
    let (at, Effect::Ask { round }) = first_effect(&mut driver, 0, 1_000, view(&configs, 0)).unwrap() else {
        panic!("it must ask first")
    };
    let (later, Effect::Ask { round: second }) =
        first_effect(&mut driver, at + 10, at + 2_000, view(&configs, 0)).unwrap()
    else {
        panic!("it must ask again")
    };
    assert_ne!(round, second);
    assert_eq!(driver.consented(later, round, NodeId(2), view(&configs, 0)), None);
}

#[test]
fn a_failed_election_is_called_again() {
    let configs = voters(&[1, 2, 3]);
    let mut driver = Driver::new(PATIENCE, 7);
    let mut elections = 0;
    for now in (0..10_000).step_by(10) {
        if let Some(Effect::Ask { round }) = driver.tick(now, view(&configs, 0))
            && driver.consented(now, round, NodeId(2), view(&configs, 0)) == Some(Effect::Elect)
        {
            elections += 1;
        }
    }
    assert!(elections >= 8, "{elections}");
}

fn asks(from: u64, their_last: &u64) -> Question<'_, u64> {
    Question { from: NodeId(from), my_last: &4, their_last }
}

#[test]
fn consent_is_given_only_in_silence_and_to_a_log_that_is_not_behind() {
    let configs = voters(&[1, 2, 3]);
    let calm = || Driver::new(PATIENCE, 7);
    assert!(calm().consents(400, asks(2, &4), view(&configs, 0)));
    assert!(calm().consents(400, asks(2, &5), view(&configs, 0)));
    assert!(!calm().consents(400, asks(2, &3), view(&configs, 0)));
    assert!(!calm().consents(399, asks(2, &4), view(&configs, 0)), "raft would refuse");
    let suspect = View { leader_suspect: true, ..view(&configs, 0) };
    assert!(!calm().consents(399, asks(2, &4), suspect), "whatever the membership says");
    let leading = View { leading: true, ..view(&configs, 0) };
    assert!(!calm().consents(900, asks(2, &4), leading), "a leader hears itself");
}

#[test]
fn a_consent_binds_until_the_other_has_had_its_time() {
    let configs = voters(&[1, 2, 3]);
    let mut driver = Driver::new(PATIENCE, 7);
    assert!(driver.consents(1_000, asks(3, &4), view(&configs, 0)));
    assert!(!driver.consents(1_010, asks(2, &4), view(&configs, 0)));
    assert!(driver.consents(1_020, asks(3, &4), view(&configs, 0)), "its next round");
    let (at, _) = first_effect(&mut driver, 1_020, 3_000, view(&configs, 0)).unwrap();
    assert!(at >= 1_220, "it asked at {at}, within the other's time");
    assert!(!driver.consents(at, asks(0, &4), view(&configs, 0)), "it asks itself now");
}

#[test]
fn of_two_equal_replicas_that_ask_at_the_same_time_the_higher_id_goes_on() {
    let configs = voters(&[1, 2, 3]);
    for (me, other, gives_way) in [(1, 2, true), (2, 1, false)] {
        let mut driver = Driver::new(PATIENCE, 7);
        let seen = View { me: NodeId(me), ..view(&configs, 0) };
        let (at, _) = first_effect(&mut driver, 0, 2_000, seen).unwrap();
        assert_eq!(driver.consents(at, asks(other, &4), seen), gives_way);
        assert_eq!(driver.consented(at, 1, NodeId(other), seen).is_none(), gives_way);
    }
}

proptest! {
    /// Whatever happens in whatever order, an election is called only while the answers of the round
    /// make a majority.
    #[test]
    fn no_election_without_a_majoritys_consent(
        seed in any::<u64>(),
        size in 2u64..6,
        steps in proptest::collection::vec((0u64..300, 0u64..4, 1u64..6, any::<bool>()), 1..200),
    ) {
        let ids: Vec<u64> = (1..=size).collect();
        let configs = voters(&ids);
        let mut driver = Driver::new(PATIENCE, seed);
        let (mut now, mut heard, mut round) = (0, 0, 0);
        let mut granted = BTreeSet::from([NodeId(1)]);
        for (passes, back, from, hears) in steps {
            now += passes;
            if hears {
                heard = now;
            }
            match driver.tick(now, view(&configs, heard)) {
                Some(Effect::Ask { round: asked }) => {
                    round = asked;
                    granted = BTreeSet::from([NodeId(1)]);
                }
                Some(Effect::Elect) => prop_assert!(false, "several voters: it must have asked"),
                None => {}
            }
            let answered = round.saturating_sub(back);
            if answered == round && from <= size {
                granted.insert(NodeId(from));
            }
            if driver.consented(now, answered, NodeId(from), view(&configs, heard)) == Some(Effect::Elect) {
                let valid = granted.iter().filter(|id| id.0 <= size).count();
                prop_assert!(valid as u64 * 2 > size);
            }
        }
    }
}
