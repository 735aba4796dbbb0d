//! Whole farms in virtual time.

#![allow(clippy::unwrap_used, reason = "a test that can not go on should say where")]

use simulation::{Outcome, Settings, run};

#[cfg(not(tokio_unstable))]
#[test]
fn groups_and_controllers_are_simulated_in_a_build_of_their_own() {
    // Past the test program, which would keep it to itself.
    let line = "not run: simulations of raft groups and controllers, whose tasks take turns by chance here\n  \
                RUSTFLAGS=\"--cfg tokio_unstable\" cargo test -p simulation --target-dir target/seeded\n";
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
}

fn outcome(seed: u64, nodes: usize) -> Outcome {
    run(&Settings { seed, nodes }, None).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte_and_another_gives_another() {
    let trace = |seed| {
        let mut trace = Vec::new();
        let outcome = run(&Settings { seed, nodes: 5 }, Some(&mut trace)).unwrap();
        (outcome, trace)
    };
    let (outcome, lines) = trace(3);
    assert_eq!((outcome.clone(), lines.clone()), trace(3));
    assert!(
        outcome.events > 1_000 && outcome.events == lines.split(|byte| *byte == b'\n').count() as u64 - 1
    );
    assert_ne!(outcome.trace, trace(4).0.trace);
}

#[test]
fn farms_keep_their_promises_and_come_to_rest() {
    for seed in 1..=12 {
        let outcome = outcome(seed, 2 + usize::try_from(seed % 8).unwrap());
        assert_eq!(outcome.violations, [], "seed {seed}");
    }
}

/// Each has broken a promise once, and was repaired in the product.
#[test]
fn what_seeds_have_found_stays_repaired() {
    for (seed, nodes) in [
        // A restarted agent that had heard nobody called an invalidation complete.
        (2, 3),
        (4, 6),
        // Whoever had invalidations that others missed was gone for good, and nobody flushed.
        (81, 3),
        (461, 3),
        (975, 2),
        // A word of a new identity was lost, or the accuser was deaf: the living were declared dead.
        (351, 2),
        (582, 2),
        // One that had said goodbye was back unheard, with a cache.
        (564, 5),
        (922, 2),
        // A server was first heard of after its restart, and what it had told before was lost unnoticed.
        (2794, 2),
        // What came late of one that was gone for good was taken for news.
        (2788, 10),
        // One that lived and answered was suspected for ever: nobody told it, and nobody's timer ran.
        (5905, 6),
        (6162, 3),
    ] {
        let outcome = outcome(seed, nodes);
        assert_eq!(outcome.violations, [], "seed {seed}");
    }
}
