//! What was used, and which certificates were seen: counted on the request path, kept here.

use super::{Store, StoreError};
use crate::clock::UnixNanos;
use crate::name::{CredentialId, PartnerId};
use crate::reason::Reason;
use crate::record::Batch;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};
use std::collections::HashMap;

/// One line of recorded use.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct UsageRow {
    pub partner: String,
    pub credential: String,
    pub grant: String,
    pub operation: String,
    pub network: String,
    pub count: i64,
    /// RFC 3339.
    pub first: String,
    /// RFC 3339.
    pub last: String,
    #[serde(skip)]
    pub last_at: UnixNanos,
}

/// A certificate that was seen under a credential. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Certificate {
    pub credential: String,
    pub fingerprint_sha256: String,
    /// Absent, as serial and issuer, where an older version has seen it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spki_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    pub not_after: String,
    pub first_seen: String,
    pub last_seen: String,
    #[serde(skip)]
    pub valid_until: UnixNanos,
}

/// The use of an API key from one place. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KeyUsage {
    /// Names of the networks that held the source address, joined by `,`.
    pub network: String,
    pub count: i64,
    pub first: String,
    pub last: String,
    #[serde(skip)]
    pub last_at: UnixNanos,
}

/// The first request, or the first handshake, of a partner that was refused after it had been closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FirstDenied {
    /// RFC 3339.
    pub at: String,
    /// Its id, as the record has it; absent of a handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    pub reason: String,
}

const CERTIFICATE: &str = "SELECT credential, seen.fingerprint, spki, serial, issuer, not_after_ns, first_ns, last_ns
     FROM seen LEFT JOIN seen_certificate ON seen_certificate.fingerprint = seen.fingerprint";

fn certificate(row: &SqliteRow) -> Result<Certificate, StoreError> {
    let time = |n: usize| Ok::<_, StoreError>(UnixNanos(row.try_get(n)?));
    let valid_until = time(5)?;
    Ok(Certificate {
        credential: row.try_get(0)?,
        fingerprint_sha256: row.try_get(1)?,
        spki_sha256: row.try_get(2)?,
        serial: row.try_get(3)?,
        issuer: row.try_get(4)?,
        not_after: valid_until.to_string(),
        first_seen: time(6)?.to_string(),
        last_seen: time(7)?.to_string(),
        valid_until,
    })
}

impl Store {
    /// Adds what was counted since the last call.
    ///
    /// # Errors
    /// The database failed; the caller keeps the counts.
    pub async fn add_usage(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for (key, used) in &batch.usage {
            sqlx::query(
                "INSERT INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT DO UPDATE SET count = count + ?6, first_ns = min(first_ns, ?7), last_ns = max(last_ns, ?8)",
            )
            .bind(key.partner.as_str())
            .bind(key.credential.as_str())
            .bind(key.grant.as_str())
            .bind(key.operation.as_str())
            .bind(&key.network)
            .bind(i64::try_from(used.count).unwrap_or(i64::MAX))
            .bind(used.first.0)
            .bind(used.last.0)
            .execute(&mut *tx)
            .await?;
        }
        for seen in &batch.seen {
            sqlx::query(
                "INSERT INTO seen VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET first_ns = min(first_ns, ?4), last_ns = max(last_ns, ?5)",
            )
            .bind(seen.credential.as_str())
            .bind(seen.fingerprint.to_string())
            .bind(seen.not_after.0)
            .bind(seen.first.0)
            .bind(seen.last.0)
            .execute(&mut *tx)
            .await?;
            sqlx::query("INSERT INTO seen_certificate VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")
                .bind(seen.fingerprint.to_string())
                .bind(seen.spki.to_string())
                .bind(seen.serial.as_str())
                .bind(&seen.issuer)
                .execute(&mut *tx)
                .await?;
            if let Some(at) = seen.allowed {
                sqlx::query("INSERT INTO used_certificate VALUES (?1, ?2) ON CONFLICT DO NOTHING")
                    .bind(seen.fingerprint.to_string())
                    .bind(at.0)
                    .execute(&mut *tx)
                    .await?;
            }
        }
        for ((id, network), used) in &batch.keys {
            sqlx::query(
                "INSERT INTO api_key_use VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET count = count + ?3, first_ns = min(first_ns, ?4), last_ns = max(last_ns, ?5)",
            )
            .bind(id.as_str())
            .bind(network)
            .bind(i64::try_from(used.count).unwrap_or(i64::MAX))
            .bind(used.first.0)
            .bind(used.last.0)
            .execute(&mut *tx)
            .await?;
        }
        for (closed, refused) in &batch.refused {
            // The first stays.
            sqlx::query("INSERT INTO refused VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING")
                .bind(closed.0.as_str())
                .bind(closed.1.0)
                .bind(refused.at.0)
                .bind(&refused.request)
                .bind(refused.reason.as_str())
                .execute(&mut *tx)
                .await?;
        }
        for (certificate, at) in &batch.refused_handshakes {
            sqlx::query("INSERT INTO refused_handshake VALUES (?1, ?2) ON CONFLICT DO NOTHING")
                .bind(certificate.to_string())
                .bind(at.0)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// End of validity of the certificate last seen, per credential id.
    ///
    /// # Errors
    /// The database failed.
    pub async fn last_seen_expiry(&self) -> Result<HashMap<String, UnixNanos>, StoreError> {
        // SQLite gives the other columns of the row that has the maximum.
        let rows = sqlx::query("SELECT credential, not_after_ns, max(last_ns) FROM seen GROUP BY credential")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, UnixNanos(row.try_get(1)?)))).collect()
    }

    /// When each credential was used last, by its id.
    ///
    /// # Errors
    /// The database failed.
    pub async fn last_seen(&self) -> Result<HashMap<String, UnixNanos>, StoreError> {
        let rows =
            sqlx::query("SELECT credential, max(last_ns) FROM seen GROUP BY credential").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, UnixNanos(row.try_get(1)?)))).collect()
    }

    /// Use of one partner, or of all: partner, credential, grant, operation, network, count, first and last use.
    ///
    /// # Errors
    /// The database failed.
    pub async fn usage(&self, partner: Option<&PartnerId>) -> Result<Vec<UsageRow>, StoreError> {
        self.usage_behind(partner, None, None).await
    }

    /// The same, so many of those behind a line of it: its partner, credential, grant, operation and network.
    ///
    /// # Errors
    /// The database failed.
    pub async fn usage_behind(
        &self,
        partner: Option<&PartnerId>,
        after: Option<&[String; 5]>,
        most: Option<usize>,
    ) -> Result<Vec<UsageRow>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT partner, credential, \"grant\", operation, network, count, first_ns, last_ns FROM usage WHERE true",
        );
        if let Some(partner) = partner {
            query.push(" AND partner = ").push_bind(partner.as_str());
        }
        if let Some(after) = after {
            query.push(" AND (partner, credential, \"grant\", operation, network) > (");
            let mut parts = query.separated(", ");
            after.iter().for_each(|part| {
                parts.push_bind(part.as_str());
            });
            query.push(")");
        }
        query
            .push(" ORDER BY 1, 2, 3, 4, 5 LIMIT ")
            .push_bind(most.map_or(-1, |most| i64::try_from(most).unwrap_or(-1)));
        let rows = query.build().fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                Ok(UsageRow {
                    partner: row.try_get(0)?,
                    credential: row.try_get(1)?,
                    grant: row.try_get(2)?,
                    operation: row.try_get(3)?,
                    network: row.try_get(4)?,
                    count: row.try_get(5)?,
                    first: UnixNanos(row.try_get(6)?).to_string(),
                    last: UnixNanos(row.try_get(7)?).to_string(),
                    last_at: UnixNanos(row.try_get(7)?),
                })
            })
            .collect()
    }

    /// When a credential was used last in a request that was allowed.
    ///
    /// # Errors
    /// The database failed.
    pub async fn last_used(
        &self,
        partner: &PartnerId,
        credential: &CredentialId,
    ) -> Result<Option<UnixNanos>, StoreError> {
        let row = sqlx::query("SELECT max(last_ns) FROM usage WHERE partner = ?1 AND credential = ?2")
            .bind(partner.as_str())
            .bind(credential.as_str())
            .fetch_one(&self.pool)
            .await?;
        Ok(row.try_get::<Option<i64>, _>(0)?.map(UnixNanos))
    }

    /// The use of an API key, by where it came from, the last place first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn key_usage(&self, id: &CredentialId) -> Result<Vec<KeyUsage>, StoreError> {
        let rows = sqlx::query(
            "SELECT network, count, first_ns, last_ns FROM api_key_use WHERE id = ?1 ORDER BY last_ns DESC, network",
        );
        let rows = rows.bind(id.as_str()).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let last_at = UnixNanos(row.try_get(3)?);
                Ok(KeyUsage {
                    network: row.try_get(0)?,
                    count: row.try_get(1)?,
                    first: UnixNanos(row.try_get(2)?).to_string(),
                    last: last_at.to_string(),
                    last_at,
                })
            })
            .collect()
    }

    /// The certificates that were seen under a credential, the last one first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn certificates_of(&self, credential: &CredentialId) -> Result<Vec<Certificate>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(CERTIFICATE);
        query.push(" WHERE credential = ").push_bind(credential.as_str()).push(" ORDER BY last_ns DESC");
        query.build().fetch_all(&self.pool).await?.iter().map(certificate).collect()
    }

    /// The certificates that were seen with this SHA-256 of themselves or of their key.
    ///
    /// # Errors
    /// The database failed.
    pub async fn certificates_with(&self, sha256: &str) -> Result<Vec<Certificate>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(CERTIFICATE);
        query.push(" WHERE seen.fingerprint = ").push_bind(sha256).push(" OR spki = ").push_bind(sha256);
        query.build().fetch_all(&self.pool).await?.iter().map(certificate).collect()
    }

    /// Keys that were seen under credentials of more than one id.
    ///
    /// # Errors
    /// The database failed.
    pub async fn shared_keys(&self) -> Result<Vec<(String, Vec<String>)>, StoreError> {
        let rows = sqlx::query(
            "SELECT spki, group_concat(DISTINCT credential) FROM seen
             JOIN seen_certificate ON seen_certificate.fingerprint = seen.fingerprint GROUP BY spki HAVING count(DISTINCT credential) > 1 LIMIT 1000",
        );
        let rows = rows.fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let (spki, ids): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                Ok((spki, ids.split(',').map(str::to_owned).collect()))
            })
            .collect()
    }

    /// The first request, or handshake, that was refused after a partner was closed at this time.
    ///
    /// # Errors
    /// The database failed.
    pub async fn refused(&self, partner: &PartnerId, closed: UnixNanos) -> Result<Option<FirstDenied>, StoreError> {
        let row = sqlx::query("SELECT at_ns, request, reason FROM refused WHERE partner = ?1 AND closed_ns = ?2")
            .bind(partner.as_str())
            .bind(closed.0)
            .fetch_optional(&self.pool)
            .await?;
        let request = row.map(|row| Ok::<_, StoreError>((row.try_get::<i64, _>(0)?, row.try_get(1)?, row.try_get(2)?)));
        let request: Option<(i64, String, String)> = request.transpose()?;
        let row = sqlx::query(
            "SELECT min(at_ns) FROM refused_handshake WHERE at_ns >= ?2 AND (
                 fingerprint IN (SELECT seen.fingerprint FROM usage JOIN seen ON seen.credential = usage.credential
                                 WHERE usage.partner = ?1)
                 OR fingerprint IN (SELECT doc ->> 'fingerprint' FROM certificate WHERE doc ->> 'partner' = ?1))",
        );
        let row = row.bind(partner.as_str()).bind(closed.0).fetch_one(&self.pool).await?;
        let handshake: Option<i64> = row.try_get(0)?;
        Ok(match (request, handshake) {
            (Some((at, request, reason)), shown) if shown.is_none_or(|shown| at <= shown) => {
                Some(FirstDenied { at: UnixNanos(at).to_string(), request: Some(request), reason })
            }
            (_, Some(shown)) => Some(FirstDenied {
                at: UnixNanos(shown).to_string(),
                request: None,
                reason: Reason::CertificateRevoked.as_str().to_owned(),
            }),
            _ => None,
        })
    }
}
