//! What is answered, in either version of the protocol.
//!
//! RESP2 knows five types, RESP3 says more with more: a map is an array of pairs in RESP2, a verbatim
//! text a bulk string, and null a bulk string of length -1
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use bytes::{BufMut as _, Bytes, BytesMut};

/// The version that a connection speaks: 2 until HELLO says 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

impl Protocol {
    pub fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Simple(&'static str),
    /// The code first. Line ends, which would end the frame, become spaces.
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    /// Text for people.
    Verbatim(String),
    Null,
    Array(Vec<Frame>),
    Map(Vec<(Frame, Frame)>),
    /// One that is always the same, and was encoded before.
    Prepared(&'static Prepared),
}

/// A large answer that does not change, in each version of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    resp2: Bytes,
    resp3: Bytes,
}

impl Prepared {
    pub fn new(frame: &Frame) -> Self {
        let encoded = |protocol| {
            let mut out = BytesMut::new();
            frame.encode(protocol, &mut out);
            out.freeze()
        };
        Self { resp2: encoded(Protocol::Resp2), resp3: encoded(Protocol::Resp3) }
    }
}

impl Frame {
    pub const OK: Self = Self::Simple("OK");

    pub fn text(text: impl Into<String>) -> Self {
        Self::Bulk(Bytes::from(text.into()))
    }

    pub fn array(frames: impl IntoIterator<Item = Self>) -> Self {
        Self::Array(frames.into_iter().collect())
    }

    /// About how many bytes this holds or becomes, whichever is more: no frame is written in more bytes
    /// than its own and those behind it.
    pub fn weight(&self) -> usize {
        let behind = match self {
            Self::Simple(_) | Self::Integer(_) | Self::Null => 0,
            Self::Error(text) | Self::Verbatim(text) => text.len(),
            Self::Bulk(bytes) => bytes.len(),
            Self::Array(frames) => frames.iter().map(Self::weight).sum(),
            Self::Map(pairs) => pairs.iter().map(|(key, value)| key.weight() + value.weight()).sum(),
            Self::Prepared(prepared) => prepared.resp2.len().max(prepared.resp3.len()),
        };
        size_of::<Self>() + behind
    }

    pub fn encode(&self, protocol: Protocol, out: &mut BytesMut) {
        match self {
            Self::Simple(text) => line(out, b'+', text.as_bytes()),
            Self::Error(text) => {
                let on_one_line: String =
                    text.chars().map(|c| if matches!(c, '\r' | '\n') { ' ' } else { c }).collect();
                line(out, b'-', on_one_line.as_bytes());
            }
            Self::Integer(number) => line(out, b':', number.to_string().as_bytes()),
            Self::Bulk(bytes) => bulk(out, b'$', bytes),
            Self::Verbatim(text) => match protocol {
                Protocol::Resp2 => bulk(out, b'$', text.as_bytes()),
                Protocol::Resp3 => bulk(out, b'=', format!("txt:{text}").as_bytes()),
            },
            Self::Null => out.put_slice(match protocol {
                Protocol::Resp2 => b"$-1\r\n",
                Protocol::Resp3 => b"_\r\n",
            }),
            Self::Array(frames) => {
                header(out, b'*', frames.len());
                frames.iter().for_each(|frame| frame.encode(protocol, out));
            }
            Self::Map(pairs) => {
                match protocol {
                    Protocol::Resp2 => header(out, b'*', pairs.len() * 2),
                    Protocol::Resp3 => header(out, b'%', pairs.len()),
                }
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
            Self::Prepared(prepared) => out.put_slice(match protocol {
                Protocol::Resp2 => &prepared.resp2,
                Protocol::Resp3 => &prepared.resp3,
            }),
        }
    }
}

fn line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.put_u8(kind);
    out.put_slice(text);
    out.put_slice(b"\r\n");
}

fn header(out: &mut BytesMut, kind: u8, count: usize) {
    line(out, kind, count.to_string().as_bytes());
}

fn bulk(out: &mut BytesMut, kind: u8, bytes: &[u8]) {
    header(out, kind, bytes.len());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(frame: &Frame, protocol: Protocol) -> Vec<u8> {
        let mut out = BytesMut::new();
        frame.encode(protocol, &mut out);
        out.to_vec()
    }

    #[test]
    fn each_version_says_null_and_maps_its_own_way() {
        let map = Frame::Map(vec![(Frame::text("a"), Frame::Null)]);
        assert_eq!(encoded(&map, Protocol::Resp2), b"*2\r\n$1\r\na\r\n$-1\r\n");
        assert_eq!(encoded(&map, Protocol::Resp3), b"%1\r\n$1\r\na\r\n_\r\n");
        let text = Frame::Verbatim("hi".to_owned());
        assert_eq!(encoded(&text, Protocol::Resp2), b"$2\r\nhi\r\n");
        assert_eq!(encoded(&text, Protocol::Resp3), b"=6\r\ntxt:hi\r\n");
    }

    #[test]
    fn an_error_stays_on_its_line() {
        let error = Frame::Error("ERR a\r\n+OK".to_owned());
        assert_eq!(encoded(&error, Protocol::Resp2), b"-ERR a  +OK\r\n");
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let leaf = prop_oneof![
            Just(Frame::OK),
            any::<i64>().prop_map(Frame::Integer),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Frame::Bulk(bytes.into())),
            "[a-z]{0,9}".prop_map(Frame::Verbatim),
            "ERR [a-z\r\n]{0,9}".prop_map(Frame::Error),
            Just(Frame::Null),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Frame::Array),
                prop::collection::vec((inner.clone(), inner), 0..4).prop_map(Frame::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_is_written_that_was_not_weighed(frame in any_frame(), resp3 in any::<bool>()) {
            let protocol = if resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
            let bytes = encoded(&frame, protocol).len();
            prop_assert!(bytes <= frame.weight(), "{bytes} of {frame:?}");
        }

        #[test]
        fn a_stock_client_reads_whatever_is_written(frame in any_frame(), resp3 in any::<bool>()) {
            let protocol = if resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
            let bytes = encoded(&frame, protocol);
            let read = redis::parse_redis_value(&bytes);
            prop_assert!(read.is_ok() || matches!(frame, Frame::Error(_)), "{read:?} of {bytes:?}");
        }
    }
}
