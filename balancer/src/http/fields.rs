//! The headers of one head: where they are, and which of them mean something to a proxy.
//!
//! Every name is looked up once, when the head is parsed. What asks later (framing, Host, what to drop)
//! compares a byte instead of walking over names again.

use std::ops::Range;

use bytes::Bytes;

/// What a header is to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Upgrade,
    Expect,
    ForwardedFor,
    ForwardedProto,
    ForwardedHost,
    /// Says where a request came from in a way that this proxy does not write: RFC 7239's `Forwarded`,
    /// or X-Forwarded-* with underscores, which CGI's successors (WSGI, Rack) take for the real ones.
    OtherOrigin,
    /// Names the instance that a peer's request is for. Only agents say it to each other.
    Instance,
    /// Marks an answer of the owner's agent, not of the instance: nothing was executed.
    Refused,
    /// Marks an answer of the owner's agent, not of the instance: it got none.
    Failed,
    /// Another one that is about the connection (RFC 9110, 7.6.1).
    HopByHop,
    /// `Connection` may not take it away: without it a request would say something else.
    Kept,
    Other,
}

pub const INSTANCE: &str = "holdfast-instance";
pub const REFUSED: &str = "holdfast-refused";
pub const FAILED: &str = "holdfast-failed";

const MEANINGS: &[(&str, Meaning)] = &[
    ("host", Meaning::Host),
    ("connection", Meaning::Connection),
    ("content-length", Meaning::ContentLength),
    ("transfer-encoding", Meaning::TransferEncoding),
    ("upgrade", Meaning::Upgrade),
    ("expect", Meaning::Expect),
    ("x-forwarded-for", Meaning::ForwardedFor),
    ("x-forwarded-proto", Meaning::ForwardedProto),
    ("x-forwarded-host", Meaning::ForwardedHost),
    ("forwarded", Meaning::OtherOrigin),
    (INSTANCE, Meaning::Instance),
    (REFUSED, Meaning::Refused),
    (FAILED, Meaning::Failed),
    ("keep-alive", Meaning::HopByHop),
    ("proxy-connection", Meaning::HopByHop),
    ("proxy-authenticate", Meaning::HopByHop),
    ("proxy-authorization", Meaning::HopByHop),
    ("te", Meaning::HopByHop),
    ("trailer", Meaning::HopByHop),
    ("authorization", Meaning::Kept),
    ("cookie", Meaning::Kept),
];

impl Meaning {
    fn of(name: &[u8]) -> Self {
        for (known, meaning) in MEANINGS {
            if name.eq_ignore_ascii_case(known.as_bytes()) {
                return *meaning;
            }
        }
        if is_origin_in_disguise(name) { Self::OtherOrigin } else { Self::Other }
    }
}

fn is_origin_in_disguise(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    let same =
        |(byte, known): (&u8, &u8)| byte.eq_ignore_ascii_case(known) || (*byte == b'_' && *known == b'-');
    name.len() > PREFIX.len() && name.contains(&b'_') && name.iter().zip(PREFIX).all(same)
}

/// A part's place in a head. Heads are far smaller than 4 GiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where a part that was parsed out of `whole` is in it.
    pub fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr() as usize - whole.as_ptr() as usize;
        let at = |place: usize| u32::try_from(place).expect("a head is bounded by 64 KiB");
        Self { start: at(start), end: at(start + part.len()) }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Debug, Clone, Copy)]
struct Field {
    meaning: Meaning,
    name: Span,
    value: Span,
}

/// The headers of a head, in order, as they came.
#[derive(Debug, Clone)]
pub struct Headers {
    raw: Bytes,
    fields: Vec<Field>,
}

/// One header.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    pub meaning: Meaning,
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl Headers {
    pub fn new(raw: &Bytes, parsed: &[httparse::Header<'_>]) -> Self {
        let field = |header: &httparse::Header<'_>| Field {
            meaning: Meaning::of(header.name.as_bytes()),
            name: Span::of(raw, header.name.as_bytes()),
            value: Span::of(raw, header.value),
        };
        Self { raw: raw.clone(), fields: parsed.iter().map(field).collect() }
    }

    pub fn iter(&self) -> impl Iterator<Item = Header<'_>> {
        self.fields.iter().map(|field| Header {
            meaning: field.meaning,
            name: self.part(field.name),
            value: self.part(field.value),
        })
    }

    pub fn part(&self, span: Span) -> &[u8] {
        &self.raw[span.range()]
    }

    pub fn values(&self, meaning: Meaning) -> impl Iterator<Item = &[u8]> {
        self.spans(meaning).map(|span| self.part(span))
    }

    pub fn spans(&self, meaning: Meaning) -> impl Iterator<Item = Span> {
        self.fields.iter().filter(move |field| field.meaning == meaning).map(|field| field.value)
    }

    pub fn value(&self, meaning: Meaning) -> Option<&[u8]> {
        self.values(meaning).next()
    }

    /// Whether a comma-separated list header has this token.
    pub fn lists(&self, meaning: Meaning, token: &str) -> bool {
        self.values(meaning).flat_map(tokens).any(|known| known.eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// The members of a comma-separated list, trimmed, empty ones left out.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_the_same_in_any_case() {
        assert_eq!(Meaning::of(b"hOST"), Meaning::Host);
        assert_eq!(Meaning::of(b"Holdfast-Instance"), Meaning::Instance);
        assert_eq!(Meaning::of(b"X-Forwarded-Port"), Meaning::Other);
        assert_eq!(Meaning::of(b"Hosts"), Meaning::Other);
    }

    #[test]
    fn an_origin_with_underscores_is_seen_through() {
        for name in ["X_Forwarded_For", "x-forwarded_proto", "X_FORWARDED-HOST"] {
            assert_eq!(Meaning::of(name.as_bytes()), Meaning::OtherOrigin, "{name}");
        }
        assert_eq!(Meaning::of(b"x_forwarder_"), Meaning::Other);
        assert_eq!(Meaning::of(b"my_header"), Meaning::Other);
    }
}
