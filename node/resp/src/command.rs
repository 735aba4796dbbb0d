//! The commands: which there are, and what becomes of each.
//!
//! Every command is a row of [`TABLE`]: its name, how many arguments it takes, and the function that
//! turns them into an [`Action`]. COMMAND answers from the same rows, so that what a client is told and
//! what it gets can not differ. A command that is not here is unknown.

mod connection;
mod expiry;
mod introspection;
mod strings;
mod table;

use std::time::Duration;

use bytes::Bytes;
use proto::limits::INVALIDATION_KEYS_MAX;
use proto::log::{Op, Reply, op, reply};

use crate::client::{Client, Clients};
use crate::error::CommandError;
use crate::frame::Frame;
use crate::store::{Store, StoreInfo};

pub(crate) use connection::default_login;
use table::{Group, find};

/// Longer than any confirmation takes: a client that wants to wait for ever may ask again.
pub(crate) const INVALIDATION_WAIT_MAX: Duration = Duration::from_secs(60);

/// What a command asks of the connection.
#[derive(Debug)]
pub(crate) enum Action {
    /// Answered already.
    Answer(Frame),
    /// Answered, and the last of this connection.
    Close(Frame),
    Store {
        ops: Vec<Op>,
        shape: Shape,
    },
    Invalidate {
        keyspace: String,
        keys: Vec<Bytes>,
        wait: Option<Duration>,
    },
}

impl Action {
    fn one(op: Op, form: Form) -> Result<Self, CommandError> {
        Ok(Self::Store { ops: vec![op], shape: Shape::One(form) })
    }

    fn answer(frame: Frame) -> Result<Self, CommandError> {
        Ok(Self::Answer(frame))
    }
}

/// How the replies of a command's operations become its answer. An error among several is the answer:
/// clients do not look for one inside an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    One(Form),
    Array,
    Sum,
    AllStored,
}

/// How one reply reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// Milliseconds, told in seconds.
    Seconds,
    /// Whether something was stored, as 1 or 0.
    Flag,
    /// Whether there is a key, as the name of its type.
    Type,
}

impl Shape {
    /// The answer, from one reply for each operation.
    pub(crate) fn fold(self, replies: Vec<Reply>) -> Frame {
        let form = if let Self::One(form) = self { form } else { Form::Plain };
        let mut frames: Vec<Frame> = Vec::with_capacity(replies.len());
        for reply in replies {
            match form.frame(reply) {
                error @ Frame::Error(_) => return error,
                frame @ (Frame::Simple(_)
                | Frame::Integer(_)
                | Frame::Bulk(_)
                | Frame::Verbatim(_)
                | Frame::Null
                | Frame::Array(_)
                | Frame::Map(_)
                | Frame::Prepared(_)) => frames.push(frame),
            }
        }
        match self {
            Self::One(_) => frames.pop().unwrap_or(Frame::Null),
            Self::Array => Frame::Array(frames),
            Self::Sum => Frame::Integer(frames.iter().map(count).sum()),
            Self::AllStored => Frame::OK,
        }
    }
}

fn count(frame: &Frame) -> i64 {
    if let Frame::Integer(number) = frame { *number } else { 0 }
}

impl Form {
    fn frame(self, reply: Reply) -> Frame {
        match (self, reply.kind) {
            (_, Some(reply::Kind::Error(text))) => Frame::Error(text),
            (Self::Seconds, Some(reply::Kind::Integer(ms))) if ms >= 0 => {
                // Rounded as Redis rounds; what is below 0 is no time.
                Frame::Integer(ms.saturating_add(500) / 1_000)
            }
            (Self::Flag, Some(reply::Kind::Stored(_))) => Frame::Integer(1),
            (Self::Flag, Some(reply::Kind::Nil(_))) => Frame::Integer(0),
            (Self::Type, Some(reply::Kind::Integer(there))) => {
                Frame::Simple(if there == 0 { "none" } else { "string" })
            }
            (_, Some(reply::Kind::Value(value))) => Frame::Bulk(value.value),
            (_, Some(reply::Kind::Integer(number))) => Frame::Integer(number),
            (_, Some(reply::Kind::Nil(_))) => Frame::Null,
            (_, Some(reply::Kind::Stored(_))) => Frame::OK,
            (_, Some(reply::Kind::Mismatch(_)) | None) => {
                Frame::Error("ERR the store gave an answer that this command does not know".to_owned())
            }
        }
    }
}

/// What commands may look at and change.
pub(crate) struct Context<'a> {
    pub(crate) client: &'a mut Client,
    pub(crate) clients: &'a Clients,
    pub(crate) accounts: &'a dyn Accounts,
    pub(crate) clients_max: usize,
    /// Set when the command may have changed `client`.
    pub(crate) client_changed: bool,
}

/// The part of [`Store`] that answers at once.
pub(crate) trait Accounts {
    fn authenticate(&self, user: &str, password: &str) -> Option<String>;
    fn default_keyspace(&self) -> Option<String>;
    fn info(&self) -> StoreInfo;
}

impl<S: Store> Accounts for S {
    fn authenticate(&self, user: &str, password: &str) -> Option<String> {
        Store::authenticate(self, user, password)
    }

    fn default_keyspace(&self) -> Option<String> {
        Store::default_keyspace(self)
    }

    fn info(&self) -> StoreInfo {
        Store::info(self)
    }
}

impl Context<'_> {
    fn op(&self, key: &Bytes, kind: op::Kind) -> Op {
        Op { keyspace: self.client.keyspace(), key: key.clone(), kind: Some(kind) }
    }
}

/// Carries out what can be carried out here, and says what is left.
pub(crate) fn run(context: &mut Context<'_>, args: &[Bytes]) -> Result<Action, CommandError> {
    let Some((name, rest)) = args.split_first() else {
        return Err(CommandError::Syntax);
    };
    let command = find(name).ok_or_else(|| unknown(name, rest))?;
    // Before the arguments are counted, as Redis: a stranger learns nothing.
    if context.client.login.is_none() && !command.for_strangers {
        return Err(CommandError::NoAuth);
    }
    let fits = match usize::try_from(command.arity) {
        Ok(exactly) => args.len() == exactly,
        Err(_) => args.len() >= usize::from(command.arity.unsigned_abs()),
    };
    if !fits {
        return Err(CommandError::Arity { command: command.name.to_owned() });
    }
    context.client_changed = command.group == Group::Connection;
    (command.run)(context, rest)
}

/// The first 128 bytes of name and arguments, as Redis shows them.
fn unknown(name: &Bytes, rest: &[Bytes]) -> CommandError {
    let mut args = String::new();
    for arg in rest {
        if args.len() >= 128 {
            break;
        }
        args.push_str(&format!("'{}' ", excerpt(arg)));
    }
    CommandError::Unknown { name: excerpt(name), args }
}

fn excerpt(bytes: &Bytes) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(128)]).into_owned()
}

/// `INVALIDATE KEY k ... [WAIT ms]`, which Redis does not have.
///
/// The words are keywords where one is due, and keys where a key is: the first after KEY is always a
/// key, and WAIT counts only as the last word but one.
fn invalidate(context: &mut Context<'_>, args: &[Bytes]) -> Result<Action, CommandError> {
    let (args, wait) = match args {
        [front @ .., word, ms] if front.len() >= 2 && word.eq_ignore_ascii_case(b"WAIT") => {
            (front, Some(wait_time(ms)?))
        }
        _ => (args, None),
    };
    let mut keys = Vec::new();
    let mut key_is_due = false;
    for arg in args {
        let word = |keyword: &[u8]| !key_is_due && arg.eq_ignore_ascii_case(keyword);
        if word(b"PREFIX") || word(b"TAG") {
            return Err(CommandError::NotSupported { what: "invalidation by prefix or tag" });
        } else if word(b"KEY") {
            key_is_due = true;
        } else if keys.is_empty() && !key_is_due {
            return Err(CommandError::Syntax);
        } else {
            keys.push(arg.clone());
            key_is_due = false;
        }
    }
    if keys.is_empty() || key_is_due {
        return Err(CommandError::Syntax);
    }
    if keys.len() > INVALIDATION_KEYS_MAX {
        return Err(CommandError::TooManyKeys { max: INVALIDATION_KEYS_MAX });
    }
    // Of the app, not of one of its databases: caches know keys, as Redis's own tracking has it.
    let keyspace = context.client.login.as_ref().map_or_else(String::new, |login| login.keyspace.clone());
    Ok(Action::Invalidate { keyspace, keys, wait })
}

fn wait_time(ms: &Bytes) -> Result<Duration, CommandError> {
    let ms = u64::try_from(integer(ms)?).map_err(|_| CommandError::NotInteger)?;
    let wait = Duration::from_millis(ms);
    if wait > INVALIDATION_WAIT_MAX { Err(CommandError::WaitTooLong) } else { Ok(wait) }
}

fn integer(arg: &Bytes) -> Result<i64, CommandError> {
    let text = std::str::from_utf8(arg).map_err(|_| CommandError::NotInteger)?;
    if text.starts_with('+') {
        return Err(CommandError::NotInteger);
    }
    text.parse().map_err(|_| CommandError::NotInteger)
}

#[cfg(test)]
mod tests;
