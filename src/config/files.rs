//! Reading the files that a config names, and noticing that they have changed.

use crate::disk::{self, NoSecret, Stamp, Watched, plain};
use crate::document::{Node, Problem, Problems, SecretRef, Section, parse_secret};
use crate::fetch::HttpTls;
use crate::policy::PolicySource;
use http::HeaderValue;
use ring::digest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest file that is read.
const MAX_FILE: usize = 64 * 1024 * 1024;
/// What to do about a file that cannot be read.
const MISSING: &str = "put the file there, or write where it is";
/// Most files of a policy folder.
const MAX_POLICY_FILES: usize = 2_000;
/// The folder of the policy folder that is not read: its rules are served where they have been copied.
const EXAMPLES: &str = "examples";

/// A value of the config and the key that it is under, for messages.
pub(super) struct At<'a> {
    pub node: &'a Node,
    pub key: String,
}

impl At<'_> {
    pub(super) fn error(&self, reason: impl Into<String>, fix: Option<&str>) -> Problem {
        self.node.error(self.key.as_str(), reason, fix)
    }
}

/// Reads files relative to the config's folder and remembers which.
pub(super) struct Reader {
    base: PathBuf,
    watched: Watched,
    digest: digest::Context,
}

impl Reader {
    pub(super) fn new(config: &Path) -> Reader {
        let base = config.parent().map(Path::to_owned).unwrap_or_default();
        Reader { base, watched: Watched::new(), digest: digest::Context::new(&digest::SHA256) }
    }

    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        if path.is_absolute() { path.to_owned() } else { self.base.join(path) }
    }

    /// SHA-256 over every text that was read, as hex. Keys and certificates are no part of it.
    pub(super) fn revision(&self) -> Arc<str> {
        hex::encode(self.digest.clone().finish()).into()
    }

    pub(super) fn into_watched(self) -> Watched {
        self.watched
    }

    /// The config file itself.
    pub(super) fn text(&mut self, path: &Path, problems: &mut Problems) -> Option<String> {
        match self.read(path) {
            Ok(bytes) => self.utf8(&path.display().to_string(), bytes, problems),
            Err(reason) => {
                problems.file(&path.display().to_string(), reason, None);
                None
            }
        }
    }

    pub(super) fn text_of(&mut self, at: &At<'_>, file: &str, problems: &mut Problems) -> Option<String> {
        let bytes = self.bytes_of(at, file, problems)?;
        self.utf8(file, bytes, problems)
    }

    pub(super) fn bytes_of(&mut self, at: &At<'_>, file: &str, problems: &mut Problems) -> Option<Vec<u8>> {
        let path = self.resolve(Path::new(file));
        match self.read(&path) {
            Ok(bytes) => Some(bytes),
            Err(reason) => {
                problems.push(at.error(format!("`{}`: {reason}", path.display()), Some(MISSING)));
                None
            }
        }
    }

    /// DER certificates of a PEM file.
    pub(super) fn certificates(&mut self, at: &At<'_>, file: &str, problems: &mut Problems) -> Option<Vec<Vec<u8>>> {
        let bytes = self.bytes_of(at, file, problems)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).map(|c| c.map(|c| c.to_vec())).collect();
        match found {
            Ok(list) if !list.is_empty() => Some(list),
            _ => {
                problems.push(at.error(format!("`{file}` contains no certificates in PEM"), None));
                None
            }
        }
    }

    /// The secret that a reference names, and where it came from.
    pub(super) fn secret(
        &mut self,
        at: &At<'_>,
        reference: &str,
        problems: &mut Problems,
    ) -> Option<(String, Vec<u8>)> {
        let found = parse_secret(reference).map_err(|reason| NoSecret { reason, fix: None }).and_then(|reference| {
            let reference = match reference {
                SecretRef::File(path) => SecretRef::File(self.resolve(&path)),
                other => other,
            };
            match &reference {
                SecretRef::File(path) => self.watch(path),
                SecretRef::Credential(name) => {
                    if let Some(path) = disk::credential_path(name) {
                        self.watch(&path);
                    }
                }
                SecretRef::Env(_) => {}
            }
            disk::secret(&reference, MAX_FILE)
        });
        found.map_err(|NoSecret { reason, fix }| problems.push(at.error(reason, fix.as_deref()))).ok()
    }

    /// `ca`, `client_chain` and `client_key` of a section that is at `key`: whom a server must be that the gateway calls, and who
    /// the gateway is to it.
    pub(super) fn client_tls(&mut self, section: Section<'_>, key: &str, problems: &mut Problems) -> Option<HttpTls> {
        let at = |name: &str| Some(At { node: section.node(name)?, key: format!("{key}.{name}") });
        let ca = match (at("ca"), section.text("ca")) {
            (Some(at), Some(file)) => Some(self.certificates(&at, file, problems)?),
            _ => None,
        };
        let client = match (at("client_chain"), at("client_key")) {
            (None, None) => None,
            (Some(chain_at), Some(key_at)) => {
                let chain = self.certificates(&chain_at, section.text("client_chain")?, problems)?;
                let (file, pem) = self.secret(&key_at, section.text("client_key")?, problems)?;
                let key = self.matched_key(&key_at, &chain, (&file, &pem), problems)?;
                Some((chain, key))
            }
            (Some(alone), None) => {
                problems.push(alone.error("needs `client_key` beside it", None));
                return None;
            }
            (None, Some(alone)) => {
                problems.push(alone.error("needs `client_chain` beside it", None));
                return None;
            }
        };
        Some(HttpTls { ca, client })
    }

    /// `token` of a section that is at `key`, as the field that it is sent in. The outer `None` where it cannot be used.
    pub(super) fn bearer(
        &mut self,
        section: Section<'_>,
        key: &str,
        problems: &mut Problems,
    ) -> Option<Option<HeaderValue>> {
        let (Some(node), Some(reference)) = (section.node("token"), section.text("token")) else { return Some(None) };
        let at = At { node, key: format!("{key}.token") };
        let (place, bytes) = self.secret(&at, reference, problems)?;
        let token = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        let visible = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        let field = visible.then(|| HeaderValue::from_str(&format!("Bearer {token}")).ok()).flatten();
        let Some(mut field) = field else {
            problems.push(at.error(format!("`{place}` holds no token: one line of visible characters"), None));
            return None;
        };
        field.set_sensitive(true);
        Some(Some(field))
    }

    /// The DER key of a PEM, checked against its certificate. `file` is where it came from.
    pub(super) fn matched_key(
        &self,
        at: &At<'_>,
        chain: &[Vec<u8>],
        (file, pem): (&str, &[u8]),
        problems: &mut Problems,
    ) -> Option<Vec<u8>> {
        let reason = match PrivateKeyDer::from_pem_slice(pem) {
            Err(_) => "contains no private key in PEM (PKCS#8, PKCS#1 or SEC1, not encrypted)",
            Ok(key) => match rustls::crypto::ring::sign::any_supported_type(&key) {
                Err(_) => "has a key of a kind that is not supported: use RSA, P-256, P-384 or Ed25519",
                Ok(signer) => {
                    let chain = chain.iter().map(|c| CertificateDer::from(c.clone())).collect();
                    if CertifiedKey::new(chain, signer).keys_match().is_ok() {
                        return Some(key.secret_der().to_vec());
                    }
                    "holds a key that does not fit the certificate"
                }
            },
        };
        let fix = "name the key that the certificate was issued for";
        problems.push(at.error(format!("`{file}` {reason}"), Some(fix)));
        None
    }

    /// Every file below the policy folder, but for the examples, which are there to be copied from.
    pub(super) fn policy_folder(&mut self, folder: &Path, problems: &mut Problems) -> PolicySource {
        const FIX: &str = "name the folder that holds `partnergate/`";
        let root = self.resolve(folder);
        let mut found = Vec::new();
        if !root.is_dir() {
            self.watched.insert(root.clone(), Stamp::of(&root));
            let reason = if root.exists() { "is not a folder" } else { "does not exist" };
            problems.file(&root.display().to_string(), reason, Some(FIX));
            return PolicySource { files: found };
        }
        self.walk(&root, &root, &mut found, problems);
        found.sort();
        if !found.iter().any(|(path, _)| path.ends_with(".rego")) {
            problems.file(&root.display().to_string(), "the policy folder has no .rego files", Some(FIX));
        }
        PolicySource { files: found }
    }

    fn walk(&mut self, root: &Path, folder: &Path, found: &mut Vec<(String, String)>, problems: &mut Problems) {
        self.watched.insert(folder.to_owned(), Stamp::of(folder));
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) => {
                problems.file(&folder.display().to_string(), plain(&e), None);
                return;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            // Hidden files, and the `..data` folders of Kubernetes volumes, whose files are linked to from outside.
            if name.starts_with('.') || (folder == root && name == EXAMPLES) {
                continue;
            }
            if path.is_dir() {
                self.walk(root, &path, found, problems);
                continue;
            }
            let wanted = [".rego", ".json", ".yaml", ".yml"].iter().any(|end| name.ends_with(end));
            if !wanted || found.len() >= MAX_POLICY_FILES {
                continue;
            }
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            match self.read(&path) {
                Ok(bytes) => {
                    if let Ok(text) = String::from_utf8(bytes) {
                        found.push((relative, text));
                    } else {
                        problems.file(&path.display().to_string(), "is not UTF-8", None);
                    }
                }
                Err(reason) => problems.file(&path.display().to_string(), reason, None),
            }
        }
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        self.watch(path);
        disk::read(path, MAX_FILE)
    }

    /// Before the file is read, so that a change from then on is noticed.
    fn watch(&mut self, path: &Path) {
        self.watched.insert(path.to_owned(), Stamp::of(path));
    }

    fn utf8(&mut self, file: &str, bytes: Vec<u8>, problems: &mut Problems) -> Option<String> {
        match String::from_utf8(bytes) {
            Ok(text) => {
                self.digest.update(text.as_bytes());
                Some(text)
            }
            Err(_) => {
                problems.file(file, "is not UTF-8", None);
                None
            }
        }
    }
}
