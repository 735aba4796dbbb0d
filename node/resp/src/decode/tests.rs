use proptest::prelude::*;

use super::*;

fn all(bytes: &[u8]) -> (Vec<Decoded>, Option<ProtocolError>) {
    in_pieces(bytes, bytes.len().max(1), Bounds::AUTHENTICATED)
}

/// Feeds the bytes piece by piece, as a socket would.
fn in_pieces(bytes: &[u8], size: usize, bounds: Bounds) -> (Vec<Decoded>, Option<ProtocolError>) {
    let mut decoder = Decoder::new(bounds);
    let mut buffer = BytesMut::new();
    let mut decoded = Vec::new();
    for piece in bytes.chunks(size) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(one)) => decoded.push(one),
                Ok(None) => break,
                Err(error) => return (decoded, Some(error)),
            }
        }
    }
    (decoded, None)
}

fn request(words: &[&str]) -> Decoded {
    Decoded::Request(words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect())
}

fn encode(args: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[test]
fn pipelined_requests_come_out_in_order() {
    let (decoded, error) = all(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n*1\r\n$4\r\nPING\r\n");
    assert_eq!(decoded, [request(&["GET", "a"]), request(&["PING"]), request(&["PING"])]);
    assert_eq!(error, None);
}

#[test]
fn empty_lines_and_empty_arrays_are_no_requests() {
    assert_eq!(all(b"\r\n\n*0\r\n*-1\r\nPING\r\n"), (vec![request(&["PING"])], None));
}

#[test]
fn words_of_a_line_may_be_quoted() {
    let (decoded, _) = all(b"set  \"a b\\x41\\n\" 'it\\'s'\tplain\r\n");
    assert_eq!(decoded, [request(&["set", "a bA\n", "it's", "plain"])]);
    for line in [&b"get \"a\r\n"[..], b"get 'a\r\n", b"get \"a\"b\r\n"] {
        assert_eq!(all(line).1, Some(ProtocolError::UnbalancedQuotes));
    }
}

#[test]
fn what_is_no_request_is_told_apart() {
    for (bytes, expected) in [
        (&b"*x\r\n"[..], ProtocolError::ArrayLength),
        (b"*1\n$1\r\na\r\n", ProtocolError::ArrayLength),
        (b"*99999999999999999999\r\n", ProtocolError::ArrayLength),
        (b"*65537\r\n", ProtocolError::ArrayLength),
        (b"*11111111111111111111111111111111111111", ProtocolError::ArrayLength),
        (b"*1\r\n:1\r\n", ProtocolError::NoBulk { found: ':' }),
        (b"*1\r\n$-1\r\n", ProtocolError::BulkLength),
        (b"*1\r\n$536870913\r\n", ProtocolError::BulkLength),
        (b"*1\r\n$1\r\nabc", ProtocolError::BulkEnd),
        (b"GET / HTTP/1.1\r\n", ProtocolError::Http),
        (b"Host: 127.0.0.1\r\n", ProtocolError::Http),
    ] {
        assert_eq!(all(bytes), (vec![], Some(expected)), "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(all(&vec![b'a'; INLINE_BYTES_MAX]).1, Some(ProtocolError::InlineTooLong));
}

#[test]
fn a_line_that_begins_like_http_and_is_none_is_a_request() {
    assert_eq!(all(b"get key\r\n"), (vec![request(&["get", "key"])], None));
}

#[test]
fn a_request_that_is_too_large_is_skipped_and_the_next_is_read() {
    let bounds = Bounds { args_max: 10, bulk_bytes_max: 10, request_bytes_max: 25, skip_bytes_max: 1_000 };
    let one = encode(&[b"SET".to_vec(), b"k".to_vec(), vec![b'v'; 11], b"EX".to_vec()]);
    let all_together = encode(&[vec![b'a'; 10], vec![b'b'; 10], vec![b'c'; 10]]);
    let bytes = [one, all_together, b"PING\r\n".to_vec()].concat();
    for size in [1, 7, bytes.len()] {
        let (decoded, error) = in_pieces(&bytes, size, bounds);
        assert_eq!(decoded, [Decoded::TooLarge, Decoded::TooLarge, request(&["PING"])]);
        assert_eq!(error, None);
    }
}

#[test]
fn strangers_may_send_little() {
    let many = encode(&vec![b"a".to_vec(); 11]);
    assert_eq!(in_pieces(&many, 1_000, Bounds::STRANGER).1, Some(ProtocolError::ArrayLength));
    let long = encode(&[vec![b'a'; 16_385]]);
    assert_eq!(in_pieces(&long, 1_000, Bounds::STRANGER).1, Some(ProtocolError::BulkLength));
}

#[test]
fn a_count_alone_holds_no_memory() {
    let mut decoder = Decoder::new(Bounds::AUTHENTICATED);
    let mut buffer = BytesMut::from(&b"*65536\r\n$1048576\r\n"[..]);
    assert_eq!(decoder.next(&mut buffer), Ok(None));
    assert!(decoder.is_within(&buffer));
    assert!(buffer.capacity() < 1_024);
    assert_eq!(decoder.array.as_ref().unwrap().args.capacity(), 0);
}

proptest! {
    #[test]
    fn any_request_survives_any_cut(
        requests in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..5), 0..5),
        size in 1usize..40,
    ) {
        let bytes = requests.iter().map(|args| encode(args)).collect::<Vec<_>>().concat();
        let expected: Vec<Decoded> = requests
            .into_iter()
            .map(|args| Decoded::Request(args.into_iter().map(Bytes::from).collect()))
            .collect();
        prop_assert_eq!(in_pieces(&bytes, size, Bounds::AUTHENTICATED), (expected, None));
    }

    #[test]
    fn garbage_neither_panics_nor_depends_on_how_it_is_cut(
        bytes in prop::collection::vec(prop_oneof![
            4 => prop::sample::select(b"*$\r\n0123-\"' ab".to_vec()), 1 => any::<u8>(),
        ], 0..80),
        size in 1usize..20,
    ) {
        prop_assert_eq!(in_pieces(&bytes, size, Bounds::AUTHENTICATED), all(&bytes));
    }
}
