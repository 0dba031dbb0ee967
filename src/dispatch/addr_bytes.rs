//! Socket addresses as bytes, for messages and files.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// How many bytes an IPv4 address and its port are: see [`addr_to_bytes`].
pub const ADDR_LEN_V4: usize = 8;
/// How many bytes an IPv6 address and its port are: see [`addr_to_bytes`].
pub const ADDR_LEN_V6: usize = 28;

// Those of Linux. Other systems have other numbers for IPv6, and the bytes may come from there.
const FAMILY_V4: u16 = 2;
const FAMILY_V6: u16 = 10;

/// Writes `addr` to the beginning of `buf`; returns how many bytes that are, 8 or 28.
///
/// The layout is that of `sockaddr_in` (without its padding) and `sockaddr_in6`, and every number is in network order (big
/// endian), so that the bytes mean the same on every machine:
///
/// | bytes of IPv4 | bytes of IPv6 | |
/// |---|---|---|
/// | 0–1 | 0–1   | family: 2 for IPv4, 10 for IPv6, as on Linux, whatever the numbers of this system are |
/// | 2–3 | 2–3   | port |
/// |     | 4–7   | flow information |
/// | 4–7 | 8–23  | IP address |
/// |     | 24–27 | scope id |
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if `buf` is too short. Nothing is written then.
///
/// # Examples
///
/// ```
/// use wakewheel::dispatch::{ADDR_LEN_V6, addr_from_bytes, addr_to_bytes};
///
/// let mut buf = [0; ADDR_LEN_V6];
/// let len = addr_to_bytes("192.0.2.1:80".parse().unwrap(), &mut buf)?;
/// assert_eq!(&buf[..len], [0, 2, 0, 80, 192, 0, 2, 1]);
/// assert_eq!(addr_from_bytes(&buf)?, ("192.0.2.1:80".parse().unwrap(), len));
/// # std::io::Result::Ok(())
/// ```
pub fn addr_to_bytes(addr: SocketAddr, buf: &mut [u8]) -> io::Result<usize> {
    let needed = if addr.is_ipv4() { ADDR_LEN_V4 } else { ADDR_LEN_V6 };
    let len = buf.len();
    let Some(buf) = buf.get_mut(..needed) else {
        let text = format!("{addr} is {needed} bytes, and there is room for {len}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    buf[2..4].copy_from_slice(&addr.port().to_be_bytes());
    match addr {
        SocketAddr::V4(addr) => {
            buf[0..2].copy_from_slice(&FAMILY_V4.to_be_bytes());
            buf[4..8].copy_from_slice(&addr.ip().octets());
        }
        SocketAddr::V6(addr) => {
            buf[0..2].copy_from_slice(&FAMILY_V6.to_be_bytes());
            buf[4..8].copy_from_slice(&addr.flowinfo().to_be_bytes());
            buf[8..24].copy_from_slice(&addr.ip().octets());
            buf[24..28].copy_from_slice(&addr.scope_id().to_be_bytes());
        }
    }
    Ok(needed)
}

/// Reads an address, as [`addr_to_bytes`] has written it, from the beginning of `bytes`; returns it, and how many
/// bytes it was. There may be more after it.
///
/// # Errors
///
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if `bytes` ends before the address does;
/// [`InvalidData`](io::ErrorKind::InvalidData) if it begins with another family.
///
/// # Examples
///
/// ```
/// use std::io::ErrorKind;
/// use wakewheel::dispatch::addr_from_bytes;
///
/// let bytes = [0, 2, 0, 80, 192, 0, 2, 1];
/// assert_eq!(addr_from_bytes(&bytes)?.0.to_string(), "192.0.2.1:80");
/// assert_eq!(addr_from_bytes(&bytes[..7]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
/// # std::io::Result::Ok(())
/// ```
pub fn addr_from_bytes(bytes: &[u8]) -> io::Result<(SocketAddr, usize)> {
    let short = || {
        let text = format!("{} bytes are a part of an address", bytes.len());
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    };
    let family = u16::from_be_bytes(*bytes.first_chunk().ok_or_else(short)?);
    match family {
        FAMILY_V4 => {
            let bytes: &[u8; ADDR_LEN_V4] = bytes.first_chunk().ok_or_else(short)?;
            let ip = Ipv4Addr::from(part::<4>(bytes, 4));
            let port = u16::from_be_bytes(part(bytes, 2));
            Ok((SocketAddrV4::new(ip, port).into(), ADDR_LEN_V4))
        }
        FAMILY_V6 => {
            let bytes: &[u8; ADDR_LEN_V6] = bytes.first_chunk().ok_or_else(short)?;
            let ip = Ipv6Addr::from(part::<16>(bytes, 8));
            let port = u16::from_be_bytes(part(bytes, 2));
            let flow_info = u32::from_be_bytes(part(bytes, 4));
            let scope_id = u32::from_be_bytes(part(bytes, 24));
            Ok((SocketAddrV6::new(ip, port, flow_info, scope_id).into(), ADDR_LEN_V6))
        }
        family => {
            let text =
                format!("{family} is no family of addresses: {FAMILY_V4} is IPv4, {FAMILY_V6} is IPv6");
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

/// `N` bytes, which are there.
fn part<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    *bytes[from..].first_chunk().expect("the layout is shorter than its length")
}
