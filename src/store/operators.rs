//! Operators in the database.

use super::history::{self, Told};
use super::{Store, StoreError, documents, revision, table};
use crate::clock::UnixNanos;
use crate::history::{Cause, Verb};
use crate::name::OperatorName;
use crate::operator::{Operator, Operators};
use serde_json::json;

impl Store {
    /// All operators.
    ///
    /// # Errors
    /// A document that cannot be read, or two that are shown by the same thing: somebody has edited the file.
    pub async fn operators(&self) -> Result<Operators, StoreError> {
        let mut tx = self.pool.begin().await?;
        let mut found: Vec<Operator> = Vec::new();
        if !table::exists(&mut tx, table::OPERATORS.noun).await? {
            return Ok(Operators::default());
        }
        documents(&mut tx, "SELECT name, doc FROM operator", OperatorName::parse, |operator| found.push(operator))
            .await?;
        Operators::new(found).map_err(StoreError::Inconsistent)
    }

    /// The first operators, and before them an event that says so: of a new registry the first.
    ///
    /// # Errors
    /// There are operators already, or the database failed; then nothing is written.
    pub async fn bootstrap(&self, operators: &[Operator], cause: &Cause, now: UnixNanos) -> Result<(), StoreError> {
        let signer = self.signer()?;
        self.still_there()?;
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let told = Told { cause, now, revision: revision(&mut tx).await? };
        let mut end = history::own_end(&mut tx, signer).await?;
        if sqlx::query("SELECT 1 FROM operator LIMIT 1").fetch_optional(&mut *tx).await?.is_some() {
            return Err(StoreError::HasOperators);
        }
        let names: Vec<&OperatorName> = operators.iter().map(|o| &o.name).collect();
        history::about_all(&mut tx, Verb::Bootstrap, json!({"operators": names}), &told, &mut end).await?;
        table::put(&mut tx, operators, &told, &mut end).await?;
        history::checkpoint(&mut tx, &signer.sign(&end, now)).await?;
        tx.commit().await?;
        Ok(())
    }
}
