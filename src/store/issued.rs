//! What the built-in CA has given, and the codes that partners enrol with.

use super::{Store, StoreError, meta, set_meta};
use crate::clock::UnixNanos;
use crate::identity::Serial;
use crate::issue::{Enrolment, Issued};
use crate::name::{AnchorName, CredentialId, PartnerId};
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};
use std::time::Duration;

/// The key of `meta` with the number of the last revocation list.
const LIST_NUMBER: &str = "crl_number";

impl Store {
    /// Certificates that are valid at `now`, those that are revoked among them.
    ///
    /// # Errors
    /// The database failed, or a document cannot be read.
    pub async fn valid_certificates(&self, now: UnixNanos) -> Result<Vec<Issued>, StoreError> {
        let rows =
            sqlx::query("SELECT id, doc FROM certificate WHERE doc ->> 'not_after' > ?1 ORDER BY id").bind(now.0);
        rows.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// Certificates that were issued for a credential of a partner, or for all of them, the last one first.
    ///
    /// # Errors
    /// The database failed, or a document cannot be read.
    pub async fn certificates_issued(
        &self,
        partner: &PartnerId,
        credential: Option<&CredentialId>,
    ) -> Result<Vec<Issued>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT id, doc FROM certificate WHERE doc ->> 'partner' = ");
        query.push_bind(partner.as_str());
        if let Some(credential) = credential {
            query.push(" AND doc ->> 'credential' = ").push_bind(credential.as_str());
        }
        query.push(" ORDER BY doc ->> 'not_before' DESC, id");
        query.build().fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// # Errors
    /// The database failed, or the document cannot be read.
    pub async fn certificate(&self, serial: &Serial) -> Result<Option<Issued>, StoreError> {
        let row = sqlx::query("SELECT id, doc FROM certificate WHERE id = ?1").bind(serial.as_str());
        row.fetch_optional(&self.pool).await?.as_ref().map(read).transpose()
    }

    /// Whom a key was given a certificate for.
    ///
    /// # Errors
    /// The database failed, or a document cannot be read.
    pub async fn certificates_of_key(&self, spki: &str) -> Result<Vec<Issued>, StoreError> {
        let rows = sqlx::query("SELECT id, doc FROM certificate WHERE doc ->> 'spki' = ?1").bind(spki);
        rows.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// Certificates that their partners have renewed, and whose successors have been in use for this long.
    ///
    /// # Errors
    /// The database failed, or what is in it is no serial number.
    pub async fn superseded_certificates(
        &self,
        anchor: &AnchorName,
        overlap: Duration,
        now: UnixNanos,
    ) -> Result<Vec<Serial>, StoreError> {
        let since = now.0.saturating_sub(i64::try_from(overlap.as_nanos()).unwrap_or(i64::MAX));
        let rows = sqlx::query(
            "SELECT old.id FROM certificate AS new
             JOIN certificate AS old ON old.id = new.doc ->> 'renews'
             JOIN used_certificate AS used ON used.fingerprint = new.doc ->> 'fingerprint'
             WHERE new.doc ->> 'renews' IS NOT NULL AND new.doc ->> 'revoked' IS NULL
               AND old.doc ->> 'revoked' IS NULL AND old.doc ->> 'not_after' > ?1 AND old.doc ->> 'anchor' = ?2
             GROUP BY old.id HAVING min(used.first_ns) <= ?3",
        );
        let rows = rows.bind(now.0).bind(anchor.as_str()).bind(since).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let id: String = row.try_get(0)?;
                Serial::parse(&id).map_err(|reason| StoreError::Document { id, reason })
            })
            .collect()
    }

    /// # Errors
    /// The database failed, or the document cannot be read.
    pub async fn enrolment(&self, id: &str) -> Result<Option<Enrolment>, StoreError> {
        let row = sqlx::query("SELECT id, doc FROM enrolment WHERE id = ?1").bind(id);
        row.fetch_optional(&self.pool).await?.as_ref().map(read).transpose()
    }

    /// Codes of a partner that could be used at `now`, sorted by id.
    ///
    /// # Errors
    /// The database failed, or a document cannot be read.
    pub async fn open_enrolments(&self, partner: &PartnerId, now: UnixNanos) -> Result<Vec<Enrolment>, StoreError> {
        let rows = sqlx::query("SELECT id, doc FROM enrolment WHERE doc ->> 'partner' = ?1 ORDER BY id")
            .bind(partner.as_str());
        let all: Vec<Enrolment> = rows.fetch_all(&self.pool).await?.iter().map(read).collect::<Result<_, _>>()?;
        Ok(all.into_iter().filter(|one| one.is_open(now)).collect())
    }

    /// The number of the next revocation list: larger than any before, also where the database was taken back from a copy,
    /// because time goes on: more milliseconds than lists.
    ///
    /// # Errors
    /// The database failed.
    pub async fn next_list_number(&self, now: UnixNanos) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let last = meta(&mut tx, LIST_NUMBER).await?.unwrap_or(0);
        let next = last.saturating_add(1).max(now.0 / 1_000_000);
        set_meta(&mut tx, LIST_NUMBER, next).await?;
        tx.commit().await?;
        Ok(u64::try_from(next).unwrap_or(0))
    }
}

fn read<T: DeserializeOwned>(row: &SqliteRow) -> Result<T, StoreError> {
    let (id, doc): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
    serde_json::from_str(doc).map_err(|e| StoreError::Document { id: id.to_owned(), reason: e.to_string() })
}
