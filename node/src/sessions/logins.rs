//! Who may see which keyspace, on the Redis port and on the apps' socket alike.
//!
//! An app logs in under its own name with the secret that the control log holds for it, and sees its
//! own keyspace. Without a password file anybody who reaches the port or the socket, both of which are
//! on this server, is the default user with a keyspace of its own; with one, that user needs the
//! password.

use std::path::{Path, PathBuf};

use node_storage::{StorageError, files};

use crate::config::Config;
use crate::control::Control;

pub const DEFAULT_USER: &str = "default";
const DEFAULT_KEYSPACE: &str = "";
/// A password is a line.
const PASSWORD_FILE_BYTES_MAX: u64 = 4 << 10;

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("can not read the password file {}: {source}", path.display())]
    Read { path: PathBuf, source: StorageError },
    #[error("the password file {} holds no password: write one line of text into it", .0.display())]
    Empty(PathBuf),
}

/// Knows the logins. Clones share it.
#[derive(Clone)]
pub struct Logins {
    control: Control,
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

impl Logins {
    /// # Errors
    /// When there is a password file and no password in it: nothing must open without.
    pub fn new(control: Control, config: &Config) -> Result<Self, PasswordError> {
        let password = config.resp.password_file.as_deref().map(read_password).transpose()?;
        Ok(Self { control, password })
    }

    /// What this user sees, if the password is right.
    pub fn keyspace_of(&self, user: &str, password: &str) -> Option<String> {
        if user == DEFAULT_USER {
            let admitted = self.password.is_none_or(|expected| expected.is(password));
            return admitted.then(|| DEFAULT_KEYSPACE.to_owned());
        }
        let state = self.control.state();
        let secret = &state.apps.get(user)?.secret;
        // An app whose secret is empty has none: nobody is it.
        let admitted = !secret.expose().is_empty() && Password::new(secret.expose()).is(password);
        admitted.then(|| user.to_owned())
    }

    /// What is seen without a login.
    pub fn default_keyspace(&self) -> Option<String> {
        self.password.is_none().then(|| DEFAULT_KEYSPACE.to_owned())
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
