//! The signed identity that an upstream verifies, so that reaching it around the gateway gains nothing.
//!
//! One is signed for all requests of a partner that are alike, and used again for a part of its life: signing takes as
//! long as a few decisions.

use super::key::Ring;
use crate::clock::UnixNanos;
use crate::identity::Fingerprint;
use crate::jose;
use crate::name::{Environment, GrantId, PartnerId, UpstreamName};
use crate::operation::OperationId;
use data_encoding::BASE64URL_NOPAD;
use quick_cache::sync::Cache;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// From its `iat` to its `exp`.
pub const ASSERTION_LIFETIME: Duration = Duration::from_secs(60);
/// So old, its successor is made aside.
const REFRESH: Duration = Duration::from_secs(20);
/// So old, it is not given to anybody any more: what an upstream gets is good for at least the rest.
const OLDEST: Duration = Duration::from_secs(40);
/// Different ones that are kept.
const CAPACITY: usize = 10_000;
/// The media type of the token, so that nobody takes it for another (RFC 8725 section 3.11).
const KIND: &str = "partner-assertion+jwt";

/// What is asserted: for whom, by which grant and certificate, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asserted {
    pub partner: PartnerId,
    pub grant: GrantId,
    pub operation: OperationId,
    pub upstream: UpstreamName,
    /// Of the client's certificate.
    pub certificate: Fingerprint,
}

struct Signed {
    token: Arc<str>,
    made: UnixNanos,
    /// Somebody makes its successor.
    is_replaced: AtomicBool,
}

/// Assertions that are good now.
pub struct Assertions {
    issuer: Arc<str>,
    environment: Environment,
    ring: Arc<Ring>,
    signed: Cache<Asserted, Arc<Signed>>,
}

impl Assertions {
    pub fn new(issuer: Arc<str>, environment: Environment, ring: Arc<Ring>) -> Self {
        Assertions { issuer, environment, ring, signed: Cache::new(CAPACITY) }
    }

    /// The assertion of this, and whether its successor is due: then the caller has it made where nobody waits, by
    /// [`Assertions::replace`].
    ///
    /// # Errors
    /// There is no key that signs.
    pub fn get(&self, asserted: &Asserted, now: UnixNanos) -> Result<(Arc<str>, bool), String> {
        if let Some(signed) = self.signed.get(asserted) {
            if now < signed.made.saturating_add(OLDEST) {
                let due =
                    now >= signed.made.saturating_add(REFRESH) && !signed.is_replaced.swap(true, Ordering::Relaxed);
                return Ok((signed.token.clone(), due));
            }
        }
        self.replace(asserted.clone(), now).map(|token| (token, false))
    }

    /// Signs anew.
    ///
    /// # Errors
    /// There is no key that signs.
    pub fn replace(&self, asserted: Asserted, now: UnixNanos) -> Result<Arc<str>, String> {
        let (key, id) = self.ring.signer(now).ok_or("there is no key that signs")?;
        let claims = json!({
            "iss": &*self.issuer,
            "aud": asserted.upstream.as_str(),
            "sub": asserted.partner.as_str(),
            "iat": now.seconds(),
            "exp": now.saturating_add(ASSERTION_LIFETIME).seconds(),
            "jti": Uuid::now_v7().to_string(),
            "environment": self.environment.as_str(),
            "operation": asserted.operation.as_str(),
            "grant": asserted.grant.as_str(),
            "cnf": { "x5t#S256": BASE64URL_NOPAD.encode(&asserted.certificate.0) },
        });
        let token: Arc<str> = jose::sign(key, &[("typ", KIND), ("kid", id)], claims.to_string().as_bytes())?.into();
        let signed = Signed { token: token.clone(), made: now, is_replaced: AtomicBool::new(false) };
        self.signed.insert(asserted, Arc::new(signed));
        Ok(token)
    }
}
