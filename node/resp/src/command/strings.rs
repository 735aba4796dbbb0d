//! Values: SET and its family, and what reads and deletes them.

use bytes::Bytes;
use proto::log::{Append, Condition, Deadline, Del, Exists, Get, Incr, Length, Set, op};

use super::expiry::{Unit, deadline_option};
use super::{Action, Context, Form, Shape, integer};
use crate::error::CommandError;

type Outcome = Result<Action, CommandError>;

pub(super) fn get(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    Action::one(context.op(&args[0], op::Kind::Get(Get {})), Form::Plain)
}

pub(super) fn getdel(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    Action::one(context.op(&args[0], op::Kind::Del(Del { get: true })), Form::Plain)
}

pub(super) fn strlen(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    Action::one(context.op(&args[0], op::Kind::Length(Length {})), Form::Plain)
}

pub(super) fn type_of(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    Action::one(context.op(&args[0], op::Kind::Exists(Exists {})), Form::Type)
}

pub(super) fn append(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let append = Append { value: args[1].clone() };
    Action::one(context.op(&args[0], op::Kind::Append(append)), Form::Plain)
}

pub(super) fn mget(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    Ok(each(context, args, &op::Kind::Get(Get {}), Shape::Array))
}

pub(super) fn del(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    Ok(each(context, args, &op::Kind::Del(Del { get: false }), Shape::Sum))
}

pub(super) fn exists(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    Ok(each(context, args, &op::Kind::Exists(Exists {}), Shape::Sum))
}

fn each(context: &Context<'_>, keys: &[Bytes], kind: &op::Kind, shape: Shape) -> Action {
    let ops = keys.iter().map(|key| context.op(key, kind.clone())).collect();
    Action::Store { ops, shape }
}

pub(super) fn mset(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let (pairs, odd) = args.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(CommandError::Arity { command: "mset".to_owned() });
    }
    let set = |value: &Bytes| op::Kind::Set(Set { value: value.clone(), ..Set::default() });
    let ops = pairs.iter().map(|[key, value]| context.op(key, set(value))).collect();
    Ok(Action::Store { ops, shape: Shape::AllStored })
}

/// `SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]`
pub(super) fn set(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let mut set = Set { value: args[1].clone(), ..Set::default() };
    let mut options = args[2..].iter();
    while let Some(option) = options.next() {
        let has = |word: &[u8]| option.eq_ignore_ascii_case(word);
        let untimed = set.deadline.is_none() && !set.keep_ttl;
        let unconditional = set.condition() == Condition::None;
        if has(b"NX") && unconditional {
            set.set_condition(Condition::Nx);
        } else if has(b"XX") && unconditional {
            set.set_condition(Condition::Xx);
        } else if has(b"GET") {
            set.get = true;
        } else if has(b"KEEPTTL") && untimed {
            set.keep_ttl = true;
        } else if let Some(unit) = Unit::option(option).filter(|_| untimed) {
            let time = options.next().ok_or(CommandError::Syntax)?;
            set.deadline = Some(deadline_option(unit, time, "set")?);
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Action::one(context.op(&args[0], op::Kind::Set(set)), Form::Plain)
}

pub(super) fn setnx(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let set = Set { value: args[1].clone(), condition: Condition::Nx.into(), ..Set::default() };
    Action::one(context.op(&args[0], op::Kind::Set(set)), Form::Flag)
}

pub(super) fn setex(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    set_for(context, args, deadline_option(Unit::Seconds, &args[1], "setex")?)
}

pub(super) fn psetex(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    set_for(context, args, deadline_option(Unit::Milliseconds, &args[1], "psetex")?)
}

fn set_for(context: &Context<'_>, args: &[Bytes], deadline: Deadline) -> Outcome {
    let set = Set { value: args[2].clone(), deadline: Some(deadline), ..Set::default() };
    Action::one(context.op(&args[0], op::Kind::Set(set)), Form::Plain)
}

pub(super) fn incr(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    count(context, &args[0], 1)
}

pub(super) fn decr(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    count(context, &args[0], -1)
}

pub(super) fn incrby(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    count(context, &args[0], integer(&args[1])?)
}

pub(super) fn decrby(context: &mut Context<'_>, args: &[Bytes]) -> Outcome {
    let by = integer(&args[1])?.checked_neg().ok_or(CommandError::DecrementOverflow)?;
    count(context, &args[0], by)
}

fn count(context: &Context<'_>, key: &Bytes, by: i64) -> Outcome {
    Action::one(context.op(key, op::Kind::Incr(Incr { by })), Form::Plain)
}
