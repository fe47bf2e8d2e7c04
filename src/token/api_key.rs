//! API keys as partners have them: 256 random bits that secret scanners recognise, kept as a keyed hash.

use crate::identity::Fingerprint;
use crate::partner::KeyHash;
use data_encoding::BASE32_NOPAD;
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use std::borrow::Cow;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// What every key begins with.
pub const KEY_PREFIX: &str = "pgk_";
const RANDOM: usize = 32;
/// Characters of the random part, and of the checksum (CRC-32) of prefix and random part behind it. Both are base32
/// (RFC 4648 section 6) in lower case.
const SECRET: usize = 52;
const CHECKSUM: usize = 7;
/// So much of a key is as bad as all of it.
const TELLING: usize = 20;
const CONTEXT: &[u8] = b"partnergate.api-key/1";

/// What keys are accepted for, from the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiKeySettings {
    pub accepted_in: KeyUse,
    /// How long a key may be good.
    pub longest: Duration,
}

/// Where a key is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// In `X-API-Key` of a request; and for exchange, where access tokens are given.
    Header,
    /// Only for exchange.
    Exchange,
}

impl KeyUse {
    pub const NAMES: &'static [&'static str] = &["header", "exchange"];

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "header" => Some(KeyUse::Header),
            "exchange" => Some(KeyUse::Exchange),
            _ => None,
        }
    }
}

/// Makes keys and says which one a text is.
pub struct ApiKeys {
    pub settings: ApiKeySettings,
    key: hmac::Key,
}

/// A key that was made. Its text is nowhere else.
pub struct MadeKey {
    pub text: String,
    pub hash: KeyHash,
}

impl ApiKeys {
    /// Hashes under a key that follows from the secret, white space around which does not count.
    pub(super) fn new(settings: ApiKeySettings, secret: &[u8]) -> Result<Self, String> {
        let salt = Salt::new(HKDF_SHA256, CONTEXT).extract(secret.trim_ascii());
        let key = salt.expand(&[b"hash"], HMAC_SHA256).map_err(|_| "no key follows from the secret".to_owned())?;
        Ok(ApiKeys { settings, key: hmac::Key::from(key) })
    }

    /// # Errors
    /// The system gives no random numbers.
    pub fn make(&self) -> Result<MadeKey, String> {
        let mut random = [0; RANDOM];
        SystemRandom::new().fill(&mut random).map_err(|_| "the system gives no random numbers".to_owned())?;
        let text = format!("{KEY_PREFIX}{}", base32(&random));
        let text = format!("{text}{}", checksum(&text));
        let hash = self.hash_of(&text);
        Ok(MadeKey { text, hash })
    }

    /// What is kept of the key that this is; `None` where it is none: another form, or mistyped.
    pub fn read(&self, text: &str) -> Option<KeyHash> {
        let (body, sum) = text.split_at_checked(KEY_PREFIX.len() + SECRET)?;
        let is_one = body.starts_with(KEY_PREFIX) && sum == checksum(body);
        is_one.then(|| self.hash_of(text))
    }

    /// Compares in a time that does not depend on where they differ.
    pub fn is_same(&self, kept: &KeyHash, other: &KeyHash) -> bool {
        kept.0.0.ct_eq(&other.0.0).into()
    }

    fn hash_of(&self, text: &str) -> KeyHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.key, text.as_bytes()).as_ref());
        KeyHash(Fingerprint(hash))
    }
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

fn checksum(text: &str) -> String {
    base32(&crc32fast::hash(text.as_bytes()).to_be_bytes())
}

/// The key, or most of one, that stands somewhere, percent-encoded or not: in a URL, in a field, in what somebody has typed.
/// It is asked of every field of every request, nearly none of which has what a key has.
pub fn find_key(text: impl AsRef<[u8]>) -> Option<String> {
    let text = text.as_ref();
    // Without an end before the end, which lets the compiler look at many bytes at once.
    let telling = text.iter().fold(false, |found, c| found | (*c == b'_') | (*c == b'%'));
    if !telling {
        return None;
    }
    let bytes: Cow<'_, [u8]> = percent_encoding::percent_decode(text).into();
    let prefix = KEY_PREFIX.as_bytes();
    let begins = bytes.windows(prefix.len()).enumerate().filter(|(_, window)| window.eq_ignore_ascii_case(prefix));
    let digit = |c: &&u8| matches!(c.to_ascii_lowercase(), b'a'..=b'z' | b'2'..=b'7');
    let mut found = begins.filter_map(|(at, _)| {
        let rest = bytes.get(at + prefix.len()..)?;
        let length = rest.iter().take(SECRET + CHECKSUM).take_while(digit).count();
        let found = bytes.get(at..at + prefix.len() + length)?;
        (length >= TELLING).then(|| String::from_utf8_lossy(found).to_ascii_lowercase())
    });
    found.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secret: &[u8]) -> ApiKeys {
        let longest = Duration::from_secs(1);
        ApiKeys::new(ApiKeySettings { accepted_in: KeyUse::Header, longest }, secret).unwrap()
    }

    #[test]
    fn key_is_recognised_and_a_slip_of_the_pen_is_not_another_key() {
        let keys = keys(&[7; 32]);
        let MadeKey { text, hash } = keys.make().unwrap();
        assert!(text.starts_with("pgk_") && text.len() == 4 + 52 + 7, "{text}");
        assert_eq!(keys.read(&text), Some(hash));
        assert_ne!(keys.make().unwrap().text, text);
        for at in 0..text.len() {
            let mut slip = text.clone().into_bytes();
            slip[at] = if slip[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(keys.read(std::str::from_utf8(&slip).unwrap()), None, "at {at}");
        }
        let upper = text.to_ascii_uppercase();
        for other in [&text[1..], &text[..62], &format!("{text}a"), "", "pgk_", "pgk_äöü", upper.as_str()] {
            assert_eq!(keys.read(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_kept_is_of_no_use_under_another_secret() {
        let MadeKey { text, hash } = keys(&[7; 32]).make().unwrap();
        assert_ne!(keys(&[8; 32]).read(&text), Some(hash));
        assert_eq!(
            keys(b"\n 7777777777777777777777777777777777 \n").read(&text),
            keys(b"7777777777777777777777777777777777").read(&text)
        );
        assert_ne!(KeyHash(Fingerprint::of(text.as_bytes())), hash, "a plain digest could be tried without the secret");
    }

    #[test]
    fn key_in_a_url_is_found_wherever_it_stands() {
        let MadeKey { text, .. } = keys(&[7; 32]).make().unwrap();
        let encoded: String = text.bytes().map(|c| format!("%{c:02x}")).collect();
        for target in [
            format!("/items?api_key={text}"),
            format!("/items/{text}/x"),
            format!("/items?{text}"),
            format!("/items?a=b&k={encoded}"),
            format!("/items?k={}", text.to_ascii_uppercase()),
            format!("/items?k=pgk_x{text}"),
        ] {
            assert_eq!(find_key(&target), Some(text.clone()), "{target}");
        }
        // Cut off, it is enough for who finds it to look for the rest.
        assert_eq!(find_key(format!("/?k={}", &text[..30])), Some(text[..30].to_owned()));
        for other in [
            "/items?k=pgk_",
            "/pgk_short/x",
            "/items?api_key=abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz",
            "/%",
            "/%ff%fe",
        ] {
            assert_eq!(find_key(other), None, "{other}");
        }
    }
}
