//! What has arrived and is not decoded yet.
//!
//! Arguments are slices of the buffer that they were read into, and keep all of it alive. So a buffer is
//! filled before the next one is begun, or a request that comes in crumbs would hold a buffer for each
//! of its arguments; and one that grew for a large value is given back, or it would stay behind the few
//! bytes that are visible of it for as long as its client idles.

use bytes::BytesMut;

pub(super) const READ_BYTES: usize = 16 << 10;
/// A buffer with less room than this is left to the arguments that were read into it.
const ROOM_BYTES_MIN: usize = 4 << 10;
/// A buffer that grew beyond this for one large value is not kept.
const KEPT_BYTES_MAX: usize = 256 << 10;

#[derive(Default)]
pub(super) struct Input {
    pub(super) bytes: BytesMut,
    /// The most that this buffer could hold at any time: once its front has been taken, its own
    /// capacity tells of the rest alone.
    largest: usize,
}

impl Input {
    /// Makes room for the next read.
    pub(super) fn make_room(&mut self) {
        if self.largest > KEPT_BYTES_MAX && self.bytes.len() <= READ_BYTES {
            let mut fresh = BytesMut::with_capacity(self.bytes.len() + READ_BYTES);
            fresh.extend_from_slice(&self.bytes);
            *self = Self { bytes: fresh, largest: 0 };
        }
        if self.bytes.capacity() - self.bytes.len() < ROOM_BYTES_MIN {
            self.bytes.reserve(READ_BYTES);
        }
        self.largest = self.largest.max(self.bytes.capacity());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::decode::{Bounds, Decoded, Decoder};

    fn arrive(input: &mut Input, bytes: &[u8]) {
        for piece in bytes.chunks(ROOM_BYTES_MIN) {
            input.make_room();
            assert!(input.bytes.capacity() - input.bytes.len() >= piece.len());
            input.bytes.extend_from_slice(piece);
        }
    }

    #[test]
    fn a_buffer_that_grew_for_a_large_value_is_given_back() {
        for next in [&b""[..], b"*1\r\n$4\r\nPI"] {
            let (mut input, mut decoder) = (Input::default(), Decoder::new(Bounds::AUTHENTICATED));
            arrive(&mut input, b"*2\r\n$4\r\nECHO\r\n$1048576\r\n");
            arrive(&mut input, &vec![b'x'; 1 << 20]);
            arrive(&mut input, b"\r\n");
            arrive(&mut input, next);
            let request = decoder.next(&mut input.bytes);
            assert!(matches!(request, Ok(Some(Decoded::Request(_)))));
            drop(request);
            assert_eq!(decoder.next(&mut input.bytes), Ok(None));
            input.make_room();
            assert!(!input.bytes.try_reclaim(KEPT_BYTES_MAX), "the large buffer is still there");
        }
    }

    #[test]
    fn a_request_that_comes_in_crumbs_does_not_hold_a_buffer_for_each() {
        let (mut input, mut decoder) = (Input::default(), Decoder::new(Bounds::AUTHENTICATED));
        arrive(&mut input, b"*5000\r\n");
        assert_eq!(decoder.next(&mut input.bytes), Ok(None));
        let mut last = None;
        for _ in 0..5_000 {
            arrive(&mut input, b"$1\r\nx\r\n");
            last = decoder.next(&mut input.bytes).unwrap();
        }
        let Some(Decoded::Request(args)) = last else { panic!("no request") };
        // Those of one buffer are neighbours in it.
        let place = |arg: &Bytes| arg.as_ptr().addr();
        let buffers = args.windows(2).filter(|pair| place(&pair[0]).abs_diff(place(&pair[1])) != 7).count();
        let bytes = 5_000 * "$1\r\nx\r\n".len();
        assert!(buffers <= bytes / (READ_BYTES / 2), "{buffers} buffers for {bytes} bytes");
    }
}
