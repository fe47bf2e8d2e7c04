//! Access tokens: JWTs (RFC 9068) that are bound to the certificate they were given to (RFC 8705 section 3).

use super::key::Ring;
use super::server::Server;
use crate::clock::UnixNanos;
use crate::identity::{Certificate, Fingerprint, Serial};
use crate::jose::{self, Jws};
use crate::name::{CredentialId, Environment, GrantId, PartnerId, UpstreamName};
use crate::operation::OperationId;
use crate::reason::Reason;
use data_encoding::BASE64URL_NOPAD;
use imbl::HashMap;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Longest token that is issued and looked at, in bytes: it must fit into a head beside all else.
pub const LONGEST_TOKEN: usize = 8_192;
/// The media type of the token (RFC 9068 section 2.1).
const KIND: &str = "at+jwt";
/// Values in each other, in what a token says: a list in an object.
const DEPTH: u8 = 3;
/// The claim of what it was exchanged from.
const FROM: &str = "from";
/// The claim of the API key that it was given for.
const API_KEY: &str = "api_key";
/// Tokens whose signature need not be looked at again.
const VERIFIED: usize = 10_000;
/// How far the clocks of two gateways may be apart.
const SKEW: Duration = Duration::from_secs(30);

/// What an access token says, once its signature is good.
#[derive(Debug, PartialEq, Eq)]
pub struct AccessToken {
    /// `jti`.
    pub id: Arc<str>,
    pub issuer: Arc<str>,
    /// `sub`, and the client.
    pub partner: PartnerId,
    /// `aud`.
    pub upstream: UpstreamName,
    /// Sorted.
    pub scope: Vec<OperationId>,
    /// Those that the scope was granted by; sorted.
    pub grants: Vec<GrantId>,
    /// `cnf.x5t#S256`: whom it is bound to.
    pub certificate: Fingerprint,
    /// Its serial number, and the credential that it is of: for who sees the token without the certificate.
    pub serial: Serial,
    pub credential: CredentialId,
    pub issued: UnixNanos,
    pub expires: UnixNanos,
    /// `jti` of those that it was exchanged from, the first one first: it is no better than they are.
    pub from: Vec<Arc<str>>,
    /// The API key that it, or the first of those, was given for.
    pub api_key: Option<CredentialId>,
    /// `kid` of what it was signed with.
    pub key: String,
}

impl AccessToken {
    pub fn covers(&self, operation: &OperationId, grant: &GrantId) -> bool {
        self.scope.binary_search(operation).is_ok() && self.grants.binary_search(grant).is_ok()
    }
}

/// A token that is no good before it has expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedToken {
    /// Its `jti`.
    pub id: String,
    pub partner: PartnerId,
    /// When nobody needs to know any more.
    pub expires: UnixNanos,
    pub revoked: UnixNanos,
}

/// What a token is to be good for.
pub struct Order<'a> {
    pub partner: &'a PartnerId,
    pub upstream: &'a UpstreamName,
    /// Sorted.
    pub scope: &'a [&'a OperationId],
    /// Sorted.
    pub grants: &'a [&'a GrantId],
    pub certificate: &'a Certificate,
    pub credential: &'a CredentialId,
    /// When the first of all that it rests on ends.
    pub until: UnixNanos,
    /// What it is exchanged from.
    pub from: Option<&'a AccessToken>,
    /// The API key that it, or the first of those, is given for.
    pub api_key: Option<&'a CredentialId>,
}

/// A token that was made. Its text is not shown by `Debug`.
pub struct Issued {
    pub text: String,
    pub id: String,
    pub expires: UnixNanos,
    /// In seconds.
    pub expires_in: u64,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("id", &self.id).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Why no token is made.
#[derive(Debug, PartialEq, Eq)]
pub enum NotIssued {
    /// It would be over within a second.
    NoTime,
    /// It would not fit into a head.
    TooLong,
    Failed(String),
}

/// Why a token is not believed, and the detail for the operator.
pub type Unbelieved = (Reason, &'static str);

/// Makes access tokens and says whether one is good.
pub struct Access {
    pub server: Server,
    environment: Environment,
    lifetime: Duration,
    ring: Arc<Ring>,
    /// By the SHA-256 of their text. What changes with the time, or by a change, is asked on every use.
    verified: Arc<Cache<Fingerprint, Arc<AccessToken>>>,
    revoked: HashMap<Arc<str>, RevokedToken>,
}

impl Access {
    pub fn new(server: Server, environment: Environment, lifetime: Duration, ring: Arc<Ring>) -> Self {
        let verified = Arc::new(Cache::new(VERIFIED));
        Access { server, environment, lifetime, ring, verified, revoked: HashMap::new() }
    }

    /// The same with these revoked besides, and without those that have expired.
    #[must_use]
    pub fn with_revoked(&self, revoked: impl IntoIterator<Item = RevokedToken>, now: UnixNanos) -> Self {
        let mut all = self.revoked.clone();
        all.extend(revoked.into_iter().map(|token| (Arc::from(token.id.as_str()), token)));
        all.retain(|_, token| now < token.expires);
        Access {
            server: self.server.clone(),
            environment: self.environment.clone(),
            lifetime: self.lifetime,
            ring: self.ring.clone(),
            verified: self.verified.clone(),
            revoked: all,
        }
    }

    /// Those that are revoked.
    pub fn revoked(&self) -> impl Iterator<Item = &RevokedToken> {
        self.revoked.values()
    }

    pub fn is_revoked(&self, id: &str) -> bool {
        self.revoked.contains_key(id)
    }

    /// Of those that are revoked and have not expired, how many are this partner's.
    pub fn revoked_of(&self, partner: &PartnerId, now: UnixNanos) -> usize {
        self.revoked.values().filter(|token| token.partner == *partner && now < token.expires).count()
    }

    /// Makes a token.
    ///
    /// # Errors
    /// See [`NotIssued`].
    pub fn issue(&self, order: &Order<'_>, now: UnixNanos) -> Result<Issued, NotIssued> {
        let failed = || NotIssued::Failed("there is no key that signs".into());
        let (key, key_id) = self.ring.signer(now).ok_or_else(failed)?;
        let expires = order.until.min(now.saturating_add(self.lifetime)).seconds();
        let expires_in = expires.checked_sub(now.seconds()).filter(|left| *left > 0).ok_or(NotIssued::NoTime)?;
        let id = Uuid::now_v7().to_string();
        let from = order.from.map(|token| token.from.iter().chain([&token.id]).cloned().collect::<Vec<_>>());
        let mut claims = json!({
            "iss": &*self.server.issuer,
            "aud": order.upstream.as_str(),
            "sub": order.partner.as_str(),
            "client_id": order.partner.as_str(),
            "iat": now.seconds(),
            "exp": expires,
            "jti": id,
            "scope": spaced(order.scope),
            "grants": order.grants,
            "environment": self.environment.as_str(),
            "credential": order.credential.as_str(),
            "serial": order.certificate.serial.as_str(),
            "cnf": { "x5t#S256": BASE64URL_NOPAD.encode(&order.certificate.fingerprint.0) },
        });
        if let (Some(from), Some(claims)) = (&from, claims.as_object_mut()) {
            claims.insert(FROM.into(), json!(from));
        }
        if let (Some(key), Some(claims)) = (order.api_key, claims.as_object_mut()) {
            claims.insert(API_KEY.into(), json!(key));
        }
        let text = jose::sign(key, &[("typ", KIND), ("kid", key_id)], claims.to_string().as_bytes());
        let text = text.map_err(NotIssued::Failed)?;
        if text.len() > LONGEST_TOKEN {
            return Err(NotIssued::TooLong);
        }
        Ok(Issued { text, id, expires: seconds(expires), expires_in })
    }

    /// What a token says, where it is good now. Whom it is bound to, and whether that is who came with it, is for
    /// the caller to look at.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn verified(&self, text: &str, now: UnixNanos) -> Result<Arc<AccessToken>, Unbelieved> {
        if text.len() > LONGEST_TOKEN {
            return Err((Reason::TokenMalformed, "it is too long"));
        }
        let digest = Fingerprint::of(text.as_bytes());
        let token = match self.verified.get(&digest) {
            Some(token) if self.ring.verifier(&token.key, now).is_some() => token,
            Some(_) => return Err(unknown_key()),
            None => {
                let token = Arc::new(self.read(text, now)?);
                self.verified.insert(digest, token.clone());
                token
            }
        };
        if now >= token.expires {
            return Err((Reason::TokenExpired, "its `exp` is over"));
        }
        if token.issued > now.saturating_add(SKEW) {
            return Err((Reason::TokenNotYetValid, "its `iat` is in the future"));
        }
        if token.from.iter().chain([&token.id]).any(|id| self.revoked.contains_key(id)) {
            return Err((Reason::TokenRevoked, "it, or what it was exchanged from, was revoked"));
        }
        Ok(token)
    }

    /// Reads a token that is not known.
    fn read(&self, text: &str, now: UnixNanos) -> Result<AccessToken, Unbelieved> {
        let jws = Jws::parse(text, LONGEST_TOKEN).map_err(|e| (Reason::TokenMalformed, e.0))?;
        if jws.header.kind.as_deref() != Some(KIND) {
            return Err((Reason::TokenMalformed, "its `typ` is not `at+jwt`"));
        }
        let key_id = jws.header.key_id.as_deref().ok_or((Reason::TokenMalformed, "it names no key (`kid`)"))?;
        let (key, algorithm) = self.ring.verifier(key_id, now).ok_or_else(unknown_key)?;
        if jws.header.algorithm != algorithm.name() {
            return Err((Reason::TokenBadSignature, "its `alg` is not the one of its key"));
        }
        let payload = jws.verified(key, algorithm).ok_or((Reason::TokenBadSignature, "the signature is not good"))?;
        let malformed = |what: &'static str| (Reason::TokenMalformed, what);
        let claims = jose::object(payload, DEPTH).map_err(|_| malformed("its claims are no JSON object"))?;
        let text_of = |name: &str| claims.get(name).and_then(Value::as_str);
        if text_of("iss") != Some(&*self.server.issuer) || text_of("environment") != Some(self.environment.as_str()) {
            return Err((Reason::TokenWrongIssuer, "its `iss` or `environment` is another"));
        }
        let certificate = bound_to(&claims).ok_or((Reason::TokenNotBound, "it has no `cnf.x5t#S256`"))?;
        claims_of(&claims, self.server.issuer.clone(), certificate, key_id)
            .ok_or_else(|| malformed("a claim is missing, or of another type than it is to be"))
    }
}

fn claims_of(
    claims: &Map<String, Value>,
    issuer: Arc<str>,
    certificate: Fingerprint,
    key: &str,
) -> Option<AccessToken> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let partner = PartnerId::parse(text("sub")?).ok()?;
    if text("client_id")? != partner.as_str() {
        return None;
    }
    let mut scope = Vec::new();
    for name in text("scope")?.split(' ') {
        scope.push(OperationId::parse(name).ok()?);
    }
    let mut grants = Vec::new();
    for grant in claims.get("grants")?.as_array()? {
        grants.push(GrantId::parse(grant.as_str()?).ok()?);
    }
    let mut from = Vec::new();
    if let Some(ids) = claims.get(FROM) {
        for id in ids.as_array()? {
            from.push(id.as_str()?.into());
        }
    }
    let api_key = match claims.get(API_KEY) {
        Some(id) => Some(CredentialId::parse(id.as_str()?).ok()?),
        None => None,
    };
    scope.sort();
    grants.sort();
    Some(AccessToken {
        id: text("jti")?.into(),
        issuer,
        partner,
        upstream: UpstreamName::parse(text("aud")?).ok()?,
        scope,
        grants,
        certificate,
        serial: Serial::parse(text("serial")?).ok()?,
        credential: CredentialId::parse(text("credential")?).ok()?,
        issued: seconds(claims.get("iat")?.as_u64()?),
        expires: seconds(claims.get("exp")?.as_u64()?),
        from,
        api_key,
        key: key.to_owned(),
    })
}

/// RFC 8705 section 3.1.
fn bound_to(claims: &Map<String, Value>) -> Option<Fingerprint> {
    let bound = claims.get("cnf")?.get("x5t#S256")?.as_str()?;
    let digest = BASE64URL_NOPAD.decode(bound.as_bytes()).ok()?;
    digest.try_into().ok().map(Fingerprint)
}

fn unknown_key() -> Unbelieved {
    (Reason::TokenUnknownKey, "its `kid` is of no key that verifies now")
}

/// As `scope` has several (RFC 6749 section 3.3).
pub fn spaced<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}

fn seconds(seconds: u64) -> UnixNanos {
    UnixNanos(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000))
}

#[cfg(test)]
mod tests;
