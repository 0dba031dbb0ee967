//! Which loop a connection goes to.

use super::Addr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Which loop a connection goes to. One acceptor decides, exactly, and hands the connection to its loop: a loop that is
/// busy delays its own connections only. (With `reuseport` in an address, the kernel decides instead.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBalance {
    /// Any.
    Random,
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest connections; of several, the first.
    LeastConnections,
    /// The same for all connections from one IP address. (Clients of Unix sockets have none: one after the other.)
    SourceHash,
}

/// How many loops there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loops {
    /// One for each processor that the process may use.
    All,
    /// So many; 0 is 1. A single one runs on the calling thread.
    Exactly(usize),
}

/// As evio counts: a negative number is [`Loops::All`].
impl From<isize> for Loops {
    fn from(loops: isize) -> Loops {
        usize::try_from(loops).map_or(Loops::All, Loops::Exactly)
    }
}

impl Loops {
    pub(super) fn count(self) -> usize {
        match self {
            Loops::All => std::thread::available_parallelism().map_or(1, usize::from),
            Loops::Exactly(count) => count.max(1),
        }
    }
}

#[derive(Debug)]
pub(super) struct Balancer {
    balance: LoadBalance,
    next: usize,
    /// Keys that nobody outside can guess, so that nobody can choose addresses that meet on one loop.
    hasher: RandomState,
}

impl Balancer {
    pub fn new(balance: LoadBalance) -> Balancer {
        Balancer { balance, next: 0, hasher: RandomState::new() }
    }

    /// The loop for a connection from `peer`, of those whose connections `counts` counts.
    pub fn pick<'a>(
        &mut self,
        peer: Option<&Addr>,
        counts: impl ExactSizeIterator<Item = &'a AtomicUsize>,
    ) -> usize {
        let loops = counts.len();
        let turn = self.next;
        self.next = turn.wrapping_add(1);
        match (self.balance, peer.and_then(Addr::socket_addr)) {
            (LoadBalance::Random, _) => self.hash(&turn.to_ne_bytes()) % loops,
            (LoadBalance::SourceHash, Some(peer)) => match peer.ip() {
                std::net::IpAddr::V4(ip) => self.hash(&ip.octets()) % loops,
                std::net::IpAddr::V6(ip) => self.hash(&ip.octets()) % loops,
            },
            (LoadBalance::LeastConnections, _) => counts
                .enumerate()
                .min_by_key(|(_, count)| count.load(Ordering::Relaxed))
                .map_or(0, |(i, _)| i),
            (LoadBalance::RoundRobin | LoadBalance::SourceHash, _) => turn % loops,
        }
    }

    fn hash(&self, bytes: &[u8]) -> usize {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(bytes);
        hasher.finish() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(balance: LoadBalance, peers: &[&str], counts: &[usize]) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = counts.iter().map(|&count| AtomicUsize::new(count)).collect();
        let mut balancer = Balancer::new(balance);
        let pick = |peer: &&str| {
            let peer = Addr::Tcp(peer.parse().unwrap());
            let i = balancer.pick(Some(&peer), counts.iter());
            counts[i].fetch_add(1, Ordering::Relaxed);
            i
        };
        peers.iter().map(pick).collect()
    }

    #[test]
    fn round_robin_goes_round() {
        assert_eq!(picks(LoadBalance::RoundRobin, &["1.2.3.4:5"; 5], &[7, 0, 0]), [0, 1, 2, 0, 1]);
    }

    #[test]
    fn least_connections_takes_the_first_of_the_emptiest() {
        assert_eq!(picks(LoadBalance::LeastConnections, &["1.2.3.4:5"; 5], &[2, 0, 1]), [1, 1, 2, 0, 1]);
    }

    #[test]
    fn a_source_stays_on_its_loop_whatever_its_port() {
        let picks =
            picks(LoadBalance::SourceHash, &["1.2.3.4:5", "1.2.3.4:6", "[::7]:1", "[::7]:2"], &[0; 8]);
        assert_eq!((picks[0], picks[2]), (picks[1], picks[3]));
    }

    #[test]
    fn random_uses_all_loops() {
        let mut picks = picks(LoadBalance::Random, &["1.2.3.4:5"; 200], &[0; 4]);
        picks.sort();
        picks.dedup();
        assert_eq!(picks, [0, 1, 2, 3]);
    }
}
