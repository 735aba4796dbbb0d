//! Asks nodes, as an operator does, and understands what they answer.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::FarmError;
use crate::network::Host;

/// An instance that is ready.
pub struct Instance {
    pub node: String,
    pub version: String,
    /// Of all that its release is made of.
    pub digest: String,
}

impl Instance {
    pub(super) fn of(told: &Value) -> Self {
        let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        Self { node: text("node"), version: text("version"), digest: text("release") }
    }
}

/// Asks one node, on any thread.
pub struct Asker {
    pub name: String,
    pub(super) host: Host,
    pub(super) socket: PathBuf,
    pub(super) holdfast: PathBuf,
}

impl Asker {
    /// # Errors
    /// When the node does not answer.
    pub fn status(&self) -> Result<Value, FarmError> {
        let socket = self.socket.to_string_lossy();
        json(&self.holdfast, &self.host, &["--socket", &socket, "status", "--json"])
    }

    /// Rolls a release out. Returns its id.
    ///
    /// # Errors
    /// When it is refused, or does not come to an end.
    pub fn deploy(&self, folder: &Path, version: &str) -> Result<String, FarmError> {
        let (socket, folder) = (self.socket.to_string_lossy(), folder.to_string_lossy());
        let words = ["--socket", &socket, "deploy", &folder, "--version", version, "--json"];
        let told = json(&self.holdfast, &self.host, &words)?;
        let release = told["release"].as_str().map(str::to_owned);
        release.ok_or_else(|| FarmError::Answer { verb: "deploy".to_owned(), text: told.to_string() })
    }
}

pub(super) fn json(holdfast: &Path, host: &Host, words: &[&str]) -> Result<Value, FarmError> {
    let text = host.run(&holdfast.to_string_lossy(), words)?;
    serde_json::from_str(&text)
        .map_err(|_| FarmError::Answer { verb: words.first().copied().unwrap_or_default().to_owned(), text })
}
