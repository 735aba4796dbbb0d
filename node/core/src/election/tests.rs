use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience { lease_ms: 500, jitter_ms: 100, ask_ms: 200, elect_ms: 400 };

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
fn silence_beyond_the_lease_leads_to_a_question_and_consent_to_an_election() {
    let configs = voters(&[1, 2, 3]);
    let mut driver = Driver::new(PATIENCE, 7);
    let (at, effect) = first_effect(&mut driver, 0, 1_000, view(&configs, 0)).unwrap();
    assert!((500..=620).contains(&at), "{at}");
    let Effect::Ask { round } = effect else { panic!("it must ask first") };
    assert_eq!(driver.consented(at, round, NodeId(2), view(&configs, 0)), Some(Effect::Elect));
}

#[test]
fn a_hint_from_the_membership_ends_the_wait_but_not_the_question() {
    let configs = voters(&[1, 2, 3]);
    let mut driver = Driver::new(PATIENCE, 7);
    let suspect = View { leader_suspect: true, ..view(&configs, 0) };
    let (at, effect) = first_effect(&mut driver, 10, 1_000, suspect).unwrap();
    assert!(at <= 130, "{at}");
    assert!(matches!(effect, Effect::Ask { .. }));
}

#[test]
fn a_lone_voter_elects_itself_without_asking() {
    let configs = voters(&[1]);
    let mut driver = Driver::new(PATIENCE, 7);
    assert_eq!(first_effect(&mut driver, 0, 1_000, view(&configs, 0)), Some((500, Effect::Elect)));
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

#[test]
fn consent_is_given_only_in_silence_and_to_a_log_that_is_not_behind() {
    assert!(consents(&PATIENCE, Some(500), false, &4, &4));
    assert!(consents(&PATIENCE, Some(10), true, &4, &5));
    assert!(!consents(&PATIENCE, Some(499), false, &4, &4));
    assert!(!consents(&PATIENCE, Some(900), false, &5, &4));
    assert!(!consents(&PATIENCE, None, true, &4, &4), "a leader hears itself");
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
