//! What the server tells of itself: INFO, COMMAND, CONFIG GET, TIME.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use proto::limits::VALUE_BYTES_MAX;

use super::connection::DATABASES;
use super::table::{Command, TABLE};
use super::{Action, Context, find};
use crate::REDIS_VERSION;
use crate::error::CommandError;
use crate::frame::{Frame, Prepared};

type Outcome = Result<Action, CommandError>;

pub(super) fn time(_: &mut Context<'_>, _: &[Bytes]) -> Outcome {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Action::answer(Frame::array([
        Frame::text(now.as_secs().to_string()),
        Frame::text(now.subsec_micros().to_string()),
    ]))
}

/// `INFO [section ...]`
pub(super) fn info(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let wanted = |section: &str| {
        args.is_empty()
            || args.iter().any(|arg| {
                let arg = arg.to_ascii_lowercase();
                [&b"default"[..], b"all", b"everything"].contains(&arg.as_slice())
                    || arg == section.to_ascii_lowercase().as_bytes()
            })
    };
    let sections = sections(context);
    let shown = sections.into_iter().filter(|(name, _)| wanted(name)).map(|(name, lines)| {
        let lines: String = lines.into_iter().map(|(key, value)| format!("{key}:{value}\r\n")).collect();
        format!("# {name}\r\n{lines}")
    });
    Action::answer(Frame::Verbatim(shown.collect::<Vec<_>>().join("\r\n")))
}

type Lines = Vec<(&'static str, String)>;

fn sections(context: &Context<'_>) -> Vec<(&'static str, Lines)> {
    let store = context.accounts.info();
    let server = vec![
        ("redis_version", REDIS_VERSION.to_owned()),
        ("redis_mode", "standalone".to_owned()),
        ("holdfast_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("process_id", std::process::id().to_string()),
        ("tcp_port", context.client.local.port().to_string()),
    ];
    let clients = vec![
        ("connected_clients", context.clients.count().to_string()),
        ("maxclients", context.clients_max.to_string()),
    ];
    let memory = vec![
        ("used_memory", store.used_bytes.to_string()),
        ("maxmemory", store.max_bytes.to_string()),
        ("maxmemory_policy", "noeviction".to_owned()),
    ];
    // A client that looks for a primary finds one at every agent: each takes reads and writes.
    let replication = vec![("role", "master".to_owned()), ("connected_slaves", "0".to_owned())];
    vec![
        ("Server", server),
        ("Clients", clients),
        ("Memory", memory),
        ("Replication", replication),
        ("Cluster", vec![("cluster_enabled", "0".to_owned())]),
        ("Holdfast", store.holdfast),
    ]
}

/// Names that COMMAND answers about at once: more than Redis has commands. Each answer is some fifty
/// times its name, and nothing keeps a client from naming one ten thousand times.
pub(crate) const COMMAND_NAMES_MAX: usize = 512;

/// Libraries ask for the whole table when they connect, pools of them often.
static ALL: LazyLock<Prepared> = LazyLock::new(|| Prepared::new(&Frame::array(TABLE.iter().map(describe))));
static ALL_DOCS: LazyLock<Prepared> =
    LazyLock::new(|| Prepared::new(&Frame::Map(TABLE.iter().map(documented).collect())));

/// `COMMAND [COUNT | INFO [name ...] | DOCS [name ...]]`
pub(super) fn command(_: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let Some((subcommand, names)) = args.split_first() else {
        return Action::answer(Frame::Prepared(&ALL));
    };
    if names.len() > COMMAND_NAMES_MAX {
        return Err(CommandError::TooManyNames { max: COMMAND_NAMES_MAX });
    }
    match subcommand.to_ascii_lowercase().as_slice() {
        b"count" if names.is_empty() => {
            Action::answer(Frame::Integer(i64::try_from(TABLE.len()).unwrap_or(i64::MAX)))
        }
        b"info" if names.is_empty() => Action::answer(Frame::Prepared(&ALL)),
        b"info" => {
            let rows = names.iter().map(|name| find(name).map_or(Frame::Null, describe));
            Action::answer(Frame::array(rows))
        }
        b"docs" if names.is_empty() => Action::answer(Frame::Prepared(&ALL_DOCS)),
        b"docs" => {
            let known = names.iter().filter_map(|name| find(name));
            Action::answer(Frame::Map(known.map(documented).collect()))
        }
        _ => Err(CommandError::UnknownSubcommand { command: "COMMAND", name: super::excerpt(subcommand) }),
    }
}

/// Name, arity, flags, keys, and the four lists that newer clients look for and may find empty.
fn describe(command: &Command) -> Frame {
    let (first, last, step) = command.keys;
    let numbers = [first, last, step].map(|number| Frame::Integer(number.into()));
    let flags = command.group.flags().iter().copied().map(Frame::Simple);
    let head = [Frame::text(command.name), Frame::Integer(command.arity.into()), Frame::array(flags)];
    let tail = std::iter::repeat_n(Frame::Array(Vec::new()), 4);
    Frame::array(head.into_iter().chain(numbers).chain(tail))
}

fn documented(command: &Command) -> (Frame, Frame) {
    let group = format!("{:?}", command.group).to_ascii_lowercase();
    (Frame::text(command.name), Frame::Map(vec![(Frame::text("group"), Frame::text(group))]))
}

/// `CONFIG GET pattern ...`: the settings that libraries look at. None can be set here.
pub(super) fn config(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    if !args[0].eq_ignore_ascii_case(b"GET") {
        return Err(CommandError::UnknownSubcommand { command: "CONFIG", name: super::excerpt(&args[0]) });
    }
    if args.len() < 2 {
        return Err(CommandError::Arity { command: "config|get".to_owned() });
    }
    let settings = [
        ("appendonly", "yes".to_owned()),
        ("databases", DATABASES.to_string()),
        ("maxclients", context.clients_max.to_string()),
        ("maxmemory", context.accounts.info().max_bytes.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("notify-keyspace-events", String::new()),
        ("proto-max-bulk-len", VALUE_BYTES_MAX.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ];
    let asked = |name: &str| args[1..].iter().any(|pattern| matches(pattern, name.as_bytes()));
    let found = settings.into_iter().filter(|(name, _)| asked(name));
    Action::answer(Frame::Map(found.map(|(name, value)| (Frame::text(name), Frame::text(value))).collect()))
}

/// A glob of `*` and `?`. Greedy with one step back, so that no pattern takes more than the product of
/// both lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut pattern_at) = (0, 0);
    // Where the last `*` stands, and how far it reaches so far.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(pattern_at) {
            Some(b'*') => {
                star = Some((pattern_at, at));
                pattern_at += 1;
            }
            Some(byte) if *byte == b'?' || byte.eq_ignore_ascii_case(&text[at]) => {
                pattern_at += 1;
                at += 1;
            }
            Some(_) | None => match star {
                None => return false,
                Some((place, reach)) => {
                    star = Some((place, reach + 1));
                    pattern_at = place + 1;
                    at = reach + 1;
                }
            },
        }
    }
    pattern[pattern_at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_pattern_matches_as_a_glob_does() {
        for (pattern, text, expected) in [
            ("save", "save", true),
            ("SAVE", "save", true),
            ("sav", "save", false),
            ("max*", "maxmemory-policy", true),
            ("*policy", "maxmemory-policy", true),
            ("*m*m*y", "maxmemory", true),
            ("s?ve", "save", true),
            ("*", "", true),
            ("?", "", false),
            ("*x", "save", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
