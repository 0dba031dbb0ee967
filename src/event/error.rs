//! Why an event could not be attached or detached.

use std::fmt;
use std::io;

/// Why an event could not be attached or detached. Turns into an [`io::Error`] by `?`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// It is attached already; or what it waits for is taken: by another event with the same kind and the same
    /// descriptor, by an event on another base, or by an [`Async`](crate::Async).
    Exists,
    /// It is not attached.
    NotExists,
    /// Kinds that cannot be: the text says why.
    Invalid(&'static str),
    /// The kernel's refusal: a regular file, a closed descriptor, no descriptors left.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Exists => f.write_str(
                "the event is attached already, or another one (or an Async) has its descriptor for the same kind",
            ),
            Error::NotExists => f.write_str("the event is not attached"),
            Error::Invalid(why) => write!(f, "the event cannot be attached: {why}"),
            Error::Io(e) => write!(f, "the event cannot be attached: {e}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(e) => Some(e),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        if e.kind() == io::ErrorKind::AlreadyExists { Error::Exists } else { Error::Io(e) }
    }
}

impl From<Error> for io::Error {
    fn from(e: Error) -> io::Error {
        let kind = match &e {
            Error::Exists => io::ErrorKind::AlreadyExists,
            Error::NotExists => io::ErrorKind::NotFound,
            Error::Invalid(_) => io::ErrorKind::InvalidInput,
            Error::Io(e) => e.kind(),
        };
        io::Error::new(kind, e)
    }
}
