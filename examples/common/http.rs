//! Requests of HTTP/1.1 out of bytes. It knows nothing of connections; httparse knows the syntax, this what it means.

use std::mem::MaybeUninit;

/// The request line and the headers of a request.
pub const HEAD_LEN_MAX: usize = 16 * 1024;
pub const HEADERS_MAX: usize = 64;
pub const BODY_LEN_MAX: usize = 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    pub body: &'a [u8],
    /// The client wants to send another one.
    pub keep_alive: bool,
    /// HTTP/1.1, or else 1.0.
    pub is_1_1: bool,
    /// With its body: where the next one begins.
    pub len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    Request(Request<'a>),
    /// There is no use in asking again before there are so many bytes.
    Incomplete {
        needed: usize,
        /// The client would like to hear that its body is welcome, before it sends it.
        expects_continue: bool,
    },
}

/// A request that is answered with an error. Where the next one begins is not certain: the connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    BadRequest,
    LengthRequired,
    ContentTooLarge,
    ExpectationFailed,
    HeadTooLarge,
    NotImplemented,
    VersionNotSupported,
}

impl Error {
    pub fn status(self) -> &'static str {
        match self {
            Error::BadRequest => "400 Bad Request",
            Error::LengthRequired => "411 Length Required",
            Error::ContentTooLarge => "413 Content Too Large",
            Error::ExpectationFailed => "417 Expectation Failed",
            Error::HeadTooLarge => "431 Request Header Fields Too Large",
            Error::NotImplemented => "501 Not Implemented",
            Error::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

/// The first request of `input`.
pub fn parse(input: &[u8]) -> Result<Parsed<'_>, Error> {
    // Only as many as come are written: to clear them all takes as long as to parse a short request.
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let searched = &input[..input.len().min(HEAD_LEN_MAX)];
    let head_len = match request.parse_with_uninit_headers(searched, &mut headers) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if input.len() >= HEAD_LEN_MAX => return Err(Error::HeadTooLarge),
        Ok(httparse::Status::Partial) => {
            return Ok(Parsed::Incomplete { needed: input.len() + 1, expects_continue: false });
        }
        Err(httparse::Error::TooManyHeaders) => return Err(Error::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(Error::VersionNotSupported),
        Err(_) => return Err(Error::BadRequest),
    };
    let is_1_1 = request.version == Some(1);
    let head = read_headers(request.headers, is_1_1)?;
    let body_len = head.content_length.unwrap_or(0);
    if body_len > BODY_LEN_MAX {
        return Err(Error::ContentTooLarge);
    }
    let len = head_len + body_len;
    let Some(body) = input.get(head_len..len) else {
        return Ok(Parsed::Incomplete { needed: len, expects_continue: head.expects_continue });
    };
    Ok(Parsed::Request(Request {
        method: request.method.unwrap_or_default(),
        path: path(request.path.unwrap_or_default()),
        body,
        keep_alive: !head.close && (is_1_1 || head.keep_alive),
        is_1_1,
        len,
    }))
}

/// What the headers say that is of interest here.
#[derive(Default)]
struct Head {
    hosts: usize,
    content_length: Option<usize>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

/// Where two headers could be understood in two ways, this server and a proxy in front of it might not agree where a
/// request ends, and somebody could smuggle one past the proxy. All of that is an error.
fn read_headers(headers: &[httparse::Header<'_>], is_1_1: bool) -> Result<Head, Error> {
    let mut head = Head::default();
    for httparse::Header { name, value } in headers {
        // The length of a name tells nearly all of them apart.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => head.hosts += 1,
            6 if name.eq_ignore_ascii_case("expect") && is_1_1 => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Error::ExpectationFailed);
                }
                head.expects_continue = true;
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                for option in value.split(|byte| *byte == b',') {
                    let option = option.trim_ascii();
                    head.close |= option.eq_ignore_ascii_case(b"close");
                    head.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                let len = content_length(value)?;
                if head.content_length.replace(len).is_some_and(|before| before != len) {
                    return Err(Error::BadRequest);
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if !is_1_1 || head.chunked {
                    return Err(Error::BadRequest);
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Error::NotImplemented);
                }
                head.chunked = true;
            }
            _ => {}
        }
    }
    if head.hosts > 1 || is_1_1 && head.hosts == 0 || head.chunked && head.content_length.is_some() {
        return Err(Error::BadRequest);
    }
    if head.chunked {
        // A server may insist on knowing the length before (RFC 9112, 6.3).
        return Err(Error::LengthRequired);
    }
    Ok(head)
}

fn content_length(value: &[u8]) -> Result<usize, Error> {
    // Digits only: `parse` would take a sign.
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Error::BadRequest);
    }
    let digits = std::str::from_utf8(value).map_err(|_| Error::BadRequest)?;
    digits.parse().map_err(|_| Error::ContentTooLarge)
}

/// Of `/path?query`, and of what a client says to a proxy: `http://host/path`.
fn path(target: &str) -> &str {
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    };
    // (`find` takes longer for so few bytes.)
    let end = target.bytes().position(|byte| byte == b'?').unwrap_or(target.len());
    &target[..end]
}
