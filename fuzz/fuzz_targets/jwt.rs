//! Tokens, and sets of keys, from anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partnergate::jose::{Algorithm, Jwks, Jws};

const KEYS: &str = r#"{"keys":[
  {"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
  {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fuzz_target!(|data: &[u8]| {
    if let Ok(keys) = Jwks::parse(data) {
        assert!(keys.keys.len() <= 100);
    }
    let (Ok(text), Ok(keys)) = (std::str::from_utf8(data), Jwks::parse(KEYS.as_bytes())) else { return };
    let Ok(jws) = Jws::parse(text, 8192) else { return };
    for algorithm in Algorithm::ALL {
        for key in keys.candidates(jws.header.key_id.as_deref(), *algorithm) {
            let _ = jws.verified(key, *algorithm);
        }
    }
});
