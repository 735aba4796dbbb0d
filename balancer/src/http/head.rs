//! Request and response heads.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

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

/// A header's place in the head.
#[derive(Debug, Clone)]
struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

/// The headers of a head, in order, as they came.
#[derive(Debug, Clone)]
pub struct Headers {
    raw: Bytes,
    fields: Vec<Field>,
}

impl Headers {
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|field| (&self.raw[field.name.clone()], &self.raw[field.value.clone()]))
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// Whether a comma-separated list header has this token.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).flat_map(tokens).any(|known| known.eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// The members of a comma-separated list, trimmed, empty ones left out.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// A request's head.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub headers: Headers,
    method: Range<usize>,
    target: Range<usize>,
    /// HTTP/1.1, else 1.0.
    pub is_1_1: bool,
    pub framing: Framing,
    host: Range<usize>,
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
        let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut slots);
        match parsed.parse(&raw) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(HeadError::Syntax),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Syntax),
        }
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
        let (method, target) = (place(&raw, method.as_bytes()), place(&raw, target.as_bytes()));
        let fields = fields(&raw, parsed.headers);
        let is_1_1 = version == 1;
        let headers = Headers { raw, fields };
        let framing = request_framing(&headers, is_1_1)?;
        let host = host(&headers, is_1_1)?;
        Ok(Some(Self { headers, method, target, is_1_1, framing, host }))
    }

    pub fn method(&self) -> &[u8] {
        &self.headers.raw[self.method.clone()]
    }

    pub fn target(&self) -> &[u8] {
        &self.headers.raw[self.target.clone()]
    }

    /// Empty where an HTTP/1.0 request has none.
    pub fn host(&self) -> &[u8] {
        &self.headers.raw[self.host.clone()]
    }

    /// Whether executing it twice is the same as once (RFC 9110, 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method(), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
    }

    /// Whether the client wants to go on on this connection.
    pub fn keeps_alive(&self) -> bool {
        if self.is_1_1 {
            !self.headers.has_token("connection", "close")
        } else {
            // Keeping one of HTTP/1.0 alive has no use today and needs rules of its own.
            false
        }
    }

    /// The protocol that the client asks to switch to.
    pub fn upgrade(&self) -> Option<&[u8]> {
        if self.is_1_1 && self.headers.has_token("connection", "upgrade") {
            self.headers.first("upgrade")
        } else {
            None
        }
    }

    pub fn expects_continue(&self) -> bool {
        self.is_1_1 && self.headers.has_token("expect", "100-continue")
    }
}

/// A response's head.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub headers: Headers,
    pub status: u16,
    reason: Range<usize>,
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
        let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut slots);
        match parsed.parse(&raw) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(HeadError::Syntax),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Syntax),
        }
        let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
            return Err(HeadError::Syntax);
        };
        let reason = parsed.reason.map_or(0..0, |reason| place(&raw, reason.as_bytes()));
        let fields = fields(&raw, parsed.headers);
        let headers = Headers { raw, fields };
        let bodyless = is_head_request || status < 200 || status == 204 || status == 304;
        let framing = if bodyless { Framing::None } else { response_framing(&headers)? };
        let keeps_alive =
            version == 1 && !headers.has_token("connection", "close") && framing != Framing::Close;
        Ok(Some(Self { headers, status, reason, framing, keeps_alive }))
    }

    pub fn reason(&self) -> &[u8] {
        &self.headers.raw[self.reason.clone()]
    }

    /// 100-199, but for 101, after which the connection is no longer HTTP.
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// The bytes up to and including the first empty line, if it is there.
fn split_head(buffer: &mut BytesMut) -> Result<Option<Bytes>, HeadError> {
    let window = &buffer[..buffer.len().min(HEAD_BYTES_MAX)];
    match find(window, b"\r\n\r\n") {
        Some(at) => {
            // httparse accepts bare line feeds; others do not, and that is how requests are smuggled.
            if has_bare_lf(&buffer[..at + 4]) {
                return Err(HeadError::Syntax);
            }
            Ok(Some(buffer.split_to(at + 4).freeze()))
        }
        None if buffer.len() >= HEAD_BYTES_MAX => Err(HeadError::TooLarge),
        // A head that ends in bare line feeds would never be complete.
        None if find(window, b"\n\n").is_some() => Err(HeadError::Syntax),
        None => Ok(None),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn has_bare_lf(head: &[u8]) -> bool {
    head.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

/// Where a part that was parsed out of `whole` is in it.
fn place(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

fn fields(raw: &[u8], headers: &[httparse::Header<'_>]) -> Vec<Field> {
    let field = |header: &httparse::Header<'_>| Field {
        name: place(raw, header.name.as_bytes()),
        value: place(raw, header.value),
    };
    headers.iter().map(field).collect()
}

fn host(headers: &Headers, is_1_1: bool) -> Result<Range<usize>, HeadError> {
    let mut hosts =
        headers.fields.iter().filter(|field| headers.raw[field.name.clone()].eq_ignore_ascii_case(b"host"));
    match (hosts.next(), hosts.next()) {
        (Some(field), None) => {
            let value = &headers.raw[field.value.clone()];
            let allowed = |byte: &u8| {
                byte.is_ascii_graphic() && !matches!(byte, b'/' | b'@' | b',' | b'\\' | b'?' | b'#')
            };
            if value.iter().all(allowed) { Ok(field.value.clone()) } else { Err(HeadError::Host) }
        }
        (None, _) if !is_1_1 => Ok(0..0),
        _ => Err(HeadError::Host),
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

fn response_framing(headers: &Headers) -> Result<Framing, HeadError> {
    match (coding(headers)?, length(headers)?) {
        (Some(()), None) => Ok(Framing::Chunked),
        (Some(()), Some(_)) => Err(HeadError::Framing),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (None, None) => Ok(Framing::Close),
    }
}

/// Whether there is a transfer coding; none but a single `chunked` is understood.
fn coding(headers: &Headers) -> Result<Option<()>, HeadError> {
    let mut values = headers.all("transfer-encoding");
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(Some(())),
        (Some(value), None) if tokens(value).count() == 1 => Err(HeadError::Coding),
        _ => Err(HeadError::Framing),
    }
}

/// The one Content-Length, of digits only (`"+1".parse()` would succeed).
fn length(headers: &Headers) -> Result<Option<u64>, HeadError> {
    let mut found = None;
    for value in headers.all("content-length") {
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
