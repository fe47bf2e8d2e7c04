//! One change, live at once, past every plan: what denying a certificate, stopping a partner, ending a grant and locking
//! down come to. It is live also while the database fails, is kept in a file meanwhile, and is put into the database when
//! that is back.

use super::{ChangeError, Live, Publisher, concerned};
use crate::config::Config;
use crate::disk;
use crate::document::Problems;
use crate::history::Cause;
use crate::name::{AnchorName, PartnerId};
use crate::partner::{Anchor, Lockdown, Locked, PartnerRecord};
use crate::registry::{Change, Registry};
use crate::store::StoreError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long the database may take before what is to stop is stopped without it.
const PATIENCE: Duration = Duration::from_millis(500);
/// In the state folder: switches that the database does not have.
const FILE: &str = "switches.json";
const MAX_FILE: usize = 64 * 1024 * 1024;

/// A switch that the database does not have yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Unsaved {
    to: Document,
    cause: Cause,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Document {
    Partner(PartnerId, Arc<PartnerRecord>),
    Anchor(AnchorName, Anchor),
    Lockdown(Locked, Option<Lockdown>),
}

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The registry's revision that they are for.
    revision: u64,
    switches: Vec<Unsaved>,
}

impl Document {
    /// Of what a switch can change; networks and what goes are a matter of plans.
    fn of(change: &Change) -> Option<Self> {
        match change {
            Change::Partner(id, Some(record)) => Some(Document::Partner(id.clone(), record.clone())),
            Change::Anchor(name, Some(anchor)) => Some(Document::Anchor(name.clone(), anchor.clone())),
            Change::Lockdown(locked, lockdown) => Some(Document::Lockdown(locked.clone(), lockdown.clone())),
            Change::Partner(_, None) | Change::Anchor(_, None) | Change::Network(..) => None,
        }
    }

    fn change(&self) -> Change {
        match self.clone() {
            Document::Partner(id, record) => Change::Partner(id, Some(record)),
            Document::Anchor(name, anchor) => Change::Anchor(name, Some(anchor)),
            Document::Lockdown(locked, lockdown) => Change::Lockdown(locked, lockdown),
        }
    }
}

/// What a switch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switched {
    /// The registry's.
    pub revision: u64,
    /// Whether the database has it; where not, it is live all the same.
    pub saved: bool,
}

impl Publisher {
    /// Before a switch: what the database has and requests do not see yet. A database that fails is no hindrance.
    pub(super) async fn catch_up_if_it_can(&self, running: &Config) -> Result<(), ChangeError> {
        match timeout(PATIENCE, self.catch_up(running)).await {
            Ok(Err(ChangeError::Store(e))) => {
                tracing::error!(error = %e, "the database fails; the switch does not wait")
            }
            Ok(Err(e)) => return Err(e),
            Ok(Ok(())) => {}
            Err(_) => tracing::error!("the database does not answer; the switch does not wait"),
        }
        Ok(())
    }

    /// Makes one change live that was not planned, and that nothing else may hold up: whatever else is wrong with what it
    /// touches, it was so before.
    pub(super) async fn switch(&self, live: &Live, change: Change, cause: &Cause) -> Result<Switched, ChangeError> {
        let registry = &live.snapshot.registry;
        let material = matches!(change, Change::Anchor(..)).then(|| live.snapshot.material.clone());
        let changes = [change];
        let built = |revision: u64| {
            registry.with(revision, &changes).map_err(|found| {
                let mut problems = Problems::new();
                found.into_iter().for_each(|wrong| problems.registry(wrong.key(), wrong.reason, None));
                problems
            })
        };
        let now = self.clock.now();
        let snapshot = live.snapshot.with_registry(built(registry.revision() + 1)?, &[], material.clone(), now)?;
        let unsaved = !self.unsaved.lock().await.is_empty();
        let commit = self.store.commit(registry.revision(), &changes, cause, now);
        // Behind what is not saved yet there is no place for it.
        let committed = if unsaved { None } else { timeout(PATIENCE, commit).await.ok() };
        let failed = match committed {
            Some(Ok(revision)) => {
                let committed = Instant::now();
                self.publish(snapshot, None, concerned(&changes), committed).await?;
                self.metrics.registry_ok.set(1);
                self.committed.notify_one();
                return Ok(Switched { revision, saved: true });
            }
            // Somebody else has changed it: that is no failure of the database.
            Some(Err(e @ StoreError::Conflict { .. })) => return Err(e.into()),
            Some(Err(e)) => e.to_string(),
            None if unsaved => "an earlier switch is not in the database yet".to_owned(),
            None => "the database does not answer".to_owned(),
        };
        let decided = Instant::now();
        let snapshot = live.snapshot.with_registry(built(registry.revision())?, &[], material, now)?;
        self.publish(snapshot, None, concerned(&changes), decided).await?;
        self.metrics.registry_ok.set(0);
        let mut unsaved = self.unsaved.lock().await;
        let to = changes.iter().filter_map(Document::of);
        unsaved.extend(to.map(|to| Unsaved { to, cause: cause.clone() }));
        self.keep(registry.revision(), &unsaved);
        tracing::error!(error = failed, "a switch is live and not in the database; it is tried again");
        Ok(Switched { revision: registry.revision(), saved: false })
    }

    fn keep(&self, revision: u64, unsaved: &[Unsaved]) {
        let count = i64::try_from(unsaved.len()).unwrap_or(i64::MAX);
        self.metrics.unsaved_switches.set(count);
        let path = file(&self.started.state_dir);
        let kept = Kept { revision, switches: unsaved.to_vec() };
        let written = serde_json::to_vec(&kept).map_err(std::io::Error::other);
        let written = if unsaved.is_empty() {
            std::fs::remove_file(&path).or_else(|e| if path.exists() { Err(e) } else { Ok(()) })
        } else {
            written.and_then(|text| disk::replace(&path, &text))
        };
        if let Err(e) = written {
            tracing::error!(file = %path.display(), error = %e, "unsaved switches are in memory alone: do not restart");
        }
    }

    /// Puts into the database what is live without it.
    ///
    /// # Errors
    /// It still fails.
    pub(super) async fn save_switches(&self) -> Result<(), ChangeError> {
        let mut unsaved = self.unsaved.lock().await;
        while let Some(first) = unsaved.first().cloned() {
            let Some(live) = self.live.load_full() else { return Ok(()) };
            let revision = live.snapshot.registry.revision();
            let change = first.to.change();
            let saved =
                self.store.commit(revision, std::slice::from_ref(&change), &first.cause, self.clock.now()).await?;
            // It is live already: only the revision is another.
            let registry = live.snapshot.registry.at(saved);
            let snapshot = live.snapshot.with_registry(registry, &[], None, self.clock.now())?;
            self.publish(snapshot, None, concerned(&[]), Instant::now()).await?;
            unsaved.remove(0);
            self.keep(saved, &unsaved);
            self.committed.notify_one();
            tracing::info!(revision = saved, left = unsaved.len(), "a switch that was live is in the database now");
        }
        Ok(())
    }
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// What of an earlier life of the process is not in the database, and the registry with it.
///
/// # Errors
/// The file cannot be read, or is for another state of the database: nobody knows then what is to be stopped.
pub(super) fn left_over(state_dir: &Path, registry: Registry) -> Result<(Registry, Vec<Unsaved>), Problems> {
    let path = file(state_dir);
    if !path.exists() {
        return Ok((registry, Vec::new()));
    }
    let shown = path.display().to_string();
    let wrong = |reason: String, fix: &str| {
        let mut problems = Problems::new();
        problems.file(&shown, reason, Some(fix));
        problems
    };
    const FIX: &str = "it holds switches that the database does not have: stop again what it names, and remove it";
    let text = disk::read(&path, MAX_FILE).map_err(|reason| wrong(reason, FIX))?;
    let kept: Kept = serde_json::from_slice(&text).map_err(|e| wrong(format!("cannot be read: {e}"), FIX))?;
    if kept.revision != registry.revision() {
        let reason = format!("is for revision {} of the registry, which is at {}", kept.revision, registry.revision());
        return Err(wrong(reason, FIX));
    }
    let changes: Vec<Change> = kept.switches.iter().map(|unsaved| unsaved.to.change()).collect();
    // One after another: the same noun may be in it twice.
    let mut registry = registry;
    for change in changes {
        registry = registry.with(registry.revision(), &[change]).map_err(|found| {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            wrong(format!("does not fit the registry: {}", found.join("; ")), FIX)
        })?;
    }
    tracing::warn!(file = shown, switches = kept.switches.len(), "switches that are not in the database yet are live");
    Ok((registry, kept.switches))
}
