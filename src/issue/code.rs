//! Enrolment codes: what lets a partner that has no certificate yet ask for its first one, once.

use crate::clock::UnixNanos;
use crate::identity::{Fingerprint, Serial};
use crate::name::{CredentialId, PartnerId};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

/// What a code begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "pge_";
/// Random bytes of an id, and of the secret.
const ID: usize = 6;
const SECRET: usize = 32;

/// A code as it is kept. It is for one credential of one partner, and so for the names that are approved for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Part of the code, and no secret.
    pub id: String,
    pub partner: PartnerId,
    pub credential: CredentialId,
    /// Digest of what the credential was recognised by when the code was made: it is for no other names.
    pub names_sha256: String,
    /// Of the secret, which has 256 random bits: nothing slower than this is needed.
    pub sha256: Fingerprint,
    pub author: String,
    pub created: UnixNanos,
    pub expires: UnixNanos,
    /// It has been used, or its partner has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Used>,
}

/// What became of a code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    pub at: UnixNanos,
    /// The certificate that it was used for; absent where it is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
}

/// Why a code is not good. None of it says whether there is such a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the enrolment code is not good: unknown, used or expired")]
pub struct WrongCode;

impl Enrolment {
    /// A new one: what is kept of it, and the text that is told once.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate(
        (partner, credential, names_sha256): (PartnerId, CredentialId, String),
        author: String,
        created: UnixNanos,
        expires: UnixNanos,
    ) -> Result<(Enrolment, String), String> {
        let (mut id, mut secret) = ([0; ID], [0; SECRET]);
        let random = SystemRandom::new();
        random
            .fill(&mut id)
            .and_then(|()| random.fill(&mut secret))
            .map_err(|_| "the system gives no random numbers".to_owned())?;
        let (id, secret) = (hex::encode(id), data_encoding::BASE64URL_NOPAD.encode(&secret));
        let text = format!("{PREFIX}{id}_{secret}");
        let sha256 = Fingerprint::of(secret.as_bytes());
        Ok((Enrolment { id, partner, credential, names_sha256, sha256, author, created, expires, used: None }, text))
    }

    /// The id within a code that somebody shows, which is looked up.
    ///
    /// # Errors
    /// It is none.
    pub fn id_in(shown: &str) -> Result<&str, WrongCode> {
        let (id, _) = shown.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(WrongCode)?;
        if id.len() == ID * 2 && id.bytes().all(|b| b.is_ascii_hexdigit()) { Ok(id) } else { Err(WrongCode) }
    }

    /// Whether this is the code that somebody shows, and is good.
    ///
    /// # Errors
    /// It is not.
    pub fn open(&self, shown: &str, now: UnixNanos) -> Result<(), WrongCode> {
        let secret = shown.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(WrongCode)?.1;
        // Digests are compared, and of what is compared with nobody can choose the bytes: time tells nothing.
        let good = self.sha256 == Fingerprint::of(secret.as_bytes()) && self.is_open(now);
        if good { Ok(()) } else { Err(WrongCode) }
    }

    pub fn is_open(&self, now: UnixNanos) -> bool {
        self.used.is_none() && now < self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_good_once_and_until_its_end() {
        let who = (PartnerId::parse("acme").unwrap(), CredentialId::parse("acme-1").unwrap(), "00".to_owned());
        let (mut kept, told) = Enrolment::generate(who, "alice".into(), UnixNanos(1), UnixNanos(10)).unwrap();
        assert_eq!(Enrolment::id_in(&told), Ok(kept.id.as_str()));
        assert_eq!((kept.open(&told, UnixNanos(9)), kept.open(&told, UnixNanos(10))), (Ok(()), Err(WrongCode)));
        for other in [format!("{told}x"), told.replace("pge_", "pgo_"), format!("pge_{}_", kept.id), String::new()] {
            assert!(kept.open(&other, UnixNanos(9)).is_err(), "{other}");
        }
        assert!(Enrolment::id_in("pge_short_x").is_err());
        assert!(
            !serde_json::to_string(&kept).unwrap().contains(told.rsplit('_').next().unwrap()),
            "it is kept nowhere"
        );
        kept.used = Some(Used { at: UnixNanos(5), serial: None });
        assert_eq!(kept.open(&told, UnixNanos(9)), Err(WrongCode));
    }
}
