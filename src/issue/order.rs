//! Orders: what a CA is to sign whose key is on another host than the gateway.
//!
//! A file of two lines of JSON: the order, and the signature of the gateway's own key (Ed25519) over it, so that who
//! carries it can change nothing of it. What to sign is made from it on the CA's host, by the rules of this program.

use super::{Ca, Issued, Names, Terms, Why};
use crate::clock::UnixNanos;
use crate::history::{Signer, is_signed};
use crate::identity::{Csr, Fingerprint, Serial};
use crate::name::{AnchorName, CredentialId, PartnerId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Most bytes of a file with an order: a list of some 500,000 certificates.
pub const MAX_ORDER: usize = 64 * 1024 * 1024;
/// How long an order is carried out: what was approved may have ended since.
const MAX_AGE: Duration = Duration::from_secs(7 * 86_400);
/// How far the clocks of two hosts may differ.
const SKEW: Duration = Duration::from_secs(3_600);
const CONTEXT: &[u8] = b"partnergate order v1\n";
const VERSION: u32 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    version: u32,
    pub anchor: AnchorName,
    /// SHA-256 of the CA's certificate.
    pub ca_sha256: Fingerprint,
    pub made: UnixNanos,
    /// The operator who has it made.
    pub by: String,
    pub wanted: Wanted,
}

/// What is to be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    Certificate(Box<WantedCertificate>),
    List(WantedList),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedCertificate {
    pub partner: PartnerId,
    pub credential: CredentialId,
    /// PKCS#10 in DER, in base64.
    pub csr: String,
    pub names: Names,
    pub terms: Terms,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedList {
    pub number: u64,
    pub lifetime_s: u64,
    pub revoked: Vec<Revoked>,
}

/// One entry of a revocation list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    pub serial: Serial,
    pub at: UnixNanos,
    pub why: Why,
}

impl Revoked {
    /// What is on the list of all that were issued.
    pub fn among<'a>(issued: impl Iterator<Item = &'a Issued>) -> Vec<Revoked> {
        let revoked = |one: &Issued| {
            let withdrawn = one.revoked.as_ref()?;
            Some(Revoked { serial: one.serial.clone(), at: withdrawn.at, why: withdrawn.why })
        };
        issued.filter_map(revoked).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    /// Hex.
    key: String,
    /// Hex.
    signature: String,
}

impl Order {
    pub fn new(ca: &Ca, anchor: AnchorName, by: String, made: UnixNanos, wanted: Wanted) -> Order {
        Order { version: VERSION, anchor, ca_sha256: ca.facts.fingerprint, made, by, wanted }
    }

    /// The file, signed.
    pub fn sealed(&self, signer: &Signer) -> String {
        let order = serde_json::to_string(self).unwrap_or_default();
        let seal = Seal { key: signer.key(), signature: signer.sign_text(CONTEXT, &order) };
        format!("{order}\n{}\n", serde_json::to_string(&seal).unwrap_or_default())
    }

    /// Of a file that the gateway with this public key (hex) has signed, for this CA.
    ///
    /// # Errors
    /// It is none of this gateway, of another CA, too old or of the future, or of another version of this program.
    pub fn open(file: &str, key: &str, ca: &Ca, now: UnixNanos) -> Result<Order, String> {
        let mut lines = file.lines();
        let (Some(order), Some(seal), None) = (lines.next(), lines.next(), lines.next()) else {
            return Err("is no order: two lines are expected".into());
        };
        let seal: Seal = serde_json::from_str(seal).map_err(|e| format!("is no order: {e}"))?;
        if seal.key != key {
            return Err(format!("is signed by the gateway key {}, and not by {key}", seal.key));
        }
        if !is_signed(key, CONTEXT, order, &seal.signature) {
            return Err("was altered: its signature does not verify".into());
        }
        let order: Order = serde_json::from_str(order).map_err(|e| format!("cannot be read: {e}"))?;
        if order.version != VERSION {
            return Err(format!("is of version {}; this program knows {VERSION}", order.version));
        }
        if order.ca_sha256 != ca.facts.fingerprint {
            return Err(format!("is for the CA with the fingerprint {}, and this one has another", order.ca_sha256));
        }
        if order.made > now.saturating_add(SKEW) {
            return Err(format!("was made at {}, which is yet to come: look at the clocks", order.made));
        }
        if order.made.saturating_add(MAX_AGE) < now {
            return Err(format!("was made at {}: after 7 days another one is needed", order.made));
        }
        Ok(order)
    }
}

impl WantedCertificate {
    pub fn new(partner: PartnerId, credential: CredentialId, csr: &Csr, names: Names, terms: Terms) -> Self {
        let csr = data_encoding::BASE64.encode(&csr.der);
        WantedCertificate { partner, credential, csr, names, terms }
    }

    /// # Errors
    /// It is no request, or one whose signature does not verify.
    pub fn csr(&self) -> Result<Csr, String> {
        let der = data_encoding::BASE64.decode(self.csr.as_bytes()).map_err(|e| format!("the request: {e}"))?;
        Csr::from_der(&der)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::Curve;
    use std::time::Duration;

    const NOW: UnixNanos = UnixNanos(1_800_000_000_000_000_000);

    #[test]
    fn order_is_carried_out_as_it_was_signed_or_not_at_all() {
        let lifetime = Duration::from_secs(86_400 * 30);
        let ca = |name| Ca::new(&Ca::generate(name, Curve::P256, NOW, lifetime).unwrap().0, None).unwrap();
        let (own, other) = (ca("Own"), ca("Other"));
        let signer = Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap();
        let stranger = Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap();
        let wanted = Wanted::List(WantedList { number: 7, lifetime_s: 60, revoked: Vec::new() });
        let order = Order::new(&own, AnchorName::parse("own").unwrap(), "anna".into(), NOW, wanted);
        let (file, key) = (order.sealed(&signer), signer.key());
        assert_eq!(Order::open(&file, &key, &own, NOW), Ok(order.clone()));
        let wrong = |file: &str, ca: &Ca, now: UnixNanos| Order::open(file, &key, ca, now).unwrap_err();
        assert!(wrong(&file.replace("\"number\":7", "\"number\":8"), &own, NOW).contains("was altered"));
        assert!(wrong(&order.sealed(&stranger), &own, NOW).contains("is signed by the gateway key"));
        let claimed = order.sealed(&stranger).replace(&stranger.key(), &key);
        assert!(wrong(&claimed, &own, NOW).contains("was altered"));
        assert!(wrong(&file, &other, NOW).contains("this one has another"));
        assert!(wrong(&file, &own, NOW.saturating_add(MAX_AGE * 2)).contains("another one is needed"));
        assert!(wrong(&file, &own, UnixNanos(0)).contains("yet to come"));
        assert!(wrong(&format!("{file}{{}}\n"), &own, NOW).contains("two lines"));
        assert!(wrong("", &own, NOW).contains("two lines"));
    }
}
