//! The registry's database: partners, networks and anchors as documents, and the use that was made of them.
//!
//! In: changes that `registry` and `snapshot` have accepted. Out: all of it at start, one revision per change. SQLite
//! is the embedded default. Must never: keep half of a change; open a database that a newer version has written.

mod approvals;
mod backup;
mod declaration;
mod expiry;
mod export;
mod history;
mod issued;
mod keys;
mod operators;
mod places;
mod plan;
mod table;
mod usage;

pub use backup::{BackupError, DatabaseStatus, Manifest, Restore, Restored, backup, restore, verify_backup};
pub use declaration::{Declaration, DeclaredFile, parse as parse_declaration};
pub use expiry::set_expiry_gauges;
pub use export::{
    Export, anchor_document, anchor_files, api_key_document, credential_document, emergency_document, grant_document,
    own_document, partner_document,
};
pub use history::{CALL, HistoryQuery, Passed, Verified, key_file};
pub use keys::REGISTRY_FILE;
pub use places::Places;
pub use plan::{Plan, PlanLine, PlanOptions, differences, lines, plan};
pub use usage::{Certificate, FirstDenied, KeyUsage, UsageRow};

use crate::approval::Approval;
use crate::clock::UnixNanos;
use crate::history::{Cause, Signer};
use crate::issue::{Enrolment, Issued};
use crate::name::{AnchorName, NetworkName, PartnerId};
use crate::operator::Operator;
use crate::partner::{Anchor, Lockdown, Locked, Network, Report};
use crate::policy::Promotion;
use crate::registry::{Change, Reading, Registry};
use crate::token::{RevokedToken, StoredKey};
use futures::TryStreamExt;
use history::Told;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, Sqlite, SqlitePool, Transaction};
use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Version of the tables. A database with a larger one was written by a newer partnergate.
const SCHEMA: i64 = 12;
/// The key that signs checkpoints of the history, beside the database.
const HISTORY_KEY: &str = "history.key";

/// What each version of the tables adds to the one before it.
const MIGRATIONS: [&[&str]; SCHEMA as usize] =
    [FIRST, HISTORY, OPERATORS, APPROVALS, LOCKDOWNS, ENDS, ISSUING, USED, PROMOTIONS, TOKEN_KEYS, REVOKED, API_KEYS];

const META: &str = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL)";

const FIRST: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS partner (id TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS network (name TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS anchor (name TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS usage (
        partner TEXT NOT NULL, credential TEXT NOT NULL, \"grant\" TEXT NOT NULL, operation TEXT NOT NULL,
        network TEXT NOT NULL, count INTEGER NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,
        PRIMARY KEY (partner, credential, \"grant\", operation, network))",
    "CREATE TABLE IF NOT EXISTS seen (
        credential TEXT NOT NULL, fingerprint TEXT NOT NULL, not_after_ns INTEGER NOT NULL,
        first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL, PRIMARY KEY (credential, fingerprint))",
];

/// Events are only ever added. The triggers are a guard against mistakes; against intent there are hashes, signatures
/// and the copies that went to the record sink.
const HISTORY: &[&str] = &[
    "CREATE TABLE event (
        seq INTEGER PRIMARY KEY, noun TEXT NOT NULL, id TEXT NOT NULL, event TEXT NOT NULL, hash TEXT NOT NULL)",
    "CREATE INDEX event_noun ON event (noun, id, seq)",
    "CREATE TABLE checkpoint (
        seq INTEGER NOT NULL, hash TEXT NOT NULL, time TEXT NOT NULL, key TEXT NOT NULL, signature TEXT NOT NULL)",
    "CREATE TRIGGER event_is_not_altered BEFORE UPDATE ON event BEGIN SELECT raise(ABORT, 'events are only added'); END",
    "CREATE TRIGGER event_is_not_removed BEFORE DELETE ON event BEGIN SELECT raise(ABORT, 'events are only added'); END",
];

const OPERATORS: &[&str] =
    &["CREATE TABLE IF NOT EXISTS operator (name TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)"];

/// Those that wait are few among those that have been: they are found by themselves.
const APPROVALS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS approval (id TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS approval_open ON approval (id) WHERE doc ->> 'outcome' IS NULL",
];

const LOCKDOWNS: &[&str] =
    &["CREATE TABLE IF NOT EXISTS lockdown (id TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)"];

/// What is known of ends: reports, certificates in full, and the first request of a partner that was refused because it
/// had been closed.
const ENDS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS report (id TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS refused (
        partner TEXT NOT NULL, closed_ns INTEGER NOT NULL, at_ns INTEGER NOT NULL, request TEXT NOT NULL,
        reason TEXT NOT NULL, PRIMARY KEY (partner, closed_ns))",
    "CREATE TABLE IF NOT EXISTS refused_handshake (fingerprint TEXT PRIMARY KEY, at_ns INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS seen_certificate (
        fingerprint TEXT PRIMARY KEY, spki TEXT NOT NULL, serial TEXT NOT NULL, issuer TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS seen_certificate_spki ON seen_certificate (spki)",
    "CREATE INDEX IF NOT EXISTS seen_fingerprint ON seen (fingerprint)",
];

/// Certificates that the built-in CA has given, by serial, and codes that partners enrol with.
const ISSUING: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS certificate (id TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS certificate_spki ON certificate (doc ->> 'spki')",
    "CREATE INDEX IF NOT EXISTS certificate_partner ON certificate (doc ->> 'partner')",
    "CREATE TABLE IF NOT EXISTS enrolment (id TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS enrolment_partner ON enrolment (doc ->> 'partner')",
];

/// Since when a certificate is in use: that a request with it was allowed, and not only seen.
const USED: &[&str] =
    &["CREATE TABLE IF NOT EXISTS used_certificate (fingerprint TEXT PRIMARY KEY, first_ns INTEGER NOT NULL)"];

/// The policy that decides in the place of the configured one: one at most.
const PROMOTIONS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS promotion (id TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS promoted_file (path TEXT PRIMARY KEY, text TEXT NOT NULL)",
];

/// Keys that tokens are signed with. Their encrypted halves are beside them, where no event tells of them.
const TOKEN_KEYS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS token_key (id TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS sealed_key (id TEXT PRIMARY KEY, sealed TEXT NOT NULL)",
];

/// Access tokens that are no good before they have expired.
const REVOKED: &[&str] =
    &["CREATE TABLE IF NOT EXISTS revoked_token (id TEXT PRIMARY KEY, doc TEXT NOT NULL, revision INTEGER NOT NULL)"];

/// The use that was made of API keys, and from where.
const API_KEYS: &[&str] = &["CREATE TABLE IF NOT EXISTS api_key_use (
    id TEXT NOT NULL, network TEXT NOT NULL, count INTEGER NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,
    PRIMARY KEY (id, network))"];

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database `{path}` cannot be used: {source}")]
    Open { path: String, source: sqlx::Error },
    #[error(
        "the database was written by a newer version (tables {found}, this version knows {SCHEMA}): use that version"
    )]
    Newer { found: i64 },
    #[error("the database failed: {0}")]
    Query(#[from] sqlx::Error),
    #[error("`{id}` in the database cannot be read: {reason}")]
    Document { id: String, reason: String },
    #[error("the registry has changed meanwhile (revision {found}, expected {expected}): plan again")]
    Conflict { expected: u64, found: u64 },
    #[error("the stored registry is not consistent: {0}")]
    Inconsistent(String),
    #[error("the key of the history, `{path}`, {reason}")]
    Key { path: String, reason: String },
    #[error(
        "there is no database `{path}`, and the key of its history beside it says that there was one: take a copy back \
         (`partnergate db restore`), or move `{HISTORY_KEY}` away to begin with an empty registry"
    )]
    Lost { path: String },
    #[error(
        "the database `{path}` is gone, or another file is in its place: nothing is written into it. Requests are decided \
         as before until the gateway stops; take a copy back before it starts again (`partnergate db restore`)"
    )]
    Gone { path: String },
    #[error("there are operators already: one of them who has the role `approver` adds more")]
    HasOperators,
    #[error("the database does not answer")]
    Silent,
    #[error("the database is open for looking only")]
    ReadOnly,
}

/// One that verifies the history leaves the others for changes and what is asked meanwhile.
const CONNECTIONS: u32 = 4;

/// The policy that decides in the place of the configured one from now on, or that none does any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted(pub Option<Promotion>);

/// What is written together.
#[derive(Clone, Copy, Default)]
pub struct Commit<'a> {
    pub changes: &'a [Change],
    pub operators: &'a [Operator],
    pub approvals: &'a [Approval],
    pub reports: &'a [Report],
    pub certificates: &'a [Issued],
    pub enrolments: &'a [Enrolment],
    pub promotions: &'a [Promoted],
    pub token_keys: &'a [StoredKey],
    pub revoked_tokens: &'a [RevokedToken],
    /// What only the history has.
    pub passed: &'a [Passed],
}

/// An open database.
#[derive(Clone)]
pub struct Store {
    pool: SqlitePool,
    /// Absent where nothing is written.
    signer: Option<Arc<Signer>>,
    /// One at a time: it reads for as long as the history is long.
    verifying: Arc<Semaphore>,
    place: Option<Arc<Place>>,
}

/// The file that was opened: SQLite goes on with one that has no name any more, and all that is written is lost with it.
struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    fn of(path: &Path) -> io::Result<Place> {
        let found = std::fs::metadata(path)?;
        Ok(Place { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    fn is_there(&self) -> bool {
        Place::of(&self.path).is_ok_and(|now| (now.device, now.inode) == (self.device, self.inode))
    }
}

impl Store {
    /// Opens the file, creating it, its tables and the key of its history where they do not exist. `now` is when a
    /// history begins of a database of the first version.
    ///
    /// # Errors
    /// The file or the key cannot be used, or a newer version wrote the file.
    pub async fn open(path: &Path, now: UnixNanos) -> Result<Store, StoreError> {
        let shown = path.display().to_string();
        let key = path.with_file_name(HISTORY_KEY);
        if key.exists() && !path.exists() {
            return Err(StoreError::Lost { path: shown });
        }
        // SQLite would make it readable for all; its journal files take over the mode of the database.
        File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| StoreError::Open { path: shown.clone(), source: sqlx::Error::Io(e) })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Open { path: shown.clone(), source })?;
        let place =
            Place::of(path).map_err(|e| StoreError::Open { path: shown.clone(), source: sqlx::Error::Io(e) })?;
        let had_history = key.exists();
        let signer = Some(Arc::new(history::key_file(&key)?));
        let (verifying, place) = (Arc::new(Semaphore::new(1)), Some(Arc::new(place)));
        let store = Store { pool, signer, verifying, place };
        store.prepare(now, had_history).await.map_err(|e| match e {
            StoreError::Query(source) => StoreError::Open { path: shown, source },
            other => other,
        })?;
        Ok(store)
    }

    /// Opens an existing database for looking only; a gateway may be running on it. `None` when there is none yet.
    ///
    /// # Errors
    /// The file cannot be used, or a newer version wrote it.
    pub async fn open_to_read(path: &Path) -> Result<Option<Store>, StoreError> {
        if !path.exists() {
            return Ok(None);
        }
        let store =
            Store { pool: read_only(path).await?, signer: None, verifying: Arc::new(Semaphore::new(1)), place: None };
        let mut tx = store.pool.begin().await?;
        match meta(&mut tx, "schema").await? {
            Some(found) if found > SCHEMA => Err(StoreError::Newer { found }),
            _ => {
                drop(tx);
                Ok(Some(store))
            }
        }
    }

    /// Opens it like that with the key of its history, where that is there.
    ///
    /// # Errors
    /// As [`Store::open_to_read`], or the key cannot be read.
    pub async fn open_to_verify(path: &Path) -> Result<Option<Store>, StoreError> {
        let key = path.with_file_name(HISTORY_KEY);
        let signer = if key.exists() { Some(Arc::new(history::key_file(&key)?)) } else { None };
        Ok(Store::open_to_read(path).await?.map(|store| Store { signer, ..store }))
    }

    async fn prepare(&self, now: UnixNanos, had_history: bool) -> Result<(), StoreError> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(META).execute(&mut *tx).await?;
        let found = meta(&mut tx, "schema").await?;
        if let Some(found) = found.filter(|found| *found > SCHEMA) {
            return Err(StoreError::Newer { found });
        }
        let done = usize::try_from(found.unwrap_or(0)).unwrap_or(0);
        for statement in MIGRATIONS.iter().skip(done).copied().flatten() {
            sqlx::query(*statement).execute(&mut *tx).await?;
        }
        set_meta(&mut tx, "schema", SCHEMA).await?;
        if found.is_none() {
            set_meta(&mut tx, "revision", 0).await?;
        }
        // Of any other database the history is what is there: one that somebody has emptied is not begun anew.
        if let (Some(signer), Some(1), false) = (&self.signer, found, had_history) {
            history::begin(&mut tx, signer, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The revision that the registry is at.
    ///
    /// # Errors
    /// The database failed.
    pub async fn revision(&self) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin().await?;
        revision(&mut tx).await
    }

    /// The whole registry.
    ///
    /// # Errors
    /// A document that cannot be read, or references that do not hold: somebody has edited the file.
    pub async fn load(&self) -> Result<Registry, StoreError> {
        let mut tx = self.pool.begin().await?;
        let revision = revision(&mut tx).await?;
        let mut anchors: Vec<Anchor> = Vec::new();
        documents(&mut tx, "SELECT name, doc FROM anchor", AnchorName::parse, |anchor| anchors.push(anchor)).await?;
        let mut networks: Vec<Network> = Vec::new();
        documents(&mut tx, "SELECT name, doc FROM network", NetworkName::parse, |n| networks.push(n)).await?;
        let mut lockdowns: Vec<Lockdown> = Vec::new();
        if table::exists(&mut tx, table::LOCKDOWNS.noun).await? {
            documents(&mut tx, "SELECT id, doc FROM lockdown", Locked::parse, |one| lockdowns.push(one)).await?;
        }
        let mut reading = Reading::new(revision, anchors, networks, lockdowns);
        documents(&mut tx, "SELECT id, doc FROM partner", PartnerId::parse, |record| reading.partner(record)).await?;
        reading.finish().map_err(|found| {
            StoreError::Inconsistent(found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })
    }

    /// The policy that decides in the place of the configured one.
    ///
    /// # Errors
    /// The database failed, or the document cannot be read.
    pub async fn promotion(&self) -> Result<Option<Promotion>, StoreError> {
        let mut tx = self.pool.begin().await?;
        if !table::exists(&mut tx, table::PROMOTIONS.noun).await? {
            return Ok(None);
        }
        let mut found: Option<Promotion> = None;
        let known = |id: &str| Ok::<_, String>(id.to_owned());
        documents(&mut tx, table::PROMOTIONS.all, known, |promotion| found = Some(promotion)).await?;
        let Some(promotion) = &mut found else { return Ok(None) };
        for row in sqlx::query("SELECT path, text FROM promoted_file").fetch_all(&mut *tx).await? {
            promotion.files.insert(row.try_get(0)?, row.try_get(1)?);
        }
        if promotion.source().revision() != promotion.revision {
            let reason = format!("its files are not those of the policy {}", promotion.revision);
            return Err(StoreError::Document { id: "promotion".into(), reason });
        }
        Ok(found)
    }

    /// The keys that tokens are signed with, those that were withdrawn among them.
    ///
    /// # Errors
    /// The database failed, or a document cannot be read.
    pub async fn token_keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        let mut tx = self.pool.begin().await?;
        if !table::exists(&mut tx, table::TOKEN_KEYS.noun).await? {
            return Ok(Vec::new());
        }
        let mut found: Vec<StoredKey> = Vec::new();
        let known = |id: &str| Ok::<_, String>(id.to_owned());
        documents(&mut tx, table::TOKEN_KEYS.all, known, |key| found.push(key)).await?;
        for key in &mut found {
            let row = sqlx::query("SELECT sealed FROM sealed_key WHERE id = ?1").bind(&key.id);
            let row = row.fetch_optional(&mut *tx).await?;
            key.sealed = row.map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
        }
        Ok(found)
    }

    /// Access tokens that were revoked and have not expired.
    ///
    /// # Errors
    /// The database failed, or a document cannot be read.
    pub async fn revoked_tokens(&self, now: UnixNanos) -> Result<Vec<RevokedToken>, StoreError> {
        let mut tx = self.pool.begin().await?;
        if !table::exists(&mut tx, table::REVOKED_TOKENS.noun).await? {
            return Ok(Vec::new());
        }
        let mut found: Vec<RevokedToken> = Vec::new();
        let known = |id: &str| Ok::<_, String>(id.to_owned());
        let keep = |token: RevokedToken| found.extend(Some(token).filter(|token| now < token.expires));
        documents(&mut tx, table::REVOKED_TOKENS.all, known, keep).await?;
        Ok(found)
    }

    /// Writes `changes` as one revision, and with them the events that tell of them. Returns the revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the registry is no longer at `expected`; then nothing is written.
    pub async fn commit(
        &self,
        expected: u64,
        changes: &[Change],
        cause: &Cause,
        now: UnixNanos,
    ) -> Result<u64, StoreError> {
        self.commit_all(expected, Commit { changes, ..Commit::default() }, cause, now).await
    }

    /// The same with operators and approvals, as they are after it. Without changes the registry stays at its revision.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn commit_all(
        &self,
        expected: u64,
        commit: Commit<'_>,
        cause: &Cause,
        now: UnixNanos,
    ) -> Result<u64, StoreError> {
        let signer = self.signer()?;
        self.still_there()?;
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let found = revision(&mut tx).await?;
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        let Commit { changes, operators, approvals, reports, certificates, enrolments, promotions, .. } = commit;
        let Commit { token_keys, revoked_tokens, passed, .. } = commit;
        let next = if changes.is_empty() { found } else { found + 1 };
        let mut end = history::own_end(&mut tx, signer).await?;
        let told = Told { cause, now, revision: next };
        table::put(&mut tx, changes, &told, &mut end).await?;
        table::put(&mut tx, operators, &told, &mut end).await?;
        table::put(&mut tx, approvals, &told, &mut end).await?;
        table::put(&mut tx, reports, &told, &mut end).await?;
        table::put(&mut tx, certificates, &told, &mut end).await?;
        table::put(&mut tx, enrolments, &told, &mut end).await?;
        table::put(&mut tx, promotions, &told, &mut end).await?;
        for Promoted(promotion) in promotions {
            promoted_files(&mut tx, promotion.as_ref()).await?;
        }
        table::put(&mut tx, revoked_tokens, &told, &mut end).await?;
        table::put(&mut tx, token_keys, &told, &mut end).await?;
        for key in token_keys {
            let put = sqlx::query("INSERT INTO sealed_key VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET sealed = ?2");
            put.bind(&key.id).bind(&key.sealed).execute(&mut *tx).await?;
        }
        history::tell_of(&mut tx, passed, &told, &mut end).await?;
        history::checkpoint(&mut tx, &signer.sign(&end, now)).await?;
        set_meta(&mut tx, "revision", i64::try_from(next).unwrap_or(i64::MAX)).await?;
        tx.commit().await?;
        Ok(next)
    }

    /// Looks whether what is written would still be there after the end of the process.
    ///
    /// # Errors
    /// [`StoreError::Gone`].
    pub fn still_there(&self) -> Result<(), StoreError> {
        match &self.place {
            Some(place) if !place.is_there() => Err(StoreError::Gone { path: place.path.display().to_string() }),
            _ => Ok(()),
        }
    }

    /// The gateway's own key.
    ///
    /// # Errors
    /// The database was opened to be read.
    pub fn signer(&self) -> Result<&Signer, StoreError> {
        self.signer.as_deref().ok_or(StoreError::ReadOnly)
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

type Tx<'a> = Transaction<'a, Sqlite>;

async fn meta(tx: &mut Tx<'_>, key: &str) -> Result<Option<i64>, StoreError> {
    let row = sqlx::query("SELECT value FROM meta WHERE key = ?1").bind(key).fetch_optional(&mut **tx).await?;
    Ok(row.map(|r| r.try_get(0)).transpose()?)
}

async fn set_meta(tx: &mut Tx<'_>, key: &str, value: i64) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2")
        .bind(key)
        .bind(value)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn revision(tx: &mut Tx<'_>) -> Result<u64, StoreError> {
    Ok(meta(tx, "revision").await?.and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
}

/// The files of what is promoted, in the place of those that were.
async fn promoted_files(tx: &mut Tx<'_>, promotion: Option<&Promotion>) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM promoted_file").execute(&mut **tx).await?;
    for (path, text) in promotion.into_iter().flat_map(|promotion| &promotion.files) {
        sqlx::query("INSERT INTO promoted_file VALUES (?1, ?2)").bind(path).bind(text).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Gives each document of a table to `keep`, one after another, so that they are not all in memory as they are stored.
async fn documents<N, T: DeserializeOwned>(
    tx: &mut Tx<'_>,
    query: &'static str,
    name: fn(&str) -> Result<N, String>,
    mut keep: impl FnMut(T),
) -> Result<(), StoreError> {
    let mut rows = sqlx::query(query).fetch(&mut **tx);
    while let Some(row) = rows.try_next().await? {
        let (id, doc): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let wrong = |reason: String| StoreError::Document { id: id.to_owned(), reason };
        name(id).map_err(wrong)?;
        keep(serde_json::from_str(doc).map_err(|e| wrong(e.to_string()))?);
    }
    Ok(())
}

async fn read_only(path: &Path) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(Duration::from_secs(5));
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options);
    pool.await.map_err(|source| StoreError::Open { path: path.display().to_string(), source })
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
