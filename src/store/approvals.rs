//! Approvals in the database.

use super::{Store, StoreError, Tx};
use crate::approval::Approval;
use crate::name::ApprovalId;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// Of those that have been, so many are listed.
const LISTED: i64 = 200;

impl Store {
    /// Those that nobody has decided yet, lapsed ones among them.
    ///
    /// # Errors
    /// The database failed, or a document cannot be read.
    pub async fn open_approvals(&self) -> Result<Vec<Approval>, StoreError> {
        let mut tx = self.pool.begin().await?;
        open(&mut tx).await
    }

    /// The last of all, the newest first; or so many of those that were asked for before one of them.
    ///
    /// # Errors
    /// The database failed, or a document cannot be read.
    pub async fn approvals(&self, before: Option<&Approval>, most: Option<usize>) -> Result<Vec<Approval>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, doc FROM approval WHERE ?1 IS NULL OR (doc ->> 'requested', id) < (?1, ?2)
             ORDER BY doc ->> 'requested' DESC, id DESC LIMIT ?3",
        )
        .bind(before.map(|approval| approval.requested.0))
        .bind(before.map(|approval| approval.id.as_str()))
        .bind(most.map_or(LISTED, |most| i64::try_from(most).unwrap_or(i64::MAX)));
        rows.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// # Errors
    /// The database failed, or the document cannot be read.
    pub async fn approval(&self, id: &ApprovalId) -> Result<Option<Approval>, StoreError> {
        let row = sqlx::query("SELECT id, doc FROM approval WHERE id = ?1").bind(id.as_str());
        row.fetch_optional(&self.pool).await?.as_ref().map(read).transpose()
    }
}

async fn open(tx: &mut Tx<'_>) -> Result<Vec<Approval>, StoreError> {
    let rows =
        sqlx::query("SELECT id, doc FROM approval WHERE doc ->> 'outcome' IS NULL ORDER BY doc ->> 'requested', id");
    rows.fetch_all(&mut **tx).await?.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> Result<Approval, StoreError> {
    let (id, doc): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
    serde_json::from_str(doc).map_err(|e| StoreError::Document { id: id.to_owned(), reason: e.to_string() })
}
