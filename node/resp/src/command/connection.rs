//! The handshake, and what a client may say of itself.

use bytes::Bytes;

use super::{Action, Context, integer};
use crate::REDIS_VERSION;
use crate::client::{ATTRIBUTE_BYTES_MAX, Client, Login};
use crate::error::CommandError;
use crate::frame::{Frame, Protocol};

type Outcome = Result<Action, CommandError>;

/// Redis's number of databases, which libraries take for granted.
pub(super) const DATABASES: u8 = 16;

const DEFAULT_USER: &str = "default";

pub(super) fn ping(_: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    match args {
        [] => Action::answer(Frame::Simple("PONG")),
        [text] => Action::answer(Frame::Bulk(text.clone())),
        _ => Err(CommandError::Arity { command: "ping".to_owned() }),
    }
}

pub(super) fn echo(_: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    Action::answer(Frame::Bulk(args[0].clone()))
}

pub(super) fn quit(_: &mut Context<'_>, _: &[Bytes]) -> Outcome {
    Ok(Action::Close(Frame::OK))
}

/// Back to how the connection began.
pub(super) fn reset(context: &mut Context<'_>, _: &[Bytes]) -> Outcome {
    let client = &mut *context.client;
    client.protocol = Protocol::Resp2;
    client.database = 0;
    client.name = Bytes::new();
    client.login = default_login(context.accounts.default_keyspace());
    Action::answer(Frame::Simple("RESET"))
}

/// Who a client is before it says so.
pub(crate) fn default_login(keyspace: Option<String>) -> Option<Login> {
    keyspace.map(|keyspace| Login { user: DEFAULT_USER.to_owned(), keyspace })
}

pub(super) fn select(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let index = integer(&args[0]).map_err(|_| CommandError::BadDatabase)?;
    let database = u8::try_from(index).ok().filter(|index| *index < DATABASES);
    context.client.database = database.ok_or(CommandError::DatabaseOutOfRange)?;
    Action::answer(Frame::OK)
}

/// `AUTH [user] password`
pub(super) fn auth(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    match args {
        [password] => log_in(context, DEFAULT_USER.as_bytes(), password)?,
        [user, password] => log_in(context, user, password)?,
        _ => return Err(CommandError::Syntax),
    }
    Action::answer(Frame::OK)
}

fn log_in(context: &mut Context<'_>, user: &[u8], password: &[u8]) -> Result<(), CommandError> {
    let user = std::str::from_utf8(user).map_err(|_| CommandError::WrongPassword)?;
    let password = std::str::from_utf8(password).map_err(|_| CommandError::WrongPassword)?;
    let keyspace = context.accounts.authenticate(user, password).ok_or(CommandError::WrongPassword)?;
    context.client.login = Some(Login { user: user.to_owned(), keyspace });
    Ok(())
}

/// `HELLO [2 | 3 [AUTH user password] [SETNAME name]]`: nothing changes unless all of it can.
pub(super) fn hello(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let protocol = match args.first().map(integer) {
        None => context.client.protocol,
        Some(Ok(2)) => Protocol::Resp2,
        Some(Ok(3)) => Protocol::Resp3,
        Some(Ok(_)) => return Err(CommandError::NoProto),
        Some(Err(_)) => return Err(CommandError::BadProto),
    };
    let mut name = None;
    let mut rest = args.get(1..).unwrap_or_default();
    let mut credentials = None;
    loop {
        match rest {
            [] => break,
            [word, user, password, after @ ..] if word.eq_ignore_ascii_case(b"AUTH") => {
                credentials = Some((user, password));
                rest = after;
            }
            [word, given, after @ ..] if word.eq_ignore_ascii_case(b"SETNAME") => {
                name = Some(client_name(given)?);
                rest = after;
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    if let Some((user, password)) = credentials {
        log_in(context, user, password)?;
    }
    if context.client.login.is_none() {
        return Err(CommandError::NoAuthHello);
    }
    let client = &mut *context.client;
    client.protocol = protocol;
    if let Some(name) = name {
        client.name = name;
    }
    Action::answer(greeting(client))
}

fn greeting(client: &Client) -> Frame {
    let id = i64::try_from(client.id).unwrap_or(i64::MAX);
    Frame::Map(vec![
        (Frame::text("server"), Frame::text("redis")),
        (Frame::text("version"), Frame::text(REDIS_VERSION)),
        (Frame::text("proto"), Frame::Integer(client.protocol.number())),
        (Frame::text("id"), Frame::Integer(id)),
        (Frame::text("mode"), Frame::text("standalone")),
        (Frame::text("role"), Frame::text("master")),
        (Frame::text("modules"), Frame::Array(Vec::new())),
    ])
}

/// `CLIENT ID | INFO | LIST | GETNAME | SETNAME name | SETINFO attribute value | NO-EVICT .. | NO-TOUCH ..`
pub(super) fn client(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let subcommand = args[0].to_ascii_lowercase();
    let client = &mut *context.client;
    match (subcommand.as_slice(), &args[1..]) {
        (b"id", []) => Action::answer(Frame::Integer(i64::try_from(client.id).unwrap_or(i64::MAX))),
        (b"info", []) => Action::answer(Frame::Verbatim(format!("{}\n", client.describe()))),
        (b"list", []) => Action::answer(Frame::Verbatim(context.clients.describe_beside(client))),
        (b"getname", []) => Action::answer(match &client.name {
            name if name.is_empty() => Frame::Null,
            name => Frame::Bulk(name.clone()),
        }),
        (b"setname", [name]) => {
            client.name = client_name(name)?;
            Action::answer(Frame::OK)
        }
        (b"setinfo", [attribute, value]) => {
            let value = client_name(value)?;
            match attribute.to_ascii_lowercase().as_slice() {
                b"lib-name" => client.library_name = value,
                b"lib-ver" => client.library_version = value,
                _ => return Err(CommandError::ClientAttribute { option: super::excerpt(attribute) }),
            }
            Action::answer(Frame::OK)
        }
        // Nothing is ever evicted, and no key remembers when it was read last.
        (b"no-evict" | b"no-touch", [switch]) => match switch.to_ascii_lowercase().as_slice() {
            b"on" | b"off" => Action::answer(Frame::OK),
            _ => Err(CommandError::Syntax),
        },
        (
            known @ (b"id" | b"info" | b"list" | b"getname" | b"setname" | b"setinfo" | b"no-evict"
            | b"no-touch"),
            _,
        ) => {
            let known = String::from_utf8_lossy(known);
            Err(CommandError::Arity { command: format!("client|{known}") })
        }
        _ => Err(CommandError::UnknownSubcommand { command: "CLIENT", name: super::excerpt(&args[0]) }),
    }
}

/// What CLIENT LIST can show on one line, as one word.
fn client_name(name: &Bytes) -> Result<Bytes, CommandError> {
    let printable = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    if printable && name.len() <= ATTRIBUTE_BYTES_MAX {
        // A copy: the argument is a slice of all that was read with it.
        Ok(Bytes::copy_from_slice(name))
    } else {
        Err(CommandError::BadClientName)
    }
}
