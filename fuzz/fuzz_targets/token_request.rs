//! Bodies of token requests, and what may be an API key in a URL, from anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partnergate::token::{Form, KEY_PREFIX, find_key};

fuzz_target!(|data: &[u8]| {
    if let Some(key) = find_key(data) {
        // What was found is found again, by itself and in a URL.
        assert!(key.starts_with(KEY_PREFIX) && key.is_ascii());
        assert_eq!(find_key(format!("/x?k={key}")), Some(key));
    }
    let Ok(form) = Form::parse(Some("application/x-www-form-urlencoded"), data) else { return };
    for name in ["grant_type", "client_id", "scope", "token", "resource"] {
        let all: Vec<&str> = form.all(name).collect();
        assert!(all.iter().all(|value| !value.is_empty() && !value.contains(char::is_control)));
        assert!(name == "resource" || all.len() < 2);
        assert_eq!(form.get(name), all.first().copied());
    }
});
