//! Any bytes as a request head: what is accepted has one reading.
#![no_main]
use libfuzzer_sys::fuzz_target;
use partnergate::request::{HeadLimits, judge_head};

fuzz_target!(|data: &[u8]| {
    let limits = HeadLimits { max_bytes: 16 * 1024, max_fields: 100 };
    if judge_head(data, 0, &limits).is_ok() {
        assert!(data.ends_with(b"\r\n\r\n"));
        let text = std::str::from_utf8(data).expect("an accepted head is UTF-8");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "a bare CR or LF was accepted");
        let count = |name: &str| text.to_ascii_lowercase().lines().filter(|l| l.starts_with(name)).count();
        assert_eq!(count("host:"), 1);
        assert!(count("content-length:") + count("transfer-encoding:") <= 1);
    }
});
