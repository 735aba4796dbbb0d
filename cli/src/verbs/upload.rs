//! Brings a folder in: its holdfast.toml, then every file, as one stream.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::stream;
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
    let entries = collect(dir)?;
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

/// Every file and link below `dir`, in the order of their paths.
fn collect(dir: &Path) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        let unread = |error: std::io::Error| {
            Failure::failed(format!("can not read {}: {error}", folder.display()), "look at who may read it")
        };
        for found in std::fs::read_dir(&folder).map_err(unread)? {
            let from = found.map_err(unread)?.path();
            let metadata = from.symlink_metadata().map_err(unread)?;
            if metadata.is_dir() {
                open.push(from);
            } else {
                let file = entry_file(dir, &from, &metadata)?;
                entries.push(Entry { from, file });
            }
        }
    }
    entries.sort_by(|one, other| one.file.path.cmp(&other.file.path));
    Ok(entries)
}

fn entry_file(dir: &Path, from: &Path, metadata: &std::fs::Metadata) -> Result<UploadFile, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let refused = |what: &str| {
        Failure::usage(format!("can not deploy {}: {what}", from.display()), "keep it out of the folder")
    };
    let path =
        from.strip_prefix(dir).ok().and_then(Path::to_str).ok_or_else(|| refused("its name is not UTF-8"))?;
    let link_target = if metadata.is_symlink() {
        let target = std::fs::read_link(from).ok().and_then(|target| target.to_str().map(str::to_owned));
        target.ok_or_else(|| refused("its target is not UTF-8"))?
    } else {
        String::new()
    };
    if link_target.is_empty() && !metadata.is_file() {
        return Err(refused("it is neither a file nor a link nor a folder"));
    }
    Ok(UploadFile {
        path: path.to_owned(),
        executable: metadata.permissions().mode() & 0o111 != 0 && link_target.is_empty(),
        size_bytes: if link_target.is_empty() { metadata.len() } else { 0 },
        link_target,
    })
}

fn manifest(dir: &Path) -> Result<String, Failure> {
    let path = dir.join("holdfast.toml");
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
