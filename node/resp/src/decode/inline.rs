//! Requests as lines of words, for people with telnet and for probes that send `PING`.
//!
//! Words are quoted as Redis's `sdssplitargs` has it: within double quotes `\n \r \t \b \a \xHH` and
//! any escaped byte, within single quotes `\'` alone; a closing quote ends its word.

use bytes::{Bytes, BytesMut};

use super::ProtocolError;

/// The words of the next line, when it is complete; none for an empty line.
pub(super) fn next(buffer: &mut BytesMut, max: usize) -> Result<Option<Vec<Bytes>>, ProtocolError> {
    let seen = &buffer[..buffer.len().min(max)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if seen.len() == max { Err(ProtocolError::InlineTooLong) } else { Ok(None) };
    };
    let line = buffer.split_to(end + 1);
    let line = &line[..end];
    let words = split(line.strip_suffix(b"\r").unwrap_or(line)).ok_or(ProtocolError::UnbalancedQuotes)?;
    let is_http = words.first().is_some_and(|word| {
        [&b"post"[..], b"get", b"put", b"head", b"options", b"host:"]
            .iter()
            .any(|verb| word.eq_ignore_ascii_case(verb))
    }) && (words[0].ends_with(b":")
        || words.last().is_some_and(|word| word.starts_with(b"HTTP/")));
    if is_http { Err(ProtocolError::Http) } else { Ok(Some(words)) }
}

fn split(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let (word, after) = word(rest)?;
        words.push(Bytes::from(word));
        rest = after.trim_ascii_start();
    }
    Some(words)
}

fn word(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        match rest {
            [] => return Some((word, rest)),
            [byte, ..] if byte.is_ascii_whitespace() => return Some((word, rest)),
            [quote @ (b'"' | b'\''), after @ ..] => {
                let after = quoted(*quote, after, &mut word)?;
                let ends = after.first().is_none_or(u8::is_ascii_whitespace);
                return ends.then_some((word, after));
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

/// Reads up to the closing quote; what follows it, or nothing where there is none.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, after) = match rest {
            [] => return None,
            [byte, after @ ..] if *byte == quote => return Some(after),
            [b'\\', b'\'', after @ ..] if quote == b'\'' => (b'\'', after),
            [b'\\', b'x', high, low, after @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), after)
            }
            [b'\\', escaped, after @ ..] if quote == b'"' => (unescape(*escaped), after),
            [byte, after @ ..] => (*byte, after),
        };
        word.push(byte);
        rest = after;
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
