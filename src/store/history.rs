//! The history's tables: events and checkpoints, written in the transaction of the change that they tell of.

use super::table::{self, Kept, TABLES, Table};
use super::{Manifest, Store, StoreError, Tx};
use crate::clock::UnixNanos;
use crate::disk;
use crate::history::{
    Actor, Cause, Checkpoint, End, Event, Fault, Hash, Signer, Verb, Verifier, Way, difference, document_sha256,
    vouches,
};
use crate::name::PartnerId;
use crate::partner::Report;
use futures::TryStreamExt;
use serde_json::{Value, json};
use sqlx::{QueryBuilder, Row, Sqlite};
use std::collections::HashMap;
use std::path::Path;

/// The key of `meta` with the last event that was copied to the record sink.
pub(super) const COPIED: &str = "copied";
/// The key of `meta` with the time up to which it is told what time has begun and ended.
const TOLD: &str = "told";
/// The noun of the first event.
const HISTORY: &str = "history";
/// The noun of calls that have changed nothing of the registry.
pub const CALL: &str = "call";
/// Largest key file that is read.
const MAX_KEY: usize = 16 * 1024;

/// A chain without a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub end: End,
    /// Checkpoints that were found good.
    pub checkpoints: u64,
}

/// What has become of a partner, and leaves it as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Passed {
    pub partner: PartnerId,
    /// [`Verb::Start`], [`Verb::End`] or [`Verb::Order`].
    pub verb: Verb,
    pub at: UnixNanos,
    /// What, such as `{"grant": "acme-orders", "at": …}`.
    pub what: Value,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub struct HistoryQuery {
    /// Events of one kind of noun.
    pub noun: Option<String>,
    /// Of these, events of one.
    pub id: Option<String>,
    /// Events in whose text this appears.
    pub mentions: Option<String>,
    /// Events behind this one.
    pub after: u64,
    pub limit: u32,
}

/// A key that signs for the gateway, made where there is none yet.
///
/// # Errors
/// The file cannot be read or made, or holds no key.
pub fn key_file(path: &Path) -> Result<Signer, StoreError> {
    let fail = |reason: String| StoreError::Key { path: path.display().to_string(), reason };
    if !path.exists() {
        let document = Signer::generate().map_err(fail)?;
        disk::replace(path, &document).map_err(|e| fail(e.to_string()))?;
    }
    let document = disk::read(path, MAX_KEY).map_err(fail)?;
    Signer::from_pkcs8(&document).map_err(fail)
}

/// Where the chain ends.
pub(super) async fn end(tx: &mut Tx<'_>) -> Result<End, StoreError> {
    let row = sqlx::query("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1").fetch_optional(&mut **tx).await?;
    let Some(row) = row else { return Ok(End::START) };
    let (seq, hash): (i64, &str) = (row.try_get(0)?, row.try_get(1)?);
    let hash = Hash::parse(hash).ok_or_else(|| StoreError::Inconsistent(format!("event {seq} has no hash")))?;
    Ok(End { seq: u64::try_from(seq).unwrap_or(0), hash })
}

/// Puts an event behind the chain for each of them.
pub(super) async fn tell_of(
    tx: &mut Tx<'_>,
    passed: &[Passed],
    told: &Told<'_>,
    end: &mut End,
) -> Result<(), StoreError> {
    let noun = table::PARTNERS.noun;
    for batch in passed.chunks(table::BATCH) {
        let mut rows = Vec::with_capacity(batch.len());
        for one in batch {
            let id = one.partner.as_str();
            let row = sqlx::query("SELECT doc FROM partner WHERE id = ?1").bind(id).fetch_optional(&mut **tx).await?;
            let Some(row) = row else { continue };
            let text = end.append(Event {
                seq: 0,
                time: told.now.to_string(),
                cause: told.cause.clone(),
                verb: one.verb,
                noun: noun.into(),
                id: id.to_owned(),
                revision: told.revision,
                before: None,
                after: Some(one.what.clone()),
                // It is what it was.
                document_sha256: Some(document_sha256(row.try_get(0)?)),
            });
            rows.push((noun, id, end.seq, text, end.hash));
        }
        if !rows.is_empty() {
            insert(tx, &rows).await?;
        }
    }
    Ok(())
}

/// Where the chain ends, which this node has signed: nothing is put behind what somebody else has put there, because the
/// next checkpoint would sign for that as well.
pub(super) async fn own_end(tx: &mut Tx<'_>, signer: &Signer) -> Result<End, StoreError> {
    let end = end(tx).await?;
    let copied = super::meta(tx, COPIED).await?.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
    let told = sqlx::query_scalar("SELECT event ->> 'revision' FROM event WHERE seq = ?1");
    let told: Option<i64> = told.bind(i64::try_from(end.seq).unwrap_or(i64::MAX)).fetch_optional(&mut **tx).await?;
    let told = told.and_then(|revision| u64::try_from(revision).ok()).unwrap_or(0);
    // Each commit leaves an event with the revision that it led to.
    if copied > end.seq || told < super::revision(tx).await? || (end.seq == 0 && !is_empty(tx).await?) {
        return Err(StoreError::Inconsistent(format!(
            "the history ends with event {}, and there were more: somebody else has written into the database; \
             `partnergate audit verify` says more",
            end.seq
        )));
    }
    if end.seq == 0 {
        return Ok(end);
    }
    let last = checkpoints(tx, "ORDER BY seq DESC, time DESC LIMIT 1").await?;
    // A key that was lost or exchanged is for `audit verify` to say; it must not keep anybody from changing something.
    if last.first().is_some_and(|last| last.key != signer.key() || vouches(last, &end, &signer.key())) {
        return Ok(end);
    }
    Err(StoreError::Inconsistent(format!(
        "event {} of the history is not signed by this node: somebody else has written into the database; `partnergate \
         audit verify` says more",
        end.seq
    )))
}

/// The first events of a registry that is older than its history: what is in it has an event each, so that all of it is
/// accounted for. The history of an empty one begins with its first operators.
pub(super) async fn begin(tx: &mut Tx<'_>, signer: &Signer, now: UnixNanos) -> Result<(), StoreError> {
    if is_empty(tx).await? {
        return Ok(());
    }
    let mut end = End::START;
    let revision = super::revision(tx).await?;
    let actor = Actor::user("partnergate", None, Way::Gateway);
    let of = |verb: Verb, noun: &str, id: String, doc: Option<(&str, Value)>, reason: Option<&str>| Event {
        seq: 0,
        time: now.to_string(),
        cause: Cause::new(actor.clone(), reason.map(str::to_owned), None),
        verb,
        noun: noun.to_owned(),
        id,
        revision,
        before: None,
        document_sha256: doc.as_ref().map(|(text, _)| document_sha256(text)),
        after: doc.map(|(_, value)| value),
    };
    let text = end.append(of(Verb::Begin, HISTORY, uuid::Uuid::now_v7().to_string(), None, None));
    insert(tx, &[(HISTORY, HISTORY, end.seq, text, end.hash)]).await?;
    for table in TABLES {
        let mut after = String::new();
        loop {
            let rows = sqlx::query(table.page).bind(&after).fetch_all(&mut **tx).await?;
            let Some(last) = rows.last() else { break };
            after = last.try_get(0)?;
            let mut events = Vec::with_capacity(rows.len());
            for row in &rows {
                let (id, doc): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
                let reason = Some("was there when the history began");
                let doc = Some((doc, parsed(id, doc)?));
                let text = end.append(of(Verb::Create, table.noun, id.to_owned(), doc, reason));
                events.push((table.noun, id, end.seq, text, end.hash));
            }
            insert(tx, &events).await?;
        }
    }
    checkpoint(tx, &signer.sign(&end, now)).await
}

async fn is_empty(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    for table in TABLES {
        if sqlx::query(table.page).bind("").fetch_optional(&mut **tx).await?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Puts an event behind the chain that is about all of the registry.
pub(super) async fn about_all(
    tx: &mut Tx<'_>,
    verb: Verb,
    after: Value,
    told: &Told<'_>,
    end: &mut End,
) -> Result<(), StoreError> {
    about(tx, verb, (HISTORY, HISTORY), after, told, end).await
}

/// Puts an event behind the chain that is about nothing that is stored.
async fn about(
    tx: &mut Tx<'_>,
    verb: Verb,
    (noun, id): (&str, &str),
    after: Value,
    told: &Told<'_>,
    end: &mut End,
) -> Result<(), StoreError> {
    let text = end.append(Event {
        seq: 0,
        time: told.now.to_string(),
        cause: told.cause.clone(),
        verb,
        noun: noun.into(),
        id: id.into(),
        revision: told.revision,
        before: None,
        after: Some(after),
        document_sha256: None,
    });
    insert(tx, &[(noun, id, end.seq, text, end.hash)]).await
}

/// An event that says that all of this was taken back from a copy, and which.
pub(super) async fn restored(
    store: &Store,
    manifest: &Manifest,
    cause: &Cause,
    now: UnixNanos,
) -> Result<(), StoreError> {
    let signer = store.signer()?;
    let mut tx = store.pool.begin_with("BEGIN IMMEDIATE").await?;
    let mut end = end(&mut tx).await?;
    let revision = super::revision(&mut tx).await?;
    let after = json!({
        "backup": manifest.time, "revision": manifest.revision, "events": manifest.events, "hash": manifest.hash,
    });
    about_all(&mut tx, Verb::Restore, after, &Told { cause, now, revision }, &mut end).await?;
    checkpoint(&mut tx, &signer.sign(&end, now)).await?;
    tx.commit().await?;
    Ok(())
}

/// What the events of one commit have in common.
pub(super) struct Told<'a> {
    pub cause: &'a Cause,
    pub now: UnixNanos,
    pub revision: u64,
}

/// Puts the events of changes in one table behind the chain, before they are written. `documents` are those of the
/// changes; none where the nouns go.
pub(super) async fn append<K: Kept>(
    tx: &mut Tx<'_>,
    table: &Table,
    batch: &[K],
    documents: &[String],
    told: &Told<'_>,
    end: &mut End,
) -> Result<(), StoreError> {
    let mut before = stored(tx, table, batch).await?;
    as_left(tx, table, batch, &before).await?;
    let mut rows = Vec::with_capacity(batch.len());
    let documents = documents.iter().map(|doc| Some(doc.as_str())).chain(std::iter::repeat(None));
    for (change, document) in batch.iter().zip(documents) {
        let id = change.id();
        let after = document.map(|doc| parsed(id, doc)).transpose()?;
        let before = before.remove(id).map(|text| parsed(id, &text)).transpose()?;
        let (verb, before, after) = match (before, after) {
            (Some(before), Some(after)) => {
                let (before, after) = difference(&before, &after);
                (Verb::Change, Some(before), Some(after))
            }
            (Some(before), None) => (Verb::Remove, Some(before), None),
            (None, after) => (Verb::Create, None, after),
        };
        let text = end.append(Event {
            seq: 0,
            time: told.now.to_string(),
            cause: told.cause.clone(),
            verb,
            noun: table.noun.into(),
            id: id.to_owned(),
            revision: told.revision,
            before,
            after,
            document_sha256: document.map(document_sha256),
        });
        rows.push((table.noun, id, end.seq, text, end.hash));
    }
    insert(tx, &rows).await
}

/// Whether these nouns are what their last events left there. What somebody else has written into the database is never
/// taken over with the next change, which would sign for it.
async fn as_left<K: Kept>(
    tx: &mut Tx<'_>,
    table: &Table,
    batch: &[K],
    stored: &HashMap<String, String>,
) -> Result<(), StoreError> {
    let mut query =
        QueryBuilder::<Sqlite>::new("SELECT id, max(seq), event ->> 'document_sha256' FROM event WHERE noun = ");
    query.push_bind(table.noun).push(" AND id IN (");
    let mut ids = query.separated(", ");
    for change in batch {
        ids.push_bind(change.id());
    }
    // SQLite gives the other columns of the row that has the maximum.
    let rows = query.push(") GROUP BY id").build().fetch_all(&mut **tx).await?;
    let left = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(2)?)));
    let left: HashMap<String, Option<String>> = left.collect::<Result<_, StoreError>>()?;
    for change in batch {
        let id = change.id();
        let there = stored.get(id).map(|text| document_sha256(text));
        if there.as_deref() != left.get(id).and_then(Option::as_deref) {
            return Err(StoreError::Inconsistent(format!(
                "the {} `{id}` is not what the history made it: somebody else has written into the database; `partnergate \
                 audit verify` says more",
                table.noun
            )));
        }
    }
    Ok(())
}

/// The documents of these changes' nouns as they are stored now.
async fn stored<K: Kept>(tx: &mut Tx<'_>, table: &Table, batch: &[K]) -> Result<HashMap<String, String>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new(table.select);
    let mut ids = query.separated(", ");
    for change in batch {
        ids.push_bind(change.id());
    }
    let rows = query.push(")").build().fetch_all(&mut **tx).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn parsed(id: &str, doc: &str) -> Result<Value, StoreError> {
    serde_json::from_str(doc).map_err(|e| StoreError::Document { id: id.to_owned(), reason: e.to_string() })
}

type EventRow<'a> = (&'a str, &'a str, u64, String, Hash);

async fn insert(tx: &mut Tx<'_>, rows: &[EventRow<'_>]) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO event (seq, noun, id, event, hash) ");
    query.push_values(rows, |mut row, (noun, id, seq, text, hash)| {
        row.push_bind(i64::try_from(*seq).unwrap_or(i64::MAX)).push_bind(*noun).push_bind(*id);
        row.push_bind(text).push_bind(hash.to_string());
    });
    query.build().execute(&mut **tx).await?;
    Ok(())
}

pub(super) async fn checkpoint(tx: &mut Tx<'_>, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let Checkpoint { seq, hash, time, key, signature } = checkpoint;
    sqlx::query("INSERT INTO checkpoint VALUES (?1, ?2, ?3, ?4, ?5)")
        .bind(i64::try_from(*seq).unwrap_or(i64::MAX))
        .bind(hash)
        .bind(time)
        .bind(key)
        .bind(signature)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Texts of events, oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn history(&self, wanted: &HistoryQuery) -> Result<Vec<String>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT event FROM event WHERE seq > ");
        query.push_bind(i64::try_from(wanted.after).unwrap_or(i64::MAX));
        if let Some(noun) = &wanted.noun {
            query.push(" AND noun = ").push_bind(noun);
        }
        if let Some(id) = &wanted.id {
            query.push(" AND id = ").push_bind(id);
        }
        if let Some(text) = &wanted.mentions {
            query.push(" AND instr(event, ").push_bind(text).push(") > 0");
        }
        query.push(" ORDER BY seq LIMIT ").push_bind(i64::from(wanted.limit));
        let rows = query.build().fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Of the last event that the record sink has a copy of.
    ///
    /// # Errors
    /// The database failed.
    pub async fn copied(&self) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin().await?;
        Ok(super::meta(&mut tx, COPIED).await?.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0))
    }

    /// # Errors
    /// The database failed.
    pub async fn set_copied(&self, seq: u64) -> Result<(), StoreError> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        super::set_meta(&mut tx, COPIED, i64::try_from(seq).unwrap_or(i64::MAX)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Up to when it is told what time has begun and ended; from `now` on where it never was.
    ///
    /// # Errors
    /// The database failed.
    pub async fn told(&self, now: UnixNanos) -> Result<UnixNanos, StoreError> {
        self.still_there()?;
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(told) = super::meta(&mut tx, TOLD).await? {
            return Ok(UnixNanos(told));
        }
        super::set_meta(&mut tx, TOLD, now.0).await?;
        tx.commit().await?;
        Ok(now)
    }

    /// Puts an event behind the chain for each thing that has begun or ended, and notes that all is told up to `until`,
    /// both or neither.
    ///
    /// # Errors
    /// The database failed; then nothing is told.
    pub async fn tell(&self, passed: &[Passed], until: UnixNanos, cause: &Cause) -> Result<(), StoreError> {
        let signer = self.signer()?;
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let revision = super::revision(&mut tx).await?;
        let mut end = own_end(&mut tx, signer).await?;
        tell_of(&mut tx, passed, &Told { cause, now: until, revision }, &mut end).await?;
        if !passed.is_empty() {
            checkpoint(&mut tx, &signer.sign(&end, until)).await?;
        }
        super::set_meta(&mut tx, TOLD, until.0).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Puts an event behind the chain for a call that has changed nothing of the registry: which call, and what came of it.
    /// None where there is no chain yet, which the first operators begin.
    ///
    /// # Errors
    /// The database failed; then nothing is told.
    pub async fn tell_of_call(
        &self,
        call: &str,
        outcome: Value,
        cause: &Cause,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let signer = self.signer()?;
        self.still_there()?;
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let revision = super::revision(&mut tx).await?;
        let mut end = own_end(&mut tx, signer).await?;
        if end.seq == 0 {
            return Ok(());
        }
        about(&mut tx, Verb::Call, (CALL, call), outcome, &Told { cause, now, revision }, &mut end).await?;
        checkpoint(&mut tx, &signer.sign(&end, now)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The report of a partner that was closed.
    ///
    /// # Errors
    /// The database failed, or the document cannot be read.
    pub async fn report(&self, partner: &PartnerId) -> Result<Option<Report>, StoreError> {
        let mut tx = self.pool.begin().await?;
        if !table::exists(&mut tx, table::REPORTS.noun).await? {
            return Ok(None);
        }
        let row = sqlx::query("SELECT doc FROM report WHERE id = ?1").bind(partner.as_str());
        let row = row.fetch_optional(&mut *tx).await?;
        row.map(|row| {
            serde_json::from_str(row.try_get(0)?)
                .map_err(|e| StoreError::Document { id: partner.to_string(), reason: e.to_string() })
        })
        .transpose()
    }

    /// # Errors
    /// The database failed.
    pub async fn last_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let mut tx = self.pool.begin().await?;
        Ok(checkpoints(&mut tx, "ORDER BY seq DESC, time DESC LIMIT 1").await?.pop())
    }

    /// Looks whether the chain ends where this node has signed it, without reading it.
    ///
    /// # Errors
    /// It does not, or the database failed.
    pub async fn look_at_end(&self) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        own_end(&mut tx, self.signer()?).await.map(drop)
    }

    /// Looks at the whole chain, and at whether the registry is what the chain made it.
    ///
    /// # Errors
    /// The database failed.
    pub async fn verify_history(&self) -> Result<Result<Verified, Fault>, StoreError> {
        let _alone = self.verifying.acquire().await;
        let mut tx = self.pool.begin().await?;
        if !table::exists(&mut tx, "event").await? || !table::exists(&mut tx, "checkpoint").await? {
            return Ok(Err(Fault::NoHistory));
        }
        let checkpoints = checkpoints(&mut tx, "ORDER BY seq, time").await?;
        let key = self.signer.as_ref().map(|signer| signer.key()).unwrap_or_default();
        let mut verifier = Verifier::new(&checkpoints, &key);
        let mut made: HashMap<(String, String), (u64, String)> = HashMap::new();
        let (mut broken, mut told) = (None, 0);
        {
            let mut rows = sqlx::query("SELECT seq, event, hash, noun, id FROM event ORDER BY seq").fetch(&mut *tx);
            while let Some(row) = rows.try_next().await? {
                let (seq, text, hash): (i64, &str, &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                let seq = u64::try_from(seq).unwrap_or(0);
                if let Err(fault) = verifier.event(seq, text, hash) {
                    return Ok(Err(fault));
                }
                let Ok(event) = serde_json::from_str::<Event>(text) else { continue };
                told = told.max(event.revision);
                let (filed, under): (&str, &str) = (row.try_get(3)?, row.try_get(4)?);
                if (filed, under) != (&event.noun, &event.id) && event.noun != HISTORY {
                    let (noun, id) = (filed.to_owned(), under.to_owned());
                    return Ok(Err(Fault::Misfiled { seq, noun, id }));
                }
                let noun = (event.noun, event.id);
                // What is changed was made before, and what is made was not there.
                let known = made.contains_key(&noun);
                let begins = matches!(event.verb, Verb::Begin | Verb::Bootstrap | Verb::Restore | Verb::Call);
                if (event.verb == Verb::Create) == known && !begins && broken.is_none() {
                    broken = Some(Fault::OutOfNothing { seq, noun: noun.0.clone(), id: noun.1.clone() });
                }
                match event.document_sha256 {
                    Some(hash) => drop(made.insert(noun, (seq, hash))),
                    None => drop(made.remove(&noun)),
                }
            }
        }
        let verified = match verifier.finish() {
            Ok((end, checkpoints)) => Verified { end, checkpoints },
            Err(fault) => return Ok(Err(fault)),
        };
        if let Some(fault) = broken {
            return Ok(Err(fault));
        }
        for table in TABLES {
            if !table::exists(&mut tx, table.noun).await? {
                continue;
            }
            let mut rows = sqlx::query(table.all).fetch(&mut *tx);
            while let Some(row) = rows.try_next().await? {
                let (id, doc): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
                let last = made.remove(&(table.noun.to_owned(), id.to_owned()));
                if last.as_ref().is_none_or(|(_, hash)| *hash != document_sha256(doc)) {
                    let (noun, id, seq) = (table.noun.to_owned(), id.to_owned(), last.map(|(seq, _)| seq));
                    return Ok(Err(Fault::Registry { noun, id, seq }));
                }
            }
        }
        if let Some(((noun, id), (seq, _))) = made.into_iter().min_by_key(|(_, (seq, _))| *seq) {
            return Ok(Err(Fault::Gone { noun, id, seq }));
        }
        let (last, revision) = (verified.end.seq, super::revision(&mut tx).await?);
        let copied = super::meta(&mut tx, COPIED).await?.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
        Ok(match () {
            () if copied > last => Err(Fault::Copied { seq: copied, last }),
            () if revision > told => Err(Fault::Revision { revision, told }),
            () => Ok(verified),
        })
    }
}

async fn checkpoints(tx: &mut Tx<'_>, which: &'static str) -> Result<Vec<Checkpoint>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT seq, hash, time, key, signature FROM checkpoint ");
    let rows = query.push(which).build().fetch_all(&mut **tx).await?;
    rows.iter()
        .map(|row| {
            Ok(Checkpoint {
                seq: u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0),
                hash: row.try_get(1)?,
                time: row.try_get(2)?,
                key: row.try_get(3)?,
                signature: row.try_get(4)?,
            })
        })
        .collect()
}
