//! What of a request a record may show. Values that can name a person or hold a secret are keyed hashes, so that equal
//! values can be found without being readable.

use crate::document::shown;
use ring::hmac;
use std::collections::BTreeSet;

/// Longest text taken over from a client, in characters as they are written.
const MAX_TEXT: usize = 512;

/// Which values are shown as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Include {
    /// Query keys.
    pub query: BTreeSet<String>,
    /// Names of path parameters.
    pub params: BTreeSet<String>,
    pub email: bool,
    /// Source addresses in full; otherwise IPv4 to /24 and IPv6 to /48.
    pub full_address: bool,
}

/// Hashes under the node's record key.
pub struct Mask {
    key: hmac::Key,
    pub include: Include,
}

impl Mask {
    /// `key` has at least 32 bytes.
    pub fn new(key: &[u8], include: Include) -> Self {
        Mask { key: hmac::Key::new(hmac::HMAC_SHA256, key), include }
    }

    /// `h:` and 32 hex digits of HMAC-SHA-256.
    pub fn hash(&self, value: &str) -> String {
        let tag = hmac::sign(&self.key, value.as_bytes());
        format!("h:{}", hex::encode(tag.as_ref().get(..16).unwrap_or_default()))
    }

    pub fn query(&self, key: &str, value: &str) -> String {
        if self.include.query.contains(key) { printable(value) } else { self.hash(value) }
    }

    pub fn param(&self, name: &str, value: &str) -> String {
        if self.include.params.contains(name) { printable(value) } else { self.hash(value) }
    }

    pub fn email(&self, value: &str) -> String {
        if self.include.email { printable(value) } else { self.hash(value) }
    }

    pub fn address(&self, ip: std::net::IpAddr) -> String {
        if self.include.full_address {
            return ip.to_string();
        }
        let bits = if ip.is_ipv4() { 24 } else { 48 };
        ipnet::IpNet::new(ip, bits).map(|net| net.trunc().to_string()).unwrap_or_default()
    }
}

/// Whether a text is what [`Mask::hash`] makes.
pub(super) fn is_masked(text: &str) -> bool {
    text.strip_prefix("h:").is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Text from outside, made safe for a line that people read in a terminal: control, bidirectional and invisible characters
/// are written as `\u{…}`, and what is written is cut off at the cap.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_TEXT));
    let mut written = 0;
    for c in text.chars() {
        let shown = shown(c);
        written += shown.clone().count();
        if written > MAX_TEXT {
            out.push('…');
            break;
        }
        out.extend(shown);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_hashed_unless_they_are_listed() {
        let include = Include { query: ["page".to_owned()].into(), ..Include::default() };
        let mask = Mask::new(&[7; 32], include);
        assert_eq!(mask.query("page", "2"), "2");
        assert!(mask.query("token", "secret").starts_with("h:") && mask.query("token", "secret").len() == 34);
        assert_eq!(mask.hash("a"), mask.hash("a"));
        assert_ne!(Mask::new(&[8; 32], Include::default()).hash("a"), mask.hash("a"));
        assert_eq!(mask.address("192.0.2.77".parse().unwrap()), "192.0.2.0/24");
        assert_eq!(mask.address("2001:db8:1:2::3".parse().unwrap()), "2001:db8:1::/48");
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(printable("a\u{1b}[31m\r\nb\u{202e}c"), "a\\u{1b}[31m\\u{d}\\u{a}b\\u{202e}c");
        assert_eq!(printable("a\u{61c}\u{ad}\u{180e}\u{3164}\u{ffa0}"), "a\\u{61c}\\u{ad}\\u{180e}\\u{3164}\\u{ffa0}");
        assert_eq!(printable(&"x".repeat(2000)).chars().count(), MAX_TEXT + 1);
        assert_eq!(printable(&"x".repeat(MAX_TEXT)).chars().count(), MAX_TEXT);
        assert!(printable(&"\u{202e}".repeat(2000)).chars().count() <= MAX_TEXT + 1, "what is written counts");
    }
}
