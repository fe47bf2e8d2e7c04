//! The tables of documents: one row for each noun, written together with the events that tell of it.

use super::history::{self, Told};
use super::{Promoted, StoreError, Tx};
use crate::approval::Approval;
use crate::history::End;
use crate::issue::{Enrolment, Issued};
use crate::operator::Operator;
use crate::partner::Report;
use crate::registry::Change;
use crate::token::{RevokedToken, StoredKey};
use sqlx::{QueryBuilder, Sqlite};

/// Documents that one statement writes.
pub(super) const BATCH: usize = 100;

/// A table of documents: how rows are found and put into it, what follows them, and how they are taken out.
#[derive(PartialEq, Eq)]
pub(super) struct Table {
    /// Its name as well.
    pub noun: &'static str,
    pub all: &'static str,
    /// What comes behind an id, a batch at most.
    pub page: &'static str,
    pub select: &'static str,
    pub insert: &'static str,
    pub replace: &'static str,
    pub delete: &'static str,
}

/// The statements of a table, whose key is the column `$id`.
macro_rules! table {
    ($noun:literal, $id:literal) => {
        Table {
            noun: $noun,
            all: concat!("SELECT ", $id, ", doc FROM ", $noun),
            page: concat!("SELECT ", $id, ", doc FROM ", $noun, " WHERE ", $id, " > ?1 ORDER BY ", $id, " LIMIT 100"),
            select: concat!("SELECT ", $id, ", doc FROM ", $noun, " WHERE ", $id, " IN ("),
            insert: concat!("INSERT INTO ", $noun, " (", $id, ", doc, revision) "),
            replace: concat!(" ON CONFLICT (", $id, ") DO UPDATE SET doc = excluded.doc, revision = excluded.revision"),
            delete: concat!("DELETE FROM ", $noun, " WHERE ", $id, " IN ("),
        }
    };
}

pub(super) static PARTNERS: Table = table!("partner", "id");
static NETWORKS: Table = table!("network", "name");
static ANCHORS: Table = table!("anchor", "name");
pub(super) static OPERATORS: Table = table!("operator", "name");
pub(super) static APPROVALS: Table = table!("approval", "id");
pub(super) static LOCKDOWNS: Table = table!("lockdown", "id");
pub(super) static REPORTS: Table = table!("report", "id");
static CERTIFICATES: Table = table!("certificate", "id");
static ENROLMENTS: Table = table!("enrolment", "id");
pub(super) static PROMOTIONS: Table = table!("promotion", "id");
pub(super) static TOKEN_KEYS: Table = table!("token_key", "id");
pub(super) static REVOKED_TOKENS: Table = table!("revoked_token", "id");
/// The one that there is.
const POLICY: &str = "policy";

pub(super) static TABLES: [&Table; 12] = [
    &PARTNERS,
    &NETWORKS,
    &ANCHORS,
    &OPERATORS,
    &APPROVALS,
    &LOCKDOWNS,
    &REPORTS,
    &CERTIFICATES,
    &ENROLMENTS,
    &PROMOTIONS,
    &TOKEN_KEYS,
    &REVOKED_TOKENS,
];

/// Whether there is this table. A database that was written by an older version, and is looked at only, lacks some.
pub(super) async fn exists(tx: &mut Tx<'_>, name: &str) -> Result<bool, StoreError> {
    let found = sqlx::query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1").bind(name);
    Ok(found.fetch_optional(&mut **tx).await?.is_some())
}

/// What is kept in a table: a noun as it is now, or gone.
pub(super) trait Kept {
    fn id(&self) -> &str;

    /// Where it is written, and whether it is gone.
    fn place(&self) -> (&'static Table, bool);

    fn document(&self) -> Result<String, serde_json::Error>;
}

impl Kept for Change {
    fn id(&self) -> &str {
        match self {
            Change::Partner(id, _) => id.as_str(),
            Change::Network(name, _) => name.as_str(),
            Change::Anchor(name, _) => name.as_str(),
            Change::Lockdown(locked, _) => locked.as_str(),
        }
    }

    fn place(&self) -> (&'static Table, bool) {
        match self {
            Change::Partner(_, doc) => (&PARTNERS, doc.is_none()),
            Change::Network(_, doc) => (&NETWORKS, doc.is_none()),
            Change::Anchor(_, doc) => (&ANCHORS, doc.is_none()),
            Change::Lockdown(_, doc) => (&LOCKDOWNS, doc.is_none()),
        }
    }

    fn document(&self) -> Result<String, serde_json::Error> {
        match self {
            Change::Partner(_, doc) => serde_json::to_string(&doc.as_deref()),
            Change::Network(_, doc) => serde_json::to_string(doc),
            Change::Anchor(_, doc) => serde_json::to_string(doc),
            Change::Lockdown(_, doc) => serde_json::to_string(doc),
        }
    }
}

impl Kept for Promoted {
    fn id(&self) -> &str {
        POLICY
    }

    fn place(&self) -> (&'static Table, bool) {
        (&PROMOTIONS, self.0.is_none())
    }

    fn document(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&self.0)
    }
}

/// What is never gone again, and is written as it is.
macro_rules! kept {
    ($kind:ty, $table:ident, $id:ident) => {
        impl Kept for $kind {
            fn id(&self) -> &str {
                self.$id.as_str()
            }

            fn place(&self) -> (&'static Table, bool) {
                (&$table, false)
            }

            fn document(&self) -> Result<String, serde_json::Error> {
                serde_json::to_string(self)
            }
        }
    };
}

kept!(Approval, APPROVALS, id);
kept!(Report, REPORTS, partner);
kept!(StoredKey, TOKEN_KEYS, id);
kept!(RevokedToken, REVOKED_TOKENS, id);
kept!(Issued, CERTIFICATES, serial);
kept!(Enrolment, ENROLMENTS, id);
kept!(Operator, OPERATORS, name);

/// Writes changes, and before each the event that tells of it.
pub(super) async fn put<K: Kept>(
    tx: &mut Tx<'_>,
    changes: &[K],
    told: &Told<'_>,
    end: &mut End,
) -> Result<(), StoreError> {
    for alike in changes.chunk_by(|a, b| a.place() == b.place()) {
        for batch in alike.chunks(BATCH) {
            let Some((table, gone)) = batch.first().map(Kept::place) else { continue };
            if gone {
                history::append(tx, table, batch, &[], told, end).await?;
                remove(tx, table, batch).await?;
            } else {
                let documents = batch.iter().map(document).collect::<Result<Vec<String>, StoreError>>()?;
                history::append(tx, table, batch, &documents, told, end).await?;
                write(tx, table, batch, &documents, told.revision).await?;
            }
        }
    }
    Ok(())
}

async fn remove<K: Kept>(tx: &mut Tx<'_>, table: &Table, batch: &[K]) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new(table.delete);
    let mut ids = query.separated(", ");
    for change in batch {
        ids.push_bind(change.id());
    }
    query.push(")").build().execute(&mut **tx).await?;
    Ok(())
}

/// Writes documents that are all kept in one table.
async fn write<K: Kept>(
    tx: &mut Tx<'_>,
    table: &Table,
    batch: &[K],
    documents: &[String],
    revision: u64,
) -> Result<(), StoreError> {
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    let mut query = QueryBuilder::<Sqlite>::new(table.insert);
    query.push_values(batch.iter().zip(documents), |mut row, (change, doc)| {
        row.push_bind(change.id()).push_bind(doc).push_bind(revision);
    });
    query.push(table.replace).build().execute(&mut **tx).await?;
    Ok(())
}

fn document<K: Kept>(change: &K) -> Result<String, StoreError> {
    change.document().map_err(|e| StoreError::Document { id: change.id().to_owned(), reason: e.to_string() })
}
