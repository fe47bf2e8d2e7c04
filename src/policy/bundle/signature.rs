//! `.signatures.json`: which files a bundle has and what is in them, signed by somebody with a known key.
//!
//! One JWT (JWS in its compact form, RFC 7515), as OPA has it. Must never: choose a key or an algorithm by what the token
//! says of itself where the config says it; look at a claim before the signature was good.

use super::archive::Archive;
use super::hash::{self, signed_form};
use super::{BundleError, SIGNATURES};
use crate::jose::{self, Jws, SignKey, VerifyKey};
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Whose bundles are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    pub keys: BTreeMap<String, VerifyKey>,
    /// The one key that is meant, whatever a bundle says.
    pub key_id: Option<String>,
    /// What the signature must be for; empty for what says nothing.
    pub scope: String,
    /// Whether a bundle without a signature is refused. Where there are no keys, none is looked at.
    pub required: Required,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Required {
    #[default]
    Yes,
    No,
}

/// By which key a bundle is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct SignedBy {
    pub key_id: String,
    pub algorithm: &'static str,
}

/// What goes into a signature beside the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignatureClaims {
    pub key_id: Option<String>,
    pub scope: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Signatures {
    signatures: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plugin: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Listed {
    name: String,
    hash: String,
    #[serde(default)]
    algorithm: String,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    files: Vec<Listed>,
    #[serde(default)]
    scope: String,
}

/// Longest token, in bytes.
const LONGEST: usize = 4 * 1024 * 1024;

/// Signs what is in an archive, in the place of what signature there is.
///
/// # Errors
/// A document that is none, or a key that does not sign.
pub(super) fn sign(archive: &mut Archive, key: &SignKey, claims: &SignatureClaims) -> Result<(), BundleError> {
    let mut files = Vec::new();
    for (name, content) in archive.iter().filter(|(name, _)| *name != SIGNATURES) {
        let algorithm = hash::algorithm(hash::OURS).unwrap_or(&digest::SHA256);
        let hash = hex::encode(digest::digest(algorithm, &signed_form(name, content)?));
        files.push(Listed { name: name.to_owned(), hash, algorithm: hash::OURS.to_owned() });
    }
    let mut payload = Map::new();
    payload.insert("files".into(), json!(files));
    let mut head = Vec::new();
    if let Some(id) = &claims.key_id {
        head.push(("kid", id.as_str()));
        // Older versions of OPA look for it here.
        payload.insert("keyid".into(), id.as_str().into());
    }
    if let Some(scope) = &claims.scope {
        payload.insert("scope".into(), scope.as_str().into());
    }
    let payload = Value::Object(payload).to_string();
    let token = jose::sign(key, &head, payload.as_bytes()).map_err(BundleError::Signature)?;
    let text = serde_json::to_vec(&Signatures { signatures: vec![token], plugin: None }).unwrap_or_default();
    archive.set(SIGNATURES, text);
    Ok(())
}

/// Whose an archive is. `None` where nobody's signature is asked for and there is none, or no key to verify it with.
///
/// # Errors
/// It is not signed, not by a known key, or not all of it.
pub(super) fn verify(archive: &Archive, how: &Verification) -> Result<Option<SignedBy>, BundleError> {
    let Some(written) = archive.get(SIGNATURES) else {
        return if how.required == Required::Yes { Err(BundleError::Unsigned) } else { Ok(None) };
    };
    if how.keys.is_empty() && how.required == Required::No {
        return Ok(None);
    }
    let refuse = |why: String| BundleError::Signature(why);
    let Signatures { signatures, plugin } =
        serde_json::from_slice(written).map_err(|e| refuse(format!("`{SIGNATURES}` cannot be read: {e}")))?;
    if plugin.is_some_and(|plugin| !plugin.is_empty()) {
        return Err(refuse(format!("`{SIGNATURES}` names a plugin of OPA's")));
    }
    let [token] = signatures.as_slice() else {
        return Err(refuse(format!("`{SIGNATURES}` holds {} signatures instead of one", signatures.len())));
    };
    let (by, payload) = token_of(token, how)?;
    if payload.scope != how.scope {
        let (is, wanted) = (payload.scope.escape_debug().to_string(), &how.scope);
        return Err(refuse(format!("it is signed for the scope `{is}`, and `{wanted}` is asked for")));
    }
    look_at_files(archive, payload.files)?;
    Ok(Some(by))
}

fn token_of(token: &str, how: &Verification) -> Result<(SignedBy, Payload), BundleError> {
    let refuse = |why: String| BundleError::Signature(why);
    let jws = Jws::parse(token, LONGEST).map_err(|why| refuse(format!("the signature {}", why.0)))?;
    let named = || {
        // Only to know which key to take; that one then says whether it was ours.
        let unverified = || serde_json::from_slice::<Map<String, Value>>(jws.unverified()).ok();
        let claimed = || unverified()?.get("keyid")?.as_str().map(str::to_owned);
        jws.header.key_id.clone().filter(|id| !id.is_empty()).or_else(claimed)
    };
    let id =
        how.key_id.clone().or_else(named).filter(|id| !id.is_empty()).ok_or_else(|| {
            refuse("the signature names no key: sign with a key id, or say which key is meant".into())
        })?;
    let Some(VerifyKey { algorithm, key }) = how.keys.get(&id) else {
        let known: Vec<&str> = how.keys.keys().map(String::as_str).collect();
        let id = id.chars().take(100).collect::<String>();
        return Err(refuse(format!("the key `{}` is not known; known are {}", id.escape_debug(), known.join(", "))));
    };
    let (said, name) = (&jws.header.algorithm, algorithm.name());
    if said != name {
        let said = said.chars().take(40).collect::<String>();
        return Err(refuse(format!("the key `{id}` is for {name}, and the signature says {}", said.escape_debug())));
    }
    let Some(content) = jws.verified(key, *algorithm) else {
        return Err(refuse(format!("the signature is not by the key `{id}`, or what is signed was altered")));
    };
    // A list would be taken for the claims in their order.
    if content.first() != Some(&b'{') {
        return Err(refuse("what is signed is no list of files".into()));
    }
    let payload =
        serde_json::from_slice(content).map_err(|e| refuse(format!("what is signed is no list of files: {e}")))?;
    Ok((SignedBy { key_id: id, algorithm: name }, payload))
}

/// Every file is listed with what is in it, and every listed file is there.
fn look_at_files(archive: &Archive, listed: Vec<Listed>) -> Result<(), BundleError> {
    let refuse = |why: String| BundleError::Signature(why);
    let mut wanted = BTreeMap::new();
    for file in listed {
        let name = file.name.clone();
        if wanted.insert(file.name.clone(), file).is_some() {
            return Err(refuse(format!("`{}` is listed twice", name.escape_debug())));
        }
    }
    for (name, content) in archive.iter().filter(|(name, _)| *name != SIGNATURES) {
        let Some(file) = wanted.remove(name) else {
            return Err(refuse(format!("`{name}` is not covered by the signature")));
        };
        let Some(algorithm) = hash::algorithm(&file.algorithm) else {
            let algorithm = file.algorithm.escape_debug();
            let reason = format!("`{name}` is hashed with `{algorithm}`: SHA-256, SHA-384 or SHA-512 are taken");
            return Err(refuse(reason));
        };
        let is = digest::digest(algorithm, &signed_form(name, content)?);
        if hex::decode(&file.hash).ok().as_deref() != Some(is.as_ref()) {
            return Err(refuse(format!("`{name}` is not what was signed")));
        }
    }
    match wanted.keys().next() {
        Some(missing) => Err(refuse(format!("`{}` was signed and is not there", missing.escape_debug()))),
        None => Ok(()),
    }
}
