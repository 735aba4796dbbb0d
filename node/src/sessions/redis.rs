//! The session store behind the Redis port: who may log in, and where their keys are.
//!
//! An app logs in under its own name with the secret that the control log holds for it, and sees its
//! own keyspace. Without a password file anybody who reaches the port, which is on loopback, is the
//! default user with a keyspace of its own; with one, that user needs the password.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use node_resp::{Refusal, Store, StoreInfo};
use node_storage::{StorageError, files};
use proto::log::{Op, Reply};
use proto::v1::InvalidateResponse;

use super::Sessions;
use crate::config::Config;
use crate::invalidate::Invalidation;

const DEFAULT_USER: &str = "default";
const DEFAULT_KEYSPACE: &str = "";
/// A password is a line.
const PASSWORD_FILE_BYTES_MAX: u64 = 4 << 10;

/// Why the Redis port has no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("can not read the password file {}: {source}", path.display())]
    Read { path: PathBuf, source: StorageError },
    #[error("the password file {} holds no password: write one line of text into it", .0.display())]
    Empty(PathBuf),
}

/// What serves the Redis port.
#[derive(Clone)]
pub struct RedisStore {
    sessions: Sessions,
    invalidation: Invalidation,
    node: String,
    password: Option<Password>,
}

/// Compared by its hash, which takes the same time wherever two differ.
#[derive(Clone, Copy)]
struct Password(blake3::Hash);

impl Password {
    fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    fn is(self, text: &str) -> bool {
        self.0 == blake3::hash(text.as_bytes())
    }
}

impl RedisStore {
    /// # Errors
    /// When there is a password file and no password in it: the port must not open without.
    pub fn new(
        sessions: Sessions,
        invalidation: Invalidation,
        config: &Config,
    ) -> Result<Self, PasswordError> {
        let password = config.resp.password_file.as_deref().map(read_password).transpose()?;
        Ok(Self { sessions, invalidation, node: config.node.name.clone(), password })
    }
}

fn read_password(path: &Path) -> Result<Password, PasswordError> {
    let bytes = files::read_bounded(path, PASSWORD_FILE_BYTES_MAX)
        .map_err(|source| PasswordError::Read { path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&bytes);
    match text.lines().next().map(str::trim) {
        None | Some("") => Err(PasswordError::Empty(path.to_owned())),
        Some(line) => Ok(Password::new(line)),
    }
}

impl Store for RedisStore {
    fn authenticate(&self, user: &str, password: &str) -> Option<String> {
        if user == DEFAULT_USER {
            let admitted = self.password.is_none_or(|expected| expected.is(password));
            return admitted.then(|| DEFAULT_KEYSPACE.to_owned());
        }
        let state = self.sessions.inner.whereabouts.control.state();
        let secret = &state.apps.get(user)?.secret;
        // An app whose secret is empty has none: nobody is it.
        let admitted = !secret.expose().is_empty() && Password::new(secret.expose()).is(password);
        admitted.then(|| user.to_owned())
    }

    fn default_keyspace(&self) -> Option<String> {
        self.password.is_none().then(|| DEFAULT_KEYSPACE.to_owned())
    }

    async fn execute(&self, ops: Vec<Op>) -> Vec<Reply> {
        self.sessions.execute(ops).await
    }

    async fn invalidate(
        &self,
        keyspace: &str,
        keys: Vec<Bytes>,
        wait: Option<Duration>,
    ) -> Result<InvalidateResponse, Refusal> {
        let invalidated = self.invalidation.invalidate(keyspace, keys, wait).await;
        invalidated.map_err(|error| Refusal(format!("ERR not invalidated: {error}")))
    }

    fn info(&self) -> StoreInfo {
        let info = self.sessions.info();
        let whole = info.groups > 0 && info.led == usize::from(info.groups);
        StoreInfo {
            used_bytes: info.used_bytes,
            max_bytes: info.max_bytes,
            holdfast: vec![
                ("node", self.node.clone()),
                ("groups", info.groups.to_string()),
                ("replicas_here", info.replicas_here.to_string()),
                ("leaders_here", info.leaders_here.to_string()),
                ("groups_led", info.led.to_string()),
                ("quorum", if whole { "yes" } else { "no" }.to_owned()),
            ],
        }
    }
}
