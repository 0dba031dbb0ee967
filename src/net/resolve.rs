//! A name, and the addresses that it stands for.

use super::pool::{Answer, Pool, Query, Ticket};
use crate::sys::error::explained;
use crate::sys::fork::PerProcess;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll, ready};

static POOL: PerProcess<Pool> =
    PerProcess::new(|| Pool::new(|query| Ok((query.host.as_str(), query.port).to_socket_addrs()?.collect())));

/// Looks up `addr`, a host and a port: `example.com:443`, `localhost:80`. What is an address already (`127.0.0.1:80`,
/// `[::1]:80`) is the answer, at once. There is at least one address, and they are in the resolver's order, in which they
/// should be tried.
///
/// Nothing blocks: the resolver is asked on a [thread of its own](crate::net).
///
/// # Errors
///
/// All of them quote `addr`. [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a host and a port; what the resolver
/// says, of a kind that std has no name for; that no thread can be started. How long it may take is the system's choice: give it a
/// [`timeout`](crate::timeout()).
///
/// # Cancel safety
///
/// Safe to drop at any time. What no thread has begun to look up is not looked up; otherwise the answer is dropped when it comes.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use wakewheel::{net, timeout};
///
/// wakewheel::block_on(async {
///     let addrs = timeout(Duration::from_secs(5), net::resolve("localhost:80")).await??;
///     assert!(addrs.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 80));
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub fn resolve(addr: &str) -> Resolve {
    Resolve(match addr.parse() {
        Ok(addr) => State::Known(Some(Ok(vec![addr]))),
        Err(_) => match split(addr) {
            Ok((host, port)) => look_up(host, port),
            Err(why) => {
                let text = format!("{addr:?}: {why}");
                State::Known(Some(Err(io::Error::new(io::ErrorKind::InvalidInput, text))))
            }
        },
    })
}

/// Looks up `host`, a name or an IP address without brackets, for use with `port`. Otherwise like [`resolve`].
///
/// # Errors
///
/// Those of [`resolve`]; they quote `host`.
///
/// # Cancel safety
///
/// That of [`resolve`].
///
/// # Examples
///
/// ```
/// let addrs = wakewheel::block_on(wakewheel::net::resolve_host("::1", 80))?;
/// assert_eq!(addrs, ["[::1]:80".parse().unwrap()]);
/// # std::io::Result::Ok(())
/// ```
pub fn resolve_host(host: &str, port: u16) -> Resolve {
    Resolve(match host.parse::<IpAddr>() {
        Ok(ip) => State::Known(Some(Ok(vec![SocketAddr::new(ip, port)]))),
        Err(_) => look_up(host, port),
    })
}

fn look_up(host: &str, port: u16) -> State {
    State::Asked { query: Query { host: host.to_owned(), port }, ticket: None }
}

/// Errors: what is wrong with it, and what to write.
fn split(addr: &str) -> Result<(&str, u16), String> {
    let no_port = || format!("the port is missing: write {addr}:PORT");
    let (host, port) = match addr.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("the ] after the IPv6 address is missing")?;
            (host, rest.strip_prefix(':').ok_or_else(no_port)?)
        }
        None => addr.rsplit_once(':').ok_or_else(no_port)?,
    };
    if !addr.starts_with('[') && host.contains(':') {
        return Err("write an IPv6 address in brackets, and a port: [::1]:80".into());
    }
    if host.is_empty() {
        return Err("the host is missing: write HOST:PORT".into());
    }
    // `parse` takes a sign.
    let number = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten();
    match number {
        Some(port) => Ok((host, port)),
        None => Err(format!("the port {port:?} is not a number from 0 to 65535")),
    }
}

/// Future of [`resolve`] and [`resolve_host`].
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct Resolve(State);

enum State {
    /// `None`: it was taken.
    Known(Option<Answer>),
    Asked {
        query: Query,
        ticket: Option<Ticket>,
    },
}

impl Future for Resolve {
    type Output = io::Result<Vec<SocketAddr>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (query, ticket) = match &mut self.0 {
            State::Known(answer) => {
                return Poll::Ready(answer.take().expect("not polled again after it was ready"));
            }
            State::Asked { query, ticket } => (query, ticket),
        };
        let pool = POOL.get();
        // What was asked before a fork, nobody answers.
        if let Some(old) = ticket.take_if(|ticket| !ptr::eq(ticket.pool, pool)) {
            old.forget();
        }
        let answer = match ticket {
            Some(ticket) => ready!(ticket.poll(cx)),
            None => match pool.ask(query.clone(), cx.waker()) {
                Ok(asked) => {
                    *ticket = Some(asked);
                    return Poll::Pending;
                }
                Err(e) => Err(e),
            },
        };
        let host = std::mem::take(&mut query.host);
        self.0 = State::Known(None);
        Poll::Ready(match answer {
            Ok(addrs) if addrs.is_empty() => {
                let text = format!("cannot look up {host:?}: it has no address");
                Err(io::Error::new(io::ErrorKind::NotFound, text))
            }
            Err(e) => {
                let text = format!("cannot look up {host:?}: {e}");
                Err(explained(e, text))
            }
            addrs => addrs,
        })
    }
}

impl Drop for Resolve {
    fn drop(&mut self) {
        if let State::Asked { ticket, .. } = &mut self.0 {
            if let Some(old) = ticket.take_if(|ticket| !ptr::eq(ticket.pool, POOL.get())) {
                old.forget();
            }
        }
    }
}

impl fmt::Debug for Resolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            State::Known(answer) => f.debug_tuple("Resolve").field(answer).finish(),
            State::Asked { query, .. } => f.debug_tuple("Resolve").field(query).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_split_or_refused_with_a_reason() {
        for (addr, expected) in [
            ("localhost:80", ("localhost", 80)),
            ("a.b.c:0", ("a.b.c", 0)),
            ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
        ] {
            assert_eq!(split(addr), Ok(expected), "{addr}");
        }
        for (addr, why) in [
            ("", "the port is missing"),
            ("localhost", "write localhost:PORT"),
            (":80", "the host is missing"),
            ("[]:80", "the host is missing"),
            ("host:", "\"\" is not a number"),
            ("host:+80", "\"+80\" is not a number"),
            ("host:65536", "\"65536\" is not a number"),
            ("host:http", "\"http\" is not a number"),
            ("::1", "in brackets"),
            ("fe80::1%eth0:80", "in brackets"),
            ("[::1", "] after the IPv6 address"),
            ("[::1]", "write [::1]:PORT"),
            ("[::1]80", "the port is missing"),
        ] {
            let text = split(addr).unwrap_err();
            assert!(text.contains(why), "{addr:?}: {text}");
        }
    }
}
