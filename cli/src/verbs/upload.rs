//! Brings a folder in: its holdfast.toml, then every file, as one stream.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::stream;
use node_apps::{SPEC_FILE, SourceEntry, SourceKind};
use proto::limits::BLOB_CHUNK_BYTES;
use proto::v1::app_service_client::AppServiceClient;
use proto::v1::upload_request::Part;
use proto::v1::{UploadBegin, UploadFile, UploadRequest, UploadResponse};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::progress::{self, Progress};

/// Chunks read ahead of the wire: one on its way, one being read, and a little for unevenness.
const READ_AHEAD: usize = 4;

/// Uploads `dir` as a release of `version`, or of the version that the folder itself suggests.
pub async fn upload(
    channel: Channel,
    dir: &Path,
    version: Option<String>,
    progress: &mut Progress,
) -> Result<UploadResponse, Failure> {
    progress.doing(format!("reading {}", dir.display()));
    let begin =
        UploadBegin { manifest: manifest(dir)?, version: version.unwrap_or_else(|| own_version(dir)) };
    let entries = entries(dir)?;
    let bar = progress::bytes(entries.iter().map(|entry| entry.file.size_bytes).sum());
    let (send, receive) = mpsc::channel(READ_AHEAD);
    let requests =
        stream::unfold(receive, |mut receive| async { receive.recv().await.map(|part| (part, receive)) });
    let mut client = AppServiceClient::new(channel);
    progress.doing("sending");
    // Whichever ends first: an agent that refuses does not read on, and a file that can not be read
    // takes the call away, so that the agent keeps nothing of it.
    let call = client.upload(requests);
    tokio::pin!(call);
    let answer = tokio::select! {
        answer = &mut call => answer,
        fed = feed(send, begin, entries, &bar) => {
            fed?;
            call.await
        }
    };
    bar.finish_and_clear();
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::from_status(&format!("upload {}", dir.display()), &status))
}

struct Entry {
    /// Where the bytes are; a link has none.
    from: PathBuf,
    file: UploadFile,
}

/// Sends everything, or as much as the agent wants: one that has refused does not listen on.
async fn feed(
    send: mpsc::Sender<UploadRequest>,
    begin: UploadBegin,
    entries: Vec<Entry>,
    bar: &indicatif::ProgressBar,
) -> Result<(), Failure> {
    let part = |part| UploadRequest { part: Some(part) };
    if send.send(part(Part::Begin(begin))).await.is_err() {
        return Ok(());
    }
    for entry in entries {
        let mut left = entry.file.size_bytes;
        let is_link = !entry.file.link_target.is_empty();
        if send.send(part(Part::File(entry.file))).await.is_err() {
            return Ok(());
        }
        if is_link {
            continue;
        }
        let unread = |error: &dyn std::fmt::Display| {
            Failure::failed(
                format!("can not read {}: {error}", entry.from.display()),
                "let nothing change the folder while it is deployed",
            )
        };
        let mut file = File::open(&entry.from).await.map_err(|error| unread(&error))?;
        while left > 0 {
            let mut chunk = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(BLOB_CHUNK_BYTES)];
            file.read_exact(&mut chunk).await.map_err(|error| unread(&error))?;
            left -= chunk.len() as u64;
            bar.inc(chunk.len() as u64);
            if send.send(part(Part::Data(Bytes::from(chunk)))).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What a release of `dir` is made of, in the order of the paths.
fn entries(dir: &Path) -> Result<Vec<Entry>, Failure> {
    let found = node_apps::collect(dir).map_err(|error| {
        Failure::usage(
            format!("can not deploy {}: {error}", dir.display()),
            "correct it, or keep it out of the folder",
        )
    })?;
    Ok(found.into_iter().map(Entry::from).collect())
}

impl From<SourceEntry> for Entry {
    fn from(found: SourceEntry) -> Self {
        let path = found.path.as_str().to_owned();
        match found.kind {
            SourceKind::File { source, size, executable } => Self {
                from: source,
                file: UploadFile { path, executable, size_bytes: size, link_target: String::new() },
            },
            SourceKind::Link { target } => Self {
                from: PathBuf::new(),
                file: UploadFile { path, link_target: target.as_str().to_owned(), ..UploadFile::default() },
            },
        }
    }
}

fn manifest(dir: &Path) -> Result<String, Failure> {
    let path = dir.join(SPEC_FILE);
    std::fs::read_to_string(&path).map_err(|error| {
        Failure::usage(
            format!("can not read {}: {error}", path.display()),
            "an app is a folder with a holdfast.toml: [app] name = \"...\" and [run] command = [...]",
        )
    })
}

/// What git calls the folder's state, else the time: two deploys of one folder can be told apart.
fn own_version(dir: &Path) -> String {
    described(dir).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("u-{}", since.as_secs())
    })
}

fn described(dir: &Path) -> Option<String> {
    let output =
        Command::new("git").arg("-C").arg(dir).args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.trim();
    (output.status.success() && !version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_git_a_version_is_made_of_the_time() {
        let dir = tempfile::tempdir().unwrap();
        assert!(own_version(dir.path()).starts_with("u-"));
    }

    #[test]
    fn a_folder_without_settings_is_a_usage_error_that_says_what_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let failure = manifest(dir.path()).unwrap_err();
        assert_eq!(failure.exit().code(), 2);
        assert!(failure.report().contains("holdfast.toml"));
    }
}
