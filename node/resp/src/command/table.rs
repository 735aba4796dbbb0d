//! The rows, in the order of their names.

use bytes::Bytes;

use super::{Action, Context, connection, expiry, introspection, invalidate, strings};
use crate::error::CommandError;

/// One command.
pub(crate) struct Command {
    /// In lower case.
    pub(crate) name: &'static str,
    /// Arguments with the name; at least so many when negative, as COMMAND tells it.
    pub(crate) arity: i8,
    pub(crate) group: Group,
    /// First key, last key (from the end when negative) and step, as COMMAND tells it; zeros for none.
    pub(crate) keys: (i8, i8, i8),
    /// Whether it is answered before AUTH.
    pub(crate) for_strangers: bool,
    pub(crate) run: fn(&mut Context<'_>, &[Bytes]) -> Result<Action, CommandError>,
}

/// What kind of command it is, for COMMAND's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Read,
    Write,
    /// Needs memory: refused when the store is full.
    Store,
    Connection,
    Server,
}

impl Group {
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Read => &["readonly", "fast"],
            Self::Write => &["write", "fast"],
            Self::Store => &["write", "denyoom", "fast"],
            Self::Connection => &["noscript", "loading", "stale", "fast"],
            Self::Server => &["loading", "stale"],
        }
    }
}

type Run = fn(&mut Context<'_>, &[Bytes]) -> Result<Action, CommandError>;

const fn keyed(name: &'static str, arity: i8, group: Group, run: Run) -> Command {
    Command { name, arity, group, keys: (1, 1, 1), for_strangers: false, run }
}

const fn many_keys(name: &'static str, arity: i8, group: Group, step: i8, run: Run) -> Command {
    Command { name, arity, group, keys: (1, -1, step), for_strangers: false, run }
}

const fn keyless(name: &'static str, arity: i8, group: Group, run: Run) -> Command {
    Command { name, arity, group, keys: (0, 0, 0), for_strangers: false, run }
}

const fn for_strangers(name: &'static str, arity: i8, run: Run) -> Command {
    Command { name, arity, group: Group::Connection, keys: (0, 0, 0), for_strangers: true, run }
}

pub(crate) const TABLE: &[Command] = &[
    keyed("append", 3, Group::Store, strings::append),
    for_strangers("auth", -2, connection::auth),
    keyless("client", -2, Group::Connection, connection::client),
    keyless("command", -1, Group::Server, introspection::command),
    keyless("config", -2, Group::Server, introspection::config),
    keyed("decr", 2, Group::Store, strings::decr),
    keyed("decrby", 3, Group::Store, strings::decrby),
    many_keys("del", -2, Group::Write, 1, strings::del),
    keyless("echo", 2, Group::Connection, connection::echo),
    many_keys("exists", -2, Group::Read, 1, strings::exists),
    keyed("expire", -3, Group::Write, expiry::expire),
    keyed("expireat", -3, Group::Write, expiry::expireat),
    keyed("expiretime", 2, Group::Read, expiry::expiretime),
    keyed("get", 2, Group::Read, strings::get),
    keyed("getdel", 2, Group::Write, strings::getdel),
    keyed("getex", -2, Group::Write, expiry::getex),
    for_strangers("hello", -1, connection::hello),
    keyed("incr", 2, Group::Store, strings::incr),
    keyed("incrby", 3, Group::Store, strings::incrby),
    keyless("info", -1, Group::Server, introspection::info),
    keyless("invalidate", -3, Group::Server, invalidate),
    many_keys("mget", -2, Group::Read, 1, strings::mget),
    many_keys("mset", -3, Group::Store, 2, strings::mset),
    keyed("persist", 2, Group::Write, expiry::persist),
    keyed("pexpire", -3, Group::Write, expiry::pexpire),
    keyed("pexpireat", -3, Group::Write, expiry::pexpireat),
    keyed("pexpiretime", 2, Group::Read, expiry::pexpiretime),
    keyless("ping", -1, Group::Connection, connection::ping),
    keyed("psetex", 4, Group::Store, strings::psetex),
    keyed("pttl", 2, Group::Read, expiry::pttl),
    for_strangers("quit", -1, connection::quit),
    for_strangers("reset", 1, connection::reset),
    keyless("select", 2, Group::Connection, connection::select),
    keyed("set", -3, Group::Store, strings::set),
    keyed("setex", 4, Group::Store, strings::setex),
    keyed("setnx", 3, Group::Store, strings::setnx),
    keyed("strlen", 2, Group::Read, strings::strlen),
    keyless("time", 1, Group::Server, introspection::time),
    keyed("ttl", 2, Group::Read, expiry::ttl),
    keyed("type", 2, Group::Read, strings::type_of),
    many_keys("unlink", -2, Group::Write, 1, strings::del),
];

/// The command of a name, in whatever case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Command> {
    let place =
        TABLE.binary_search_by(|command| command.name.bytes().cmp(name.iter().map(u8::to_ascii_lowercase)));
    Some(&TABLE[place.ok()?])
}
