//! Which backend a request goes to: a pure choice.

/// What speaks for a backend at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Sound,
    /// It has not answered of late.
    Ejected,
    /// For want of any other.
    LastResort,
    /// It takes nothing, or this request was there already.
    Out,
}

/// The backend whose turn it is, by its place among `count`.
///
/// One that is out is never chosen, and a last resort only where there is no other. An ejected one is chosen only where fewer than half of those that
/// could serve are sound: then the fault is more likely to be common to all, and suspicion alone must
/// not empty a set. A retry prefers the sound ones even then.
pub fn round_robin(
    count: usize,
    turn: usize,
    is_retry: bool,
    standing: impl Fn(usize) -> Standing,
) -> Option<usize> {
    let (mut sound, mut able, mut resorts) = (0, 0, 0);
    for place in 0..count {
        match standing(place) {
            Standing::Sound => (sound, able) = (sound + 1, able + 1),
            Standing::Ejected => able += 1,
            Standing::LastResort => resorts += 1,
            Standing::Out => {}
        }
    }
    if able == 0 && resorts > 0 {
        return (0..count).filter(|place| standing(*place) != Standing::Out).nth(turn % resorts);
    }
    let only_sound = sound * 2 >= able || (is_retry && sound > 0);
    let wanted = |place: &usize| match standing(*place) {
        Standing::Sound => true,
        Standing::Ejected => !only_sound,
        Standing::LastResort | Standing::Out => false,
    };
    let among = if only_sound { sound } else { able };
    if among == 0 {
        return None;
    }
    let chosen = (0..count).filter(wanted).nth(turn % among);
    // An ejection may have begun between the two looks.
    chosen.or_else(|| (0..count).find(|place| standing(*place) != Standing::Out))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_standing() -> impl Strategy<Value = Standing> {
        use Standing::{Ejected, LastResort, Out, Sound};
        prop_oneof![Just(Sound), Just(Ejected), Just(LastResort), Just(Out)]
    }

    proptest! {
        #[test]
        fn turns_are_spread_evenly_over_those_that_are_chosen_at_all(
            standings in proptest::collection::vec(any_standing(), 0..8),
            start in 0usize..100,
        ) {
            let count = standings.len();
            let mut taken = vec![0usize; count];
            for turn in start..start + 840 {
                if let Some(place) = round_robin(count, turn, false, |place| standings[place]) {
                    taken[place] += 1;
                }
            }
            let times: Vec<usize> = taken.into_iter().filter(|times| *times > 0).collect();
            // 840 is divided by every number up to eight.
            prop_assert!(times.iter().all(|one| *one == 840 / times.len()), "{times:?}");
        }

        #[test]
        fn one_that_is_out_is_never_chosen_and_suspicion_alone_never_empties_a_set(
            standings in proptest::collection::vec(any_standing(), 0..8),
            turn in any::<usize>(),
            is_retry in any::<bool>(),
        ) {
            let chosen = round_robin(standings.len(), turn, is_retry, |place| standings[place]);
            let able = standings.iter().filter(|standing| **standing != Standing::Out).count();
            let sound = standings.iter().filter(|standing| **standing == Standing::Sound).count();
            let resorts = standings.iter().filter(|standing| **standing == Standing::LastResort).count();
            prop_assert_eq!(chosen.is_some(), able > 0);
            if let Some(place) = chosen {
                prop_assert_ne!(standings[place], Standing::Out);
                prop_assert!(standings[place] != Standing::LastResort || able == resorts);
                let able = able - resorts;
                if able > 0 && sound * 2 >= able {
                    prop_assert_eq!(standings[place], Standing::Sound);
                }
                if is_retry && sound > 0 {
                    prop_assert_eq!(standings[place], Standing::Sound);
                }
            }
        }
    }

    #[test]
    fn one_of_two_may_be_left_out_and_two_of_three_may_not() {
        let chosen = |standings: &[Standing]| -> std::collections::BTreeSet<usize> {
            let pick = |turn| round_robin(standings.len(), turn, false, |place| standings[place]);
            (0..10).filter_map(pick).collect()
        };
        assert_eq!(chosen(&[Standing::Ejected, Standing::Sound]), [1].into());
        let most = [Standing::Ejected, Standing::Sound, Standing::Ejected];
        assert_eq!(chosen(&most), [0, 1, 2].into());
    }
}
