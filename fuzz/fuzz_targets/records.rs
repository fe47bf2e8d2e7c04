//! Any file that somebody gives to `audit verify` as records: it is judged, and nothing in it is taken for good that no key
//! has signed; and the event of any line.
#![no_main]
use libfuzzer_sys::fuzz_target;
use partnergate::record::{LinePlace, RecordVerifier, opa_event};

fuzz_target!(|data: &[u8]| {
    let mut verifier = RecordVerifier::new(vec!["0".repeat(64)]);
    for (n, line) in data.split_inclusive(|b| *b == b'\n').enumerate() {
        let _ = opa_event(line, &Vec::new());
        let place = LinePlace { file: "f".into(), line: n as u64 + 1 };
        if verifier.line(&place, line).is_err() {
            return;
        }
    }
    assert!(verifier.finish(None).is_ok_and(|nodes| nodes.is_empty()) == data.is_empty());
});
