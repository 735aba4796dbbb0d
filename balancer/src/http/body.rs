//! Bodies: where they end.

use bytes::{Buf as _, Bytes, BytesMut};

use super::Framing;

/// A chunk's size line with its extensions, which nobody uses.
const SIZE_LINE_MAX: usize = 1 << 10;
/// All trailers of a body.
const TRAILER_BYTES_MAX: usize = 16 << 10;

/// Why a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunks of the body make no sense")]
pub struct BodyError;

/// What the front of the buffer was.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A piece of the body.
    Data(Bytes),
    /// More bytes are needed.
    More,
    /// The body is over.
    End,
}

/// Takes one body off a buffer, piece by piece.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
}

#[derive(Debug)]
enum State {
    Length(u64),
    Close,
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers { bytes: usize },
    Done,
}

impl BodyDecoder {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::Close => State::Close,
        };
        Self { state }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the end of the connection is the end of the body.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::Close | State::Done)
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// When the chunks make no sense; nothing after that can be trusted.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            match &mut self.state {
                State::Done => return Ok(Decoded::End),
                _ if buffer.is_empty() => return Ok(Decoded::More),
                State::Close => return Ok(Decoded::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::Chunk(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.state = State::ChunkEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::Size => match line(buffer, SIZE_LINE_MAX)? {
                    None => return Ok(Decoded::More),
                    Some(text) => {
                        self.state = match chunk_size(&text)? {
                            0 => State::Trailers { bytes: 0 },
                            size => State::Chunk(size),
                        }
                    }
                },
                State::ChunkEnd => match line(buffer, 2)? {
                    None => return Ok(Decoded::More),
                    Some(text) if text.is_empty() => self.state = State::Size,
                    Some(_) => return Err(BodyError),
                },
                // Trailers are read past, not sent on: nothing that this proxy serves over HTTP/1.1
                // uses them, and each is one more way to smuggle a header.
                State::Trailers { bytes } => match line(buffer, TRAILER_BYTES_MAX - *bytes)? {
                    None => return Ok(Decoded::More),
                    Some(text) if text.is_empty() => self.state = State::Done,
                    Some(text) => *bytes += text.len() + 2,
                },
            }
        }
    }
}

fn take(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= count as u64;
    buffer.split_to(count).freeze()
}

/// A line without its end, which must be CRLF, of at most `max` bytes with it.
fn line(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, BodyError> {
    let window = &buffer[..buffer.len().min(max)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(at) if at > 0 && window[at - 1] == b'\r' => {
            let text = buffer.split_to(at - 1).freeze();
            buffer.advance(2);
            Ok(Some(text))
        }
        Some(_) => Err(BodyError),
        None if buffer.len() >= max => Err(BodyError),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let digits = &line[..end];
    // Sixteen digits are more than any disk holds.
    if digits.is_empty() || digits.len() > 15 || line[end..].iter().any(|byte| byte.is_ascii_control()) {
        return Err(BodyError);
    }
    digits.iter().try_fold(0u64, |size, digit| {
        let value = char::from(*digit).to_digit(16).ok_or(BodyError)?;
        Ok(size * 16 + u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, Vec<u8>), BodyError> {
        let mut decoder = BodyDecoder::new(framing);
        let (mut body, mut buffer) = (Vec::new(), BytesMut::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Decoded::Data(data) = decoder.decode(&mut buffer)? {
                body.extend_from_slice(&data);
            }
        }
        Ok((body, decoder.is_done(), buffer.to_vec()))
    }

    const CHUNKED: &[u8] = b"5\r\nhello\r\n6;ext=\"x\"\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\nNEXT";

    #[test]
    fn chunks_are_joined_and_what_follows_is_left() {
        let (body, done, rest) = whole(Framing::Chunked, &[CHUNKED]).unwrap();
        assert_eq!((&body[..], done, &rest[..]), (&b"hello world"[..], true, &b"NEXT"[..]));
    }

    #[test]
    fn chunks_that_make_no_sense_are_refused() {
        let table: &[&[u8]] = &[
            b"5\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"\r\nhello\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n",
            b"ffffffffffffffff\r\n",
            b"-1\r\n",
            b"5;a\x01b\r\nhello\r\n",
        ];
        for text in table {
            assert!(whole(Framing::Chunked, &[text]).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
        let endless = vec![b'1'; SIZE_LINE_MAX + 1];
        assert!(whole(Framing::Chunked, &[&endless]).is_err());
        let trailers = [&b"0\r\n"[..], &b"X: y\r\n".repeat(TRAILER_BYTES_MAX / 6 + 2)].concat();
        assert!(whole(Framing::Chunked, &[&trailers]).is_err());
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_the_same_body(cuts in proptest::collection::vec(0usize..CHUNKED.len(), 0..8)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&CHUNKED[from..cut]);
                from = cut;
            }
            pieces.push(&CHUNKED[from..]);
            let (body, done, rest) = whole(Framing::Chunked, &pieces).unwrap();
            prop_assert_eq!((&body[..], done, &rest[..]), (&b"hello world"[..], true, &b"NEXT"[..]));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _any = whole(Framing::Chunked, &[&bytes]);
        }

        #[test]
        fn a_body_of_a_length_ends_there(length in 0u64..50, sent in 0usize..80) {
            let bytes = vec![7; sent];
            let (body, done, rest) = whole(Framing::Length(length), &[&bytes]).unwrap();
            prop_assert_eq!(body.len() as u64, length.min(sent as u64));
            prop_assert_eq!(done, sent as u64 >= length);
            prop_assert_eq!(body.len() + rest.len(), sent);
        }
    }
}
