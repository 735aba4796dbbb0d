//! Request and response heads.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};

use super::fields::{Headers, Meaning, Span, tokens};
use super::{HEAD_BYTES_MAX, HEADERS_MAX};

/// Why a head is refused. The number is the status that a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the head is not HTTP/1.1")]
    Syntax,
    #[error("the head is larger than {HEAD_BYTES_MAX} bytes or has more than {HEADERS_MAX} headers")]
    TooLarge,
    #[error("HTTP/1.1 asks for exactly one Host")]
    Host,
    #[error("the length of the body is ambiguous")]
    Framing,
    #[error("this transfer coding is not understood")]
    Coding,
    #[error("this method is not proxied")]
    Method,
}

impl HeadError {
    pub fn status(self) -> u16 {
        match self {
            Self::Syntax | Self::Host | Self::Framing => 400,
            Self::TooLarge => 431,
            Self::Coding | Self::Method => 501,
        }
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    /// The end of the connection (responses only).
    Close,
}

/// A request's head.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub headers: Headers,
    method: Span,
    target: Span,
    /// HTTP/1.1, else 1.0.
    pub is_1_1: bool,
    pub framing: Framing,
    host: Span,
}

impl RequestHead {
    /// Takes a whole head off the front of the buffer. `None`: more bytes are needed.
    ///
    /// # Errors
    /// See [`HeadError`]. The buffer is then of no more use.
    pub fn take(buffer: &mut BytesMut) -> Result<Option<Self>, HeadError> {
        // An empty line before a request is allowed (RFC 9112, 2.2); one is enough.
        if buffer.starts_with(b"\r\n") {
            let _line = buffer.split_to(2);
        }
        let Some(raw) = split_head(buffer)? else { return Ok(None) };
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        whole(parsed.parse_with_uninit_headers(&raw, &mut slots))?;
        let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(HeadError::Syntax);
        };
        if method == "CONNECT" {
            return Err(HeadError::Method);
        }
        // The authority is the Host's to say, and there is one answer to where a request goes.
        if !(target.starts_with('/') || (target == "*" && method == "OPTIONS")) {
            return Err(HeadError::Syntax);
        }
        let (method, target) = (Span::of(&raw, method.as_bytes()), Span::of(&raw, target.as_bytes()));
        let headers = Headers::new(&raw, parsed.headers);
        let is_1_1 = version == 1;
        let framing = request_framing(&headers, is_1_1)?;
        let host = host(&headers, is_1_1)?;
        Ok(Some(Self { headers, method, target, is_1_1, framing, host }))
    }

    pub fn method(&self) -> &[u8] {
        self.headers.part(self.method)
    }

    pub fn target(&self) -> &[u8] {
        self.headers.part(self.target)
    }

    /// Empty where an HTTP/1.0 request has none.
    pub fn host(&self) -> &[u8] {
        self.headers.part(self.host)
    }

    /// Whether the answer has no body whatever its head says.
    pub fn is_head(&self) -> bool {
        self.method() == b"HEAD"
    }

    /// Whether executing it twice is the same as once (RFC 9110, 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        #[cfg(holdfast_mutants)]
        if mutation::is("post-repeated") {
            return true;
        }
        matches!(self.method(), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
    }

    /// Whether the client wants to go on on this connection. Keeping one of HTTP/1.0 alive has no use
    /// today and needs rules of its own.
    pub fn keeps_alive(&self) -> bool {
        self.is_1_1 && !self.headers.lists(Meaning::Connection, "close")
    }

    /// The protocol that the client asks to switch to. Other versions of HTTP are not asked for: in a
    /// tunnel of HTTP/2 a client could send requests past every rule of this proxy.
    pub fn upgrade(&self) -> Option<&[u8]> {
        if !self.is_1_1 || !self.headers.lists(Meaning::Connection, "upgrade") {
            return None;
        }
        let protocol = self.headers.value(Meaning::Upgrade)?;
        let is_http = |token: &[u8]| {
            let token = token.to_ascii_lowercase();
            token.starts_with(b"h2") || token.starts_with(b"http") || token.starts_with(b"tls")
        };
        if tokens(protocol).any(is_http) { None } else { Some(protocol) }
    }

    pub fn expects_continue(&self) -> bool {
        self.is_1_1 && self.headers.lists(Meaning::Expect, "100-continue")
    }
}

/// A response's head.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub headers: Headers,
    pub status: u16,
    reason: Span,
    pub framing: Framing,
    pub keeps_alive: bool,
}

impl ResponseHead {
    /// Takes a whole head off the front of the buffer. `None`: more bytes are needed. The request's
    /// method decides whether there is a body.
    ///
    /// # Errors
    /// See [`HeadError`]; the other side does not speak HTTP.
    pub fn take(buffer: &mut BytesMut, is_head_request: bool) -> Result<Option<Self>, HeadError> {
        let Some(raw) = split_head(buffer)? else { return Ok(None) };
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        whole(config.parse_response_with_uninit_headers(&mut parsed, &raw, &mut slots))?;
        let (Some(status @ 100..), Some(version)) = (parsed.code, parsed.version) else {
            return Err(HeadError::Syntax);
        };
        let reason = parsed.reason.map_or(Span::default(), |reason| Span::of(&raw, reason.as_bytes()));
        let headers = Headers::new(&raw, parsed.headers);
        let bodyless = is_head_request || status < 200 || status == 204 || status == 304;
        let framing = if bodyless { Framing::None } else { response_framing(&headers, version == 1)? };
        let keeps_alive =
            version == 1 && !headers.lists(Meaning::Connection, "close") && framing != Framing::Close;
        Ok(Some(Self { headers, status, reason, framing, keeps_alive }))
    }

    pub fn reason(&self) -> &[u8] {
        self.headers.part(self.reason)
    }

    /// 100-199, but for 101, after which the connection is no longer HTTP.
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

fn whole(parsed: httparse::Result<usize>) -> Result<(), HeadError> {
    match parsed {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooLarge),
        Ok(httparse::Status::Partial) | Err(_) => Err(HeadError::Syntax),
    }
}

/// The bytes up to and including the first empty line, if it is there. A bare line feed is refused
/// where it stands: httparse accepts it and others do not, and that is how requests are smuggled.
fn split_head(buffer: &mut BytesMut) -> Result<Option<Bytes>, HeadError> {
    let window = &buffer[..buffer.len().min(HEAD_BYTES_MAX)];
    let mut line = 0;
    for feed in memchr::memchr_iter(b'\n', window) {
        if feed == 0 || window[feed - 1] != b'\r' {
            return Err(HeadError::Syntax);
        }
        if feed - line == 1 {
            return Ok(Some(buffer.split_to(feed + 1).freeze()));
        }
        line = feed + 1;
    }
    if buffer.len() >= HEAD_BYTES_MAX { Err(HeadError::TooLarge) } else { Ok(None) }
}

fn host(headers: &Headers, is_1_1: bool) -> Result<Span, HeadError> {
    let mut hosts = headers.spans(Meaning::Host);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let allowed = |byte: &u8| {
                byte.is_ascii_graphic() && !matches!(byte, b'/' | b'@' | b',' | b'\\' | b'?' | b'#')
            };
            if headers.part(host).iter().all(allowed) { Ok(host) } else { Err(HeadError::Host) }
        }
        (None, _) if !is_1_1 => Ok(Span::default()),
        (Some(_), Some(_)) | (None, _) => Err(HeadError::Host),
    }
}

fn request_framing(headers: &Headers, is_1_1: bool) -> Result<Framing, HeadError> {
    match (coding(headers)?, length(headers)?) {
        (Some(()), None) if is_1_1 => Ok(Framing::Chunked),
        (Some(()), _) => Err(HeadError::Framing),
        (None, Some(0) | None) => Ok(Framing::None),
        (None, Some(length)) => Ok(Framing::Length(length)),
    }
}

fn response_framing(headers: &Headers, is_1_1: bool) -> Result<Framing, HeadError> {
    match (coding(headers)?, length(headers)?) {
        (Some(()), None) if is_1_1 => Ok(Framing::Chunked),
        (Some(()), _) => Err(HeadError::Framing),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (None, None) => Ok(Framing::Close),
    }
}

/// Whether there is a transfer coding; none but a single `chunked` is understood.
fn coding(headers: &Headers) -> Result<Option<()>, HeadError> {
    let mut values = headers.values(Meaning::TransferEncoding);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(Some(())),
        (Some(value), None) if tokens(value).count() == 1 => Err(HeadError::Coding),
        (Some(_), _) => Err(HeadError::Framing),
    }
}

/// The one Content-Length, of digits only (`"+1".parse()` would succeed).
fn length(headers: &Headers) -> Result<Option<u64>, HeadError> {
    let mut found = None;
    for value in headers.values(Meaning::ContentLength) {
        let value = value.trim_ascii();
        if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
            return Err(HeadError::Framing);
        }
        let number = value.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
        // The same number twice would be allowed to be merged (RFC 9110, 8.6); nobody honest sends it.
        if found.replace(number).is_some() {
            return Err(HeadError::Framing);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
