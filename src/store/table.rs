//! The tables of documents: one row for each noun, written together with the events that tell of it.

use super::history::{self, Told};
use super::{StoreError, Tx};
use crate::approval::Approval;
use crate::history::End;
use crate::issue::{Enrolment, Issued};
use crate::operator::Operator;
use crate::partner::Report;
use crate::registry::Change;
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

pub(super) static PARTNERS: Table = Table {
    noun: "partner",
    all: "SELECT id, doc FROM partner",
    page: "SELECT id, doc FROM partner WHERE id > ?1 ORDER BY id LIMIT 100",
    select: "SELECT id, doc FROM partner WHERE id IN (",
    insert: "INSERT INTO partner (id, doc, revision) ",
    replace: " ON CONFLICT (id) DO UPDATE SET doc = excluded.doc, revision = excluded.revision",
    delete: "DELETE FROM partner WHERE id IN (",
};
static NETWORKS: Table = Table {
    noun: "network",
    all: "SELECT name, doc FROM network",
    page: "SELECT name, doc FROM network WHERE name > ?1 ORDER BY name LIMIT 100",
    select: "SELECT name, doc FROM network WHERE name IN (",
    insert: "INSERT INTO network (name, doc, revision) ",
    replace: " ON CONFLICT (name) DO UPDATE SET doc = excluded.doc, revision = excluded.revision",
    delete: "DELETE FROM network WHERE name IN (",
};
static ANCHORS: Table = Table {
    noun: "anchor",
    all: "SELECT name, doc FROM anchor",
    page: "SELECT name, doc FROM anchor WHERE name > ?1 ORDER BY name LIMIT 100",
    select: "SELECT name, doc FROM anchor WHERE name IN (",
    insert: "INSERT INTO anchor (name, doc, revision) ",
    replace: " ON CONFLICT (name) DO UPDATE SET doc = excluded.doc, revision = excluded.revision",
    delete: "DELETE FROM anchor WHERE name IN (",
};

pub(super) static OPERATORS: Table = Table {
    noun: "operator",
    all: "SELECT name, doc FROM operator",
    page: "SELECT name, doc FROM operator WHERE name > ?1 ORDER BY name LIMIT 100",
    select: "SELECT name, doc FROM operator WHERE name IN (",
    insert: "INSERT INTO operator (name, doc, revision) ",
    replace: " ON CONFLICT (name) DO UPDATE SET doc = excluded.doc, revision = excluded.revision",
    delete: "DELETE FROM operator WHERE name IN (",
};

pub(super) static APPROVALS: Table = Table {
    noun: "approval",
    all: "SELECT id, doc FROM approval",
    page: "SELECT id, doc FROM approval WHERE id > ?1 ORDER BY id LIMIT 100",
    select: "SELECT id, doc FROM approval WHERE id IN (",
    insert: "INSERT INTO approval (id, doc, revision) ",
    replace: " ON CONFLICT (id) DO UPDATE SET doc = excluded.doc, revision = excluded.revision",
    delete: "DELETE FROM approval WHERE id IN (",
};

pub(super) static LOCKDOWNS: Table = Table {
    noun: "lockdown",
    all: "SELECT id, doc FROM lockdown",
    page: "SELECT id, doc FROM lockdown WHERE id > ?1 ORDER BY id LIMIT 100",
    select: "SELECT id, doc FROM lockdown WHERE id IN (",
    insert: "INSERT INTO lockdown (id, doc, revision) ",
    replace: " ON CONFLICT (id) DO UPDATE SET doc = excluded.doc, revision = excluded.revision",
    delete: "DELETE FROM lockdown WHERE id IN (",
};

pub(super) static REPORTS: Table = Table {
    noun: "report",
    all: "SELECT id, doc FROM report",
    page: "SELECT id, doc FROM report WHERE id > ?1 ORDER BY id LIMIT 100",
    select: "SELECT id, doc FROM report WHERE id IN (",
    insert: "INSERT INTO report (id, doc, revision) ",
    replace: " ON CONFLICT (id) DO UPDATE SET doc = excluded.doc, revision = excluded.revision",
    delete: "DELETE FROM report WHERE id IN (",
};

pub(super) static CERTIFICATES: Table = Table {
    noun: "certificate",
    all: "SELECT id, doc FROM certificate",
    page: "SELECT id, doc FROM certificate WHERE id > ?1 ORDER BY id LIMIT 100",
    select: "SELECT id, doc FROM certificate WHERE id IN (",
    insert: "INSERT INTO certificate (id, doc, revision) ",
    replace: " ON CONFLICT (id) DO UPDATE SET doc = excluded.doc, revision = excluded.revision",
    delete: "DELETE FROM certificate WHERE id IN (",
};

pub(super) static ENROLMENTS: Table = Table {
    noun: "enrolment",
    all: "SELECT id, doc FROM enrolment",
    page: "SELECT id, doc FROM enrolment WHERE id > ?1 ORDER BY id LIMIT 100",
    select: "SELECT id, doc FROM enrolment WHERE id IN (",
    insert: "INSERT INTO enrolment (id, doc, revision) ",
    replace: " ON CONFLICT (id) DO UPDATE SET doc = excluded.doc, revision = excluded.revision",
    delete: "DELETE FROM enrolment WHERE id IN (",
};

pub(super) static TABLES: [&Table; 9] =
    [&PARTNERS, &NETWORKS, &ANCHORS, &OPERATORS, &APPROVALS, &LOCKDOWNS, &REPORTS, &CERTIFICATES, &ENROLMENTS];

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

impl Kept for Approval {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn place(&self) -> (&'static Table, bool) {
        (&APPROVALS, false)
    }

    fn document(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

impl Kept for Report {
    fn id(&self) -> &str {
        self.partner.as_str()
    }

    fn place(&self) -> (&'static Table, bool) {
        (&REPORTS, false)
    }

    fn document(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

impl Kept for Issued {
    fn id(&self) -> &str {
        self.serial.as_str()
    }

    fn place(&self) -> (&'static Table, bool) {
        (&CERTIFICATES, false)
    }

    fn document(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

impl Kept for Enrolment {
    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> (&'static Table, bool) {
        (&ENROLMENTS, false)
    }

    fn document(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

impl Kept for Operator {
    fn id(&self) -> &str {
        self.name.as_str()
    }

    fn place(&self) -> (&'static Table, bool) {
        (&OPERATORS, false)
    }

    fn document(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

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
