//! `.manifest`: the revision of a bundle and what it owns.

use super::BundleError;
use crate::policy::CONTRACT_VERSION;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Longest revision, in characters: it is shown wherever the policy is.
const LONGEST_REVISION: usize = 200;
/// Most roots.
const MOST_ROOTS: usize = 1_000;

/// A manifest that was judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// As whoever built it has named it; empty where nobody has.
    pub revision: String,
    /// Paths in `data`, such as `partnergate/custom`. What lies elsewhere does not belong to the bundle.
    pub roots: Vec<String>,
    /// What others have written beside it.
    pub metadata: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    revision: String,
    #[serde(default = "everything")]
    roots: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    wasm: Vec<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rego_version: Option<i64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    file_rego_versions: BTreeMap<String, i64>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
}

fn everything() -> Vec<String> {
    vec![String::new()]
}

impl Manifest {
    /// Of a bundle without one: no revision, and everything is its own.
    pub fn none() -> Self {
        Manifest { roots: everything(), ..Manifest::default() }
    }

    /// # Errors
    /// It is not one, or asks for what the gateway has not.
    pub fn read(content: &[u8]) -> Result<Self, BundleError> {
        let refuse = |why: String| BundleError::Manifest(why);
        // A list would be taken for the fields in their order.
        if content.trim_ascii_start().first() != Some(&b'{') {
            return Err(refuse("cannot be read: it is no object".into()));
        }
        let written: Written = serde_json::from_slice(content).map_err(|e| refuse(format!("cannot be read: {e}")))?;
        if !written.wasm.is_empty() {
            return Err(BundleError::Unsupported { file: ".manifest".into(), what: WASM });
        }
        let versions = written.rego_version.iter().chain(written.file_rego_versions.values());
        if let Some(version) = versions.into_iter().find(|version| **version != 1) {
            return Err(refuse(format!("says Rego version {version}; the gateway has version 1")));
        }
        let revision = written.revision;
        if revision.chars().count() > LONGEST_REVISION || revision.chars().any(char::is_control) {
            let reason = format!("has a revision that is longer than {LONGEST_REVISION} characters or cannot be shown");
            return Err(refuse(reason));
        }
        let roots: Vec<String> = written.roots.iter().map(|root| root.trim_matches('/').to_owned()).collect();
        if roots.len() > MOST_ROOTS {
            return Err(refuse(format!("has more than {MOST_ROOTS} roots")));
        }
        for (n, root) in roots.iter().enumerate() {
            if let Some(other) = roots.iter().skip(n + 1).find(|other| holds(root, other) || holds(other, root)) {
                let (root, other) = (root.escape_debug(), other.escape_debug());
                return Err(refuse(format!("has roots that overlap: `{root}` and `{other}`")));
            }
        }
        let contract = written.metadata.get(METADATA).and_then(|ours| ours.get("contract")).and_then(Value::as_i64);
        if let Some(contract) = contract.filter(|contract| *contract != CONTRACT_VERSION) {
            return Err(refuse(format!(
                "is of contract version {contract}; this gateway has version {CONTRACT_VERSION}"
            )));
        }
        Ok(Manifest { revision, roots, metadata: written.metadata })
    }

    /// As it is put into a bundle.
    pub(super) fn write(&self) -> Vec<u8> {
        let written = Written {
            revision: self.revision.clone(),
            roots: self.roots.clone(),
            wasm: Vec::new(),
            rego_version: Some(1),
            file_rego_versions: BTreeMap::new(),
            metadata: self.metadata.clone(),
        };
        let mut text = serde_json::to_vec(&written).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Whether a package or a document of this path belongs to the bundle.
    pub(super) fn owns(&self, path: &str) -> bool {
        self.roots.iter().any(|root| holds(root, path))
    }

    /// Whether something below this path belongs to the bundle.
    pub(super) fn owns_below(&self, path: &str) -> bool {
        self.roots.iter().any(|root| holds(path, root))
    }
}

/// Whether `path` is `root` or lies below it.
fn holds(root: &str, path: &str) -> bool {
    root.is_empty() || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Our key in `metadata`.
pub(super) const METADATA: &str = "partnergate";
pub(super) const WASM: &str = "WebAssembly; bundles of Rego alone are served (`opa build` without `-t wasm`)";
