//! Why a command was not carried out, in Redis's words: clients and their tests compare them.

use crate::command::INVALIDATION_WAIT_MAX;

/// A refused command. The text begins with the code that clients tell errors apart by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("ERR unknown command '{name}', with args beginning with: {args}")]
    Unknown { name: String, args: String },
    #[error("ERR unknown subcommand '{name}'. Try {command} HELP.")]
    UnknownSubcommand { command: &'static str, name: String },
    #[error("ERR wrong number of arguments for '{command}' command")]
    Arity { command: String },
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR decrement would overflow")]
    DecrementOverflow,
    #[error("ERR invalid expire time in '{command}' command")]
    BadExpire { command: &'static str },
    #[error("ERR NX and XX, GT or LT options at the same time are not compatible")]
    ExpireNxWithOthers,
    #[error("ERR GT and LT options at the same time are not compatible")]
    ExpireGtWithLt,
    #[error("ERR Unsupported option {option}")]
    ExpireOption { option: String },
    #[error("ERR invalid DB index")]
    BadDatabase,
    #[error("ERR DB index is out of range")]
    DatabaseOutOfRange,
    #[error("NOAUTH Authentication required.")]
    NoAuth,
    #[error(
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
    )]
    NoAuthHello,
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    WrongPassword,
    #[error("NOPROTO unsupported protocol version")]
    NoProto,
    #[error("ERR Protocol version is not an integer or out of range")]
    BadProto,
    #[error("ERR Client names cannot contain spaces, newlines or special characters.")]
    BadClientName,
    #[error("ERR Unrecognized option '{option}'")]
    ClientAttribute { option: String },
    #[error("ERR {what} is not supported by this version")]
    NotSupported { what: &'static str },
    #[error("ERR COMMAND takes at most {max} names")]
    TooManyNames { max: usize },
    #[error("ERR an invalidation names at most {max} keys")]
    TooManyKeys { max: usize },
    #[error("ERR WAIT takes at most {} ms", INVALIDATION_WAIT_MAX.as_millis())]
    WaitTooLong,
}
