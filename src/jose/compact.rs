//! A JWS in its compact form (RFC 7515 section 3.1).

use super::json::object;
use super::key::{Algorithm, PublicKey, SignKey};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

/// Values in each other, in a head.
const DEPTH: u8 = 8;

/// What a token says of itself. Nobody has vouched for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub algorithm: String,
    pub key_id: Option<String>,
    pub kind: Option<String>,
}

/// Why this is no token; a sentence of which the token is the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// A token that has been taken apart and not been verified.
pub struct Jws<'a> {
    pub header: Header,
    signed: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Jws<'a> {
    /// Takes a token of at most so many bytes apart. Parameters of its head that name a key (`jku`, `jwk`, `x5u`, `x5c`)
    /// are not looked at (RFC 8725 section 3.10).
    ///
    /// # Errors
    /// It is no token, or could be read in two ways, or asks for an extension (`crit`, RFC 7515 section 4.1.11).
    pub fn parse(token: &'a str, longest: usize) -> Result<Self, Malformed> {
        if token.len() > longest {
            return Err(Malformed("is too long"));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed("is no JWT in its compact form"));
        };
        let bytes = |part: &str| {
            BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| Malformed("is not base64url without padding"))
        };
        let head = object(&bytes(header)?, DEPTH)
            .map_err(|_| Malformed("has a head that is no JSON object, read in one way"))?;
        if head.contains_key("crit") {
            return Err(Malformed("asks for an extension (`crit`)"));
        }
        let text = |name: &str| match head.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Malformed("has a head with a value of another type than it is to be")),
        };
        let header = Header {
            algorithm: text("alg")?.ok_or(Malformed("says no algorithm"))?,
            key_id: text("kid")?,
            kind: text("typ")?,
        };
        let signed = token.rsplit_once('.').map_or("", |(signed, _)| signed);
        Ok(Jws { header, signed, payload: bytes(payload)?, signature: bytes(signature)? })
    }

    /// What was signed, where this key has signed it in this way. What the head says of the algorithm must be the same.
    pub fn verified(&self, key: &PublicKey, algorithm: Algorithm) -> Option<&[u8]> {
        let good = self.header.algorithm == algorithm.name()
            && key.verifies(algorithm, self.signed.as_bytes(), &self.signature);
        good.then_some(self.payload.as_slice())
    }

    /// What nobody has vouched for yet: to find out whose key is to be tried, and for nothing else.
    pub fn unverified(&self) -> &[u8] {
        &self.payload
    }
}

/// A token of these claims. `head` is added to what the key says of itself.
///
/// # Errors
/// The key does not sign.
pub fn sign(key: &SignKey, head: &[(&str, &str)], payload: &[u8]) -> Result<String, String> {
    let mut header = Map::new();
    header.insert("alg".into(), key.algorithm().name().into());
    header.extend(head.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))));
    let mut token = BASE64URL_NOPAD.encode(Value::Object(header).to_string().as_bytes());
    token.push('.');
    BASE64URL_NOPAD.encode_append(payload, &mut token);
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    BASE64URL_NOPAD.encode_append(&signature, &mut token);
    Ok(token)
}
