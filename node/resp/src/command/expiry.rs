//! Deadlines: how long a key stays, and what is left of it.
//!
//! A time from now on travels as such and becomes a deadline where the log's entry gets its clock: a
//! node whose clock is off must not shorten anybody's session.

use bytes::Bytes;
use proto::log::{Deadline, Expire, Get, Ttl, deadline, op};

use super::{Action, Context, Form, integer};
use crate::error::CommandError;

type Outcome = Result<Action, CommandError>;

/// What a number of a command means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    UnixSeconds,
    UnixMilliseconds,
}

impl Unit {
    /// By the option of SET and GETEX.
    pub(super) fn option(word: &[u8]) -> Option<Self> {
        let options: [(&[u8], Self); 4] = [
            (b"EX", Self::Seconds),
            (b"PX", Self::Milliseconds),
            (b"EXAT", Self::UnixSeconds),
            (b"PXAT", Self::UnixMilliseconds),
        ];
        options.into_iter().find(|(option, _)| word.eq_ignore_ascii_case(option)).map(|(_, unit)| unit)
    }

    /// The number in milliseconds, if Redis could count them.
    fn ms(self, number: i64) -> Option<i64> {
        match self {
            Self::Seconds | Self::UnixSeconds => number.checked_mul(1_000),
            Self::Milliseconds | Self::UnixMilliseconds => Some(number),
        }
    }

    /// The deadline that is so many milliseconds away. One that has passed is at 0, and deletes.
    fn deadline(self, ms: i64) -> Deadline {
        let at = match (self, u64::try_from(ms)) {
            (Self::Seconds | Self::Milliseconds, Ok(ms @ 1..)) => deadline::At::AfterMs(ms),
            (Self::UnixSeconds | Self::UnixMilliseconds, Ok(ms)) => deadline::At::AbsoluteMs(ms),
            (Self::Seconds | Self::Milliseconds, Ok(0) | Err(_))
            | (Self::UnixSeconds | Self::UnixMilliseconds, Err(_)) => deadline::At::AbsoluteMs(0),
        };
        Deadline { at: Some(at) }
    }
}

/// The deadline of a command that stores: a time that has passed is a mistake there.
pub(super) fn deadline_option(
    unit: Unit,
    number: &Bytes,
    command: &'static str,
) -> Result<Deadline, CommandError> {
    let ms = unit.ms(integer(number)?).filter(|ms| *ms > 0);
    Ok(unit.deadline(ms.ok_or(CommandError::BadExpire { command })?))
}

pub(super) fn expire(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    set_deadline(context, args, Unit::Seconds, "expire")
}

pub(super) fn pexpire(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    set_deadline(context, args, Unit::Milliseconds, "pexpire")
}

pub(super) fn expireat(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    set_deadline(context, args, Unit::UnixSeconds, "expireat")
}

pub(super) fn pexpireat(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    set_deadline(context, args, Unit::UnixMilliseconds, "pexpireat")
}

/// `EXPIRE key time [NX | XX | GT | LT]`
fn set_deadline(context: &Context<'_>, args: &[Bytes], unit: Unit, command: &'static str) -> Outcome {
    let mut expire = Expire::default();
    for option in &args[2..] {
        let has = |word: &[u8]| option.eq_ignore_ascii_case(word);
        let flag = if has(b"NX") {
            &mut expire.if_none
        } else if has(b"XX") {
            &mut expire.if_some
        } else if has(b"GT") {
            &mut expire.if_later
        } else if has(b"LT") {
            &mut expire.if_sooner
        } else {
            return Err(CommandError::ExpireOption { option: super::excerpt(option) });
        };
        *flag = true;
    }
    if expire.if_none && (expire.if_some || expire.if_later || expire.if_sooner) {
        return Err(CommandError::ExpireNxWithOthers);
    }
    if expire.if_later && expire.if_sooner {
        return Err(CommandError::ExpireGtWithLt);
    }
    let ms = unit.ms(integer(&args[1])?).ok_or(CommandError::BadExpire { command })?;
    expire.deadline = Some(unit.deadline(ms));
    Action::one(context.op(&args[0], op::Kind::Expire(expire)), Form::Plain)
}

pub(super) fn persist(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    Action::one(context.op(&args[0], op::Kind::Expire(Expire::default())), Form::Plain)
}

/// `GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]`; without an option it is GET.
pub(super) fn getex(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let deadline = match &args[1..] {
        [] => return Action::one(context.op(&args[0], op::Kind::Get(Get {})), Form::Plain),
        [option] if option.eq_ignore_ascii_case(b"PERSIST") => None,
        [option, time] => {
            let unit = Unit::option(option).ok_or(CommandError::Syntax)?;
            Some(deadline_option(unit, time, "getex")?)
        }
        _ => return Err(CommandError::Syntax),
    };
    let expire = Expire { deadline, get: true, ..Expire::default() };
    Action::one(context.op(&args[0], op::Kind::Expire(expire)), Form::Plain)
}

pub(super) fn ttl(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    time_left(context, args, false, Form::Seconds)
}

pub(super) fn pttl(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    time_left(context, args, false, Form::Plain)
}

pub(super) fn expiretime(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    time_left(context, args, true, Form::Seconds)
}

pub(super) fn pexpiretime(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    time_left(context, args, true, Form::Plain)
}

fn time_left(context: &Context<'_>, args: &[Bytes], absolute: bool, form: Form) -> Outcome {
    Action::one(context.op(&args[0], op::Kind::Ttl(Ttl { absolute })), form)
}
