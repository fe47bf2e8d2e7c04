//! Trust anchors: which CA may issue credentials for whom, and what is asked of the certificates under it.

use crate::clock::UnixNanos;
use crate::identity::{Fingerprint, Serial};
use crate::name::{AnchorName, Environment, PartnerId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

states! {
    /// Whether a leaf under an anchor must carry the clientAuth extended key usage.
    ClientAuthUsage {
        Required "required",
        /// For public CAs that no longer issue it. A leaf that has the extension must still permit clientAuth.
        Optional "optional",
    }
}

states! {
    /// What it means for a certificate that no current revocation list covers it.
    RevocationMode {
        /// It is refused.
        Required "required",
        /// It is accepted; what any list names is refused all the same.
        IfAvailable "if-available",
        /// No list is looked at.
        Off "off",
    }
}

/// A CA that may issue credentials for the stated partners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    pub name: AnchorName,
    #[serde(flatten)]
    pub root: Root,
    /// The partners it may speak for; no others.
    pub partners: Vec<PartnerId>,
    pub environments: Vec<Environment>,
    pub client_auth: ClientAuthUsage,
    /// Longest validity of a client certificate under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lifetime: Option<Duration>,
    #[serde(default, skip_serializing_if = "Revocation::is_off")]
    pub revocation: Revocation,
    /// Single certificates that are refused whatever any list says; sorted by what they name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<Denied>,
}

/// What a path has to end in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Root {
    /// One CA certificate.
    Certificate { certificate: Der },
    /// The CA certificates of a SPIFFE trust domain, as its bundle lists them.
    Bundle { bundle: Bundle },
    /// One client certificate that nobody has issued but its owner: it ends in itself, and is believed because it was
    /// registered (RFC 8705 section 2.2). Nothing that it has signed is.
    SelfSigned { self_signed: Der },
}

/// Where a SPIFFE trust bundle is read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Such as `acme.example`; every certificate under the anchor is an X.509-SVID of it.
    pub trust_domain: String,
    /// A JWKS document on the gateway's machine.
    pub file: PathBuf,
}

/// A certificate in DER; hex where it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Der(#[serde(with = "hex")] pub Vec<u8>);

/// How it is found out which certificates under an anchor are revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    pub mode: RevocationMode,
    /// How long after its nextUpdate a list is still good enough.
    pub grace: Duration,
    pub sources: Vec<CrlSource>,
    /// Also fetch the lists that certificates name themselves, from hosts that the config permits.
    pub distribution_points: bool,
    /// CA certificates between the anchor and the clients that sign lists of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intermediates: Vec<Der>,
}

impl Default for Revocation {
    fn default() -> Self {
        Revocation {
            mode: RevocationMode::Off,
            grace: Duration::ZERO,
            sources: Vec::new(),
            distribution_points: false,
            intermediates: Vec::new(),
        }
    }
}

impl Revocation {
    fn is_off(&self) -> bool {
        *self == Self::default()
    }
}

/// Where revocation lists come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum CrlSource {
    /// One list, DER or PEM. Relative paths start at the config file's folder.
    File(PathBuf),
    /// Every list in a folder.
    Folder(PathBuf),
    /// `http` or `https`.
    Url(String),
}

impl CrlSource {
    /// `file:PATH`, `dir:PATH` or a URL.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}` is none of `file:PATH`, `dir:PATH`, `http://…`, `https://…`");
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(CrlSource::File(path.into())),
            Some(("dir", path)) if !path.is_empty() => Ok(CrlSource::Folder(path.into())),
            Some(("http" | "https", _)) => {
                let uri: http::Uri = text.parse().map_err(|_| expected())?;
                let authority = uri.authority().ok_or_else(expected)?;
                // Who may log in there is a secret, and this text is shown.
                if authority.as_str().contains('@') {
                    return Err(format!("the URL of `{}` must not contain a password", authority.host()));
                }
                Ok(CrlSource::Url(text.to_owned()))
            }
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for CrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CrlSource::File(path) => write!(f, "file:{}", path.display()),
            CrlSource::Folder(path) => write!(f, "dir:{}", path.display()),
            CrlSource::Url(url) => f.write_str(url),
        }
    }
}

impl From<CrlSource> for String {
    fn from(source: CrlSource) -> String {
        source.to_string()
    }
}

impl TryFrom<String> for CrlSource {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        CrlSource::parse(&text)
    }
}

/// One certificate that is refused under an anchor, as leaf or as intermediate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    #[serde(flatten)]
    pub certificate: DeniedCertificate,
    pub reason: String,
    /// Who denied it.
    pub author: String,
    pub at: UnixNanos,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeniedCertificate {
    /// Whoever between the client and the anchor has issued it.
    Serial(Serial),
    Fingerprint(Fingerprint),
}

impl fmt::Display for DeniedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeniedCertificate::Serial(serial) => write!(f, "serial {}", serial.as_str()),
            DeniedCertificate::Fingerprint(fingerprint) => write!(f, "fingerprint {fingerprint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_of_lists_is_a_file_a_folder_or_a_url() {
        for good in ["file:crl/acme.crl", "dir:/etc/partnergate/crl", "http://crl.acme.example/ca.crl"] {
            assert_eq!(CrlSource::parse(good).unwrap().to_string(), good);
        }
        for bad in ["crl/acme.crl", "file:", "ldap://crl.acme.example/", "http:///ca.crl", "https://a:b@crl.example/x"]
        {
            assert!(CrlSource::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_anchor_that_an_older_version_stored_is_read() {
        let stored =
            r#"{"name":"acme-ca","certificate":"30","partners":[],"environments":[],"client_auth":"required"}"#;
        let anchor: Anchor = serde_json::from_str(stored).unwrap();
        assert_eq!(anchor.root, Root::Certificate { certificate: Der(vec![0x30]) });
        assert_eq!(anchor.revocation.mode, RevocationMode::Off);
        assert_eq!(serde_json::to_string(&anchor).unwrap(), stored);
    }
}
