//! Any text as the config file: checked without a panic, and every error names its file.
#![no_main]
use libfuzzer_sys::fuzz_target;
use partnergate::config::CONFIG;
use partnergate::document::{Problems, check, parse};

fuzz_target!(|text: &str| {
    if let Ok(node) = parse("fuzz.yaml", text) {
        let mut problems = Problems::new();
        check(&node, CONFIG, &mut problems);
        assert!(problems.iter().all(|p| &*p.file == "fuzz.yaml"));
    }
});
