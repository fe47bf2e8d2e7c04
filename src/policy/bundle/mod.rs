//! A policy folder as one file: OPA's bundles, built, signed, verified and read.
//!
//! In: a [`PolicySource`], or the bytes of a bundle from anywhere. Out: bytes that are the same for the same policy, or a
//! [`Bundle`] whose policy may be compiled. Formats are OPA's (`management-bundles` of its documentation), so that its
//! tools read what is built here and what they build is read here. What is read is what was signed: documents are taken
//! in the very form that was hashed. Must never: do I/O; unpack to a disk; take a bundle in part.

mod archive;
mod hash;
mod manifest;
mod signature;

pub use archive::{Archive, BundleLimits};
pub use manifest::Manifest;
pub use signature::{Required, SignatureClaims, SignedBy, Verification};

use super::{CONTRACT_VERSION, FileKind, PolicySource, file_kind, merge_data, syntax};
use crate::document::{self, Problems};
use crate::jose::SignKey;
use hash::signed_form;
use manifest::{METADATA, WASM};
use ring::digest;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const MANIFEST: &str = ".manifest";
const SIGNATURES: &str = ".signatures.json";

/// Why a bundle is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("{0}")]
    Archive(String),
    #[error("{0}")]
    Limit(String),
    #[error("the name `{name}` {why}")]
    Name { name: String, why: &'static str },
    #[error("`{name}` is {what}; a bundle holds files only")]
    Entry { name: String, what: &'static str },
    #[error("it is not signed (`.signatures.json` is missing): `partnergate policy sign` does it")]
    Unsigned,
    #[error("{0}")]
    Signature(String),
    #[error("the manifest {0}")]
    Manifest(String),
    #[error("`{file}` is {what}")]
    Unsupported { file: String, what: &'static str },
    #[error("`{file}` {why}")]
    Content { file: String, why: String },
    #[error("`{file}` is about `{path}`, which is outside of the manifest's roots ({roots})")]
    Root { file: String, path: String, roots: String },
}

/// A bundle that was read and verified. Whether its policy is any good is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub manifest: Manifest,
    pub source: PolicySource,
    /// Whose signature was verified, where one was.
    pub signed_by: Option<SignedBy>,
}

/// Whether tests go into a bundle. They are never served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tests {
    With,
    Without,
}

impl Bundle {
    /// Reads a bundle of anybody.
    ///
    /// # Errors
    /// Why it is not taken: the first reason.
    pub fn read(bytes: &[u8], limits: BundleLimits, how: &Verification) -> Result<Bundle, BundleError> {
        Self::of(&Archive::read(bytes, limits)?, how)
    }

    /// The same of one that is unpacked.
    ///
    /// # Errors
    /// As [`Bundle::read`].
    pub fn of(archive: &Archive, how: &Verification) -> Result<Bundle, BundleError> {
        let signed_by = signature::verify(archive, how)?;
        for (name, _) in archive.iter() {
            let base = name.rsplit('/').next().unwrap_or(name);
            let what = match base {
                "patch.json" => "a change to another bundle; whole bundles are served",
                "policy.wasm" => WASM,
                "plan.json" => "a compiled plan of OPA's; bundles of Rego are served",
                ".manifest" | ".signatures.json" if base != name => "in a folder; it belongs at the top",
                _ => continue,
            };
            return Err(BundleError::Unsupported { file: name.to_owned(), what });
        }
        let manifest = archive.get(MANIFEST).map_or_else(|| Ok(Manifest::none()), Manifest::read)?;
        let mut files = Vec::new();
        for (name, content) in archive.iter() {
            if let Some(text) = policy_file(name, content)? {
                look_at_roots(&manifest, name, &text)?;
                files.push((name.to_owned(), text));
            }
        }
        if !files.iter().any(|(name, _)| matches!(file_kind(name), FileKind::Rego)) {
            return Err(BundleError::Archive("there is no Rego in it".into()));
        }
        Ok(Bundle { manifest, source: PolicySource { files }, signed_by })
    }
}

/// The text of a file that belongs to the policy. What OPA looks at and what the policy folder has are taken; what the
/// two would take differently is refused, and what neither looks at is left.
fn policy_file(name: &str, content: &[u8]) -> Result<Option<String>, BundleError> {
    let refuse = |why: &str| BundleError::Content { file: name.to_owned(), why: why.to_owned() };
    let base = name.rsplit('/').next().unwrap_or(name);
    let kind = file_kind(name);
    if matches!(kind, FileKind::Other) || name == SIGNATURES {
        return Ok(None);
    }
    if name.split('/').any(|part| part.starts_with('.')) {
        return Err(refuse("is hidden: a policy folder would not have it"));
    }
    if matches!(kind, FileKind::Data) && !matches!(base, "data.json" | "data.yaml" | "data.yml") {
        return Err(refuse("would not be read by OPA: `partnergate policy build` puts it into `data.json`"));
    }
    let text = signed_form(name, content)?;
    let text = String::from_utf8(text.into_owned()).map_err(|_| refuse("is not UTF-8"))?;
    Ok(Some(text))
}

fn look_at_roots(manifest: &Manifest, name: &str, text: &str) -> Result<(), BundleError> {
    let refuse = |why: String| BundleError::Content { file: name.to_owned(), why };
    let outside = |path: &str| BundleError::Root {
        file: name.to_owned(),
        path: path.escape_debug().to_string(),
        roots: manifest.roots.iter().map(|root| format!("`{}`", root.escape_debug())).collect::<Vec<_>>().join(", "),
    };
    match file_kind(name) {
        FileKind::Rego | FileKind::Test => {
            let package = syntax::package(name, text).ok_or_else(|| refuse("has no package".into()))?.join("/");
            if manifest.owns(&package) { Ok(()) } else { Err(outside(&package)) }
        }
        FileKind::Data => {
            let node = document::parse(name, text)
                .map_err(|problems| refuse(problems.errors().next().map(|p| p.reason.clone()).unwrap_or_default()))?;
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            match stray(manifest, folder, &node) {
                Some(path) => Err(outside(&path)),
                None => Ok(()),
            }
        }
        FileKind::Reasons | FileKind::Conditions | FileKind::Other => Ok(()),
    }
}

/// The path of a value that no root holds.
fn stray(manifest: &Manifest, path: &str, node: &document::Node) -> Option<String> {
    if manifest.owns(path) {
        return None;
    }
    // Above a root there may be tables only.
    let above = path.is_empty() || manifest.owns_below(path);
    if !above || !matches!(node.value, document::Value::Table(_)) {
        return Some(path.to_owned());
    }
    node.entries().iter().find_map(|(key, value)| {
        let key = key.text().unwrap_or_default();
        let below = if path.is_empty() { key.to_owned() } else { format!("{path}/{key}") };
        stray(manifest, &below, value)
    })
}

/// The files of a folder as a bundle has them, and the first names of what they define. Data files of a folder become its
/// `data.json`; `reasons.yaml` and `conditions.yaml` stay as they are, where OPA does not look at them.
fn packed(source: &PolicySource, tests: Tests, problems: &mut Problems) -> (PolicySource, BTreeSet<String>) {
    let mut texts = BTreeMap::new();
    let mut folders: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut roots = BTreeSet::new();
    for (path, text) in &source.files {
        match file_kind(path) {
            FileKind::Test if tests == Tests::Without => continue,
            FileKind::Rego | FileKind::Test => {
                roots.extend(syntax::package(path, text).and_then(|package| package.into_iter().next()));
            }
            FileKind::Reasons | FileKind::Conditions => {}
            FileKind::Data => {
                let (folder, base) = path.rsplit_once('/').unwrap_or(("", path));
                match document::parse(path, text) {
                    Ok(node) => merge_data(folders.entry(folder).or_default(), base, &node, problems),
                    Err(found) => problems.extend(found),
                }
                continue;
            }
            FileKind::Other => continue,
        }
        texts.insert(path.clone(), text.clone());
    }
    for (folder, data) in folders {
        match folder.split('/').next().filter(|first| !first.is_empty()) {
            Some(first) => drop(roots.insert(first.to_owned())),
            None => roots.extend(data.keys().cloned()),
        }
        let path = if folder.is_empty() { "data.json".to_owned() } else { format!("{folder}/data.json") };
        // In the form that is signed: the revision of what is read from the bundle is then that of this.
        match signed_form("data.json", Value::Object(data).to_string().as_bytes()) {
            Ok(text) => drop(texts.insert(path, String::from_utf8_lossy(&text).into_owned())),
            Err(e) => problems.file(&path, e.to_string(), None),
        }
    }
    (PolicySource { files: texts.into_iter().collect() }, roots)
}

impl PolicySource {
    /// SHA-256 over what is served of it, as hex: what a record names. That of a folder is that of the bundle which is built of
    /// it, so that neither its tests nor how its data is written and divided count.
    pub fn revision(&self) -> Arc<str> {
        let mut problems = Problems::new();
        let (packed, _) = packed(self, Tests::Without, &mut problems);
        // What cannot be packed is not served either.
        let source = if problems.has_errors() { self.served() } else { packed };
        let mut context = digest::Context::new(&digest::SHA256);
        for part in source.files.iter().flat_map(|(path, text)| [path, text]) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        hex::encode(context.finish()).into()
    }
}

/// A policy folder as a bundle, not signed yet. Without `revision` it is the policy's own.
///
/// # Errors
/// Data that JSON cannot hold, or a name that no bundle may have.
pub fn build(source: &PolicySource, revision: Option<&str>, tests: Tests) -> Result<(Archive, Manifest), Problems> {
    let mut problems = Problems::new();
    let (source, roots) = packed(source, tests, &mut problems);
    let own: Arc<str> = source.revision();
    let metadata = json!({METADATA: {"contract": CONTRACT_VERSION, "version": env!("CARGO_PKG_VERSION")}});
    let manifest = Manifest {
        revision: revision.map_or_else(|| own.to_string(), str::to_owned),
        roots: roots.into_iter().collect(),
        metadata: metadata.as_object().cloned().unwrap_or_default(),
    };
    let written = manifest.write();
    // What this writes it also reads.
    if let Err(e) = Manifest::read(&written) {
        problems.file(MANIFEST, e.to_string(), None);
    }
    let files = source.files.into_iter().map(|(name, text)| (name, text.into_bytes()));
    match Archive::of(files.chain([(MANIFEST.to_owned(), written)])) {
        Ok(archive) if !problems.has_errors() => Ok((archive, manifest)),
        Ok(_) => Err(problems),
        Err(e) => {
            problems.file("bundle", e.to_string(), None);
            Err(problems)
        }
    }
}

impl Archive {
    /// Signs every file, in the place of what signature there is.
    ///
    /// # Errors
    /// A document that is none, or a key that does not sign.
    pub fn sign(&mut self, key: &SignKey, claims: &SignatureClaims) -> Result<(), BundleError> {
        signature::sign(self, key, claims)
    }

    /// The signature, as it lies in the bundle.
    pub fn signatures(&self) -> Option<&[u8]> {
        self.get(SIGNATURES)
    }
}

#[cfg(test)]
mod tests;
