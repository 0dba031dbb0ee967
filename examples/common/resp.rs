//! RESP2, the protocol of Redis: commands out of bytes, and replies into bytes. It knows nothing of connections.

use std::fmt;

/// What one argument may have. Redis' own limits, here and below.
pub const BULK_LEN_MAX: usize = 512 * 1024 * 1024;
/// How many arguments a command may have, with its name.
pub const ARGS_MAX: usize = 1024 * 1024;
/// What a command may have in all, with its lengths and line ends.
pub const COMMAND_LEN_MAX: usize = 1024 * 1024 * 1024;
/// What a line may have, for the commands that people type.
pub const INLINE_LEN_MAX: usize = 64 * 1024;

/// The shortest argument there is: `$0`, nothing, and two line ends.
const ARG_LEN_MIN: usize = 6;

/// What [`parse`] has found at the beginning of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A command of so many bytes. Its arguments are there; none of them, if it was an empty line or array.
    Command(usize),
    /// A part of a command. There is no use in asking again before there are so many bytes: whoever waits for a large
    /// value, or for a hundred thousand small ones, need not go over them with each packet.
    Incomplete(usize),
}

/// These bytes are not RESP, and there is no telling where the next command would begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    MultibulkLength,
    BulkLength,
    ExpectedBulk(u8),
    ExpectedLineEnd,
    CommandTooLong,
    LineTooLong,
    UnbalancedQuotes,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::MultibulkLength => f.write_str("invalid multibulk length"),
            Error::BulkLength => f.write_str("invalid bulk length"),
            Error::ExpectedBulk(got) => write!(f, "expected '$', got '{}'", got.escape_ascii()),
            Error::ExpectedLineEnd => f.write_str("expected a line end after the bulk"),
            Error::CommandTooLong => f.write_str("too big command"),
            Error::LineTooLong => f.write_str("too big inline request"),
            Error::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
        }
    }
}

// ------------------------------------------------------------------------------------------------- commands

/// The first command of `input`. Its arguments, which are slices of it, replace those in `args`.
///
/// Nothing is allocated because of a length that somebody announces: `args` grows as the arguments come.
pub fn parse<'a>(input: &'a [u8], args: &mut Vec<&'a [u8]>) -> Result<Parsed, Error> {
    args.clear();
    match input.first() {
        None => Ok(Parsed::Incomplete(1)),
        Some(b'*') => parse_array(input, args),
        Some(_) => parse_line(input, args),
    }
}

/// `*2␍␊$3␍␊GET␍␊$3␍␊key␍␊`
fn parse_array<'a>(input: &'a [u8], args: &mut Vec<&'a [u8]>) -> Result<Parsed, Error> {
    let Some((count, mut at)) = number(input, 1).ok_or(Error::MultibulkLength)? else {
        return Ok(Parsed::Incomplete(input.len() + 1));
    };
    // Like Redis: less than none is none.
    let count = usize::try_from(count).unwrap_or(0);
    if count > ARGS_MAX {
        return Err(Error::MultibulkLength);
    }
    for missing in (1..=count).rev() {
        match input.get(at) {
            None => return Ok(Parsed::Incomplete(at + missing * ARG_LEN_MIN)),
            Some(b'$') => {}
            Some(other) => return Err(Error::ExpectedBulk(*other)),
        }
        let Some((len, start)) = number(input, at + 1).ok_or(Error::BulkLength)? else {
            return Ok(Parsed::Incomplete(input.len() + 1));
        };
        let len = usize::try_from(len).ok().filter(|len| *len <= BULK_LEN_MAX).ok_or(Error::BulkLength)?;
        let end = start + len;
        if end > COMMAND_LEN_MAX {
            return Err(Error::CommandTooLong);
        }
        match input.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(Error::ExpectedLineEnd),
            None => return Ok(Parsed::Incomplete(end + 2 + (missing - 1) * ARG_LEN_MIN)),
        }
        args.push(&input[start..end]);
        at = end + 2;
    }
    Ok(Parsed::Command(at))
}

/// The number at `at`, and where the line after it begins. `Some(None)`: it may go on. `None`: that is no number.
#[inline(always)]
fn number(input: &[u8], at: usize) -> Option<Option<(i64, usize)>> {
    let rest = &input[at..];
    // Nearly all lengths.
    match rest {
        [a @ b'0'..=b'9', b'\r', b'\n', ..] => Some(Some((i64::from(a - b'0'), at + 3))),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some(Some((i64::from(a - b'0') * 10 + i64::from(b - b'0'), at + 4)))
        }
        _ => long_number(input, at),
    }
}

#[cold]
fn long_number(input: &[u8], at: usize) -> Option<Option<(i64, usize)>> {
    /// More than enough for any length that is allowed, and not so many that the number could overflow.
    const DIGITS_MAX: usize = 12;

    let rest = &input[at..];
    let negative = rest.first() == Some(&b'-');
    let digits = if negative { &rest[1..] } else { rest };
    let mut number = 0;
    for (i, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' if i < DIGITS_MAX => number = number * 10 + i64::from(byte - b'0'),
            b'\r' if i > 0 => {
                return match digits.get(i + 1) {
                    Some(b'\n') => {
                        let line = at + usize::from(negative) + i + 2;
                        Some(Some((if negative { -number } else { number }, line)))
                    }
                    Some(_) => None,
                    None => Some(None),
                };
            }
            _ => return None,
        }
    }
    Some(None)
}

/// The argument at the beginning of `input`, `$3␍␊key␍␊`, and what comes after it: for who knows that there is one, and has
/// no use for a list. `None` if it has a hundred bytes or more, has not come whole, or is something else.
#[inline]
pub fn short_arg(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = match input {
        [b'$', a @ b'0'..=b'9', b'\r', b'\n', rest @ ..] => (a - b'0', rest),
        [b'$', a @ b'0'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', rest @ ..] => {
            ((a - b'0') * 10 + (b - b'0'), rest)
        }
        _ => return None,
    };
    let (arg, rest) = rest.split_at_checked(len.into())?;
    Some((arg, rest.strip_prefix(b"\r\n")?))
}

/// `GET key`, as somebody types it into nc or telnet. Quotes hold an argument together.
fn parse_line<'a>(input: &'a [u8], args: &mut Vec<&'a [u8]>) -> Result<Parsed, Error> {
    let searched = &input[..input.len().min(INLINE_LEN_MAX)];
    let Some(end) = searched.iter().position(|byte| *byte == b'\n') else {
        return match searched.len() {
            INLINE_LEN_MAX => Err(Error::LineTooLong),
            len => Ok(Parsed::Incomplete(len + 1)),
        };
    };
    let mut rest = input[..end].trim_ascii();
    while let Some(first) = rest.first() {
        let (arg, after) = match first {
            // Redis knows escapes within quotes as well. Who needs them does not type, and can send an array.
            quote @ (b'"' | b'\'') => {
                let inside = &rest[1..];
                let len = inside.iter().position(|byte| byte == quote).ok_or(Error::UnbalancedQuotes)?;
                let after = &inside[len + 1..];
                if after.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                    return Err(Error::UnbalancedQuotes);
                }
                (&inside[..len], after)
            }
            _ => rest.split_at(rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len())),
        };
        args.push(arg);
        rest = after.trim_ascii_start();
    }
    Ok(Parsed::Command(end + 1))
}

// -------------------------------------------------------------------------------------------------- replies

/// `+OK`. The text is ours: it has no line end.
#[inline]
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `-ERR …`. What of it comes from the peer must have been escaped: a line end would be the end of the reply.
#[cold]
pub fn error(out: &mut Vec<u8>, text: impl fmt::Display) {
    let text = text.to_string();
    debug_assert!(!text.contains(['\r', '\n']), "{text:?}");
    out.extend_from_slice(b"-ERR ");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[inline]
pub fn integer(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b':');
    }
    head(out, if number < 0 { b'-' } else { b':' }, number.unsigned_abs());
}

/// Any bytes.
#[inline]
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + HEAD_LEN_MAX + 2);
    head(out, b'$', bytes.len() as u64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Nothing, where there could be bytes.
#[inline]
pub fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"$-1\r\n");
}

/// The beginning of an array: as many replies have to follow.
#[inline]
pub fn array(out: &mut Vec<u8>, len: usize) {
    head(out, b'*', len as u64);
}

/// A sign, a number, and the line end. (`write!` takes longer than all the rest of a reply.)
#[inline(always)]
fn head(out: &mut Vec<u8>, sign: u8, number: u64) {
    if number < 10 {
        out.extend_from_slice(&[sign, b'0' + number as u8, b'\r', b'\n']);
    } else {
        long_head(out, sign, number);
    }
}

/// A sign, the digits of `u64::MAX`, and the line end.
const HEAD_LEN_MAX: usize = 23;

fn long_head(out: &mut Vec<u8>, sign: u8, mut number: u64) {
    let mut text = [0; HEAD_LEN_MAX];
    let mut start = HEAD_LEN_MAX - 2;
    text[start..].copy_from_slice(b"\r\n");
    while number > 0 {
        start -= 1;
        text[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    start -= 1;
    text[start] = sign;
    out.extend_from_slice(&text[start..]);
}
