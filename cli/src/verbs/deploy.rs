//! `holdfast deploy` and `holdfast rollback`: bring a folder in, then follow the rollout to its end.
//!
//! The rollout is the controller's: this end only listens. When the connection breaks, or somebody
//! presses Ctrl-C, it goes on, and the exit code says that its end is not known.

use std::path::Path;

use proto::v1::app_service_client::AppServiceClient;
use proto::v1::{DeployOutcome, DeployProgress, DeployRequest, RollbackRequest, UploadResponse};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::upload;
use crate::args::Follow;
use crate::failure::{Exit, Failure};
use crate::output::{self, short};
use crate::progress::Progress;

pub async fn deploy(
    channel: Channel,
    dir: &Path,
    version: Option<String>,
    follow: Follow,
) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let uploaded = upload::upload(channel.clone(), dir, version, &mut progress).await?;
    progress.done(&upload_summary(&uploaded));
    let outcome = roll_out(channel, &uploaded, follow.detach, &mut progress).await?;
    progress.finish();
    tell(&uploaded.app, outcome, follow)
}

/// Rolls an uploaded release out; with `detach` there is no outcome to wait for.
pub async fn roll_out(
    channel: Channel,
    uploaded: &UploadResponse,
    detach: bool,
    progress: &mut Progress,
) -> Result<Option<DeployOutcome>, Failure> {
    let attempt = format!("deploy {}", uploaded.app);
    let request = DeployRequest { app: uploaded.app.clone(), release: uploaded.release.clone(), detach };
    let stream = AppServiceClient::new(channel)
        .deploy(request)
        .await
        .map_err(|status| Failure::from_status(&attempt, &status))?
        .into_inner();
    listen(&attempt, stream, detach, progress).await
}

pub async fn rollback(
    channel: Channel,
    app: String,
    version: Option<String>,
    follow: Follow,
) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let attempt = format!("roll {app} back");
    let request =
        RollbackRequest { app: app.clone(), version: version.unwrap_or_default(), detach: follow.detach };
    let stream = AppServiceClient::new(channel)
        .rollback(request)
        .await
        .map_err(|status| Failure::from_status(&attempt, &status))?
        .into_inner();
    let outcome = listen(&attempt, stream, follow.detach, &mut progress).await?;
    progress.finish();
    tell(&app, outcome, follow)
}

/// Shows the progress until the outcome comes.
async fn listen(
    attempt: &str,
    mut stream: Streaming<DeployProgress>,
    detach: bool,
    progress: &mut Progress,
) -> Result<Option<DeployOutcome>, Failure> {
    loop {
        let next = tokio::select! {
            next = stream.message() => next,
            _ = tokio::signal::ctrl_c() => return Err(still_going(attempt, "you left")),
        };
        match next {
            Ok(Some(step)) => {
                if !step.message.is_empty() {
                    progress.doing(step.message);
                }
                if step.outcome.is_some() {
                    return Ok(step.outcome);
                }
            }
            Ok(None) if detach => return Ok(None),
            Ok(None) => return Err(still_going(attempt, "the agent ended the stream")),
            Err(status) if broke(&status) => return Err(still_going(attempt, status.message())),
            Err(status) => return Err(Failure::from_status(attempt, &status)),
        }
    }
}

/// Whether the connection is gone, as opposed to an answer that the agent gave.
fn broke(status: &Status) -> bool {
    let lost = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled);
    lost && std::error::Error::source(status).is_some()
}

fn still_going(attempt: &str, reason: &str) -> Failure {
    Failure::new(
        Exit::Unfinished,
        format!("can not say how it ended to {attempt}: {reason}"),
        "the controller goes on with it: look at `holdfast apps`",
    )
}

fn upload_summary(uploaded: &UploadResponse) -> String {
    let UploadResponse { app, release, version, files, size_bytes, new_bytes } = uploaded;
    let (size, new) = (output::size(*size_bytes), output::size(*new_bytes));
    format!("{app} {version} is release {}: {files} files, {size}, {new} of it new", short(release))
}

fn tell(app: &str, outcome: Option<DeployOutcome>, follow: Follow) -> Result<(), Failure> {
    let Some(outcome) = outcome else {
        eprintln!("the rollout of {app} has begun: `holdfast apps` shows how far it is");
        return Ok(());
    };
    if follow.json {
        output::json(&outcome)?;
    }
    judge(app, &outcome)?;
    if !outcome.behind.is_empty() {
        eprintln!("behind, and will catch up by themselves: {}", outcome.behind.join(", "));
    }
    if follow.json {
        return Ok(());
    }
    output::text(&format!("{app} runs {} ({})\n", outcome.version, short(&outcome.release)))
}

/// What an outcome means for the exit code.
pub fn judge(app: &str, outcome: &DeployOutcome) -> Result<(), Failure> {
    let DeployOutcome { result, reason, version, .. } = outcome;
    let what = |said: &str| format!("{app} {version} {said}: {reason}");
    match result.as_str() {
        "done" => Ok(()),
        "rolled_back" => Err(Failure::new(
            Exit::RolledBack,
            what("was rolled back"),
            "the release before serves; correct this one and deploy it again",
        )),
        "refused" => {
            Err(Failure::new(Exit::Refused, what("was refused"), "remove the reason, then try again"))
        }
        "superseded" => Err(Failure::failed(
            what("gave way to another deploy"),
            "`holdfast apps` shows the one that goes on",
        )),
        "no_quorum" => Err(Failure::new(
            Exit::NoQuorum,
            what("is not decided"),
            "start the missing agents; the rollout goes on when there is a controller",
        )),
        _ => Err(Failure::failed(what("failed"), "look at `holdfast ps` for the instances' own words")),
    }
}

#[cfg(test)]
mod tests;
