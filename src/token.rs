//! What the gateway signs itself: its keys, the signed identity that upstreams are given, and access tokens.
//!
//! In: keys as the database has them, and the secret that opens them. Out: a [`Ring`] that says which key signs at a time
//! and which still verify, an assertion for an allowed request, access tokens and what one says. Which key counts follows
//! from the time and waits for no write. Must never: do I/O; sign anything for a request that was not allowed; believe a
//! token that it has not signed; give the private half of a key away.

mod access;
mod api_key;
mod assertion;
mod form;
mod key;
mod seal;
mod server;

pub use access::{Access, AccessToken, Issued, LONGEST_TOKEN, NotIssued, Order, RevokedToken, Unbelieved, spaced};
pub use api_key::{ApiKeySettings, ApiKeys, KEY_PREFIX, KeyUse, MadeKey, find_key};
pub use assertion::{ASSERTION_LIFETIME, Asserted, Assertions};
pub use form::{Form, LONGEST_FORM};
pub use key::{KeyState, Ring, Rotation, StoredKey};
pub use seal::{SHORTEST_SECRET, check_secret};
pub use server::{OauthEndpoint, OauthError, Server};

use crate::clock::UnixNanos;
use crate::jose::Algorithm;
use crate::name::Environment;
use std::sync::Arc;
use std::time::Duration;

/// How tokens are made, from the config.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// Who makes them, and where.
    pub server: Server,
    /// How long an access token is good at most; none are made without.
    pub lifetime: Option<Duration>,
    /// What API keys are accepted for; none are without.
    pub api_keys: Option<ApiKeySettings>,
    pub algorithm: Algorithm,
    /// What keys are encrypted under, and API keys hashed.
    pub secret: Arc<[u8]>,
    pub rotation: Rotation,
}

impl std::fmt::Debug for TokenSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSettings").field("issuer", &self.server.issuer).finish_non_exhaustive()
    }
}

/// All that making tokens takes.
pub struct Tokens {
    pub settings: TokenSettings,
    pub stored: Vec<StoredKey>,
    pub ring: Arc<Ring>,
    pub assertions: Arc<Assertions>,
    /// Where partners are given access tokens.
    pub access: Option<Access>,
    /// Where partners have API keys.
    pub api_keys: Option<Arc<ApiKeys>>,
}

impl Tokens {
    /// # Errors
    /// A key that the secret does not open.
    pub fn new(settings: TokenSettings, stored: Vec<StoredKey>, environment: Environment) -> Result<Self, String> {
        let ring = Arc::new(Ring::open(&stored, &settings.secret, settings.rotation.longest)?);
        let issuer = settings.server.issuer.clone();
        let assertions = Arc::new(Assertions::new(issuer, environment.clone(), ring.clone()));
        let made = |lifetime| Access::new(settings.server.clone(), environment, lifetime, ring.clone());
        let access = settings.lifetime.map(made);
        let api_keys = settings.api_keys.map(|own| ApiKeys::new(own, &settings.secret)).transpose()?.map(Arc::new);
        Ok(Tokens { settings, stored, ring, assertions, access, api_keys })
    }

    /// The same with these tokens revoked besides.
    #[must_use]
    pub fn with_revoked(&self, revoked: impl IntoIterator<Item = RevokedToken>, now: UnixNanos) -> Self {
        Tokens {
            settings: self.settings.clone(),
            stored: self.stored.clone(),
            ring: self.ring.clone(),
            assertions: self.assertions.clone(),
            access: self.access.as_ref().map(|access| access.with_revoked(revoked, now)),
            api_keys: self.api_keys.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
