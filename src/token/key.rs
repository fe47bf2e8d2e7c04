//! The keys that tokens are signed with, one after the other.

use super::seal::{open as unsealed, seal};
use crate::clock::UnixNanos;
use crate::jose::{Algorithm, PublicKey, SignKey, public_jwk, thumbprint};
use crate::partner::Revoked;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// Follows from the key (RFC 7638), and is its `kid`.
    pub id: String,
    /// As JWS names it.
    pub algorithm: String,
    /// PKCS #8, encrypted. No part of the document, which is told in the history.
    #[serde(skip)]
    pub sealed: String,
    /// SubjectPublicKeyInfo in DER, as base64, for who looks at the database without the secret.
    pub public: String,
    pub made: UnixNanos,
    /// Until then it is only told, so that others have it before they need it.
    pub signs_from: UnixNanos,
    /// Nothing that it has signed is taken any more, and it signs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Box<Revoked>>,
}

impl StoredKey {
    /// A new key, which signs from a time on.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate(
        algorithm: Algorithm,
        secret: &[u8],
        (made, signs_from): (UnixNanos, UnixNanos),
    ) -> Result<Self, String> {
        let pkcs8 = SignKey::generate(algorithm)?;
        let key = SignKey::from_pkcs8(algorithm, &pkcs8)?;
        let id = thumbprint(key.public());
        Ok(StoredKey {
            sealed: seal(&pkcs8, secret, &id)?,
            id,
            algorithm: algorithm.name().to_owned(),
            public: BASE64.encode(&key.spki()),
            made,
            signs_from,
            withdrawn: None,
        })
    }
}

/// How keys follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// How long one signs.
    pub every: Duration,
    /// How long one is told before it signs.
    pub ahead: Duration,
    /// How long what one has signed is good at most.
    pub longest: Duration,
}

/// A key, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct KeyState {
    /// Its `kid`.
    pub id: String,
    pub algorithm: &'static str,
    /// `next`, `signs`, `verifies`, `over` or `withdrawn`.
    pub state: &'static str,
    pub signs_from: String,
    /// Null as long as nothing follows it.
    pub signs_until: Option<String>,
    /// Why it was withdrawn.
    pub withdrawn: Option<String>,
}

struct Key {
    id: String,
    algorithm: Algorithm,
    public: PublicKey,
    private: SignKey,
    signs_from: UnixNanos,
    /// When its successor signs; never where there is none.
    signs_until: UnixNanos,
    withdrawn: bool,
}

/// Keys by the time from which they sign.
#[derive(Default)]
pub struct Ring {
    keys: Vec<Key>,
    longest: Duration,
}

const NEVER: UnixNanos = UnixNanos(i64::MAX);

impl Ring {
    /// Opens what is kept. `longest` is how long what a key has signed is good at most.
    ///
    /// # Errors
    /// A key that the secret does not open, or that is none: which and why.
    pub fn open(stored: &[StoredKey], secret: &[u8], longest: Duration) -> Result<Self, String> {
        let mut keys = stored.iter().map(|key| open(key, secret)).collect::<Result<Vec<Key>, String>>()?;
        keys.sort_by(|a, b| (a.signs_from, &a.id).cmp(&(b.signs_from, &b.id)));
        // One that was withdrawn is followed by nothing: whatever came before it signs again until the next one does.
        let mut until = NEVER;
        for key in keys.iter_mut().rev() {
            key.signs_until = until;
            if !key.withdrawn {
                until = key.signs_from;
            }
        }
        Ok(Ring { keys, longest })
    }

    fn signing(&self, now: UnixNanos) -> Option<&Key> {
        self.keys.iter().rev().find(|key| !key.withdrawn && key.signs_from <= now && now < key.signs_until)
    }

    /// The key that signs at a time, and its id.
    pub fn signer(&self, now: UnixNanos) -> Option<(&SignKey, &str)> {
        self.signing(now).map(|key| (&key.private, key.id.as_str()))
    }

    /// Since when that one signs.
    pub fn signs_since(&self, now: UnixNanos) -> Option<UnixNanos> {
        self.signing(now).map(|key| key.signs_from)
    }

    /// What is verified with at a time, by its id.
    pub fn verifier(&self, id: &str, now: UnixNanos) -> Option<(&PublicKey, Algorithm)> {
        self.told(now).find(|key| key.id == id).map(|key| (&key.public, key.algorithm))
    }

    /// Those that sign, have signed what may still be good, or are about to sign.
    fn told(&self, now: UnixNanos) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| !key.withdrawn && now < key.signs_until.saturating_add(self.longest))
    }

    /// The keys as others verify with them (RFC 7517 section 5).
    pub fn jwks(&self, now: UnixNanos) -> Value {
        let keys: Vec<Value> = self.told(now).map(|key| public_jwk(&key.public, key.algorithm, &key.id)).collect();
        json!({ "keys": keys })
    }

    /// From when the next key is to sign, where it is to be made now: there is none that signs, or the one that does will have
    /// signed long enough by the time that the next one is known everywhere.
    pub fn due(&self, rotation: &Rotation, now: UnixNanos) -> Option<UnixNanos> {
        let Some(last) = self.keys.iter().rev().find(|key| !key.withdrawn) else { return Some(now) };
        let next = last.signs_from.saturating_add(rotation.every).max(now.saturating_add(rotation.ahead));
        let look = last.signs_from.saturating_add(rotation.every.saturating_sub(rotation.ahead));
        (now >= look).then_some(next)
    }

    /// How each stands, for operators, by the time from which they sign.
    pub fn states(&self, stored: &[StoredKey], now: UnixNanos) -> Vec<KeyState> {
        let one = |key: &Key| {
            let stored = stored.iter().find(|stored| stored.id == key.id);
            let state = match () {
                () if key.withdrawn => "withdrawn",
                () if now < key.signs_from => "next",
                () if now < key.signs_until => "signs",
                () if now < key.signs_until.saturating_add(self.longest) => "verifies",
                () => "over",
            };
            KeyState {
                id: key.id.clone(),
                algorithm: key.algorithm.name(),
                state,
                signs_from: key.signs_from.to_string(),
                signs_until: (key.signs_until != NEVER).then(|| key.signs_until.to_string()),
                withdrawn: stored.and_then(|stored| stored.withdrawn.as_deref()).map(|why| why.reason.clone()),
            }
        };
        self.keys.iter().map(one).collect()
    }
}

fn open(stored: &StoredKey, secret: &[u8]) -> Result<Key, String> {
    let refuse = |why: String| format!("the signing key `{}` {why}", stored.id);
    let name = &stored.algorithm;
    let algorithm = Algorithm::parse(name).ok_or_else(|| refuse(format!("is for `{name}`, which is not known")))?;
    let spki = BASE64.decode(stored.public.as_bytes()).map_err(|_| refuse("holds no public key".into()))?;
    let public = PublicKey::from_spki(&spki).map_err(refuse)?;
    public.fits(algorithm).map_err(refuse)?;
    if thumbprint(&public) != stored.id {
        return Err(refuse("has another name than follows from it".into()));
    }
    let pkcs8 = unsealed(&stored.sealed, secret, &stored.id).map_err(refuse)?;
    let private = SignKey::from_pkcs8(algorithm, &pkcs8).map_err(refuse)?;
    Ok(Key {
        id: stored.id.clone(),
        algorithm,
        public,
        private,
        signs_from: stored.signs_from,
        signs_until: NEVER,
        withdrawn: stored.withdrawn.is_some(),
    })
}
