//! Signing keys as they are kept: encrypted under a secret that is not in the database.

use data_encoding::BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

/// Shortest secret, in bytes: it is no passphrase that people think of, and nothing is done to slow down who tries them.
pub const SHORTEST_SECRET: usize = 32;
const CONTEXT: &[u8] = b"partnergate.token-key/1";

/// Whether it may be a secret; white space around it, as files have it, does not count.
///
/// # Errors
/// A sentence of which the secret's place is the subject.
pub fn check_secret(secret: &[u8]) -> Result<(), String> {
    match secret.trim_ascii().len() {
        length if length >= SHORTEST_SECRET => Ok(()),
        length => Err(format!("has {length} bytes: at least {SHORTEST_SECRET} are needed")),
    }
}

/// The nonce and what is encrypted, as base64. `id` belongs to it: under another one it does not open.
pub(super) fn seal(plain: &[u8], secret: &[u8], id: &str) -> Result<String, String> {
    let failed = |_| "the system gave no random numbers".to_owned();
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(failed)?;
    let mut sealed = plain.to_vec();
    let key = key_of(secret).ok_or("no key follows from the secret")?;
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(id), &mut sealed).map_err(failed)?;
    Ok(BASE64.encode(&[&nonce, sealed.as_slice()].concat()))
}

pub(super) fn open(sealed: &str, secret: &[u8], id: &str) -> Result<Vec<u8>, String> {
    let opened = || {
        let bytes = BASE64.decode(sealed.as_bytes()).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = key_of(secret)?.open_in_place(nonce, Aad::from(id), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    };
    opened().ok_or_else(|| "is not opened by the secret: it was kept under another one, or was altered".to_owned())
}

fn key_of(secret: &[u8]) -> Option<LessSafeKey> {
    let salt = Salt::new(HKDF_SHA256, CONTEXT).extract(secret.trim_ascii());
    let key = salt.expand(&[b"seal"], &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(key)))
}
