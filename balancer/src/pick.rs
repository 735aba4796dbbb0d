//! Which backend a request goes to: a pure choice.

use crate::snapshot::{Availability, Backend};

/// The backend whose turn it is, by its place.
///
/// Those in `tried` are never chosen. An ejected one is chosen only where half of the others or more
/// are ejected too: then the fault is more likely to be common to all, and suspicion alone must not
/// empty a set.
pub fn round_robin(
    backends: &[Backend],
    turn: usize,
    tried: &[usize],
    is_ejected: impl Fn(&Backend) -> bool,
) -> Option<usize> {
    let able =
        |place: &usize| backends[*place].availability == Availability::Serving && !tried.contains(place);
    let serving: Vec<usize> = (0..backends.len()).filter(able).collect();
    let sound: Vec<usize> = serving.iter().copied().filter(|place| !is_ejected(&backends[*place])).collect();
    let chosen = if sound.len() * 2 > serving.len() || !sound.is_empty() && !tried.is_empty() {
        &sound
    } else {
        &serving
    };
    if chosen.is_empty() { None } else { Some(chosen[turn % chosen.len()]) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::{BackendKey, Target};

    fn backend(instance: usize, availability: Availability) -> Backend {
        let key = BackendKey { node: 1, generation: 1, app: "a".to_owned(), instance: instance.to_string() };
        let target = Target::Local(([127, 0, 0, 1], 1).into());
        Backend { key, release: String::new(), target, availability }
    }

    fn serving(count: usize) -> Vec<Backend> {
        (0..count).map(|instance| backend(instance, Availability::Serving)).collect()
    }

    proptest! {
        #[test]
        fn turns_are_spread_evenly_over_those_that_serve(count in 1usize..8, start in 0usize..100) {
            let backends = serving(count);
            let mut taken = vec![0; count];
            for turn in start..start + 10 * count {
                taken[round_robin(&backends, turn, &[], |_| false).unwrap()] += 1;
            }
            prop_assert!(taken.iter().all(|times| *times == 10));
        }

        #[test]
        fn one_that_was_tried_or_does_not_serve_is_never_chosen(
            states in proptest::collection::vec((0u8..3, any::<bool>(), any::<bool>()), 0..8),
            turn in any::<u16>(),
        ) {
            let kinds = [Availability::Serving, Availability::Draining, Availability::Lost];
            let backends: Vec<Backend> = states.iter().enumerate()
                .map(|(n, (kind, _, _))| backend(n, kinds[usize::from(*kind)])).collect();
            let tried: Vec<usize> = (0..states.len()).filter(|n| states[*n].1).collect();
            let ejected = |backend: &Backend| states[backend.key.instance.parse::<usize>().unwrap()].2;
            let chosen = round_robin(&backends, usize::from(turn), &tried, ejected);
            let able = (0..states.len()).filter(|n| states[*n].0 == 0 && !states[*n].1).count();
            prop_assert_eq!(chosen.is_some(), able > 0, "suspicion alone never empties a set");
            if let Some(place) = chosen {
                prop_assert_eq!(backends[place].availability, Availability::Serving);
                prop_assert!(!tried.contains(&place));
            }
        }
    }

    #[test]
    fn an_ejected_backend_is_left_out_while_most_are_sound() {
        let backends = serving(3);
        for turn in 0..10 {
            let chosen = round_robin(&backends, turn, &[], |backend| backend.key.instance == "0");
            assert_ne!(chosen, Some(0));
        }
    }
}
