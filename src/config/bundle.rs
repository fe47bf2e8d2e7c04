//! `policy.bundle`: where the policy's bundle comes from, and whose it must be.

use super::files::{At, Reader};
use crate::document::{Problems, Section};
use crate::fetch::{BundleCopy, BundleSettings};
use crate::jose::{Algorithm, VerifyKey};
use crate::policy::PolicySource;
use crate::policy::bundle::{Bundle, BundleLimits, Required, SignedBy, Verification};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The bundle that the policy is in.
#[derive(Clone, Debug)]
pub struct BundleConfig {
    /// The file or URL as it is written.
    pub source: String,
    pub from: BundleFrom,
    /// What of the bundle is known beside its policy. `None` as long as nobody has had it from its URL.
    pub known: Option<BundleFacts>,
}

#[derive(Clone, Debug)]
pub enum BundleFrom {
    File(PathBuf),
    Url(Box<BundleSettings>),
}

/// What of a bundle is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleFacts {
    /// As its manifest names it.
    pub revision: Arc<str>,
    pub signed_by: Option<SignedBy>,
}

impl BundleFacts {
    pub(super) fn of(bundle: &Bundle) -> Self {
        BundleFacts { revision: bundle.manifest.revision.as_str().into(), signed_by: bundle.signed_by.clone() }
    }
}

impl BundleConfig {
    pub fn settings(&self) -> Option<&BundleSettings> {
        match &self.from {
            BundleFrom::File(_) => None,
            BundleFrom::Url(settings) => Some(settings),
        }
    }

    /// The copy of what a URL has sent.
    pub(super) fn copy(&self, state_dir: &Path) -> Option<Result<Bundle, String>> {
        let settings = self.settings()?;
        Some(BundleCopy::new(state_dir).read(settings).map(|fetched| fetched.bundle))
    }
}

/// The bundle of a file is read; of a URL only what it takes to ask.
pub(super) fn read(
    section: Section<'_>,
    reader: &mut Reader,
    problems: &mut Problems,
) -> Option<(BundleConfig, PolicySource)> {
    let at = |key: &str| {
        Some(At { node: section.node(key).or_else(|| section.own_node())?, key: format!("policy.bundle.{key}") })
    };
    let source = section.text("source")?.to_owned();
    let https = source.starts_with("https://");
    let is_url = https || source.starts_with("http://");
    let before = problems.errors().count();
    let keys: Vec<(String, Option<VerifyKey>)> = section
        .tables("keys")
        .into_iter()
        .map(|(id, key)| (id.to_owned(), verify_key(id, key, reader, problems)))
        .collect();
    let required = if section.has("require_signature") {
        section.boolean("require_signature")
    } else {
        is_url || !keys.is_empty()
    };
    if required && keys.is_empty() {
        let reason = "a signed bundle is asked for, and there is no key to verify it with";
        let fix = "add `keys` with the public key of whoever signs";
        problems.push(at("source")?.error(reason, Some(fix)));
    }
    if !required && is_url && !https {
        let reason = "an unsigned bundle over plain http could be anybody's";
        problems.push(at("require_signature")?.error(reason, Some("sign it, or use https")));
    }
    let key_id = section.text("key_id").map(str::to_owned);
    if let Some(id) = key_id.as_ref().filter(|id| !keys.iter().any(|(known, _)| known == *id)) {
        let known: Vec<&str> = keys.iter().map(|(id, _)| id.as_str()).collect();
        let reason = format!("there is no key `{id}`; there are: {}", known.join(", "));
        problems.push(at("key_id")?.error(reason, Some("name one of `keys`")));
    }
    let verification = Verification {
        keys: keys.into_iter().filter_map(|(id, key)| Some((id, key?))).collect(),
        key_id,
        scope: section.text("scope").unwrap_or_default().to_owned(),
        required: if required { Required::Yes } else { Required::No },
    };
    let max_size = section.size("max_size");
    if !is_url {
        for key in ["ca", "client_chain", "client_key", "token", "stale_after"] {
            if let Some(node) = section.node(key) {
                let reason = "is for a URL, and `source` is a file";
                problems.push(node.error(format!("policy.bundle.{key}"), reason, Some("take it out")));
            }
        }
        let path = reader.resolve(Path::new(&source));
        let bytes = reader.bytes_of(&at("source")?, &source, problems)?;
        if problems.errors().count() > before {
            return None;
        }
        return match Bundle::read(&bytes, BundleLimits::of(max_size), &verification) {
            Ok(bundle) => {
                let known = Some(BundleFacts::of(&bundle));
                Some((BundleConfig { source, from: BundleFrom::File(path), known }, bundle.source))
            }
            Err(e) => {
                problems.file(&path.display().to_string(), e.to_string(), None);
                None
            }
        };
    }
    let token = match section.node("token") {
        Some(node) if !https => {
            let fix = Some("use an https URL");
            problems.push(node.error("policy.bundle.token", "would be sent where it can be read", fix));
            None
        }
        _ => reader.bearer(section, "policy.bundle", problems)?,
    };
    let tls = reader.client_tls(section, "policy.bundle", problems)?;
    let url: Option<http::Uri> = source.parse().ok();
    if url.is_none_or(|url| url.authority().is_none_or(|a| a.as_str().contains('@') || a.host().is_empty())) {
        let fix = "write it like `https://bundles.example.com/partnergate.tar.gz`";
        problems.push(at("source")?.error("is no URL that can be asked", Some(fix)));
    }
    let settings = BundleSettings {
        url: source.clone(),
        refresh: section.duration("refresh"),
        timeout: section.duration("timeout"),
        max_size,
        verification,
        tls,
        token,
        stale_after: section.has("stale_after").then(|| section.duration("stale_after")),
    };
    let config = BundleConfig { source, from: BundleFrom::Url(Box::new(settings)), known: None };
    (problems.errors().count() == before).then_some((config, PolicySource::default()))
}

fn verify_key(id: &str, section: Section<'_>, reader: &mut Reader, problems: &mut Problems) -> Option<VerifyKey> {
    let at = At { node: section.node("key")?, key: format!("policy.bundle.keys.{id}.key") };
    let file = section.text("key")?;
    let pem = reader.bytes_of(&at, file, problems)?;
    let algorithm = Algorithm::parse(section.text("algorithm")?)?;
    VerifyKey::from_pem(algorithm, &pem)
        .map_err(|reason| problems.push(at.error(format!("`{file}` {reason}"), Some("see `algorithm` beside it"))))
        .ok()
}
