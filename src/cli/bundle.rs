//! `partnergate policy build|sign|verify`: a policy folder as one file that gateways, and OPA's tools, read. And the policy of
//! a config that has it in the bundle of a URL.

use super::policy::{LIMITS, refused};
use super::{Exit, Form, complain, print, say_lines};
use crate::clock::Clock;
use crate::config::{BundleConfig, Config, read_policy_folder};
use crate::disk;
use crate::document::Problems;
use crate::fetch::BundleFetcher;
use crate::jose::{Algorithm, SignKey, VerifyKey};
use crate::policy::bundle::{self, Archive, Bundle, BundleLimits, Required, SignatureClaims, Tests, Verification};
use crate::policy::{EngineKind, Policy, PolicySource};
use crate::record::Metrics;
use crate::registry::Registry;
use crate::reload::best;
use crate::snapshot::Snapshot;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest file with a key.
const MAX_KEY: usize = 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Build {
    /// The folder that holds `partnergate/`.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The bundle to write.
    #[arg(short = 'o', long = "out", visible_alias = "output-file", value_name = "FILE")]
    out: PathBuf,
    /// What this policy is called in status, metrics and records; the hash of its files when absent.
    #[arg(long, value_name = "TEXT")]
    revision: Option<String>,
    /// Put `*_test.rego` into it too. Gateways do not serve them.
    #[arg(long)]
    with_tests: bool,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
pub(super) struct Sign {
    /// A bundle, into which the signature is put; or a folder with an unpacked one, which gets `.signatures.json`.
    #[arg(value_name = "FILE|DIR")]
    bundle: PathBuf,
    /// The private key in PEM (PKCS#8, PKCS#1 or SEC1, not encrypted), readable by its owner only.
    #[arg(long, visible_alias = "signing-key", value_name = "FILE")]
    key: PathBuf,
    /// How it signs.
    #[arg(long, visible_alias = "signing-alg", value_name = "NAME", default_value = "RS256", value_parser = algorithm)]
    algorithm: Algorithm,
    /// The id that gateways know the key by.
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
    /// What the bundle is for; gateways may ask for one.
    #[arg(long, value_name = "TEXT")]
    scope: Option<String>,
    /// Write the signed bundle, or of a folder the folder of `.signatures.json`, here instead.
    #[arg(short = 'o', long = "out", visible_alias = "output-file-path", value_name = "FILE|DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// The bundle.
    #[arg(value_name = "FILE")]
    bundle: PathBuf,
    /// The public key in PEM, or a certificate with it.
    #[arg(long, visible_alias = "verification-key", value_name = "FILE")]
    key: PathBuf,
    /// What the key is for. What the signature says of itself is not believed.
    #[arg(long, visible_alias = "signing-alg", value_name = "NAME", default_value = "RS256", value_parser = algorithm)]
    algorithm: Algorithm,
    /// Refuse a signature that does not name this key.
    #[arg(long, visible_alias = "verification-key-id", value_name = "ID")]
    key_id: Option<String>,
    /// What the bundle must be for.
    #[arg(long, value_name = "TEXT", default_value = "")]
    scope: String,
    #[command(flatten)]
    form: Form,
}

/// The config with its policy, as a start would have it: where that is in the bundle of a URL, it is asked for it. Nothing
/// is kept. What a start would only complain about comes with it.
///
/// # Errors
/// A start would fail.
pub(super) async fn with_policy(mut config: Config) -> Result<(Config, Problems), Problems> {
    let mut warnings = Problems::new();
    let Some(settings) = config.bundle.as_ref().and_then(BundleConfig::settings).cloned() else {
        return Ok((config, warnings));
    };
    let wrong = |e: String| of(Path::new(&settings.url), format!("the policy bundle cannot be asked for: {e}"), None);
    let clock = Arc::new(Clock::new());
    let metrics = Metrics::new(config.max_series, false).map_err(|e| wrong(e.to_string()))?;
    let fetcher = BundleFetcher::new(&config.state_dir, clock.clone(), Arc::new(metrics));
    let first = fetcher.first(&settings).await.map_err(|e| wrong(e.to_string()))?;
    let build = |config: &Config| Snapshot::build(config.sources(Registry::default(), None), None, clock.now());
    let (_, _, trouble) = best(&mut config, &first, build)?;
    if let Some(trouble) = trouble {
        let reason =
            format!("the policy bundle would not be taken, and the copy of an earlier one be served: {trouble}");
        warnings.warning(&settings.url, "", reason, None);
    }
    Ok((config, warnings))
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    Algorithm::parse(name).ok_or_else(|| format!("signatures are {}", Algorithm::NAMES.join(", ")))
}

/// What is wrong with a file as a whole.
fn of(file: &Path, reason: impl Into<String>, fix: Option<&str>) -> Problems {
    let mut problems = Problems::new();
    problems.file(&file.display().to_string(), reason, fix);
    problems
}

/// What a command could not do.
enum Not {
    Good(Problems, PolicySource),
    Written(String),
}

impl From<Problems> for Not {
    fn from(problems: Problems) -> Self {
        Not::Good(problems, PolicySource::default())
    }
}

fn finish(outcome: Result<(Value, String), Not>, form: Form) -> Exit {
    match outcome {
        Ok((document, text)) => {
            if form.is_json() {
                print(&document.to_string())
            } else {
                say_lines(&text)
            }
            Exit::Done
        }
        Err(Not::Good(problems, source)) => {
            refused(&problems, &source, form.is_json());
            Exit::Problems
        }
        Err(Not::Written(reason)) => {
            complain(&format!("error: {reason}"));
            Exit::Failed
        }
    }
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Not> {
    // Not a secret: whoever serves it has to read it.
    let half = disk::half_of(file);
    let written = std::fs::write(&half, bytes).and_then(|()| std::fs::rename(&half, file));
    written.map_err(|e| Not::Written(format!("`{}`: {}", file.display(), disk::plain(&e))))
}

pub(super) fn build(args: &Build) -> Exit {
    finish(built(args), args.form)
}

fn built(args: &Build) -> Result<(Value, String), Not> {
    let source = read_policy_folder(&args.folder)?;
    Policy::compile(&source, EngineKind::Rvm, LIMITS).map_err(|problems| Not::Good(problems, source.clone()))?;
    let tests = if args.with_tests { Tests::With } else { Tests::Without };
    let (archive, manifest) = bundle::build(&source, args.revision.as_deref(), tests)
        .map_err(|problems| Not::Good(problems, source.clone()))?;
    let bytes = archive.write().map_err(|e| Not::Written(format!("the bundle: {e}")))?;
    // A gateway would refuse what this would.
    let anybody = Verification { required: Required::No, ..Verification::default() };
    let read =
        Bundle::read(&bytes, BundleLimits::default(), &anybody).map_err(|e| of(&args.out, e.to_string(), None))?;
    let policy = compiled(&args.out, &read)?;
    write(&args.out, &bytes)?;
    let (file, files, revision) = (args.out.display().to_string(), archive.iter().count(), &manifest.revision);
    let text = format!("{file}: {files} files, {} bytes, revision {revision}, not signed", bytes.len());
    let document = json!({
        "ok": true, "file": file, "files": files, "bytes": bytes.len(), "revision": revision, "roots": manifest.roots,
        "policy": &**policy.revision(), "problems": [],
    });
    Ok((document, text))
}

/// The policy of a bundle, which must be as good as any that is served.
fn compiled(file: &Path, bundle: &Bundle) -> Result<Policy, Not> {
    Policy::compile(&bundle.source, EngineKind::Rvm, LIMITS).map_err(|mut problems| {
        problems.file(&file.display().to_string(), "the policy in it would not be served", None);
        Not::Good(problems, bundle.source.clone())
    })
}

pub(super) fn sign(args: &Sign) -> Exit {
    finish(signed(args), args.form)
}

fn signed(args: &Sign) -> Result<(Value, String), Not> {
    let shown = disk::read(&args.key, MAX_KEY).unwrap_or_default();
    if !is_private(&shown) && is_public(&shown) {
        let fix = "name the private key, of which this is the other half";
        return Err(of(&args.key, "holds a public key, and signing takes the private one", Some(fix)).into());
    }
    let reference = crate::document::SecretRef::File(args.key.clone());
    let (_, pem) = disk::secret(&reference, MAX_KEY).map_err(|no| of(&args.key, no.reason, no.fix.as_deref()))?;
    let key = SignKey::from_pem(args.algorithm, &pem).map_err(|reason| of(&args.key, reason, KEY_FIX))?;
    let is_folder = args.bundle.is_dir();
    let wrong = |e: bundle::BundleError| of(&args.bundle, e.to_string(), None);
    let mut archive = if is_folder {
        Archive::of(unpacked(&args.bundle)?).map_err(wrong)?
    } else {
        let limits = BundleLimits::default();
        let bytes = disk::read(&args.bundle, limits.size).map_err(|reason| of(&args.bundle, reason, None))?;
        Archive::read(&bytes, limits).map_err(wrong)?
    };
    let claims = SignatureClaims { key_id: args.key_id.clone(), scope: args.scope.clone() };
    archive.sign(&key, &claims).map_err(wrong)?;
    // Nobody is to put their name under what no gateway takes.
    let anybody = Verification { required: Required::No, ..Verification::default() };
    let read = Bundle::of(&archive, &anybody).map_err(wrong)?;
    let out = args.out.as_ref().unwrap_or(&args.bundle);
    let file = if is_folder {
        let file = out.join(".signatures.json");
        write(&file, archive.signatures().unwrap_or_default())?;
        file
    } else {
        let bytes = archive.write().map_err(|e| Not::Written(format!("the bundle: {e}")))?;
        write(out, &bytes)?;
        out.clone()
    };
    let (file, algorithm) = (file.display().to_string(), args.algorithm.name());
    let files = archive.iter().count() - 1;
    let by = args.key_id.as_ref().map(|id| format!(" by the key `{id}`")).unwrap_or_default();
    let text = format!("{file}: {files} files signed with {algorithm}{by}, revision {}", read.manifest.revision);
    let document = json!({
        "ok": true, "file": file, "files": files, "revision": read.manifest.revision, "algorithm": algorithm,
        "key_id": args.key_id, "scope": args.scope, "problems": [],
    });
    Ok((document, text))
}

fn is_private(pem: &[u8]) -> bool {
    String::from_utf8_lossy(pem).contains("PRIVATE KEY-----")
}

fn is_public(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("PUBLIC KEY-----") || text.contains("CERTIFICATE-----")
}

const KEY_FIX: Option<&str> = Some("name a key of the kind that `--algorithm` says");

/// Every file below a folder that has an unpacked bundle, hidden ones too, since all of them will be in it.
fn unpacked(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Problems> {
    let limits = BundleLimits::default();
    let (mut found, mut folders, mut size) = (Vec::new(), vec![folder.to_owned()], 0);
    while let Some(below) = folders.pop() {
        let at = |e: &std::io::Error| of(&below, disk::plain(e), None);
        for entry in std::fs::read_dir(&below).map_err(|e| at(&e))? {
            let entry = entry.map_err(|e| at(&e))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(|e| at(&e))?;
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            if !kind.is_file() {
                return Err(of(&path, "is no file: a bundle holds files only", None));
            }
            let name = path.strip_prefix(folder).unwrap_or(&path);
            let name = name.to_str().ok_or_else(|| of(&path, "has a name that is not UTF-8", None))?.to_owned();
            let content = disk::read(&path, limits.file).map_err(|reason| of(&path, reason, None))?;
            size += content.len();
            found.push((name, content));
            if found.len() > limits.files || size > limits.size {
                let reason = format!("has more than {} files or {} bytes", limits.files, limits.size);
                return Err(of(folder, reason, Some("name the folder of an unpacked bundle")));
            }
        }
    }
    Ok(found)
}

pub(super) fn verify(args: &Verify) -> Exit {
    finish(verified(args), args.form)
}

fn verified(args: &Verify) -> Result<(Value, String), Not> {
    let pem = disk::read(&args.key, MAX_KEY).map_err(|reason| of(&args.key, reason, None))?;
    if is_private(&pem) {
        let fix = format!("name the public key: `openssl pkey -in {} -pubout` prints it", args.key.display());
        return Err(of(&args.key, "holds a private key, and whoever verifies needs the public one", Some(&fix)).into());
    }
    let key = VerifyKey::from_pem(args.algorithm, &pem).map_err(|reason| of(&args.key, reason, KEY_FIX))?;
    // A key that nobody has named is called by its file.
    let file_name = args.key.display().to_string();
    let how = Verification {
        keys: [(args.key_id.clone().unwrap_or_else(|| file_name.clone()), key)].into(),
        key_id: args.key_id.is_none().then_some(file_name),
        scope: args.scope.clone(),
        required: Required::Yes,
    };
    let limits = BundleLimits::default();
    let bytes = disk::read(&args.bundle, limits.size).map_err(|reason| of(&args.bundle, reason, None))?;
    let bundle = Bundle::read(&bytes, limits, &how).map_err(|e| {
        let reason = e.to_string();
        let fix = (reason.contains("signed for the scope")).then_some("say with `--scope` what the bundle is for");
        let reason = reason.replace("the scope ``", "no scope").replace("and `` is asked for", "and none is asked for");
        of(&args.bundle, reason, fix)
    })?;
    let policy = compiled(&args.bundle, &bundle)?;
    let Bundle { manifest, source, .. } = &bundle;
    let (file, files, algorithm) = (args.bundle.display().to_string(), source.files.len(), args.algorithm.name());
    let text = format!("{file}: signed with {algorithm}, revision {}, {files} files of a policy", manifest.revision);
    let document = json!({
        "ok": true, "file": file, "files": files, "revision": manifest.revision, "roots": manifest.roots,
        "policy": &**policy.revision(), "algorithm": algorithm, "key_id": args.key_id, "scope": args.scope,
        "problems": [],
    });
    Ok((document, text))
}
