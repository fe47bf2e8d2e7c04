//! What anchors need that lies in files beside the registry: SPIFFE trust bundles.
//!
//! In: a registry, and what is in use now. Out: a [`Reading`]: the [`Material`] of the next snapshot, and what of the
//! files could not be taken and why. Must never: put a bad or an older bundle in the place of a good one, which is kept
//! on disk as well so that neither a restart nor an older file takes trust back; let one anchor's file stand in the way
//! of another's; be called where requests are served.

use crate::disk::{self, Watched, look_again};
use crate::document::Problems;
use crate::name::AnchorName;
use crate::partner::{Bundle, Root};
use crate::registry::Registry;
use crate::trust::{MAX_BUNDLE_BYTES, Material, Trust, TrustBundle};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folder of the state folder with the last good bundles.
const KEPT: &str = "bundles";

/// Where files are read from and kept.
pub struct MaterialFiles {
    /// The config file's folder.
    base: PathBuf,
    kept: PathBuf,
}

/// What came of reading.
pub struct Reading {
    pub material: Arc<Material>,
    pub refused: Vec<Refused>,
    pub watched: Watched,
}

/// A file that could not be taken.
pub struct Refused {
    pub anchor: AnchorName,
    pub file: PathBuf,
    pub reason: String,
    /// A bundle that was good earlier stays in use. Otherwise the anchor has no certificates.
    pub kept: bool,
}

impl Reading {
    /// What was refused of these anchors, as problems.
    pub fn problems(&self, of: impl Fn(&AnchorName) -> bool) -> Problems {
        let mut problems = Problems::new();
        for refused in self.refused.iter().filter(|r| of(&r.anchor)) {
            let reason = format!("anchor `{}`: {}", refused.anchor, refused.reason);
            problems.file(&refused.file.display().to_string(), reason, None);
        }
        problems
    }
}

impl MaterialFiles {
    pub fn new(config: &Path, state_dir: &Path) -> Self {
        MaterialFiles { base: config.parent().map(Path::to_owned).unwrap_or_default(), kept: state_dir.join(KEPT) }
    }

    /// Reads the files that the registry's anchors name. `current` is what they have now.
    pub fn read(&self, registry: &Registry, current: &Material) -> Reading {
        let files: Vec<(&AnchorName, &Bundle, PathBuf)> =
            bundles(registry).map(|(name, bundle)| (name, bundle, self.base.join(&bundle.file))).collect();
        // Looked at before they are read, so that a change from then on is noticed.
        let watched = files.iter().map(|(_, _, path)| (path.clone(), Default::default())).collect();
        let mut reading = Reading { material: Arc::default(), refused: Vec::new(), watched: look_again(&watched) };
        let mut held = HashMap::new();
        let mut next = HashMap::new();
        for (name, bundle, path) in &files {
            // An anchor that was away has what it had before it went: an older bundle is none for it either.
            let kept = || self.kept_bundle(name, bundle).map(Arc::new);
            let old =
                current.bundles.get(*name).filter(|old| old.trust_domain == bundle.trust_domain).cloned().or_else(kept);
            let old = old.as_ref();
            let empty = || Arc::new(TrustBundle::none_of(&bundle.trust_domain));
            held.insert((*name).clone(), old.cloned().unwrap_or_else(empty));
            match read_bundle(path, &bundle.trust_domain, old.map(|old| &**old)) {
                Ok(read) => {
                    // The same object where nothing has changed.
                    let read = old.filter(|old| ***old == read).cloned().unwrap_or_else(|| Arc::new(read));
                    next.insert((*name).clone(), read);
                }
                Err(reason) => {
                    reading.refused.push(Refused {
                        anchor: (*name).clone(),
                        file: path.clone(),
                        reason,
                        kept: old.is_some(),
                    });
                }
            }
        }
        let whole: HashMap<_, _> = held.iter().chain(&next).map(|(n, b)| (n.clone(), b.clone())).collect();
        let whole = Material { bundles: whole, lists: current.lists.clone() };
        let fits = |material: &Material| Trust::build(0, registry.anchors(), material);
        let before = Material { bundles: held, lists: current.lists.clone() };
        if fits(&whole).is_ok() || fits(&before).is_err() {
            reading.material = Arc::new(whole);
            return reading;
        }
        // One of them holds another anchor's key. What was in use goes first, and then by name.
        let mut good = before;
        for (name, bundle, path) in files {
            let Some(read) = next.remove(name) else { continue };
            let Some(old) = good.bundles.insert(name.clone(), read) else { continue };
            if let Err(why) = fits(&good) {
                let kept = current.bundles.get(name).is_some_and(|b| b.trust_domain == bundle.trust_domain);
                good.bundles.insert(name.clone(), old);
                reading.refused.push(Refused {
                    anchor: name.clone(),
                    file: path,
                    reason: why.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                    kept,
                });
            }
        }
        reading.material = Arc::new(good);
        reading
    }

    /// The last good bundles of the registry's anchors, for a start.
    pub fn kept(&self, registry: &Registry) -> Material {
        let mut material = Material::default();
        for (name, bundle) in bundles(registry) {
            if let Some(kept) = self.kept_bundle(name, bundle) {
                material.bundles.insert(name.clone(), Arc::new(kept));
            }
        }
        material
    }

    /// The last good bundle of an anchor, when it is of the same trust domain.
    fn kept_bundle(&self, name: &AnchorName, bundle: &Bundle) -> Option<TrustBundle> {
        let text = disk::read(&self.kept_file(name), 4 * MAX_BUNDLE_BYTES).ok()?;
        match serde_json::from_slice::<TrustBundle>(&text) {
            Ok(kept) => (kept.trust_domain == bundle.trust_domain && kept.check().is_ok()).then_some(kept),
            Err(e) => {
                tracing::warn!(anchor = %name, error = %e, "the kept bundle cannot be read");
                None
            }
        }
    }

    /// Writes what differs from `before`, so that it is there at the next start.
    pub fn keep(&self, material: &Material, before: Option<&Material>) {
        for (name, bundle) in &material.bundles {
            let same = before.and_then(|m| m.bundles.get(name)).is_some_and(|old| old == bundle);
            // One that was never read says nothing.
            let nothing = **bundle == TrustBundle::none_of(&bundle.trust_domain);
            if same || nothing {
                continue;
            }
            if let Err(e) = self.write(name, bundle) {
                tracing::error!(anchor = %name, error = %e, "the bundle cannot be kept for the next start");
            }
        }
    }

    fn write(&self, name: &AnchorName, bundle: &TrustBundle) -> std::io::Result<()> {
        disk::replace(&self.kept_file(name), &serde_json::to_vec(bundle)?)
    }

    fn kept_file(&self, name: &AnchorName) -> PathBuf {
        self.kept.join(format!("{name}.json"))
    }
}

fn bundles(registry: &Registry) -> impl Iterator<Item = (&AnchorName, &Bundle)> {
    registry.anchors().filter_map(|anchor| match &anchor.root {
        Root::Bundle { bundle } => Some((&anchor.name, bundle)),
        Root::Certificate { .. } | Root::SelfSigned { .. } => None,
    })
}

fn read_bundle(path: &Path, trust_domain: &str, old: Option<&TrustBundle>) -> Result<TrustBundle, String> {
    let document = disk::read(path, MAX_BUNDLE_BYTES)?;
    let bundle = TrustBundle::parse(trust_domain, &document)?;
    if let Some(old) = old {
        bundle.follows(old)?;
    }
    Ok(bundle)
}
