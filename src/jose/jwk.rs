//! Keys as JSON (RFC 7517, RFC 7518 section 6, RFC 8037 section 2).

use super::json::object;
use super::key::{Algorithm, Asymmetric, PublicKey};
use data_encoding::BASE64URL_NOPAD;
use ring::digest;
use serde_json::{Map, Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

/// Keys of others in one document, and the bytes of that.
const MOST_KEYS: usize = 100;
const MOST_BYTES: usize = 256 * 1024;
/// Values in each other.
const DEPTH: u8 = 16;
/// Longest name of a key.
const LONGEST_ID: usize = 256;

/// A key of somebody else's set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    pub id: Option<String>,
    pub key: PublicKey,
    /// The only algorithm that it is for, where it says one.
    pub algorithm: Option<Algorithm>,
}

/// Somebody else's keys, with which tokens are verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jwks {
    pub keys: Vec<KnownKey>,
    /// Why others of the set are not taken.
    pub left_out: Vec<String>,
}

/// A set that is not taken as a whole; a sentence of which it is the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwkError(pub String);

impl Jwks {
    /// Keys for encrypting, of unknown kinds and with unknown algorithms are left out (RFC 7517 section 5).
    ///
    /// # Errors
    /// It is no set of keys, or has a private or a symmetric one in it: those have leaked.
    pub fn parse(text: &[u8]) -> Result<Self, JwkError> {
        let refuse = |why: String| JwkError(why);
        if text.len() > MOST_BYTES {
            return Err(refuse(format!("is larger than {MOST_BYTES} bytes")));
        }
        let set = object(text, DEPTH).map_err(|e| refuse(format!("is no JWKS: {e}")))?;
        let Some(Value::Array(keys)) = set.get("keys") else {
            return Err(refuse("is no JWKS: it has no list `keys`".into()));
        };
        if keys.len() > MOST_KEYS {
            return Err(refuse(format!("has {} keys; at most {MOST_KEYS} are taken", keys.len())));
        }
        let mut out = Jwks::default();
        for (number, key) in keys.iter().enumerate() {
            let Value::Object(key) = key else {
                return Err(refuse(format!("has something else than a key at {number}")));
            };
            if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|private| key.contains_key(*private)) {
                return Err(refuse(format!("has the secret half of a key at {number}: only public keys belong here")));
            }
            match known(key) {
                Ok(known) if known.id.is_some() && out.keys.iter().any(|other| other.id == known.id) => {
                    return Err(refuse(format!("has two keys with the `kid` of the one at {number}")));
                }
                Ok(known) => out.keys.push(known),
                Err(why) => out.left_out.push(format!("the key at {number} {why}")),
            }
        }
        Ok(out)
    }

    /// The keys that may have made a signature: the one of that name; every one where no name is said.
    pub fn candidates<'a>(&'a self, id: Option<&'a str>, algorithm: Algorithm) -> impl Iterator<Item = &'a PublicKey> {
        let named = move |known: &&KnownKey| id.is_none_or(|id| known.id.as_deref() == Some(id));
        let fits = move |known: &&KnownKey| {
            known.key.kind() == algorithm.key() && known.algorithm.is_none_or(|only| only == algorithm)
        };
        self.keys.iter().filter(named).filter(fits).map(|known| &known.key)
    }
}

fn known(jwk: &Map<String, Value>) -> Result<KnownKey, String> {
    let text = |name: &str| match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("has a `{name}` that is no text")),
    };
    if text("use")?.is_some_and(|purpose| purpose != "sig") {
        return Err("is not for signatures".into());
    }
    if let Some(operations) = jwk.get("key_ops") {
        let verifies = operations.as_array().is_some_and(|list| list.iter().any(|one| one == "verify"));
        if !verifies {
            return Err("is not for verifying".into());
        }
    }
    let id = text("kid")?.map(str::to_owned);
    if id.as_ref().is_some_and(|id| id.len() > LONGEST_ID) {
        return Err(format!("has a `kid` of more than {LONGEST_ID} bytes"));
    }
    let algorithm = match text("alg")? {
        None => None,
        Some(name) => Some(Algorithm::parse(name).ok_or("is for an algorithm that is not known")?),
    };
    let number = |name: &str| -> Result<Vec<u8>, String> {
        let text = text(name)?.ok_or_else(|| format!("has no `{name}`"))?;
        BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| format!("has a `{name}` that is not base64url"))
    };
    let key = match (text("kty")?, text("crv")?) {
        (Some("RSA"), _) => PublicKey::from_rsa(&number("n")?, &number("e")?)?,
        (Some("EC"), Some("P-256")) => PublicKey::from_parts(Asymmetric::P256, &[&number("x")?, &number("y")?])?,
        (Some("EC"), Some("P-384")) => PublicKey::from_parts(Asymmetric::P384, &[&number("x")?, &number("y")?])?,
        (Some("OKP"), Some("Ed25519")) => PublicKey::from_parts(Asymmetric::Ed25519, &[&number("x")?])?,
        _ => return Err("is of a kind that is not taken".into()),
    };
    if let Some(algorithm) = algorithm {
        key.fits(algorithm)?;
    }
    Ok(KnownKey { id, key, algorithm })
}

/// The members of a key that make it what it is, in the order of RFC 7638 section 3.2.
fn members(key: &PublicKey) -> Vec<(&'static str, String)> {
    let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let halves = || {
        let point = key.bytes().get(1..).unwrap_or_default();
        point.split_at(point.len() / 2)
    };
    let named = |name: &str| name.to_owned();
    match key.kind() {
        Asymmetric::P256 | Asymmetric::P384 => {
            let curve = if key.kind() == Asymmetric::P256 { "P-256" } else { "P-384" };
            let (x, y) = halves();
            vec![("crv", named(curve)), ("kty", named("EC")), ("x", text(x)), ("y", text(y))]
        }
        Asymmetric::Ed25519 => {
            vec![("crv", named("Ed25519")), ("kty", named("OKP")), ("x", text(key.bytes()))]
        }
        Asymmetric::Rsa => {
            let read = RSAPublicKey::from_der(key.bytes()).ok();
            let number = |bytes: &[u8]| {
                let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
                text(bytes.get(first..).unwrap_or_default())
            };
            let (n, e) = read.map_or_else(Default::default, |(_, key)| (number(key.modulus), number(key.exponent)));
            vec![("e", e), ("kty", named("RSA")), ("n", n)]
        }
    }
}

/// SHA-256 over the key's members, base64url (RFC 7638): a name that follows from the key.
pub fn thumbprint(key: &PublicKey) -> String {
    let members: Map<String, Value> =
        members(key).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, Value::Object(members).to_string().as_bytes()).as_ref())
}

/// A key of ours as others are told it.
pub fn public_jwk(key: &PublicKey, algorithm: Algorithm, id: &str) -> Value {
    let mut out = json!({ "kid": id, "use": "sig", "alg": algorithm.name() });
    if let Value::Object(map) = &mut out {
        map.extend(members(key).into_iter().map(|(name, value)| (name.to_owned(), value.into())));
    }
    out
}
