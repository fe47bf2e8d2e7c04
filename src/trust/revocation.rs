//! Whether a verified path is revoked, by the lists of its anchor.
//!
//! In: the lists that were read for an anchor, the certificates of a path, the time. Out: fine, `certificate-revoked` or
//! `revocation-unknown`. O(1) for each certificate, and no allocation while all is well: it runs for every request.
//! Must never: let a list of one issuer speak of another's certificates; let a stale list forget what it revoked.
//!
//! OCSP has its place here, beside the lists, when it comes.

use super::crl::RevocationList;
use crate::clock::UnixNanos;
use crate::identity::{DistinguishedName, Fault, Fingerprint, Peer, Serial, SerialKey};
use crate::partner::RevocationMode;
use crate::reason::Reason;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The revocation lists of one anchor and of the CAs below it, and what they are worth. Immutable.
#[derive(Debug)]
pub struct AnchorRevocation {
    mode: RevocationMode,
    grace: Duration,
    lists: HashMap<Fingerprint, OfIssuer>,
}

/// What is there to check the certificates of one anchor with.
#[derive(Clone, Debug, Default)]
pub struct AnchorLists {
    pub lists: Vec<Arc<RevocationList>>,
    /// Where certificates may say themselves which list is theirs.
    pub wanted: Option<Arc<Wanted>>,
}

impl PartialEq for AnchorLists {
    /// The same lists, byte for byte, in whatever order.
    fn eq(&self, other: &Self) -> bool {
        let of = |lists: &[Arc<RevocationList>]| lists.iter().map(|l| l.fingerprint()).collect::<HashSet<_>>();
        let same_place = match (&self.wanted, &other.wanted) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            (one, two) => one.is_none() && two.is_none(),
        };
        same_place && of(&self.lists) == of(&other.lists)
    }
}

impl Eq for AnchorLists {}

/// Places that certificates have named for their lists: noted in passing, read by whoever fetches. Bounded, because a
/// hostile CA can name any number.
#[derive(Debug)]
pub struct Wanted {
    most: usize,
    urls: Mutex<BTreeSet<String>>,
}

impl Wanted {
    pub fn new(most: usize) -> Self {
        Wanted { most, urls: Mutex::default() }
    }

    pub fn note(&self, url: &str) {
        let mut urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        if urls.len() < self.most && !urls.contains(url) {
            urls.insert(url.to_owned());
        }
    }

    /// Forgets the places that nobody may be sent to, so that they take no room from others.
    pub fn retain(&self, may: impl Fn(&str) -> bool) {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner).retain(|url| may(url));
    }

    pub fn urls(&self) -> Vec<String> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// The lists that one key signed.
#[derive(Debug, Default)]
struct OfIssuer {
    /// Those that speak of certificates wherever their list is said to be.
    anywhere: Vec<Arc<RevocationList>>,
    /// Those that speak of certificates that name this place. A CA may have a hundred such parts.
    by_url: HashMap<String, Vec<Arc<RevocationList>>>,
}

/// What is asked about one certificate of a path.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    /// As the certificate names it. A CA that was renamed and kept its key has serials of its own under each name.
    pub issuer: &'a DistinguishedName,
    pub issuer_spki: Fingerprint,
    pub serial: &'a Serial,
    pub serial_key: SerialKey,
    pub is_ca: bool,
    pub crl_urls: &'a [String],
}

impl<'a> Checked<'a> {
    /// The leaf and the intermediates of a peer, each with the key of its issuer: the next one's, the anchor's at last.
    pub fn path(peer: &'a Peer) -> impl Iterator<Item = Checked<'a>> {
        let issuer_of = |at: usize| peer.intermediates.get(at).map_or(peer.anchor_spki, |issuer| issuer.spki_sha256);
        let leaf = Checked {
            issuer: &peer.leaf.issuer,
            issuer_spki: issuer_of(0),
            serial: &peer.leaf.serial,
            serial_key: peer.leaf.serial_key,
            is_ca: false,
            crl_urls: &peer.leaf.crl_urls,
        };
        std::iter::once(leaf).chain(peer.intermediates.iter().enumerate().map(move |(at, cert)| Checked {
            issuer: &cert.issuer,
            issuer_spki: issuer_of(at + 1),
            serial: &cert.serial,
            serial_key: cert.serial_key,
            is_ca: true,
            crl_urls: &cert.crl_urls,
        }))
    }
}

impl AnchorRevocation {
    /// `grace` is how long a list is still current after its nextUpdate. Of several lists of one scope all are used.
    pub fn new(mode: RevocationMode, grace: Duration, lists: Vec<Arc<RevocationList>>) -> Self {
        let mut index: HashMap<Fingerprint, OfIssuer> = HashMap::new();
        for list in lists {
            let of_issuer = index.entry(list.scope().issuer_spki).or_default();
            for url in &list.scope().urls {
                of_issuer.by_url.entry(url.clone()).or_default().push(list.clone());
            }
            if list.scope().urls.is_empty() {
                of_issuer.anywhere.push(list);
            }
        }
        AnchorRevocation { mode, grace, lists: index }
    }

    pub fn mode(&self) -> RevocationMode {
        self.mode
    }

    /// Whether a path may be believed at `now`.
    ///
    /// With `if-available` a certificate that no current list covers passes, be it that none covers it at all or that
    /// the ones that do are stale. A list denies what it lists however stale it is.
    ///
    /// # Errors
    /// [`Reason::CertificateRevoked`] when a list names one of the certificates; else, with `required`,
    /// [`Reason::RevocationUnknown`] when no current list covers one of them.
    pub fn check<'a>(&self, path: impl Iterator<Item = Checked<'a>>, now: UnixNanos) -> Result<(), Fault> {
        if self.mode == RevocationMode::Off {
            return Ok(());
        }
        // What is revoked further up says more than what is unknown further down.
        let mut unknown = None;
        for certificate in path {
            let (mut current, mut latest) = (false, None);
            for list in self.covering(certificate) {
                if list.is_revoked(certificate.serial_key) {
                    return Err(revoked(&certificate, list));
                }
                current |= list.this_update() <= now && now < self.end_of(list);
                latest = latest.max(Some(list.next_update()));
            }
            if !current && unknown.is_none() {
                unknown = Some((certificate, latest));
            }
        }
        match unknown {
            Some((certificate, latest)) if self.mode == RevocationMode::Required => {
                Err(self.unknown(&certificate, latest))
            }
            _ => Ok(()),
        }
    }

    /// The first instant at which [`check`](Self::check) would find a path unknown that it finds good now, because a
    /// list has become stale. `None` when that never comes.
    pub fn good_until<'a>(&self, path: impl Iterator<Item = Checked<'a>>) -> Option<UnixNanos> {
        if self.mode != RevocationMode::Required {
            return None;
        }
        // A certificate that no list covers is unknown already.
        let end = |certificate| self.covering(certificate).map(|list| self.end_of(list)).max();
        path.map(|certificate| end(certificate).unwrap_or(UnixNanos(i64::MIN))).min()
    }

    fn covering<'s>(&'s self, certificate: Checked<'s>) -> impl Iterator<Item = &'s RevocationList> {
        let of_issuer = self.lists.get(&certificate.issuer_spki);
        let anywhere = of_issuer.into_iter().flat_map(|lists| &lists.anywhere);
        let named = of_issuer
            .into_iter()
            .flat_map(move |lists| certificate.crl_urls.iter().filter_map(|url| lists.by_url.get(url)).flatten());
        anywhere.chain(named).map(Arc::as_ref).filter(move |list| {
            list.scope().issuer == *certificate.issuer && list.covers(certificate.is_ca, certificate.crl_urls)
        })
    }

    fn end_of(&self, list: &RevocationList) -> UnixNanos {
        list.next_update().saturating_add(self.grace)
    }

    fn unknown(&self, certificate: &Checked<'_>, latest: Option<UnixNanos>) -> Fault {
        let Checked { issuer, serial, .. } = certificate;
        let serial = serial.as_str();
        let detail = match latest {
            None => format!("no revocation list of `{issuer}` covers the certificate with serial `{serial}`"),
            Some(next_update) => format!(
                "the revocation list of `{issuer}` for the certificate with serial `{serial}` is stale since \
                 {next_update}, which is longer than the grace of {} s",
                self.grace.as_secs()
            ),
        };
        Fault::new(Reason::RevocationUnknown, detail)
    }
}

fn revoked(certificate: &Checked<'_>, list: &RevocationList) -> Fault {
    let Checked { issuer, serial, .. } = certificate;
    let number = list.number().map_or_else(|| "without number".to_owned(), |number| format!("number `{number}`"));
    Fault::new(
        Reason::CertificateRevoked,
        format!(
            "the revocation list of `{issuer}` ({number}, of {}) has the certificate with serial `{}`",
            list.this_update(),
            serial.as_str()
        ),
    )
}

#[cfg(test)]
mod tests;
