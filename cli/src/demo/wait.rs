//! Waiting for the farm, with an end: a limit, or an agent that has ended meanwhile.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::farm::Farm;
use super::launch::{Agents, Ended, last_words, log_path};
use crate::failure::{Exit, Failure};

/// Between two looks: short beside what is waited for, and long enough not to be load itself.
const PAUSE: Duration = Duration::from_millis(50);

/// What is waited for, and for how long at most.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    pub what: &'static str,
    pub limit: Duration,
}

/// Looks until there is something to see. `look` tells why there is not yet.
pub async fn until<T, F>(
    wait: Wait,
    farm: &Farm,
    agents: &mut Agents,
    mut look: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + wait.limit;
    loop {
        let reason = tokio::select! {
            seen = look() => match seen {
                Ok(value) => return Ok(value),
                Err(reason) => reason,
            },
            ended = agents.next_end() => return Err(died(farm, &ended)),
            () = tokio::time::sleep_until(deadline) => "no answer".to_owned(),
        };
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Exit::Unfinished,
                format!("waited {} s for {}: {reason}", wait.limit.as_secs(), wait.what),
                "look at the agents' logs (agent.log in each node's folder)",
            ));
        }
        sleep(PAUSE).await;
    }
}

/// An agent that ends while the farm starts ends the start.
fn died(farm: &Farm, ended: &Ended) -> Failure {
    let status = match &ended.status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let node = farm.nodes.iter().find(|node| node.name == ended.node);
    let words = node.map(last_words).unwrap_or_default();
    let log = node.map(|node| log_path(node).display().to_string()).unwrap_or_default();
    Failure::failed(
        format!("the agent of {} ended ({status}): {words}", ended.node),
        format!("its log is {log}"),
    )
}
