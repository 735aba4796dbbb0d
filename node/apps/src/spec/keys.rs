//! Which keys there are, which come later, and which one was meant by a mistyped one.

use toml::{Table, Value};

use super::SpecError;

/// The keys of one table.
struct Keys {
    /// With dots, as `[health]`'s `startup` is a table of its own.
    table: &'static str,
    known: &'static [&'static str],
    /// Of the documented format, but not of this version.
    later: &'static [&'static str],
}

const fn keys(table: &'static str, known: &'static [&'static str], later: &'static [&'static str]) -> Keys {
    Keys { table, known, later }
}

const TABLES: &[Keys] = &[
    keys(
        "",
        &["app", "run", "env", "health", "stop", "limits", "restart", "rollout", "route", "keep"],
        &["build", "secrets", "release", "job", "static", "place"],
    ),
    keys("app", &["name"], &[]),
    keys("run", &["command", "instances", "workdir"], &["user"]),
    keys("health", &["startup", "ready"], &["live"]),
    keys("health.startup", &["path", "timeout"], &[]),
    keys("health.ready", &["path", "interval", "timeout", "rise", "fall"], &[]),
    keys("stop", &["signal", "drain", "grace"], &[]),
    keys("limits", &["nofile"], &["memory", "cpu", "pids"]),
    keys("restart", &["backoff"], &["crashloop"]),
    keys(
        "rollout",
        &["deadline", "max_unavailable"],
        &["strategy", "canary", "bake", "on_failure", "max_error_ratio"],
    ),
    keys("route", &["hosts", "path", "policy", "timeout", "retries"], &["sticky"]),
    keys("keep", &["releases"], &[]),
];

/// `[env]`'s keys are the app's own.
const FREE: &str = "env";

/// Refuses the first key that means nothing here.
pub(super) fn check(root: &Table) -> Result<(), SpecError> {
    check_table("", root)
}

/// Goes as deep as [`TABLES`] does, not as deep as the text.
fn check_table(name: &str, table: &Table) -> Result<(), SpecError> {
    let Some(keys) = TABLES.iter().find(|keys| keys.table == name) else { return Ok(()) };
    for (key, value) in table {
        let path = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        if keys.later.contains(&key.as_str()) {
            return Err(SpecError::NotSupported { what: title(name, key) });
        }
        if !keys.known.contains(&key.as_str()) {
            return Err(SpecError::UnknownKey {
                table: name.to_owned(),
                key: key.chars().take(80).collect(),
                nearest: nearest(key, keys),
            });
        }
        let is_table = path == FREE || TABLES.iter().any(|keys| keys.table == path);
        match value {
            Value::Table(inner) if is_table && path != FREE => check_table(&path, inner)?,
            Value::Table(_) if is_table => {}
            Value::Table(_) => return Err(SpecError::invalid(&path, "is a value, not a table")),
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => {
                if is_table {
                    return Err(SpecError::invalid(&path, "is a table, not a value"));
                }
            }
        }
    }
    Ok(())
}

fn title(table: &str, key: &str) -> String {
    match (table, key) {
        ("", "job") => "[[job]]".to_owned(),
        ("", key) => format!("[{key}]"),
        (table, key) => format!("{table}.{key}"),
    }
}

fn nearest(key: &str, keys: &Keys) -> String {
    let candidates = keys.known.iter().chain(keys.later);
    candidates
        .min_by_key(|known| strsim::damerau_levenshtein(known, key))
        .copied()
        .unwrap_or_default()
        .to_owned()
}
