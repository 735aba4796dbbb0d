//! Somebody who deploys, takes back, and does not wait for calm weather.

use std::sync::Arc;
use std::time::Duration;

use node_core::control::{Command, Outcome, Refusal, ReleaseRecord, Secret};
use proto::ids::{NodeId, ReleaseId};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::agent::APPS;
use super::farm::Farm;
use super::{controller, release};

const PAUSE_MS: std::ops::RangeInclusive<u64> = 500..=6_000;
/// Whoever asks asks again elsewhere.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(300);
/// `[rollout] deadline`: often too short, and always long enough.
const ROLLOUT_MS: u64 = 15_000;
const PATIENT_ROLLOUT_MS: u64 = 60_000;

/// What is deployed when every fault is over, of each app. They are as good as any: see [`super::quality`].
pub const LAST: [(&str, ReleaseId); 2] =
    [(APPS[0], release(LAST_NUMBER)), (APPS[1], release(LAST_NUMBER + 8))];
const LAST_NUMBER: u8 = 240;

/// Works until it is told to stop.
pub async fn run(farm: Arc<Farm>, stop: CancellationToken) {
    let mut number = 0_u8;
    while !stop.is_cancelled() && number < LAST_NUMBER - 1 {
        let (app, goes_back, pause_ms) = farm.scene.draw(|random| {
            let app = *APPS.choose(random).unwrap_or(&APPS[0]);
            (app, random.random_bool(0.25), random.random_range(PAUSE_MS))
        });
        let app = app.to_owned();
        if goes_back {
            ask(&farm, &Command::Rollback { app, to: None }).await;
        } else {
            number += 1;
            deploy(&farm, app, number, ROLLOUT_MS).await;
        }
        sleep(Duration::from_millis(pause_ms)).await;
    }
}

/// Deploys one of [`LAST`].
pub async fn deploy_last(farm: &Arc<Farm>, app: &str, release: ReleaseId) {
    deploy(farm, app.to_owned(), release.0[0], PATIENT_ROLLOUT_MS).await;
}

/// Goes back to the release before.
pub async fn roll_back(farm: &Arc<Farm>, app: &str) {
    ask(farm, &Command::Rollback { app: app.to_owned(), to: None }).await;
}

/// A release is on two servers before the log hears of it, as an upload has it.
async fn deploy(farm: &Arc<Farm>, app: String, number: u8, rollout_ms: u64) {
    let release = release(number);
    let mut holders = farm.living();
    if holders.len() < 2 {
        return;
    }
    let first = farm.scene.draw(|random| random.random_range(0..holders.len()));
    holders.rotate_left(first);
    holders.iter().take(2).for_each(|life| life.agent.facts.keep(release));
    let record = ReleaseRecord {
        app: app.clone(),
        version: number.to_string(),
        size_bytes: 1,
        files: 1,
        route: None,
        rollout_ms,
        created_ms: 0,
        registered_index: 0,
    };
    if ask(farm, &Command::RegisterRelease { release, record }).await.is_some() {
        ask(farm, &Command::SetTarget { app, release, secret: Secret::new("secret".to_owned()) }).await;
    }
}

/// Asks some server, which asks the log's leader. `None`: nobody knows what became of it.
async fn ask(farm: &Arc<Farm>, command: &Command) -> Option<Outcome> {
    let living = farm.living();
    let at = farm.scene.draw(|random| living.choose(random).map(|life| life.on.me))?;
    let outcome = timeout(ANSWER_MAX, propose(farm, at, command)).await.ok()??;
    farm.scene.note(format_args!("{command:?} comes to {outcome:?}"));
    Some(outcome)
}

/// As an agent gets a command into the log. The answer's way back may be cut.
async fn propose(farm: &Arc<Farm>, at: NodeId, command: &Command) -> Option<Outcome> {
    let leader = farm.life(at)?.group.watch().borrow().leader?;
    farm.servers.links.cross(at, leader).await;
    let life = farm.life(leader)?;
    let number = life.on.number;
    // In a task of its own: it goes on although whoever asked has given up.
    let command = command.clone();
    let outcome = tokio::spawn(async move { controller::write(&life, &command).await }).await.ok()?;
    if !farm.servers.links.is_living(leader, number) {
        return None;
    }
    farm.servers.links.cross(leader, at).await;
    outcome.ok()
}

/// Has a server admitted, as often as it takes. The holder of its name is replaced once the members have
/// it for dead.
pub async fn join(farm: &Arc<Farm>, host: usize, patience: Duration) -> Option<NodeId> {
    let newcomer = farm.newcomer(host);
    let began = Instant::now();
    while began.elapsed() < patience {
        sleep(AGAIN).await;
        let living = farm.living();
        let Some(at) = farm.scene.draw(|random| living.choose(random).cloned()) else { continue };
        let holder = at.agent.state().member_named(&newcomer.name).map(|(node, _)| node);
        let replaces = holder.filter(|node| !at.members.is_alive(*node));
        let token_hash = super::farm::TOKEN;
        let command = Command::AdmitNode { token_hash, node: newcomer.clone(), replaces };
        match timeout(ANSWER_MAX, propose(farm, at.on.me, &command)).await {
            Ok(Some(Outcome::Admitted { node, .. })) => return Some(node),
            Ok(Some(Outcome::Refused(Refusal::Superseded { .. }))) => return None,
            Ok(Some(
                Outcome::Refused(_) | Outcome::Done | Outcome::Started { .. } | Outcome::Targeted { .. },
            ))
            | Ok(None)
            | Err(_) => {}
        }
    }
    None
}
