//! Certificate revocation lists (RFC 5280 section 5) as sets that are asked on every request.
//!
//! In: the bytes of a file, the keys that may sign it, the time. Out: a [`RevocationList`] that was verified, or the
//! one cause why not. Must never: do I/O; interpret what is not signed; keep what a look-up does not need; take a list
//! that speaks of less than it seems to (delta, indirect, some reasons only).
//!
//! Not done: delta lists (freshestCRL is passed over) and lists that another authority signs.

mod der;
mod entries;
mod extensions;
mod fault;
mod issuer;
mod list;
mod pem;
mod scope;

pub use fault::CrlFault;
pub use issuer::IssuerKey;
pub use scope::{Holds, Scope};

use super::serials::SerialSet;
use crate::clock::UnixNanos;
use crate::identity::{Fingerprint, SerialKey};
use std::fmt;

/// Largest list in DER. A million entries take 37 to 52 MB; in PEM half as much again is read.
pub const MAX_CRL_BYTES: usize = 128 * 1024 * 1024;

/// One list whose signature was verified. Whether it is stale is for the caller to judge, at the time of each look-up.
pub struct RevocationList {
    fingerprint: Fingerprint,
    this_update: UnixNanos,
    next_update: UnixNanos,
    number: Option<CrlNumber>,
    scope: Scope,
    serials: SerialSet,
}

impl RevocationList {
    /// Of DER, or PEM with one `X509 CRL` block. `issuers` are CAs that are trusted already.
    ///
    /// Beside `bytes` it allocates 16.5 bytes for each entry and, for PEM, the list in DER; what remains are the 16.5.
    ///
    /// # Errors
    /// The first cause that is found. Causes that need no key come first, then the signature, then the rest.
    pub fn read(bytes: &[u8], issuers: &[IssuerKey], now: UnixNanos) -> Result<RevocationList, CrlFault> {
        let der = pem::der_of(bytes)?;
        let parts = list::Parts::of(&der)?;
        let signer = parts.signed().signer(issuers)?;

        let this_update = parts.this_update;
        if this_update > now {
            return Err(CrlFault::NotYetValid { this_update });
        }
        let next_update = parts.next_update.ok_or(CrlFault::NoNextUpdate)?;
        if next_update <= this_update {
            return Err(CrlFault::EndsBeforeItStarts { this_update, next_update });
        }
        let stated = Stated::read(parts.extensions)?;
        let serials = SerialSet::new(entries::keys(parts.entries)?);
        Ok(RevocationList {
            fingerprint: Fingerprint::of(&der),
            this_update,
            next_update,
            number: stated.number,
            scope: Scope {
                issuer: signer.subject.clone(),
                issuer_spki: signer.spki_sha256,
                holds: stated.holds,
                urls: stated.urls,
            },
            serials,
        })
    }

    /// SHA-256 of the list in DER.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub fn this_update(&self) -> UnixNanos {
        self.this_update
    }

    /// When the CA publishes the next one at the latest.
    pub fn next_update(&self) -> UnixNanos {
        self.next_update
    }

    pub fn number(&self) -> Option<&CrlNumber> {
        self.number.as_ref()
    }

    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// How many serials are revoked.
    pub fn revoked(&self) -> usize {
        self.serials.len()
    }

    /// Whether a certificate of this issuer is one the list speaks of: see [`Scope::covers`].
    pub fn covers(&self, is_ca: bool, distribution_points: &[String]) -> bool {
        self.scope.covers(is_ca, distribution_points)
    }

    /// In O(1), without allocation.
    pub fn is_revoked(&self, serial: SerialKey) -> bool {
        self.serials.contains(serial)
    }

    /// Whether this list may take the place of one that was seen before. A list that was replaced is signed as well as
    /// its successor: only this keeps whoever serves lists from bringing a revoked certificate back.
    ///
    /// # Errors
    /// Another scope; a number that is lower or gone; an earlier thisUpdate.
    pub fn may_replace(&self, previous: &RevocationList) -> Result<(), CrlFault> {
        if self.fingerprint == previous.fingerprint {
            return Ok(());
        }
        if self.scope != previous.scope {
            return Err(CrlFault::OtherScope);
        }
        match (&self.number, &previous.number) {
            (Some(new), Some(old)) if new < old => {
                return Err(CrlFault::NumberWentBack { new: new.to_string(), old: old.to_string() });
            }
            (None, Some(old)) => return Err(CrlFault::NumberGone { old: old.to_string() }),
            _ => {}
        }
        if self.this_update < previous.this_update {
            return Err(CrlFault::WentBack { new: self.this_update, old: previous.this_update });
        }
        Ok(())
    }
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationList")
            .field("scope", &self.scope)
            .field("number", &self.number)
            .field("this_update", &self.this_update)
            .field("next_update", &self.next_update)
            .field("revoked", &self.revoked())
            .finish_non_exhaustive()
    }
}

/// cRLNumber: an integer of up to 20 octets, shown in hex as `openssl crl -crlnumber` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CrlNumber([u8; 20]);

impl CrlNumber {
    /// From the value of the extension.
    fn read(value: &[u8]) -> Option<Self> {
        let mut reader = der::Reader::new(value);
        let octets = reader.expect(der::INTEGER).ok()?.content;
        reader.end().ok()?;
        if octets.first().is_none_or(|first| first & 0x80 != 0) {
            return None;
        }
        let leading = octets.iter().take_while(|octet| **octet == 0).count();
        let digits = octets.get(leading..)?;
        let mut number = [0; 20];
        let start = number.len().checked_sub(digits.len())?;
        number.get_mut(start..)?.copy_from_slice(digits);
        Some(CrlNumber(number))
    }
}

impl fmt::Display for CrlNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = hex::encode(self.0);
        let digits = text.trim_start_matches('0');
        f.write_str(if digits.is_empty() { "0" } else { digits })
    }
}

impl fmt::Debug for CrlNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the extensions of a list say.
#[derive(Default)]
struct Stated {
    number: Option<CrlNumber>,
    holds: Holds,
    urls: Vec<String>,
}

impl Stated {
    fn read(extensions: Option<&[u8]>) -> Result<Self, CrlFault> {
        const NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
        const DELTA: &[u8] = &[0x55, 0x1d, 0x1b];
        const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 0x1c];
        let mut stated = Stated::default();
        let Some(content) = extensions else { return Ok(stated) };
        extensions::each(content, "list", |extension| {
            match extension.oid {
                NUMBER => {
                    let number = CrlNumber::read(extension.value);
                    stated.number = Some(number.ok_or(CrlFault::Malformed("cRLNumber is no number of 20 octets"))?);
                }
                DELTA => return Err(CrlFault::Delta),
                ISSUING_DISTRIBUTION_POINT => {
                    if !extension.critical {
                        return Err(CrlFault::ScopeNotCritical);
                    }
                    (stated.holds, stated.urls) = scope::read(extension.value)?;
                }
                _ => extensions::unknown(&extension, "list")?,
            }
            Ok(())
        })?;
        Ok(stated)
    }
}

#[cfg(test)]
pub(in crate::trust) mod tests;
