//! What is sent on: heads rewritten, bodies framed anew.
//!
//! Headers about one connection end here (RFC 9110, 7.6.1), with those that `Connection` names, but
//! never the ones that others rely on to know where a request came from. Everything else goes on byte
//! for byte and in order.

use std::io::Write as _;
use std::net::IpAddr;

use super::fields::{FAILED, Header, INSTANCE, REFUSED, tokens};
use super::head::{Framing, RequestHead, ResponseHead};
use super::{Headers, Meaning};

/// Where a request came from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// As it is written into X-Forwarded-For.
    client: String,
    /// Whether its X-Forwarded-* headers are believed.
    trusted: bool,
}

impl Origin {
    /// An IPv4 client of a dual-stack listener is written as the IPv4 address that it is.
    pub fn new(client: IpAddr, trusted_proxies: &[IpAddr]) -> Self {
        let client = client.to_canonical();
        let trusted = trusted_proxies.iter().any(|proxy| proxy.to_canonical() == client);
        Self { client: client.to_string(), trusted }
    }
}

/// To whom a request's head is written.
#[derive(Debug, Clone, Copy)]
pub enum Next<'a> {
    Instance,
    /// The agent that owns this instance. `expects`: the body waits until the agent says that it takes
    /// the request, so that a refusal costs the body nothing.
    Owner {
        instance: &'a str,
        expects: bool,
    },
}

/// Writes a request's head. `origin` is `None` on the owner's side, where it has been written already.
pub fn request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    framing: Framing,
    origin: Option<&Origin>,
    next: Next<'_>,
) {
    write(out, &[head.method(), b" ", head.target(), b" HTTP/1.1\r\n"]);
    for header in passing(&head.headers) {
        // Written below. What a stranger says of an origin in other words is not passed on as if it
        // were true.
        let is_own = matches!(
            header.meaning,
            Meaning::ForwardedFor | Meaning::ForwardedProto | Meaning::ForwardedHost
        );
        let ends_here = origin
            .is_some_and(|origin| is_own || (header.meaning == Meaning::OtherOrigin && !origin.trusted));
        if !ends_here {
            field(out, header.name, header.value);
        }
    }
    // HTTP/1.0 may leave it out, HTTP/1.1 may not (RFC 9112, 3.2).
    if head.headers.value(Meaning::Host).is_none() {
        field(out, b"Host", b"");
    }
    if let Some(origin) = origin {
        forwarded(out, head, origin);
    }
    if let Some(protocol) = head.upgrade() {
        field(out, b"Connection", b"Upgrade");
        field(out, b"Upgrade", protocol);
    }
    if let Next::Owner { instance, expects } = next {
        field(out, INSTANCE.as_bytes(), instance.as_bytes());
        if expects {
            field(out, b"Expect", b"100-continue");
        }
    }
    // A method that has a body by nature says that it has none, as some servers insist.
    if framing == Framing::None && matches!(head.method(), b"POST" | b"PUT" | b"PATCH") {
        field(out, b"Content-Length", b"0");
    }
    write_framing(out, framing);
    out.extend_from_slice(b"\r\n");
}

fn forwarded(out: &mut Vec<u8>, head: &RequestHead, origin: &Origin) {
    let believed = |meaning| head.headers.value(meaning).filter(|_| origin.trusted);
    write(out, &[b"X-Forwarded-For: "]);
    if origin.trusted {
        for value in head.headers.values(Meaning::ForwardedFor) {
            write(out, &[value, b", "]);
        }
    }
    write(out, &[origin.client.as_bytes(), b"\r\n"]);
    field(out, b"X-Forwarded-Proto", believed(Meaning::ForwardedProto).unwrap_or(b"http"));
    let host = believed(Meaning::ForwardedHost).unwrap_or(head.host());
    if !host.is_empty() {
        field(out, b"X-Forwarded-Host", host);
    }
}

/// Writes a response's head for a client.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead, framing: Framing, closes: bool) {
    write(out, &[b"HTTP/1.1 "]);
    number(out, format_args!("{}", head.status));
    write(out, &[b" ", head.reason(), b"\r\n"]);
    for header in passing(&head.headers) {
        field(out, header.name, header.value);
    }
    if head.status == 101 {
        field(out, b"Connection", b"Upgrade");
        if let Some(protocol) = head.headers.value(Meaning::Upgrade) {
            field(out, b"Upgrade", protocol);
        }
    } else if closes && head.status >= 200 {
        field(out, b"Connection", b"close");
    }
    // The length that an answer to HEAD would have, or of a 304, is a fact worth passing on.
    if framing == Framing::None
        && head.status >= 200
        && head.status != 204
        && let Some(length) = head.headers.value(Meaning::ContentLength)
    {
        field(out, b"Content-Length", length);
    } else {
        write_framing(out, framing);
    }
    out.extend_from_slice(b"\r\n");
}

/// What one agent tells another with an answer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Nothing was executed.
    Refused,
    /// It may have been executed; the word says what failed.
    Failed(&'static str),
}

/// An answer of this proxy's own.
#[derive(Debug, Clone, Copy)]
pub struct OwnResponse<'a> {
    pub status: u16,
    /// One line for a person.
    pub text: &'a str,
    pub closes: bool,
    /// To a HEAD request: without the body.
    pub is_head: bool,
    pub mark: Option<Mark>,
}

pub fn own_response(out: &mut Vec<u8>, answer: OwnResponse<'_>) {
    write(out, &[b"HTTP/1.1 "]);
    number(out, format_args!("{} {}", answer.status, reason(answer.status)));
    write(out, &[b"\r\n"]);
    field(out, b"Content-Type", b"text/plain; charset=utf-8");
    field(out, b"Cache-Control", b"no-store");
    if answer.status == 503 {
        field(out, b"Retry-After", b"1");
    }
    match answer.mark {
        Some(Mark::Refused) => field(out, REFUSED.as_bytes(), b"1"),
        Some(Mark::Failed(what)) => field(out, FAILED.as_bytes(), what.as_bytes()),
        None => {}
    }
    if answer.closes {
        field(out, b"Connection", b"close");
    }
    write_framing(out, Framing::Length(answer.text.len() as u64 + 1));
    write(out, &[b"\r\n"]);
    if !answer.is_head {
        write(out, &[answer.text.as_bytes(), b"\n"]);
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}

/// One piece of a body in the framing that was announced.
pub fn body_piece(out: &mut Vec<u8>, framing: Framing, data: &[u8]) {
    if framing == Framing::Chunked {
        number(out, format_args!("{:x}", data.len()));
        write(out, &[b"\r\n", data, b"\r\n"]);
    } else {
        out.extend_from_slice(data);
    }
}

/// The end of a body.
pub fn body_end(out: &mut Vec<u8>, framing: Framing) {
    if framing == Framing::Chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

/// The headers that go on as they are.
fn passing(headers: &Headers) -> impl Iterator<Item = Header<'_>> {
    headers.iter().filter(|header| match header.meaning {
        Meaning::Host
        | Meaning::ForwardedFor
        | Meaning::ForwardedProto
        | Meaning::ForwardedHost
        | Meaning::Kept => true,
        Meaning::Other | Meaning::OtherOrigin => !is_named_by_connection(headers, header.name),
        // Framing is written anew, and Expect is answered here.
        Meaning::Connection
        | Meaning::ContentLength
        | Meaning::TransferEncoding
        | Meaning::Upgrade
        | Meaning::Expect
        | Meaning::Instance
        | Meaning::Refused
        | Meaning::Failed
        | Meaning::HopByHop => false,
    })
}

fn is_named_by_connection(headers: &Headers, name: &[u8]) -> bool {
    headers.values(Meaning::Connection).flat_map(tokens).any(|token| token.eq_ignore_ascii_case(name))
}

fn write_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::Close => {}
        Framing::Length(length) => {
            write(out, &[b"Content-Length: "]);
            number(out, format_args!("{length}\r\n"));
        }
        Framing::Chunked => field(out, b"Transfer-Encoding", b"chunked"),
    }
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    write(out, &[name, b": ", value, b"\r\n"]);
}

fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn number(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes everything");
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::http::{BodyDecoder, Decoded};

    fn rewritten(text: &str, origin: Option<&Origin>) -> String {
        let head = RequestHead::take(&mut BytesMut::from(text)).unwrap().unwrap();
        let mut out = Vec::new();
        request(&mut out, &head, head.framing, origin, Next::Instance);
        String::from_utf8(out).unwrap()
    }

    fn client(trusted: &[&str]) -> Origin {
        let trusted: Vec<IpAddr> = trusted.iter().map(|address| address.parse().unwrap()).collect();
        Origin::new("::ffff:192.0.2.9".parse().unwrap(), &trusted)
    }

    #[test]
    fn headers_of_the_connection_end_here_and_nothing_else_does() {
        let out = rewritten(
            "GET /a HTTP/1.1\r\nHost: A\r\nConnection: keep-alive, X-Secret, Host, Cookie\r\nX-Secret: 1\r\n\
             Keep-Alive: 5\r\nTE: trailers\r\nCookie: c\r\nholdfast-instance: shop/1\r\nX-Other: 2\r\n\r\n",
            None,
        );
        assert_eq!(out, "GET /a HTTP/1.1\r\nHost: A\r\nCookie: c\r\nX-Other: 2\r\n\r\n");
    }

    #[test]
    fn a_stranger_can_not_say_where_a_request_came_from() {
        let text = "GET / HTTP/1.1\r\nHost: A\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\n\
             X_Forwarded_For: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\n\r\n";
        let out = rewritten(text, Some(&client(&[])));
        assert!(out.contains("X-Forwarded-For: 192.0.2.9\r\n"), "{out}");
        assert!(
            out.contains("X-Forwarded-Proto: http\r\n") && out.contains("X-Forwarded-Host: A\r\n"),
            "{out}"
        );
        assert!(!out.contains("1.1.1.1"), "{out}");
        let out = rewritten(text, Some(&client(&["192.0.2.9"])));
        assert!(out.contains("X-Forwarded-For: 1.1.1.1, 192.0.2.9\r\n"), "{out}");
        assert!(out.contains("X-Forwarded-Proto: https\r\n"), "{out}");
    }

    #[test]
    fn a_switch_to_another_http_is_not_asked_for() {
        for (protocol, asked) in [("websocket", true), ("h2c", false), ("websocket, HTTP/2.0", false)] {
            let text = format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\n\
                 HTTP2-Settings: x\r\n\r\n"
            );
            let out = rewritten(&text, None);
            assert_eq!(out.contains("Upgrade"), asked, "{out}");
            assert!(!out.contains("HTTP2"), "{out}");
        }
    }

    #[test]
    fn an_own_answer_to_head_has_no_body() {
        let answer = OwnResponse { status: 503, text: "no", closes: false, is_head: true, mark: None };
        let mut out = Vec::new();
        own_response(&mut out, answer);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("Content-Length: 3\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }

    #[test]
    fn an_instance_can_not_forge_the_agents_mark() {
        let text =
            "HTTP/1.1 503 No\r\nHoldfast-Refused: 1\r\nholdfast-failed: x\r\nContent-Length: 2\r\n\r\nno";
        let head = ResponseHead::take(&mut BytesMut::from(text), false).unwrap().unwrap();
        let mut out = Vec::new();
        response(&mut out, &head, head.framing, false);
        assert_eq!(String::from_utf8(out).unwrap(), "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n");
    }

    fn any_headers() -> impl Strategy<Value = Vec<(String, String)>> {
        // None of them is about the connection.
        let header = ("x-[a-e]{1,8}", "[!-~]([ -~]{0,20}[!-~])?");
        proptest::collection::vec(header, 0..20)
    }

    fn passed(headers: &Headers) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let others = headers.iter().filter(|header| header.meaning == Meaning::Other);
        others.map(|header| (text(header.name), text(header.value))).collect()
    }

    proptest! {
        #[test]
        fn a_request_that_is_sent_on_is_the_same_request(
            method in "GET|PUT|POST|DELETE|PURGE",
            target in "/[!-~]{0,40}",
            headers in any_headers(),
            length in proptest::option::of(1u64..1_000_000),
        ) {
            let mut text = format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n");
            for (name, value) in &headers {
                text += &format!("{name}: {value}\r\n");
            }
            text += &length.map_or(String::new(), |length| format!("Content-Length: {length}\r\n"));
            text += "\r\n";
            let out = rewritten(&text, Some(&client(&[])));
            let mut buffer = BytesMut::from(&*out);
            let head = RequestHead::take(&mut buffer).unwrap().unwrap();
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(head.method(), method.as_bytes());
            prop_assert_eq!(head.target(), target.as_bytes());
            prop_assert_eq!(head.host(), b"a.example");
            prop_assert_eq!(head.framing, length.map_or(Framing::None, Framing::Length));
            prop_assert_eq!(passed(&head.headers), headers);
        }

        #[test]
        fn an_answer_that_is_sent_on_is_the_same_answer(
            status in prop_oneof![Just(200u16), Just(404), Just(503), 200u16..600],
            reason in "[ -~]{0,20}",
            headers in any_headers(),
            chunked in any::<bool>(),
        ) {
            let mut text = format!("HTTP/1.1 {status} {reason}\r\n");
            for (name, value) in &headers {
                text += &format!("{name}: {value}\r\n");
            }
            text += if chunked { "Transfer-Encoding: chunked\r\n\r\n" } else { "Content-Length: 7\r\n\r\n" };
            let head = ResponseHead::take(&mut BytesMut::from(&*text), false).unwrap().unwrap();
            let mut out = Vec::new();
            response(&mut out, &head, head.framing, false);
            let again = ResponseHead::take(&mut BytesMut::from(&*out), false).unwrap().unwrap();
            prop_assert_eq!(again.status, status);
            prop_assert_eq!(again.reason(), head.reason());
            prop_assert_eq!(again.framing, head.framing);
            prop_assert_eq!(passed(&again.headers), headers);
        }

        #[test]
        fn chunks_that_were_written_are_read_again_however_they_arrive(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 0..10),
            step in 1usize..50,
        ) {
            let mut out = Vec::new();
            for piece in &pieces {
                body_piece(&mut out, Framing::Chunked, piece);
            }
            body_end(&mut out, Framing::Chunked);
            let (mut decoder, mut buffer) = (BodyDecoder::new(Framing::Chunked), BytesMut::new());
            let mut body = Vec::new();
            for arrived in out.chunks(step) {
                buffer.extend_from_slice(arrived);
                while let Decoded::Data(data) = decoder.decode(&mut buffer).unwrap() {
                    body.extend_from_slice(&data);
                }
            }
            prop_assert!(decoder.is_done() && buffer.is_empty());
            prop_assert_eq!(body, pieces.concat());
        }
    }
}
