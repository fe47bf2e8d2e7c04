//! Any bytes a client may send as its certificate signing request.
#![no_main]
use libfuzzer_sys::fuzz_target;
use partnergate::identity::{Certificate, Csr};

fuzz_target!(|data: &[u8]| {
    if let Ok(csr) = Csr::from_der(data) {
        assert!(csr.subject.attributes().is_none_or(|attributes| attributes.iter().all(|(oid, _)| oid.contains('.'))));
        // What it asks for is compared without harm.
        if let Ok(certificate) = Certificate::from_der(data) {
            let _ = csr.renews(&certificate);
        }
    }
    let _ = Csr::from_pem(data);
});
