//! What time it is in a group, for a replica that has begun again.
//!
//! Whoever lives carries its group's time on by its monotonic clock. Who was dead has its last entry's time,
//! and its own clock on the wall, which may be an hour wrong: a leader that believed it would end every
//! shorter deadline at once. So it asks the other members.
//!
//! ```text
//!   somebody has lived through and knows ───────────▶ that
//!   all have begun again, and all have answered ────▶ the middle one of what is on the voters' walls
//!   a majority has, and the rest stays away ────────▶ the same, a moment later
//! ```
//!
//! After an outage of the whole group nobody can know how long it was but by the walls, and what has gone
//! by must count: a session of twenty minutes is over after an hour without power. It takes a majority of
//! wrong clocks to be wrong then. Of two the earlier one is taken, as a key that lives too long is the lesser
//! evil. A learner may have lived through as well as a voter, and is believed where no voter has; its wall
//! does not count.
//!
//! Until it is settled,
//!
//! - nobody stamps: a write waits, and is refused as not executed if that takes too long. A deadline that was
//!   reckoned from a time which is then found to be an hour late would be over as soon as it was
//!   acknowledged. A group without any entry has no such time, and begins with its first;
//! - readings go on from the last entry, which is late and never early. So nothing ends that is not over. What
//!   is over may still be read, but only for a moment: who can prove that it leads hears a majority, and
//!   a leader that hears one does not wait long for the rest.
//!
//! Not that a node whose clock is far from the others' does not lead: it leads by their time as well as
//! anybody, and where two are left whose clocks differ somebody has to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use proto::ids::{GroupId, NodeId};
use tokio::time::{Instant, sleep_until};

use crate::clock::SlewedClock;
use crate::replica::{Members, Replica};
use crate::transport::Transport;
use crate::wire::{self, Request, TimeAnswer};

/// How long one question may take: there is no disk between, but the network may be at its worst.
const ANSWER_MAX: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Who hears no majority for longer than [`PATIENCE`] asks less often.
const ASK_LATER: Duration = Duration::from_secs(2);
/// An answer is asked for again before it is so old. Who has given it may be gone, and the others have gone on.
const ANSWER_KEPT: Duration = Duration::from_secs(2);
/// How long those are waited for who do not answer when a majority has: servers that got their power back
/// together are not up at the same moment.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same for a leader, for whom writes wait: as long as it takes to ask twice.
const LEADERS_PATIENCE: Duration = Duration::from_millis(300);

/// Runs until the group's time is known here.
pub async fn settle(replica: Arc<Replica>, slewed: Arc<SlewedClock>, transport: Arc<dyn Transport>) {
    // Before its first entry a group has nothing that could expire, and no time: whoever leads it first says.
    replica.clock.begun().await;
    let mut view = replica.view.subscribe();
    let mut inquiry = Inquiry::new(Arc::clone(&replica), slewed, transport);
    loop {
        view.mark_unchanged();
        if let Some(clock_ms) = inquiry.result() {
            return replica.clock.learn(clock_ms);
        }
        let next_at = inquiry.next_at();
        tokio::select! {
            Some((from, answer)) = inquiry.asked.next() => inquiry.answered(from, answer),
            () = sleep_until(next_at) => inquiry.ask(),
            // It may lead now, and have less patience. The sender is the replica's, and lives as long.
            _changed = view.changed() => {}
        }
    }
}

/// What is asked and answered. Nobody waits for one who is slow: each is asked again when it has answered.
struct Inquiry {
    replica: Arc<Replica>,
    slewed: Arc<SlewedClock>,
    transport: Arc<dyn Transport>,
    begun: Instant,
    asked_at: Option<Instant>,
    asked: FuturesUnordered<BoxFuture<'static, (NodeId, Option<TimeAnswer>)>>,
    /// Of whom an answer is awaited.
    open: BTreeSet<NodeId>,
    answers: BTreeMap<NodeId, (Instant, TimeAnswer)>,
    majority_since: Option<Instant>,
}

impl Inquiry {
    fn new(replica: Arc<Replica>, slewed: Arc<SlewedClock>, transport: Arc<dyn Transport>) -> Self {
        Self {
            replica,
            slewed,
            transport,
            begun: Instant::now(),
            asked_at: None,
            asked: FuturesUnordered::new(),
            open: BTreeSet::new(),
            answers: BTreeMap::new(),
            majority_since: None,
        }
    }

    fn next_at(&self) -> Instant {
        let Some(asked_at) = self.asked_at else { return Instant::now() };
        let hurries =
            self.replica.leads() || self.majority_since.is_some() || self.begun.elapsed() < PATIENCE;
        asked_at + if hurries { ASK_AGAIN } else { ASK_LATER }
    }

    fn ask(&mut self) {
        self.asked_at = Some(Instant::now());
        let members = self.replica.members();
        let all: BTreeSet<NodeId> =
            members.configs.iter().flatten().chain(&members.learners).copied().collect();
        for to in all.into_iter().filter(|id| *id != self.replica.me) {
            if !self.open.insert(to) {
                continue;
            }
            let (transport, group) = (Arc::clone(&self.transport), self.replica.id);
            self.asked.push(Box::pin(async move { (to, ask(&*transport, to, group).await) }));
        }
    }

    fn answered(&mut self, from: NodeId, answer: Option<TimeAnswer>) {
        self.open.remove(&from);
        if let Some(answer) = answer {
            self.answers.insert(from, (Instant::now(), answer));
        }
    }

    /// The group's time, if the answers so far settle it.
    fn result(&mut self) -> Option<u64> {
        let now = Instant::now();
        self.answers.retain(|_, (at, _)| now.duration_since(*at) < ANSWER_KEPT);
        let mut answers: BTreeMap<NodeId, TimeAnswer> = BTreeMap::new();
        for (from, (at, answer)) in &self.answers {
            let since_ms = u64::try_from(now.duration_since(*at).as_millis()).unwrap_or(0);
            let clock_ms = answer.clock_ms.saturating_add(since_ms);
            answers.insert(*from, TimeAnswer { clock_ms, ..*answer });
        }
        answers.insert(self.replica.me, self.replica.clock.told(self.slewed.now_ms()));
        match agreement(&self.replica.members(), &answers) {
            Agreement::None => {
                self.majority_since = None;
                None
            }
            Agreement::OfMajority(clock_ms) => {
                let since = *self.majority_since.get_or_insert(now);
                let patience = if self.replica.leads() { LEADERS_PATIENCE } else { PATIENCE };
                (now.duration_since(since) >= patience).then_some(clock_ms)
            }
            Agreement::Final(clock_ms) => Some(clock_ms),
        }
    }
}

async fn ask(transport: &dyn Transport, to: NodeId, group: GroupId) -> Option<TimeAnswer> {
    let payload = wire::encode_request(to, &Request::Time).ok()?;
    let answer = transport.call(to, group, payload, ANSWER_MAX).await.ok()?;
    wire::decode(&answer).ok()
}

/// What answers come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    None,
    /// Those who are missing might know better.
    OfMajority(u64),
    Final(u64),
}

fn agreement(members: &Members, answers: &BTreeMap<NodeId, TimeAnswer>) -> Agreement {
    let voters: BTreeSet<NodeId> = members.configs.iter().flatten().copied().collect();
    let of_all = answers.iter();
    let (by_voters, by_others): (Vec<_>, Vec<_>) = of_all.partition(|(id, _)| voters.contains(id));
    let known = |given: &[(&NodeId, &TimeAnswer)]| -> Vec<u64> {
        given.iter().filter(|(_, answer)| answer.is_known).map(|(_, answer)| answer.clock_ms).collect()
    };
    // Of the others the earliest: they may be trusted with less than a vote.
    if let Some(clock_ms) = known(&by_voters).into_iter().max().or(known(&by_others).into_iter().min()) {
        return Agreement::Final(clock_ms);
    }
    let mut on_the_walls: Vec<u64> = by_voters.iter().map(|(_, answer)| answer.clock_ms).collect();
    on_the_walls.sort_unstable();
    let middle = on_the_walls.len().checked_sub(1).and_then(|last| on_the_walls.get(last / 2));
    let has_majority = |config: &BTreeSet<NodeId>| {
        2 * config.iter().filter(|id| answers.contains_key(id)).count() > config.len()
    };
    match middle.filter(|_| members.configs.iter().all(has_majority)) {
        None => Agreement::None,
        Some(clock_ms) if voters.union(&members.learners).all(|id| answers.contains_key(id)) => {
            Agreement::Final(*clock_ms)
        }
        Some(clock_ms) => Agreement::OfMajority(*clock_ms),
    }
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

    fn members(configs: &[&[u64]], learners: &[u64]) -> Members {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        Members::for_test(configs.iter().map(|config| ids(config)).collect(), ids(learners))
    }

    fn three() -> Members {
        members(&[&[1, 2, 3]], &[])
    }

    #[test]
    fn who_has_lived_through_is_believed_at_once() {
        let answers = answers(&[(1, false, 9_000), (2, true, 500)]);
        assert_eq!(agreement(&three(), &answers), Agreement::Final(500));
    }

    #[test]
    fn of_three_clocks_on_the_wall_a_wrong_one_does_not_count() {
        for wrong in [1, 9_000] {
            let answers = answers(&[(1, false, wrong), (2, false, 500), (3, false, 500)]);
            assert_eq!(agreement(&three(), &answers), Agreement::Final(500));
        }
    }

    #[test]
    fn of_a_majority_the_earlier_clock_counts_if_nobody_else_answers() {
        let two = answers(&[(1, false, 9_000), (2, false, 500)]);
        assert_eq!(agreement(&three(), &two), Agreement::OfMajority(500));
        let one = answers(&[(1, false, 9_000)]);
        assert_eq!(agreement(&three(), &one), Agreement::None);
        assert_eq!(agreement(&members(&[&[1, 2]], &[]), &one), Agreement::None);
        assert_eq!(agreement(&members(&[&[1]], &[]), &one), Agreement::Final(9_000));
    }

    #[test]
    fn while_the_voters_change_it_takes_a_majority_of_both() {
        let joint = members(&[&[1, 2, 3], &[3, 4, 5]], &[]);
        let old = answers(&[(1, false, 500), (2, false, 501), (3, false, 502)]);
        assert_eq!(agreement(&joint, &old), Agreement::None);
        let both = answers(&[(1, false, 500), (3, false, 502), (4, false, 501)]);
        assert_eq!(agreement(&joint, &both), Agreement::OfMajority(501));
    }

    #[test]
    fn a_learners_wall_does_not_count() {
        let members = members(&[&[1, 2, 3]], &[7]);
        let voters = [(1, false, 500), (2, false, 502), (3, false, 501)];
        assert_eq!(agreement(&members, &answers(&voters)), Agreement::OfMajority(501));
        let all = [voters.as_slice(), &[(7, false, 1)]].concat();
        assert_eq!(agreement(&members, &answers(&all)), Agreement::Final(501));
        assert_eq!(agreement(&members, &answers(&all[2..])), Agreement::None);
    }

    #[test]
    fn a_learner_that_has_lived_through_is_believed_where_no_voter_has() {
        let members = members(&[&[1]], &[7, 8]);
        let alone = answers(&[(1, false, 9_000)]);
        assert_eq!(agreement(&members, &alone), Agreement::OfMajority(9_000));
        let told = answers(&[(1, false, 9_000), (7, true, 500), (8, true, 700)]);
        assert_eq!(agreement(&members, &told), Agreement::Final(500));
        let known = answers(&[(1, true, 600), (7, true, 500)]);
        assert_eq!(agreement(&members, &known), Agreement::Final(600));
    }
}
