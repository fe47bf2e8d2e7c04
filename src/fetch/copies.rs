//! The last good list of each scope, in the state folder.

use crate::disk;
use crate::name::AnchorName;
use crate::partner::CrlSource;
use crate::trust::Scope;
use ring::digest;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

pub(super) struct Copies {
    folder: PathBuf,
}

/// What belongs to a copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Label {
    pub anchor: AnchorName,
    /// As the anchor names it.
    pub origin: CrlSource,
    /// The file or URL that it came from.
    pub source: CrlSource,
    pub etag: Option<String>,
    pub modified: Option<String>,
}

impl Copies {
    pub fn new(folder: PathBuf) -> Self {
        Copies { folder }
    }

    /// Keeps a list as it came, instead of the last one of its scope.
    pub fn keep(&self, label: &Label, scope: &Scope, bytes: &[u8]) -> io::Result<()> {
        let name = name_of(&label.anchor, scope);
        // The label last: a copy counts only with its label.
        disk::replace(&self.folder.join(format!("{name}.crl")), bytes)?;
        disk::replace(&self.folder.join(format!("{name}.json")), &serde_json::to_vec(label)?)
    }

    /// Forgets the list of a scope.
    pub fn forget(&self, anchor: &AnchorName, scope: &Scope) {
        let path = self.folder.join(name_of(anchor, scope));
        for end in ["json", "crl"] {
            if let Err(e) = std::fs::remove_file(path.with_extension(end)) {
                if e.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%anchor, error = %e, "a kept revocation list cannot be removed");
                }
            }
        }
    }

    /// The copies of an anchor, each with the file that it is in.
    pub fn of(&self, anchor: &AnchorName) -> Vec<(Label, PathBuf)> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let labels = entries.map(|e| e.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
        let read = |path: PathBuf| {
            let label: Label = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            Some((label, path.with_extension("crl")))
        };
        labels.filter_map(read).filter(|(label, _)| label.anchor == *anchor).collect()
    }
}

fn name_of(anchor: &AnchorName, scope: &Scope) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(anchor.as_str().as_bytes());
    context.update(format!("\0{scope:?}").as_bytes());
    hex::encode(context.finish())
}
