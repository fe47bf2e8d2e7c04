//! Any target and host: what is accepted is forwarded byte by byte and has no dot segments in any reading.
#![no_main]
use libfuzzer_sys::fuzz_target;
use partnergate::request::canonicalise;

fuzz_target!(|data: (&[u8], &str)| {
    let (target, host) = data;
    if let Ok(request) = canonicalise(&http::Method::GET, target, Some(host), None) {
        assert_eq!(request.target().as_bytes(), target);
        let path = request.path.to_ascii_lowercase();
        assert!(!path.contains("//") && !path.contains('\\') && !path.contains("%2f") && !path.contains("%5c"));
        assert!(!path.replace("%2e", ".").split('/').any(|s| s == "." || s == ".."));
    }
});
