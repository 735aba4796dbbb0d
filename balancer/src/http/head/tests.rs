use proptest::prelude::*;

use super::*;

fn request(text: &str) -> Result<Option<RequestHead>, HeadError> {
    RequestHead::take(&mut BytesMut::from(text))
}

fn refused(text: &str) -> HeadError {
    request(text).expect_err(text)
}

#[test]
fn a_request_is_read_as_it_is() {
    let head = request("GET /a?b=%20c HTTP/1.1\r\nHost: Shop.Example:80\r\nX: 1\r\n\r\n").unwrap().unwrap();
    assert_eq!(head.method(), b"GET");
    assert_eq!(head.target(), b"/a?b=%20c");
    assert_eq!(head.host(), b"Shop.Example:80");
    assert_eq!(head.framing, Framing::None);
    assert!(head.keeps_alive() && head.is_idempotent());
}

#[test]
fn what_two_parsers_could_understand_differently_is_refused() {
    let table = [
        ("GET / HTTP/1.1\nHost: a\n\n", HeadError::Syntax),
        ("GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", HeadError::Syntax),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", HeadError::Syntax),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", HeadError::Syntax),
        ("GET / HTTP/1.1\r\n\r\n", HeadError::Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", HeadError::Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", HeadError::Host),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", HeadError::Host),
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", HeadError::Syntax),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Method),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            HeadError::Framing,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", HeadError::Framing),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", HeadError::Framing),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", HeadError::Framing),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", HeadError::Framing),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", HeadError::Framing),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", HeadError::Framing),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", HeadError::Framing),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", HeadError::Framing),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", HeadError::Framing),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            HeadError::Framing,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", HeadError::Coding),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::Framing),
        ("\0\0\0\0\r\n\r\n", HeadError::Syntax),
    ];
    for (text, error) in table {
        assert_eq!(refused(text), error, "{text:?}");
    }
}

#[test]
fn a_head_that_does_not_end_is_refused_at_the_bound() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(refused(&long), HeadError::TooLarge);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(HEADERS_MAX));
    assert_eq!(refused(&many), HeadError::TooLarge);
}

#[test]
fn an_answer_whose_end_is_ambiguous_is_refused() {
    let table = [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 1\n\n",
        "HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\n\r\n",
        "HTTP/1.1 099 Odd\r\nContent-Length: 1\r\n\r\n",
    ];
    for text in table {
        assert!(ResponseHead::take(&mut BytesMut::from(text), false).is_err(), "{text:?}");
    }
}

#[test]
fn a_response_without_a_body_is_known_by_its_status_and_request() {
    let framing =
        |text: &str, head| ResponseHead::take(&mut BytesMut::from(text), head).unwrap().unwrap().framing;
    assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true), Framing::None);
    assert_eq!(framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false), Framing::None);
    assert_eq!(framing("HTTP/1.1 204 No Content\r\n\r\n", false), Framing::None);
    assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n", false), Framing::Close);
    assert_eq!(framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false), Framing::Chunked);
}

proptest! {
    #[test]
    fn a_head_that_comes_in_pieces_is_the_same(cuts in proptest::collection::vec(0usize..90, 0..6)) {
        let text = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX-Y: z\r\n\r\nabc";
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        let (mut buffer, mut from, mut found) = (BytesMut::new(), 0, None);
        for cut in cuts {
            buffer.extend_from_slice(&text.as_bytes()[from..cut]);
            from = cut;
            if found.is_none() {
                found = RequestHead::take(&mut buffer).unwrap();
            }
        }
        let head = found.expect("the head is whole");
        prop_assert_eq!(head.framing, Framing::Length(3));
        let last = head.headers.iter().last().unwrap();
        prop_assert_eq!((last.name, last.value), (&b"X-Y"[..], &b"z"[..]));
        prop_assert_eq!(&buffer[..], b"abc");
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _any = RequestHead::take(&mut BytesMut::from(&bytes[..]));
        let _any = ResponseHead::take(&mut BytesMut::from(&bytes[..]), false);
    }
}
