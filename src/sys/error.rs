//! Errors with a text of ours, behind which the kernel's can still be found.

use std::error::Error;
use std::{fmt, io};

/// The error `e`, which `text` should quote, with that text: of the same kind, and with `e` as its source. (An
/// [`io::Error`] with a text has no number, so [`raw_os_error`](io::Error::raw_os_error) has to be asked of the source.)
pub(crate) fn explained(e: io::Error, text: String) -> io::Error {
    let kind = e.kind();
    // Explained once more, it has still one source, which is the kernel's error.
    let cause = e.downcast::<Explained>().map_or_else(|e| e, |explained| explained.cause);
    io::Error::new(kind, Explained { text, cause })
}

#[derive(Debug)]
struct Explained {
    text: String,
    cause: io::Error,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Explained {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_an_error_is_the_kernels_however_often_it_was_explained() {
        let e = io::Error::from_raw_os_error(libc::EADDRINUSE);
        let e = explained(e, "once".into());
        let e = explained(e, "twice".into());
        assert_eq!((e.kind(), e.to_string().as_str()), (io::ErrorKind::AddrInUse, "twice"));
        let source = e.source().and_then(|source| source.downcast_ref::<io::Error>()).unwrap();
        assert_eq!(source.raw_os_error(), Some(libc::EADDRINUSE));
        assert!(source.source().is_none());
    }
}
