//! Any bytes as a SPIFFE trust bundle: refused with a sentence, or certificates that all do as anchors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partnergate::trust::TrustBundle;

fuzz_target!(|document: &[u8]| {
    match TrustBundle::parse("acme.example", document) {
        Ok(bundle) => {
            assert!(bundle.certificates.len() <= 64);
            assert!(bundle.follows(&bundle).is_ok());
        }
        Err(why) => assert!(!why.is_empty()),
    }
});
