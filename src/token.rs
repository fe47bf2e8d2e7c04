//! What the gateway signs itself: its keys, and the signed identity that upstreams are given.
//!
//! In: keys as the database has them, and the secret that opens them. Out: a [`Ring`] that says which key signs at a time
//! and which still verify, and an assertion for an allowed request. Which key counts follows from the time and waits for
//! no write. Must never: do I/O; sign anything for a request that was not allowed; give the private half of a key away.

mod assertion;
mod key;
mod seal;

pub use assertion::{ASSERTION_LIFETIME, Asserted, Assertions};
pub use key::{KeyState, Ring, Rotation, StoredKey};
pub use seal::{SHORTEST_SECRET, check_secret};

use crate::jose::Algorithm;
use crate::name::Environment;
use std::sync::Arc;

/// How tokens are made, from the config.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// Who makes them, as a URL.
    pub issuer: Arc<str>,
    pub algorithm: Algorithm,
    /// What keys are encrypted under.
    pub secret: Arc<[u8]>,
    pub rotation: Rotation,
}

impl std::fmt::Debug for TokenSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSettings").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// All that making tokens takes.
pub struct Tokens {
    pub settings: TokenSettings,
    pub stored: Vec<StoredKey>,
    pub ring: Arc<Ring>,
    pub assertions: Assertions,
}

impl Tokens {
    /// # Errors
    /// A key that the secret does not open.
    pub fn new(settings: TokenSettings, stored: Vec<StoredKey>, environment: Environment) -> Result<Self, String> {
        let ring = Arc::new(Ring::open(&stored, &settings.secret, settings.rotation.longest)?);
        let assertions = Assertions::new(settings.issuer.clone(), environment, ring.clone());
        Ok(Tokens { settings, stored, ring, assertions })
    }
}

#[cfg(test)]
mod tests;
