//! Any bytes at the beginning of a proxy's connection: read within bounds, in any pieces alike, and not beyond its end.
#![no_main]
use libfuzzer_sys::fuzz_target;
use partnergate::listen::{Announced, ProxyHeader};

fuzz_target!(|data: (u8, &[u8])| {
    let (step, bytes) = data;
    let at_once = ProxyHeader::default().take(bytes);
    let (mut header, mut taken) = (ProxyHeader::default(), 0);
    let in_pieces = loop {
        let piece = bytes[taken..].chunks(usize::from(step).max(1)).next().unwrap_or_default();
        match header.take(piece) {
            Ok((n, None)) if taken + n < bytes.len() => taken += n,
            Ok((n, announced)) => break Ok((taken + n, announced)),
            Err(fault) => break Err(fault),
        }
    };
    assert_eq!(at_once, in_pieces);
    if let Ok((taken, Some(announced))) = at_once {
        assert!(taken <= 16 + 4096);
        assert_eq!(ProxyHeader::default().take(&bytes[..taken]), Ok((taken, Some(announced))), "what is behind it counts");
        if let Announced::Source(source) = announced {
            assert_eq!(source.ip(), source.ip().to_canonical());
        }
    }
});
