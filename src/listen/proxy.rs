//! The PROXY protocol, versions 1 and 2: where a connection that comes through a listed proxy really comes from.
//!
//! In: the first bytes of a connection. Out: the announced source, or a fault; the byte behind the header is the first
//! that TLS sees. What the bytes mean is read by `ppp`; this module decides how many of them are the header's. Must
//! never: take a byte behind the header, keep more than a header may have, or go on after a header with two readings.

use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest line of version 1, its end included (section 2.1 of the specification).
const MAX_V1: usize = 107;
/// The first part of version 2, up to the length of the second.
const HEAD_V2: usize = 16;
/// The second part of version 2: addresses and additions. Proxies send some hundred bytes; the protocol permits 64 KiB.
const MAX_V2_REST: usize = 4096;
/// Version 2 from the proxy on its own behalf.
const LOCAL_V2: u8 = 0x20;
const START_V1: &[u8] = b"PROXY ";
const START_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header while it arrives.
#[derive(Debug, Default)]
pub struct ProxyHeader {
    bytes: Vec<u8>,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// Nobody is behind the proxy: it connects on its own behalf, as its health checks do, or does not know for whom.
    /// The connection's own address holds.
    Nobody,
    /// Where the connection to the proxy came from, IPv4-mapped addresses as IPv4.
    Source(SocketAddr),
}

/// Why the beginning of a connection is no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFault {
    #[error("the peer is listed in `partner.proxy_protocol` and sent no PROXY header")]
    NoHeader,
    #[error("the PROXY header is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the PROXY header is malformed: {0}")]
    Malformed(String),
    #[error("the PROXY header announces no TCP connection over IPv4 or IPv6")]
    NoAddress,
    #[error("the connection ended within the PROXY header")]
    Truncated,
}

impl ProxyHeader {
    /// Takes from `bytes` what belongs to the header: how many that were, and what the header says once it is whole.
    ///
    /// # Errors
    /// Whatever comes, this is no header.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Announced>), ProxyFault> {
        for (taken, byte) in bytes.iter().enumerate() {
            self.bytes.push(*byte);
            if let Some(announced) = self.look()? {
                return Ok((taken + 1, Some(announced)));
            }
        }
        Ok((bytes.len(), None))
    }

    fn look(&self) -> Result<Option<Announced>, ProxyFault> {
        let (bytes, length) = (self.bytes.as_slice(), self.bytes.len());
        let begins = |start: &[u8]| bytes.iter().zip(start).all(|(a, b)| a == b);
        if begins(START_V1) {
            return match bytes.last() {
                Some(b'\n') => version1(bytes).map(Some),
                _ if length >= MAX_V1 => Err(ProxyFault::TooLarge(MAX_V1)),
                _ => Ok(None),
            };
        }
        if !begins(START_V2) {
            return Err(ProxyFault::NoHeader);
        }
        let Some([.., high, low]) = bytes.get(..HEAD_V2) else { return Ok(None) };
        let rest = usize::from(u16::from_be_bytes([*high, *low]));
        if rest > MAX_V2_REST {
            return Err(ProxyFault::TooLarge(HEAD_V2 + MAX_V2_REST));
        }
        if length < HEAD_V2 + rest { Ok(None) } else { version2(bytes).map(Some) }
    }
}

fn version1(line: &[u8]) -> Result<Announced, ProxyFault> {
    let header = ppp::v1::Header::try_from(line).map_err(|e| ProxyFault::Malformed(e.to_string()))?;
    Ok(match header.addresses {
        ppp::v1::Addresses::Unknown => Announced::Nobody,
        ppp::v1::Addresses::Tcp4(a) => source(a.source_address.into(), a.source_port),
        ppp::v1::Addresses::Tcp6(a) => source(a.source_address.into(), a.source_port),
    })
}

fn version2(bytes: &[u8]) -> Result<Announced, ProxyFault> {
    let malformed = |e: ppp::v2::ParseError| ProxyFault::Malformed(e.to_string());
    // What else it says is to be thrown away, whatever it is (section 2.2).
    if bytes.get(START_V2.len()) == Some(&LOCAL_V2) {
        return Ok(Announced::Nobody);
    }
    let header = ppp::v2::Header::try_from(bytes).map_err(malformed)?;
    if header.protocol != ppp::v2::Protocol::Stream {
        return Err(ProxyFault::NoAddress);
    }
    // Nothing is made of the additions, but one that lies about its length may hide what was meant as an address.
    for addition in header.tlvs() {
        addition.map_err(malformed)?;
    }
    match header.addresses {
        ppp::v2::Addresses::IPv4(a) => Ok(source(a.source_address.into(), a.source_port)),
        ppp::v2::Addresses::IPv6(a) => Ok(source(a.source_address.into(), a.source_port)),
        ppp::v2::Addresses::Unix(_) | ppp::v2::Addresses::Unspecified => Err(ProxyFault::NoAddress),
    }
}

fn source(address: IpAddr, port: u16) -> Announced {
    Announced::Source(SocketAddr::new(address.to_canonical(), port))
}

/// Reads a header from a connection, and no byte more. `None` when the peer leaves without a word, as checks of a
/// port do. Takes as long as the peer lets it.
///
/// # Errors
/// The outer error is the connection's, the inner one the header's.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Result<Option<Announced>, ProxyFault>> {
    let mut header = ProxyHeader::default();
    let mut buffer = [0; 512];
    loop {
        // Looked at first, because what lies behind the header is not ours; then taken, so that the next look waits.
        let there = stream.peek(&mut buffer).await?;
        if there == 0 {
            return Ok(if header.bytes.is_empty() { Ok(None) } else { Err(ProxyFault::Truncated) });
        }
        let (taken, announced) = match header.take(buffer.get(..there).unwrap_or_default()) {
            Ok(found) => found,
            Err(fault) => return Ok(Err(fault)),
        };
        stream.read_exact(buffer.get_mut(..taken).unwrap_or_default()).await?;
        if announced.is_some() {
            return Ok(Ok(announced));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [START_V2, &[0x20 | command, family], &length, rest].concat()
    }

    fn whole(bytes: &[u8]) -> Result<Option<Announced>, ProxyFault> {
        ProxyHeader::default().take(bytes).map(|(_, announced)| announced)
    }

    fn from(text: &str) -> Result<Option<Announced>, ProxyFault> {
        Ok(Some(Announced::Source(text.parse().unwrap())))
    }

    const FOUR: [u8; 12] = [198, 51, 100, 7, 10, 0, 0, 1, 0xd4, 0x31, 0x01, 0xbb];

    fn six(source: &str) -> Vec<u8> {
        let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        [&octets(source)[..], &octets("2001:db8::1"), &[0xd4, 0x31, 0x01, 0xbb]].concat()
    }

    #[test]
    fn announced_sources_are_read_in_both_versions() {
        for (header, source) in [
            (b"PROXY TCP4 198.51.100.7 10.0.0.1 54321 443\r\n".to_vec(), "198.51.100.7:54321"),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 54321 443\r\n".to_vec(), "[2001:db8::7]:54321"),
            (b"PROXY TCP6 ::ffff:198.51.100.7 2001:db8::1 54321 443\r\n".to_vec(), "198.51.100.7:54321"),
            (v2(1, 0x11, &FOUR), "198.51.100.7:54321"),
            (v2(1, 0x21, &six("2001:db8::7")), "[2001:db8::7]:54321"),
            (v2(1, 0x21, &six("::ffff:198.51.100.7")), "198.51.100.7:54321"),
            // A name, a checksum that nobody checks, padding, and one that is the sender's own.
            (
                v2(
                    1,
                    0x11,
                    &[&FOUR[..], b"\x02\0\x03abc", b"\x03\0\x04\0\0\0\0", b"\x04\0\0", b"\xea\0\x01x"].concat(),
                ),
                "198.51.100.7:54321",
            ),
        ] {
            assert_eq!(whole(&header), from(source), "{}", String::from_utf8_lossy(&header));
        }
    }

    #[test]
    fn proxy_on_its_own_behalf_announces_nobody() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN 198.51.100.7 10.0.0.1 54321 443\r\n".to_vec(),
            v2(0, 0x00, &[]),
            v2(0, 0x11, &FOUR),
            v2(0, 0x11, &[]),
            v2(0, 0xff, &[1, 2, 3]),
        ] {
            assert_eq!(whole(&header), Ok(Some(Announced::Nobody)), "{}", String::from_utf8_lossy(&header));
        }
    }

    #[test]
    fn what_is_not_clear_is_no_header() {
        let with = |tail: &[u8]| v2(1, 0x11, &[&FOUR[..], tail].concat());
        let mut other_version = v2(1, 0x11, &FOUR);
        other_version[12] = 0x31;
        let malformed = [
            b"PROXY TCP4 198.51.100.7 10.0.0.1 65536 443\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 10.0.0.1 54321 443\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 10.0.0.1 54321 443 \r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 10.0.0.1 054321 443\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.07 10.0.0.1 54321 443\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 2001:db8::1 54321 443\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 10.0.0.1 54321\r\n".to_vec(),
            b"PROXY TCP4  198.51.100.7 10.0.0.1 54321 443\r\n".to_vec(),
            b"PROXY tcp4 198.51.100.7 10.0.0.1 54321 443\r\n".to_vec(),
            b"PROXY UDP4 198.51.100.7 10.0.0.1 54321 443\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7\r10.0.0.1 54321 443\r\n".to_vec(),
            b"PROXY \r\n".to_vec(),
            b"PROXY \xff\r\n".to_vec(),
            other_version,
            v2(2, 0x11, &FOUR),
            v2(1, 0x41, &FOUR),
            v2(1, 0x13, &FOUR),
            v2(1, 0x11, &FOUR[..11]),
            v2(1, 0x21, &FOUR),
            v2(1, 0x31, &FOUR),
            with(b"\x02\0\x04abc"),
            with(b"\x02\0"),
            with(b"\x02"),
        ];
        for header in malformed {
            let found = whole(&header);
            assert!(matches!(found, Err(ProxyFault::Malformed(_))), "{}: {found:?}", String::from_utf8_lossy(&header));
        }
        for header in [v2(1, 0x31, &[0; 216]), v2(1, 0x00, &[]), v2(1, 0x01, &FOUR), v2(1, 0x12, &FOUR)] {
            assert_eq!(whole(&header), Err(ProxyFault::NoAddress));
        }
        for other in
            [&b"\x16\x03\x01\x02\0"[..], b"GET / HTTP/1.1\r\n", b"PROXY\r\n", b"\r\n\r\n\r\n", b"\r\n\r\n\0\r\nQUIX"]
        {
            assert_eq!(whole(other), Err(ProxyFault::NoHeader), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn headers_are_bounded() {
        let endless = [START_V1, &[b'1'; 4000]].concat();
        let mut header = ProxyHeader::default();
        assert_eq!(header.take(&endless), Err(ProxyFault::TooLarge(107)));
        assert_eq!(header.bytes.len(), 107);
        let mut large = v2(1, 0x11, &vec![0; 4097]);
        let mut header = ProxyHeader::default();
        assert_eq!(header.take(&large), Err(ProxyFault::TooLarge(4112)), "before the rest has come");
        assert_eq!(header.bytes.len(), 16);
        // An addition that fills what is permitted.
        let filled = [&FOUR[..], &[0x04, 0x0f, 0xf1], &[0; 4081]].concat();
        assert_eq!(filled.len(), 4096);
        large = v2(1, 0x11, &filled);
        assert_eq!(whole(&large), from("198.51.100.7:54321"));
    }

    #[test]
    fn what_lies_behind_a_header_is_left() {
        for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0, 0, &[]), v2(1, 0x11, &FOUR)] {
            let with_more = [&header[..], b"\x16\x03\x01\r\n"].concat();
            let (taken, announced) = ProxyHeader::default().take(&with_more).unwrap();
            assert_eq!((taken, announced.is_some()), (header.len(), true));
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            start in prop::sample::select(vec![START_V1.to_vec(), b"PROXY TCP4 1.2.3.4 ".to_vec(), START_V2.to_vec(), v2(1, 0x11, &FOUR)]),
            rest in prop::collection::vec(any::<u8>(), 0..60),
            pieces in prop::collection::vec(1usize..9, 1..90),
        ) {
            let bytes = [start, rest].concat();
            let at_once = ProxyHeader::default().take(&bytes);
            let (mut header, mut left, mut taken) = (ProxyHeader::default(), bytes.as_slice(), 0);
            let mut pieces = pieces.into_iter().cycle();
            let in_pieces = loop {
                let (piece, _) = left.split_at(pieces.next().unwrap().min(left.len()));
                match header.take(piece) {
                    Ok((n, None)) if n < left.len() => (left, taken) = (&left[n..], taken + n),
                    Ok((n, announced)) => break Ok((taken + n, announced)),
                    Err(fault) => break Err(fault),
                }
            };
            prop_assert_eq!(at_once, in_pieces);
        }
    }
}
