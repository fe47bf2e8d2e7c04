//! Any text as a registry file.
#![no_main]
use libfuzzer_sys::fuzz_target;
use partnergate::name::Environment;
use partnergate::store::{DeclaredFile, parse_declaration};

fuzz_target!(|text: &str| {
    let environment = Environment::parse("production").expect("a valid name");
    let files = [DeclaredFile { name: "fuzz.yaml".into(), text: text.into() }];
    let _ = parse_declaration(&files, &environment);
});
