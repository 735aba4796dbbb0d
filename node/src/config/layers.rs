//! Defaults < files < environment < flags, merged as tables.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{DEFAULT_PATH, keys};

/// Why the settings can not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can not read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{origin} is not TOML: {source}")]
    Syntax { origin: String, source: Box<toml::de::Error> },
    #[error("{origin}: unknown key {key}; did you mean {nearest}?")]
    UnknownKey { origin: String, key: String, nearest: String },
    #[error("{key}: {reason}")]
    Invalid { key: String, reason: String },
    #[error("a setting has the wrong kind of value: {source}")]
    Value { source: toml::de::Error },
    #[error("--set takes section.key=value, not {text:?}")]
    Set { text: String },
}

impl ConfigError {
    pub(super) fn invalid(key: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { key: key.to_owned(), reason: reason.into() }
    }

    pub(super) fn unsupported(key: &str, what: &str) -> Self {
        Self::invalid(key, format!("{what} is not supported by this version"))
    }

    /// Qualifies the suggestion by its section.
    pub(super) fn within(self, section: &str) -> Self {
        match self {
            Self::UnknownKey { origin, key, nearest } => {
                Self::UnknownKey { origin, key, nearest: format!("{section}.{nearest}") }
            }
            other @ (Self::Read { .. }
            | Self::Syntax { .. }
            | Self::Invalid { .. }
            | Self::Value { .. }
            | Self::Set { .. }) => other,
        }
    }
}

pub(super) fn merged(
    path: Option<&Path>,
    sets: &[String],
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Table, ConfigError> {
    let mut table = Table::new();
    for file in files(path)? {
        let text =
            fs::read_to_string(&file).map_err(|source| ConfigError::Read { path: file.clone(), source })?;
        let origin = file.display().to_string();
        let layer: Table = text
            .parse()
            .map_err(|source| ConfigError::Syntax { origin: origin.clone(), source: Box::new(source) })?;
        keys::check(&layer, &origin)?;
        merge(&mut table, layer);
    }
    for (name, value) in environment {
        if let Some((section, key)) = keys::from_variable(&name) {
            put(&mut table, section, key, parse_value(&value));
        }
    }
    for text in sets {
        let set = || ConfigError::Set { text: text.clone() };
        let (key, value) = text.split_once('=').ok_or_else(set)?;
        let (section, key) = key.split_once('.').ok_or_else(set)?;
        let mut layer = Table::new();
        put(&mut layer, section, key, parse_value(value));
        keys::check(&layer, "--set")?;
        merge(&mut table, layer);
    }
    Ok(table)
}

/// The main file, then `conf.d/*.toml` beside it in the order of their names.
fn files(path: Option<&Path>) -> Result<Vec<PathBuf>, ConfigError> {
    let (main, required) = path.map_or((Path::new(DEFAULT_PATH), false), |path| (path, true));
    let mut found = Vec::new();
    if required || main.exists() {
        found.push(main.to_owned());
    }
    let folder = main.with_file_name("conf.d");
    match fs::read_dir(&folder) {
        Ok(entries) => {
            let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            more.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
            more.sort();
            found.extend(more);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(ConfigError::Read { path: folder, source }),
    }
    Ok(found)
}

fn merge(base: &mut Table, layer: Table) {
    for (key, value) in layer {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn put(table: &mut Table, section: &str, key: &str, value: Value) {
    let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = inner {
        inner.insert(key.to_owned(), value);
    }
}

/// A value as TOML where it is some, else the text itself: nobody quotes a name in a variable.
fn parse_value(text: &str) -> Value {
    format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}
