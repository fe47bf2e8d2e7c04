//! Any bytes a client may send as its certificate.
#![no_main]
use libfuzzer_sys::fuzz_target;
use partnergate::identity::{Certificate, Peer};
use partnergate::name::AnchorName;

fuzz_target!(|data: &[u8]| {
    if let Ok(leaf) = Certificate::from_der(data) {
        let anchor = AnchorName::parse("a").expect("a valid name");
        let spki = leaf.spki_sha256;
        let peer = Peer::new(leaf, Vec::new(), anchor, spki, 1);
        assert!(peer.match_keys.is_sorted_by_key(|k| k.kind));
    }
});
