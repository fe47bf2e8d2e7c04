//! Bodies of token requests, from anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partnergate::token::Form;

fuzz_target!(|data: &[u8]| {
    let Ok(form) = Form::parse(Some("application/x-www-form-urlencoded"), data) else { return };
    for name in ["grant_type", "client_id", "scope", "token", "resource"] {
        let all: Vec<&str> = form.all(name).collect();
        assert!(all.iter().all(|value| !value.is_empty() && !value.contains(char::is_control)));
        assert!(name == "resource" || all.len() < 2);
        assert_eq!(form.get(name), all.first().copied());
    }
});
