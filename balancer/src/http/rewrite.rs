//! What is sent on: heads rewritten, bodies framed anew.
//!
//! Headers about one connection end here (RFC 9110, 7.6.1), with those that `Connection` names, but
//! never the ones that others rely on to know where a request came from. Everything else goes on byte
//! for byte and in order.

use std::net::IpAddr;

use super::head::{Framing, Headers, RequestHead, ResponseHead, tokens};

/// Names the instance that a peer's request is for. Only agents say it to each other.
pub const INSTANCE: &str = "holdfast-instance";
/// Marks an answer of the owner's agent, not of the instance: nothing was executed.
pub const REFUSED: &str = "holdfast-refused";

/// Headers about a connection. Framing is written anew, and Expect is answered here.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "expect",
    INSTANCE,
    REFUSED,
];

/// What `Connection` may not take away: without these a request would say something else.
const KEPT: &[&str] =
    &["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "authorization", "cookie"];

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    pub client: IpAddr,
    /// Whether its X-Forwarded-* headers are believed.
    pub trusted: bool,
}

/// Writes a request's head for an instance. `origin` is `None` on the owner's side, where it has been
/// written already. `instance` is set on the way to the owner.
pub fn request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    framing: Framing,
    origin: Option<Origin>,
    instance: Option<&str>,
) {
    write(out, &[head.method(), b" ", head.target(), b" HTTP/1.1\r\n"]);
    let rewrites_origin = origin.is_some();
    for (name, value) in passing(&head.headers) {
        if !(rewrites_origin
            && is_one_of(name, &["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]))
        {
            field(out, name, value);
        }
    }
    if let Some(origin) = origin {
        forwarded(out, head, origin);
    }
    if let Some(protocol) = head.upgrade() {
        field(out, b"Connection", b"Upgrade");
        field(out, b"Upgrade", protocol);
    }
    if let Some(instance) = instance {
        field(out, INSTANCE.as_bytes(), instance.as_bytes());
    }
    // A method that has a body by nature says that it has none, as some servers insist.
    if framing == Framing::None && matches!(head.method(), b"POST" | b"PUT" | b"PATCH") {
        field(out, b"Content-Length", b"0");
    }
    write_framing(out, framing);
    out.extend_from_slice(b"\r\n");
}

fn forwarded(out: &mut Vec<u8>, head: &RequestHead, origin: Origin) {
    let client = origin.client.to_string();
    let believed = |name| head.headers.first(name).filter(|_| origin.trusted);
    write(out, &[b"X-Forwarded-For: "]);
    if origin.trusted {
        for value in head.headers.all("x-forwarded-for") {
            write(out, &[value, b", "]);
        }
    }
    write(out, &[client.as_bytes(), b"\r\n"]);
    field(out, b"X-Forwarded-Proto", believed("x-forwarded-proto").unwrap_or(b"http"));
    let host = believed("x-forwarded-host").unwrap_or(head.host());
    if !host.is_empty() {
        field(out, b"X-Forwarded-Host", host);
    }
}

/// Writes a response's head for a client.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead, framing: Framing, closes: bool) {
    let status =
        [b'0' + digit(head.status, 100), b'0' + digit(head.status, 10), b'0' + digit(head.status, 1)];
    write(out, &[b"HTTP/1.1 ", &status, b" ", head.reason(), b"\r\n"]);
    for (name, value) in passing(&head.headers) {
        field(out, name, value);
    }
    if head.status == 101 {
        field(out, b"Connection", b"Upgrade");
        if let Some(protocol) = head.headers.first("upgrade") {
            field(out, b"Upgrade", protocol);
        }
    } else if closes && head.status >= 200 {
        field(out, b"Connection", b"close");
    }
    // The length that an answer to HEAD would have, or of a 304, is a fact worth passing on.
    if framing == Framing::None
        && head.status >= 200
        && head.status != 204
        && let Some(length) = head.headers.first("content-length")
    {
        field(out, b"Content-Length", length);
    } else {
        write_framing(out, framing);
    }
    out.extend_from_slice(b"\r\n");
}

/// An answer of this proxy's own. `refused` marks it for another agent.
pub fn own_response(out: &mut Vec<u8>, status: u16, text: &str, closes: bool, refused: bool) {
    let reason = match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    };
    write(out, &[format!("HTTP/1.1 {status} {reason}\r\n").as_bytes()]);
    field(out, b"Content-Type", b"text/plain; charset=utf-8");
    field(out, b"Cache-Control", b"no-store");
    if status == 503 {
        field(out, b"Retry-After", b"1");
    }
    if refused {
        field(out, REFUSED.as_bytes(), b"1");
    }
    if closes {
        field(out, b"Connection", b"close");
    }
    write_framing(out, Framing::Length(text.len() as u64 + 1));
    write(out, &[b"\r\n", text.as_bytes(), b"\n"]);
}

/// One piece of a body in the framing that was announced.
pub fn body_piece(out: &mut Vec<u8>, framing: Framing, data: &[u8]) {
    if framing == Framing::Chunked {
        write(out, &[format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"]);
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

fn passing(headers: &Headers) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.iter().filter(|(name, _)| {
        !is_one_of(name, HOP_BY_HOP) && (is_one_of(name, KEPT) || !is_named_by_connection(headers, name))
    })
}

fn is_named_by_connection(headers: &Headers, name: &[u8]) -> bool {
    headers.all("connection").flat_map(tokens).any(|token| token.eq_ignore_ascii_case(name))
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

fn write_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::Close => {}
        Framing::Length(length) => field(out, b"Content-Length", length.to_string().as_bytes()),
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

fn digit(status: u16, place: u16) -> u8 {
    u8::try_from(status / place % 10).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn rewritten(text: &str, origin: Option<Origin>) -> String {
        let head = RequestHead::take(&mut BytesMut::from(text)).unwrap().unwrap();
        let mut out = Vec::new();
        request(&mut out, &head, head.framing, origin, None);
        String::from_utf8(out).unwrap()
    }

    const CLIENT: Origin =
        Origin { client: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9)), trusted: false };

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
        let text =
            "GET / HTTP/1.1\r\nHost: A\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\n\r\n";
        let out = rewritten(text, Some(CLIENT));
        assert!(out.contains("X-Forwarded-For: 192.0.2.9\r\n"), "{out}");
        assert!(
            out.contains("X-Forwarded-Proto: http\r\n") && out.contains("X-Forwarded-Host: A\r\n"),
            "{out}"
        );
        assert!(!out.contains("1.1.1.1"), "{out}");
        let out = rewritten(text, Some(Origin { trusted: true, ..CLIENT }));
        assert!(out.contains("X-Forwarded-For: 1.1.1.1, 192.0.2.9\r\n"), "{out}");
        assert!(out.contains("X-Forwarded-Proto: https\r\n"), "{out}");
    }

    #[test]
    fn an_instance_can_not_forge_the_agents_mark() {
        let text = "HTTP/1.1 503 No\r\nHoldfast-Refused: 1\r\nContent-Length: 2\r\n\r\nno";
        let head = ResponseHead::take(&mut BytesMut::from(text), false).unwrap().unwrap();
        let mut out = Vec::new();
        response(&mut out, &head, head.framing, false);
        assert_eq!(String::from_utf8(out).unwrap(), "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n");
    }
}
