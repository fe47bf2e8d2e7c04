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
use crate::store::{StoreError, lines};
use schemars::JsonSchema;
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

    /// Whether the registry has it already.
    fn is_in(&self, registry: &Registry) -> bool {
        match self {
            Document::Partner(id, record) => registry.partner(id) == Some(record),
            Document::Anchor(name, anchor) => registry.anchor(name).is_some_and(|there| **there == *anchor),
            Document::Lockdown(locked, lockdown) => {
                registry.lockdowns().find(|l| l.locked == *locked) == lockdown.as_ref()
            }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Switched {
    /// The registry's.
    pub revision: u64,
    /// Whether the database has it; where not, it is live all the same.
    pub saved: bool,
    /// Whether it would outlive a kill.
    pub kept: bool,
}

impl Publisher {
    /// Before a switch: what the database has and requests do not see yet. A database that fails is no hindrance.
    pub(super) async fn catch_up_if_it_can(&self, running: &Config) -> Result<(), ChangeError> {
        let live = self.live.load_full().map(|live| live.snapshot.registry.revision());
        // Only looking is given up half way: what writes goes on to its end.
        match timeout(PATIENCE, self.store.revision()).await {
            Ok(Ok(revision)) if Some(revision) == live => {}
            Ok(Ok(_)) => return self.catch_up(running).await,
            Ok(Err(e)) => tracing::error!(error = %e, "the database fails; the switch does not wait"),
            Err(_) => tracing::error!("the database does not answer; the switch does not wait"),
        }
        Ok(())
    }

    /// What the database has, with what is live without it on top. What it has taken after all, though it was given up,
    /// is no longer among that.
    pub(super) async fn over(&self, registry: Registry) -> Result<Registry, Problems> {
        let mut unsaved = self.unsaved.lock().await;
        if unsaved.is_empty() {
            return Ok(registry);
        }
        let registry = settle(registry, &mut unsaved)?;
        self.keep(registry.revision(), &unsaved);
        Ok(registry)
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
        if cause.dry_run {
            return Err(ChangeError::DryRun(lines(registry, &changes)));
        }
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
                return Ok(Switched { revision, saved: true, kept: true });
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
        let kept = self.keep(registry.revision(), &unsaved);
        tracing::error!(error = failed, "a switch is live and not in the database; it is tried again");
        Ok(Switched { revision: registry.revision(), saved: false, kept })
    }

    /// What a switch that changes nothing comes to.
    pub(super) async fn unchanged(&self, live: &Live) -> Switched {
        let saved = self.unsaved.lock().await.is_empty();
        let kept = saved || file(&self.started.state_dir).is_file();
        Switched { revision: live.snapshot.registry.revision(), saved, kept }
    }

    /// Whether the file has them.
    fn keep(&self, revision: u64, unsaved: &[Unsaved]) -> bool {
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
            return false;
        }
        true
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
            let changes = std::slice::from_ref(&change);
            let commit = self.store.commit(revision, changes, &first.cause, self.clock.now());
            // Others wait behind this. What it does late all the same is found by its revision.
            let Ok(saved) = timeout(PATIENCE, commit).await else { return Err(StoreError::Silent.into()) };
            let saved = saved?;
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
    let (mut switches, all) = (kept.switches, kept.revision);
    let before = switches.len();
    let registry = settle(registry, &mut switches).map_err(|found| wrong(format!("does not fit: {found}"), FIX))?;
    // Some may have been saved at the last moment before a kill, each as a revision.
    let saved = u64::try_from(before - switches.len()).unwrap_or(u64::MAX);
    let over = switches.is_empty() && all <= registry.revision();
    if all.saturating_add(saved) != registry.revision() && !over {
        let reason = format!("is for revision {all} of the registry, which is at {}", registry.revision());
        return Err(wrong(reason, FIX));
    }
    if switches.is_empty() {
        std::fs::remove_file(&path).map_err(|e| wrong(disk::plain(&e), "remove it: all of it is in the database"))?;
    } else {
        tracing::warn!(file = shown, switches = switches.len(), "switches that are not in the database yet are live");
    }
    Ok((registry, switches))
}

/// Puts switches on top of what the database has, one after another, because the same noun may be among them twice. Those
/// that it has already, from the first on, are done.
fn settle(registry: Registry, unsaved: &mut Vec<Unsaved>) -> Result<Registry, Problems> {
    let done = unsaved.iter().take_while(|unsaved| unsaved.to.is_in(&registry)).count();
    unsaved.drain(..done);
    let mut registry = registry;
    for one in unsaved.iter() {
        registry = registry.with(registry.revision(), &[one.to.change()]).map_err(|found| {
            let mut problems = Problems::new();
            found.into_iter().for_each(|wrong| problems.registry(wrong.key(), wrong.reason, None));
            problems
        })?;
    }
    Ok(registry)
}
