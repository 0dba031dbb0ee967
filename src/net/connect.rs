//! Connecting by name.

use super::resolve;
use crate::io::{Async, SocketOptions};
use crate::time::Timer;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// An address that has not answered for so long gets company (RFC 8305 calls it the connection attempt delay).
const NEXT_AFTER: Duration = Duration::from_millis(250);

impl Async<TcpStream> {
    /// Connects to a host by its name: `example.com:443`. See [`SocketOptions::connect_host`], which is the same with
    /// options.
    ///
    /// # Errors
    ///
    /// Those of [`SocketOptions::connect_host`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes the sockets that it has.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{TcpListener, TcpStream};
    /// use std::time::Duration;
    /// use wakewheel::{Async, timeout};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let addr = format!("localhost:{}", listener.local_addr()?.port());
    ///
    /// wakewheel::block_on(async {
    ///     // The limit is for the look-up, too.
    ///     timeout(Duration::from_secs(10), Async::<TcpStream>::connect_host(&addr)).await??;
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn connect_host(
        addr: &str,
    ) -> impl Future<Output = io::Result<Async<TcpStream>>> + Send + Sync + 'static + use<> {
        SocketOptions::new().connect_host(addr)
    }
}

impl SocketOptions {
    /// [Looks up](crate::net::resolve) `addr`, a host and a port, and connects to the first of its addresses that answers.
    ///
    /// They are tried in the resolver's order, IPv6 and IPv4 in turn. The next one is tried when one has failed, or has not
    /// answered within 250 milliseconds; that one may still come first.
    ///
    /// # Errors
    ///
    /// Those of [`resolve`](crate::net::resolve). If no address answers, the kind is that of the first error, and the text
    /// names `addr` and has all of them. How long it may take is the system's choice: give it a
    /// [`timeout`](crate::timeout()).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes the sockets that it has.
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::io::SocketOptions;
    /// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// # let addr = format!("localhost:{}", listener.local_addr()?.port());
    ///
    /// let stream = wakewheel::block_on(SocketOptions::new().nodelay().connect_host(&addr))?;
    /// assert!(stream.get_ref().nodelay()?);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn connect_host(
        &self,
        addr: &str,
    ) -> impl Future<Output = io::Result<Async<TcpStream>>> + Send + Sync + 'static + use<> {
        let (options, text, addrs) = (self.clone(), format!("{addr:?}"), resolve(addr));
        // A task has room for the largest future that it awaits. This one is awaited once in a connection's life.
        Box::pin(async move { connect_first(&options, in_turn(addrs.await?), &text).await })
    }
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<Async<TcpStream>>> + Send + Sync>>;

/// The first of `addrs` that answers. `text` is what they were looked up from.
async fn connect_first(
    options: &SocketOptions,
    addrs: Vec<SocketAddr>,
    text: &str,
) -> io::Result<Async<TcpStream>> {
    let mut addrs = addrs.into_iter();
    let mut attempts: Vec<Connecting> = Vec::new();
    let mut errors = Vec::new();
    let mut pause = Timer::never();
    poll_fn(|cx| {
        loop {
            let before = attempts.len();
            let mut connected = None;
            attempts.retain_mut(|attempt| match attempt.as_mut().poll(cx) {
                _ if connected.is_some() => false,
                Poll::Pending => true,
                Poll::Ready(Ok(stream)) => {
                    connected = Some(stream);
                    false
                }
                Poll::Ready(Err(e)) => {
                    errors.push(e);
                    false
                }
            });
            if let Some(stream) = connected {
                return Poll::Ready(Ok(stream));
            }
            let is_time = before > attempts.len() || before == 0 || Pin::new(&mut pause).poll(cx).is_ready();
            match is_time.then(|| addrs.next()).flatten() {
                Some(addr) => {
                    attempts.push(Box::pin(options.connect(addr)));
                    pause.set_after(NEXT_AFTER);
                }
                None if attempts.is_empty() => return Poll::Ready(Err(none(text, &errors))),
                None => return Poll::Pending,
            }
        }
    })
    .await
}

/// None of the addresses has answered.
fn none(text: &str, errors: &[io::Error]) -> io::Error {
    let all: Vec<_> = errors.iter().map(io::Error::to_string).collect();
    let kind = errors.first().map_or(io::ErrorKind::NotFound, io::Error::kind);
    io::Error::new(kind, format!("{text} does not answer: {}", all.join("; ")))
}

/// The families take turns, beginning with that of the first address. Within one, the order stays.
fn in_turn(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_v6 = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addrs.into_iter().partition(|addr| addr.is_ipv6() == is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let (a, b) = (first.next(), second.next());
        if a.is_none() && b.is_none() {
            return mixed;
        }
        mixed.extend(a.into_iter().chain(b));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    fn addrs(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|addr| addr.parse().unwrap()).collect()
    }

    fn first_of(addrs: Vec<SocketAddr>) -> io::Result<Async<TcpStream>> {
        let options = SocketOptions::new();
        let limit = Duration::from_secs(20);
        crate::block_on(crate::timeout(limit, connect_first(&options, addrs, "\"name\""))).expect("in time")
    }

    #[test]
    fn the_families_take_turns() {
        let mixed = in_turn(addrs(&["[::1]:1", "[::1]:2", "[::1]:3", "1.1.1.1:1", "1.1.1.1:2"]));
        assert_eq!(mixed, addrs(&["[::1]:1", "1.1.1.1:1", "[::1]:2", "1.1.1.1:2", "[::1]:3"]));
        let mixed = in_turn(addrs(&["1.1.1.1:1", "1.1.1.1:2", "[::1]:1"]));
        assert_eq!(mixed, addrs(&["1.1.1.1:1", "[::1]:1", "1.1.1.1:2"]));
        assert_eq!(in_turn(Vec::new()), []);
    }

    #[test]
    fn an_address_that_refuses_is_passed_over_at_once() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stream = first_of(vec![nobody, nobody, addr]).unwrap();
        assert_eq!(stream.get_ref().peer_addr().unwrap(), addr);
        let e = first_of(vec![nobody, nobody]).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::ConnectionRefused);
        let text = e.to_string();
        assert!(text.starts_with("\"name\" does not answer: "), "{text}");
        assert_eq!(text.matches(&nobody.to_string()).count(), 2, "{text}");
    }

    // Elsewhere, what does not fit into the queue is refused.
    #[cfg(target_os = "linux")]
    #[test]
    fn an_address_that_does_not_answer_gets_company() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: no pointers. The queue of those that wait to be accepted is as short as it can be.
        assert_eq!(unsafe { libc::listen(silent.as_raw_fd(), 0) }, 0);
        let silent_addr = silent.local_addr().unwrap();
        let mut full = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&silent_addr, Duration::from_millis(200)) {
            full.push(stream);
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let started = Instant::now();
        let stream = first_of(vec![silent_addr, addr]).unwrap();
        assert!(started.elapsed() >= NEXT_AFTER);
        assert_eq!(stream.get_ref().peer_addr().unwrap(), addr);
    }
}
