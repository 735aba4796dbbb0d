//! Which instance to start or to take out next: start first, one at a time.
//!
//! While instances of another release, or failed ones, are being replaced there is at most one more
//! than there should be, and an old one goes only when the new ones and the remaining old ones are
//! enough. So a release that never gets ready takes nothing away.

use super::status::InstanceState;

/// One instance, as far as this decision needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) slot: u64,
    /// It runs what the app should run, and has not failed in an attempt before this one.
    pub(super) wanted: bool,
    pub(super) state: InstanceState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Start,
    Retire(u64),
}

/// The next step towards `count` instances of what is wanted, if there is one to take now.
pub(super) fn next_step(count: usize, seats: &[Seat]) -> Option<Step> {
    let staying = || seats.iter().filter(|seat| seat.state != InstanceState::Stopping);
    let new = staying().filter(|seat| seat.wanted).count();
    let ready = staying().filter(|seat| seat.wanted && seat.state == InstanceState::Ready).count();
    let old = staying().filter(|seat| !seat.wanted).count();
    // Of those that may go, first the ones that do not serve anyway.
    let worst = |wanted: bool| {
        let candidates = staying().filter(move |seat| seat.wanted == wanted);
        candidates.min_by_key(|seat| (seat.state == InstanceState::Ready, seat.slot)).map(|seat| seat.slot)
    };
    if new > count {
        return worst(true).map(Step::Retire);
    }
    if old > 0 && ready + old > count {
        return worst(false).map(Step::Retire);
    }
    (new < count && new + old <= count.max(old)).then_some(Step::Start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seat(slot: u64, wanted: bool, state: InstanceState) -> Seat {
        Seat { slot, wanted, state }
    }

    #[test]
    fn the_new_one_is_started_and_ready_before_the_old_one_goes() {
        use InstanceState::{Ready, Starting, Stopping};
        let old = seat(1, false, Ready);
        assert_eq!(next_step(1, &[old]), Some(Step::Start));
        assert_eq!(next_step(1, &[old, seat(2, true, Starting)]), None);
        assert_eq!(next_step(1, &[old, seat(2, true, Ready)]), Some(Step::Retire(1)));
        assert_eq!(next_step(1, &[seat(1, false, Stopping), seat(2, true, Ready)]), None);
    }

    #[test]
    fn a_release_that_fails_takes_nothing_away_and_is_itself_taken_back() {
        use InstanceState::{Failed, Ready};
        assert_eq!(next_step(1, &[seat(1, false, Ready), seat(2, true, Failed)]), None);
        // The goal is the old release again.
        assert_eq!(next_step(1, &[seat(1, true, Ready), seat(2, false, Failed)]), Some(Step::Retire(2)));
    }

    #[test]
    fn the_first_instances_are_started_together_and_surplus_ones_go() {
        use InstanceState::{Ready, Starting};
        assert_eq!(next_step(2, &[]), Some(Step::Start));
        assert_eq!(next_step(2, &[seat(1, true, Starting)]), Some(Step::Start));
        assert_eq!(next_step(2, &[seat(1, true, Starting), seat(2, true, Starting)]), None);
        assert_eq!(next_step(1, &[seat(1, true, Ready), seat(2, true, Starting)]), Some(Step::Retire(2)));
        assert_eq!(next_step(0, &[seat(1, false, Ready)]), Some(Step::Retire(1)));
        assert_eq!(next_step(0, &[]), None);
    }

    /// Takes steps until there is none, with instances that get ready (or never do) in any order.
    fn replace(before: usize, count: usize, works: bool, order: &[usize]) -> (Vec<Seat>, usize) {
        let mut seats: Vec<Seat> =
            (0..before).map(|slot| seat(slot as u64, false, InstanceState::Ready)).collect();
        let mut order = order.iter().cycle();
        let mut fewest = before;
        for slot in 100..1_000 {
            while let Some(step) = next_step(count, &seats) {
                match step {
                    Step::Start => {
                        let next = seats.len() as u64 + slot * 1_000;
                        seats.push(seat(next, true, InstanceState::Starting));
                    }
                    Step::Retire(slot) => seats.retain(|seat| seat.slot != slot),
                }
                assert!(seats.len() <= before.max(count) + 1, "{seats:?}");
                let ready = seats.iter().filter(|seat| seat.state == InstanceState::Ready).count();
                fewest = fewest.min(ready);
            }
            let mut starting: Vec<&mut Seat> =
                seats.iter_mut().filter(|seat| seat.state == InstanceState::Starting).collect();
            if starting.is_empty() || !works {
                break;
            }
            let index = order.next().unwrap() % starting.len();
            starting[index].state = InstanceState::Ready;
        }
        (seats, fewest)
    }

    proptest! {
        #[test]
        fn a_replacement_ends_and_never_serves_with_fewer_than_before(
            before in 0usize..6, count in 0usize..6, order in proptest::collection::vec(any::<usize>(), 1..10),
        ) {
            let (after, fewest) = replace(before, count, true, &order);
            prop_assert_eq!(after.len(), count);
            prop_assert!(after.iter().all(|seat| seat.wanted && seat.state == InstanceState::Ready));
            prop_assert!(fewest >= before.min(count), "{} of {}", fewest, before);
        }

        #[test]
        fn a_release_that_never_gets_ready_leaves_the_old_one_serving(before in 1usize..6, count in 1usize..6) {
            let (after, _) = replace(before, count, false, &[0]);
            let serving = after.iter().filter(|seat| seat.state == InstanceState::Ready).count();
            prop_assert!(serving >= before.min(count));
        }
    }
}
