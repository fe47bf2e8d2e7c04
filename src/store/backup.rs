//! Copies of a state folder that a gateway can go on from, on this machine or another one.
//!
//! In: a state folder, whose gateway may be running; a folder for the copy. Out: the database as of one moment, the keys
//! beside it, what is kept of lists and bundles, and a manifest with a digest of every file. Must never: write over what
//! is there; call a copy good that was not read back; let a certificate in again that was denied meanwhile, unless that is
//! wanted.

use super::{SCHEMA, Store, StoreError, history, meta, read_only, table};
use crate::clock::UnixNanos;
use crate::disk::{self, Stamp, Watched, plain};
use crate::history::Cause;
use crate::operator::Operators;
use crate::policy::Promotion;
use crate::registry::{Registry, find_grant};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

const MANIFEST: &str = "manifest.json";
/// Of the manifest.
const FORM: u32 = 1;
const MAX_MANIFEST: usize = 16 * 1024 * 1024;
/// How often a folder is copied that changes meanwhile.
const TRIES: usize = 100;

/// What a copy is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub form: u32,
    /// RFC 3339.
    pub time: String,
    /// Version of partnergate.
    pub version: String,
    /// Version of the tables.
    pub schema: i64,
    /// The registry's.
    pub revision: u64,
    /// The last event of the history, and the hash that the chain ends in.
    pub events: u64,
    pub hash: String,
    /// SHA-256 of each file in hex, by its path in the copy.
    pub files: BTreeMap<String, String>,
}

/// Why there is no copy, or why none was taken back.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error("`{0}` is there already and not empty: name a new folder")]
    NotEmpty(String),
    #[error("there is no database `{0}` yet")]
    Nothing(String),
    #[error("`{path}`: {reason}")]
    File { path: String, reason: String },
    #[error("`{0}` is not what was backed up: its digest is another one")]
    Altered(String),
    #[error("the history in the copy is not whole: {0}")]
    History(String),
    #[error("`{0}` is there already: --replace moves what is in its place aside")]
    InPlace(String),
    #[error(
        "shut out after this copy was made, and let in again by it: {0}; --forget-denials goes on, and `anchor deny`, \
         `partner suspend`, `lockdown on`, `operator disable` and `operator token revoke` stop them again"
    )]
    LetsIn(String),
    #[error(
        "what is in its place cannot be read ({0}), so that nobody knows which certificates it denies; --forget-denials \
         goes on"
    )]
    Unreadable(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.display().to_string();
    move |e| BackupError::File { path, reason: plain(&e) }
}

/// Copies the database `at` and the files and folders `beside` it, as far as they are there, into the new folder `to`. A
/// gateway may be running on them.
///
/// # Errors
/// Nothing of what is in `to` is good for anything then.
pub async fn backup(at: &Path, beside: &[&str], to: &Path, now: UnixNanos) -> Result<Manifest, BackupError> {
    if !at.exists() {
        return Err(BackupError::Nothing(at.display().to_string()));
    }
    if std::fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(BackupError::NotEmpty(to.display().to_string()));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(failed(to))?;
    let name = file_name(at);
    let copy = to.join(&name);
    // SQLite writes into an empty file, and leaves its mode as it is.
    File::options().create_new(true).write(true).mode(0o600).open(&copy).map_err(failed(&copy))?;
    let pool = read_only(at).await?;
    sqlx::query("VACUUM INTO ?").bind(copy.display().to_string()).execute(&pool).await.map_err(StoreError::from)?;
    pool.close().await;
    let mut files = BTreeMap::from([(name, digest_of(&copy)?)]);
    let folder = at.parent().unwrap_or(Path::new("."));
    for name in beside {
        files.extend(copy_all(&folder.join(name), to, name)?);
    }
    let read = read_back(&copy).await?;
    let manifest = Manifest {
        form: FORM,
        time: now.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema: read.schema,
        revision: read.revision,
        events: read.events,
        hash: read.hash,
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|e| BackupError::File { path: MANIFEST.into(), reason: e.to_string() })?;
    // The last: a copy without it is none.
    let path = to.join(MANIFEST);
    disk::replace(&path, &text).map_err(failed(&path))?;
    Ok(manifest)
}

/// The manifest of a copy whose every file is what was copied, and whose history is whole.
///
/// # Errors
/// What is wrong with the copy.
pub async fn verify_backup(from: &Path, name: &str) -> Result<Manifest, BackupError> {
    let path = from.join(MANIFEST);
    let text = disk::read(&path, MAX_MANIFEST)
        .map_err(|reason| BackupError::File { path: path.display().to_string(), reason })?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|e| BackupError::File { path: path.display().to_string(), reason: e.to_string() })?;
    // Without the database in it there is nothing that a digest would be of.
    if manifest.form != FORM || !manifest.files.contains_key(name) {
        let reason = format!("is no manifest of form {FORM} with `{name}` in it");
        return Err(BackupError::File { path: path.display().to_string(), reason });
    }
    for (name, expected) in &manifest.files {
        // No path that leads out of the copy.
        let inside = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        let path = from.join(name);
        if !inside || digest_of(&path)? != *expected {
            return Err(BackupError::Altered(path.display().to_string()));
        }
    }
    let read = read_back(&from.join(name)).await?;
    if (read.revision, read.events, &read.hash) != (manifest.revision, manifest.events, &manifest.hash) {
        return Err(BackupError::Altered(path.display().to_string()));
    }
    Ok(manifest)
}

/// How a copy is taken back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restore {
    /// What is in its place is moved aside.
    pub replace: bool,
    /// Also where somebody would be let in again who was denied or suspended after the copy was made.
    pub forget_denials: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Restored {
    pub manifest: Manifest,
    /// The folder that what was in its place is in now.
    pub aside: Option<PathBuf>,
}

/// Takes a copy back as the database `at` and what is beside it. No gateway may be running there. Lists and bundles that
/// are kept there already stay, because those of the copy are older; an event in the history tells of it all.
///
/// # Errors
/// Nothing has changed then, unless a file could not be moved or written.
pub async fn restore(
    from: &Path,
    at: &Path,
    keep: &[&str],
    how: Restore,
    cause: &Cause,
    now: UnixNanos,
) -> Result<Restored, BackupError> {
    let manifest = verify_backup(from, &file_name(at)).await?;
    let folder = at.parent().unwrap_or(Path::new("."));
    // What would be written over, with what SQLite has not put into the database yet: left there, it would be put into
    // the one that is restored.
    let journals = ["-wal", "-shm"].map(|end| format!("{}{end}", file_name(at)));
    let names = manifest.files.keys().filter(|name| !name.contains('/')).chain(&journals);
    let in_place: Vec<&String> = names.filter(|name| folder.join(name).exists()).collect();
    let mut aside = None;
    if let Some(first) = in_place.first() {
        if !how.replace {
            return Err(BackupError::InPlace(folder.join(first).display().to_string()));
        }
        if at.exists() && !how.forget_denials {
            let before = contents_of(at).await.map_err(|e| BackupError::Unreadable(e.to_string()))?;
            let after = contents_of(&from.join(file_name(at))).await?;
            let forgotten = forgotten(&before, &after);
            if !forgotten.is_empty() {
                return Err(BackupError::LetsIn(forgotten.join(", ")));
            }
        }
        let place = folder.join(format!("before-restore-{}", now.seconds()));
        DirBuilder::new().mode(0o700).create(&place).map_err(failed(&place))?;
        for name in in_place {
            // Opening the database to look at it may have put its journal away.
            match std::fs::rename(folder.join(name), place.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&folder.join(name))(e)),
                _ => {}
            }
        }
        aside = Some(place);
    }
    // The database is the last of them by its name: without it there is nothing that a gateway would go on from.
    for name in manifest.files.keys() {
        let first = name.split('/').next().unwrap_or(name);
        if keep.contains(&first) && folder.join(name).exists() {
            continue;
        }
        copy_file(&from.join(name), &folder.join(name))?;
    }
    let store = Store::open(at, now).await?;
    history::restored(&store, &manifest, cause, now).await?;
    store.close().await;
    Ok(Restored { manifest, aside })
}

/// What decides who is let in.
type Contents = (Registry, Operators, Option<Promotion>);

async fn contents_of(database: &Path) -> Result<Contents, BackupError> {
    let store = Store::open_to_read(database).await?;
    let store = store.ok_or_else(|| BackupError::Nothing(database.display().to_string()))?;
    let contents = (store.load().await, store.operators().await, store.promotion().await);
    store.close().await;
    Ok((contents.0?, contents.1?, contents.2?))
}

/// Certificates that are denied before and not after, where their anchor still is; partners that are suspended; operators
/// that are disabled, tokens that are not there any more, and lockdowns.
fn forgotten((before, operated, promoted): &Contents, (after, operating, promoting): &Contents) -> Vec<String> {
    let stopped = before.partners().filter(|record| record.partner.suspension.is_some());
    let stopped = stopped.filter_map(|record| after.partner(&record.partner.id));
    let stopped = stopped.filter(|record| record.partner.suspension.is_none());
    let denied = before.anchors().filter_map(|anchor| Some((anchor, after.anchor(&anchor.name)?)));
    let operators = operating.iter().filter_map(|now| Some((operated.get(now.name.as_str())?, now)));
    let operators = operators.flat_map(|(before, now)| {
        let disabled =
            (before.disabled.is_some() && now.disabled.is_none()).then(|| format!("the operator `{}`", now.name));
        let revoked = now.tokens.iter().filter(|t| before.tokens.iter().all(|b| b.id != t.id));
        let revoked = revoked.map(|t| format!("the token {} of `{}`", t.id, now.name));
        let roles = now.roles.difference(&before.roles).map(|role| format!("the role {role} of `{}`", now.name));
        disabled.into_iter().chain(revoked).chain(roles).collect::<Vec<_>>()
    });
    let grants = before.partners().flat_map(|record| record.grants.iter()).filter(|g| g.revoked.is_some());
    let grants = grants.filter(|g| {
        let now = after.with_grant(&g.id).and_then(|record| find_grant(record, g.id.as_str()));
        now.is_some_and(|now| now.revoked.is_none())
    });
    let grants = grants.map(|g| format!("the grant `{}`", g.id));
    let keys = before.api_keys_after(None).filter(|(_, k)| k.revoked.is_some());
    let keys = keys.filter(|(_, k)| after.api_key(&k.hash).is_some_and(|(_, now)| now.revoked.is_none()));
    let keys = keys.map(|(_, k)| format!("the API key `{}`", k.id));
    let revision = |promotion: &Option<Promotion>| promotion.as_ref().map(|promotion| promotion.revision.clone());
    let policies = (revision(promoted) != revision(promoting)).then(|| match promoting {
        Some(promotion) => format!("what the promoted policy {} permits", promotion.revision),
        None => "what the policy that is promoted now does not permit".to_owned(),
    });
    let observed = after.partners().flat_map(|now| {
        let was = before.partner(&now.partner.id).map(|record| record.partner.observe.clone()).unwrap_or_default();
        let more =
            now.partner.observe.iter().filter(move |(reason, until)| was.get(*reason).is_none_or(|was| was < *until));
        more.map(|(reason, _)| format!("`{}` past the rule `{reason}`", now.partner.id))
    });
    let lockdowns = before.lockdowns().filter(|l| after.lockdowns().all(|a| a.locked != l.locked));
    let lockdowns = lockdowns.map(|l| format!("the lockdown of `{}`", l.locked.as_str()));
    denied
        .flat_map(|(before, after)| {
            let gone = before.denied.iter().filter(|d| !after.denied.iter().any(|a| a.certificate == d.certificate));
            gone.map(|d| format!("{} under `{}`", d.certificate, before.name))
        })
        .chain(stopped.map(|record| format!("the partner `{}`", record.partner.id)))
        .chain(operators)
        .chain(lockdowns)
        .chain(grants)
        .chain(keys)
        .chain(policies)
        .chain(observed)
        .collect()
}

/// What a database says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct DatabaseStatus {
    /// Version of its tables, and the one that this version writes.
    pub schema: i64,
    pub schema_known: i64,
    pub revision: u64,
    pub partners: u64,
    pub networks: u64,
    pub anchors: u64,
    pub operators: u64,
    pub events: u64,
    /// Of the last event that the record sink has a copy of.
    pub copied: u64,
    pub bytes: u64,
    /// What SQLite finds wrong with the file; empty when it is sound.
    pub faults: Vec<String>,
}

impl Store {
    /// Asks a database about itself. It may be one that a gateway is running on.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn status(&self) -> Result<DatabaseStatus, StoreError> {
        let mut tx = self.pool.begin().await?;
        let schema = meta(&mut tx, "schema").await?.unwrap_or(0);
        let revision = super::revision(&mut tx).await?;
        let mut counts = Vec::new();
        for (table, count) in [
            ("partner", "SELECT count(*) FROM partner"),
            ("network", "SELECT count(*) FROM network"),
            ("anchor", "SELECT count(*) FROM anchor"),
            ("operator", "SELECT count(*) FROM operator"),
            ("event", "SELECT count(*) FROM event"),
        ] {
            let count: i64 = if table::exists(&mut tx, table).await? {
                sqlx::query_scalar(count).fetch_one(&mut *tx).await?
            } else {
                0
            };
            counts.push(u64::try_from(count).unwrap_or(0));
        }
        let mut bytes = 1;
        for pragma in ["PRAGMA page_count", "PRAGMA page_size"] {
            let value: i64 = sqlx::query_scalar(pragma).fetch_one(&mut *tx).await?;
            bytes *= u64::try_from(value).unwrap_or(0);
        }
        let found: Vec<String> = sqlx::query_scalar("PRAGMA quick_check").fetch_all(&mut *tx).await?;
        let copied = meta(&mut tx, history::COPIED).await?.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
        let mut counts = counts.into_iter();
        let mut next = || counts.next().unwrap_or(0);
        Ok(DatabaseStatus {
            schema,
            schema_known: SCHEMA,
            revision,
            partners: next(),
            networks: next(),
            anchors: next(),
            operators: next(),
            events: next(),
            copied,
            bytes,
            faults: found.into_iter().filter(|line| line != "ok").collect(),
        })
    }
}

struct ReadBack {
    schema: i64,
    revision: u64,
    events: u64,
    hash: String,
}

/// Reads all of a copy: the file is sound, the registry is consistent, the history is whole.
async fn read_back(copy: &Path) -> Result<ReadBack, BackupError> {
    let store = Store::open_to_verify(copy).await?.ok_or_else(|| BackupError::Nothing(copy.display().to_string()))?;
    let status = store.status().await?;
    if let Some(fault) = status.faults.first() {
        return Err(BackupError::File { path: copy.display().to_string(), reason: fault.clone() });
    }
    store.load().await?;
    // A database of before the history has none to verify.
    let (mut events, mut hash) = (0, String::new());
    if status.schema > 1 {
        let verified = store.verify_history().await?.map_err(|fault| BackupError::History(fault.to_string()))?;
        if verified.end.seq > 0 {
            (events, hash) = (verified.end.seq, verified.end.hash.to_string());
        }
    }
    store.close().await;
    Ok(ReadBack { schema: status.schema, revision: status.revision, events, hash })
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn digest_of(path: &Path) -> Result<String, BackupError> {
    let mut file = File::open(path).map_err(failed(path))?;
    let (mut context, mut piece) = (Context::new(&SHA256), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece).map_err(failed(path))? {
            0 => return Ok(hex::encode(context.finish())),
            n => context.update(piece.get(..n).unwrap_or_default()),
        }
    }
}

/// A file, or a folder with all that is in it as of one moment; nothing where there is none. Returns the digest of each
/// file by its path in the copy.
fn copy_all(from: &Path, to: &Path, name: &str) -> Result<BTreeMap<String, String>, BackupError> {
    let in_copy = |path: &Path| match path.strip_prefix(from) {
        Ok(inside) if !inside.as_os_str().is_empty() => format!("{name}/{}", inside.display()),
        _ => name.to_owned(),
    };
    for _ in 0..TRIES {
        let before = files_of(from)?;
        let copied = before.keys().map(|path| {
            let (name, copy) = (in_copy(path), to.join(in_copy(path)));
            copy_file(path, &copy)?;
            Ok((name, digest_of(&copy)?))
        });
        let copied: Result<_, BackupError> = copied.collect();
        // A gateway that kept something meanwhile may have taken away what belongs to what is copied.
        if files_of(from)? == before {
            return copied;
        }
        before.keys().for_each(|path| drop(std::fs::remove_file(to.join(in_copy(path)))));
    }
    Err(BackupError::File { path: from.display().to_string(), reason: "changes faster than it can be copied".into() })
}

/// The files of a folder, and of those in it, that are whole.
fn files_of(path: &Path) -> Result<Watched, BackupError> {
    let mut found = Watched::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                for entry in std::fs::read_dir(&path).map_err(failed(&path))? {
                    waiting.push(entry.map_err(failed(&path))?.path());
                }
            }
            Ok(meta) if meta.is_file() && !disk::is_half(&path) => drop(found.insert(path.clone(), Stamp::of(&path))),
            Ok(_) => {}
            // There never was any, or it was replaced meanwhile: then the stamps differ.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(&path)(e)),
        }
    }
    Ok(found)
}

/// Whole or not at all.
fn copy_file(from: &Path, to: &Path) -> Result<(), BackupError> {
    if let Some(folder) = to.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
    }
    let mut source = File::open(from).map_err(failed(from))?;
    let half = disk::half_of(to);
    let mut copy =
        File::options().create(true).truncate(true).write(true).mode(0o600).open(&half).map_err(failed(&half))?;
    io::copy(&mut source, &mut copy).map_err(failed(&half))?;
    copy.sync_all().map_err(failed(&half))?;
    std::fs::rename(&half, to).map_err(failed(to))
}
