//! `holdfast cache invalidate`.

use bytes::Bytes;
use proto::v1::cache_service_client::CacheServiceClient;
use proto::v1::{InvalidateRequest, InvalidateResponse};
use tonic::transport::Channel;

use crate::args::Cache;
use crate::failure::{Exit, Failure};
use crate::local::{CALL_TIMEOUT, within};
use crate::output;

pub async fn run(channel: Channel, verb: Cache) -> Result<(), Failure> {
    let Cache::Invalidate { keys, keyspace, wait, timeout, form } = verb;
    let request = InvalidateRequest {
        keyspace,
        keys: keys.into_iter().map(Bytes::from).collect(),
        wait,
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
    };
    // The agent answers at the time-out with what is missing; only a broken one takes longer.
    let answer = CacheServiceClient::new(channel)
        .invalidate(within(timeout + CALL_TIMEOUT, request))
        .await
        .map_err(|status| Failure::from_status("invalidate", &status))?
        .into_inner();
    if form.json {
        output::json(&answer)?;
    } else {
        output::text(&render(&answer))?;
    }
    if wait { complete(&answer) } else { Ok(()) }
}

fn render(answer: &InvalidateResponse) -> String {
    let mut out = format!("{} applied by {}\n", answer.id, answer.applied.join(", "));
    for missing in &answer.missing {
        let seen = if missing.last_seen.is_empty() { "never" } else { &missing.last_seen };
        out.push_str(&format!("missing {}: {}, last seen {seen}\n", missing.node, missing.reason));
    }
    out
}

/// Whoever waits wants to know that nobody can serve the old value any more.
fn complete(answer: &InvalidateResponse) -> Result<(), Failure> {
    if answer.missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = answer.missing.iter().map(|missing| missing.node.as_str()).collect();
    Err(Failure::new(
        Exit::Unfinished,
        format!("the invalidation is not complete: {} did not confirm it", names.join(", ")),
        "they apply it when they are back; look at `holdfast status`",
    ))
}

#[cfg(test)]
mod tests {
    use proto::v1::MissingNode;

    use super::*;

    #[test]
    fn an_invalidation_that_somebody_missed_is_not_complete() {
        let missing = MissingNode { node: "node-3".into(), reason: "down".into(), last_seen: "12:00".into() };
        let answer = InvalidateResponse { missing: vec![missing], ..InvalidateResponse::default() };
        assert_eq!(complete(&answer).unwrap_err().exit(), Exit::Unfinished);
        assert!(complete(&InvalidateResponse::default()).is_ok());
    }
}
