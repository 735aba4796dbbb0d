//! What time it is in a group, for a replica that has begun again.
//!
//! Whoever lives carries its group's time on by its monotonic clock. Who was dead has its last entry's time,
//! and its own clock on the wall, which may be an hour wrong: a leader that believed it would end every
//! shorter deadline at once. So it asks the other voters.
//!
//! ```text
//!   somebody has lived through and knows ─────────────▶ that
//!   all have begun again, and all have answered ──────▶ the middle one of what is on their walls
//!   the same of a majority, and the rest stays away ──▶ the same
//! ```
//!
//! After an outage of the whole group nobody can know how long it was but by the walls, and what has gone
//! by must count: a session of twenty minutes is over after an hour without power. It takes a majority of
//! wrong clocks to be wrong then. Of two the earlier one is taken, as a key that lives too long is the lesser
//! evil. Until it is settled the group's time goes on from its last entry, which is late and never early.
//!
//! Not that a node whose clock is far from the others' does not lead: it leads by their time as well as
//! anybody, and where two are left whose clocks differ somebody has to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use proto::ids::NodeId;
use tokio::time::{Instant, sleep};

use crate::clock::SlewedClock;
use crate::replica::Replica;
use crate::transport::Transport;
use crate::wire::{self, Request, TimeAnswer};

/// How long one question may take: there is no disk between, but the network may be at its worst.
const ANSWER_MAX: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long those are waited for who do not answer: servers that got their power back together are not up
/// at the same moment.
const PATIENCE: Duration = Duration::from_secs(3);
/// Whoever is alone so long asks less often.
const ASK_LATER: Duration = Duration::from_secs(2);

/// Runs until the group's time is known here.
pub async fn settle(replica: Arc<Replica>, slewed: Arc<SlewedClock>, transport: Arc<dyn Transport>) {
    // Before its first entry a group has nothing that could expire, and no time: whoever leads it first says.
    replica.clock.begun().await;
    let begun = Instant::now();
    loop {
        let is_late = begun.elapsed() >= PATIENCE;
        if let Some(clock_ms) = ask(&replica, &slewed, &*transport, is_late).await {
            return replica.clock.learn(clock_ms);
        }
        sleep(if is_late { ASK_LATER } else { ASK_AGAIN }).await;
    }
}

/// Asks all other voters, and waits for no more of them than it takes.
async fn ask(
    replica: &Replica,
    slewed: &SlewedClock,
    transport: &dyn Transport,
    is_late: bool,
) -> Option<u64> {
    let members = replica.members();
    let voters: BTreeSet<NodeId> = members.configs.iter().flatten().copied().collect();
    let others = voters.into_iter().filter(|id| *id != replica.me);
    let mut asked: FuturesUnordered<_> = others
        .map(async |id| {
            let payload = wire::encode_request(id, &Request::Time).ok()?;
            let answer = transport.call(id, replica.id, payload, ANSWER_MAX).await.ok()?;
            Some((id, wire::decode::<TimeAnswer>(&answer).ok()?))
        })
        .collect();
    let mut answers = BTreeMap::new();
    loop {
        answers.insert(replica.me, replica.clock.told(slewed.now_ms()));
        let is_over = asked.is_empty();
        if let Some(clock_ms) = agreed(&members.configs, &answers, is_late && is_over) {
            return Some(clock_ms);
        }
        answers.extend(asked.next().await?);
    }
}

/// The group's time, if these answers settle it.
fn agreed(
    configs: &[BTreeSet<NodeId>],
    answers: &BTreeMap<NodeId, TimeAnswer>,
    is_late: bool,
) -> Option<u64> {
    let known = answers.values().filter(|answer| answer.is_known).map(|answer| answer.clock_ms);
    if let Some(latest) = known.max() {
        return Some(latest);
    }
    let enough = |config: &BTreeSet<NodeId>| {
        let answered = config.iter().filter(|id| answers.contains_key(id)).count();
        answered == config.len() || (is_late && 2 * answered > config.len())
    };
    if !configs.iter().all(enough) {
        return None;
    }
    let voters: BTreeSet<&NodeId> = configs.iter().flatten().collect();
    let on_the_walls = answers.iter().filter(|(id, _)| voters.contains(id));
    let mut on_the_walls: Vec<u64> = on_the_walls.map(|(_, answer)| answer.clock_ms).collect();
    on_the_walls.sort_unstable();
    on_the_walls.get(on_the_walls.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(answers: &[(u64, bool, u64)]) -> BTreeMap<NodeId, TimeAnswer> {
        let answer = |(id, is_known, clock_ms): &(u64, bool, u64)| {
            (NodeId(*id), TimeAnswer { is_known: *is_known, clock_ms: *clock_ms })
        };
        answers.iter().map(answer).collect()
    }

    fn three() -> [BTreeSet<NodeId>; 1] {
        [BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)])]
    }

    #[test]
    fn who_has_lived_through_is_believed_at_once() {
        let answers = answers(&[(1, false, 9_000), (2, true, 500)]);
        assert_eq!(agreed(&three(), &answers, false), Some(500));
    }

    #[test]
    fn of_three_clocks_on_the_wall_a_wrong_one_does_not_count() {
        for wrong in [1, 9_000] {
            let answers = answers(&[(1, false, wrong), (2, false, 500), (3, false, 501)]);
            assert!([500, 501].contains(&agreed(&three(), &answers, false).unwrap()));
        }
    }

    #[test]
    fn a_majority_is_enough_when_the_rest_stays_away_and_its_earlier_clock_counts() {
        let two = answers(&[(1, false, 9_000), (2, false, 500)]);
        assert_eq!(agreed(&three(), &two, false), None);
        assert_eq!(agreed(&three(), &two, true), Some(500));
        let one = answers(&[(1, false, 9_000)]);
        assert_eq!(agreed(&three(), &one, true), None);
        assert_eq!(agreed(&[BTreeSet::from([NodeId(1)])], &one, false), Some(9_000));
    }

    #[test]
    fn a_learner_asks_and_does_not_count() {
        let answers = answers(&[(1, false, 500), (2, false, 502), (3, false, 501), (7, false, 1)]);
        assert_eq!(agreed(&three(), &answers, false), Some(501));
    }
}
