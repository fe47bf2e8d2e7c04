//! What is read from the running gateway or, with `--offline`, from the database of one that does not run.

use super::bundle::with_policy;
use super::client::{Gateway, ask};
use super::{Exit, complain};
use crate::admin::{self, AuditAnswer, HistoryAnswer, HistoryCall, PartnerAnswer, user_name};
use crate::clock::Clock;
use crate::config::Config;
use crate::history::{Actor, Way};
use crate::material::MaterialFiles;
use crate::name::PartnerId;
use crate::record::RecordEnd;
use crate::server::{database_path, lock_state_dir, record_end_path};
use crate::snapshot::{Snapshot, Sources};
use crate::store::Store;
use http::Method;
use nix::unistd::Uid;
use serde_json::{Value, json};
use std::path::Path;

/// What is read.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    Export,
    List,
    Partner(&'a str),
    History(&'a HistoryCall),
    Audit,
}

pub(super) async fn look(gateway: &Gateway, offline: bool, target: &str, wanted: Wanted<'_>) -> Result<Value, Exit> {
    if offline { read_offline(gateway, wanted).await } else { ask(gateway, Method::GET, target, None).await }
}

/// What the admin API would answer, from the database of a gateway that does not run.
async fn read_offline(gateway: &Gateway, wanted: Wanted<'_>) -> Result<Value, Exit> {
    let config = load(&gateway.config)?;
    let fail = |e: &dyn std::fmt::Display| {
        complain(&e.to_string());
        Exit::Failed
    };
    let _lock = lock_state_dir(&config.state_dir).map_err(|e| fail(&e))?;
    let database = database_path(&config.state_dir);
    let store = match wanted {
        // What is looked at for its soundness is not altered.
        Wanted::History(_) | Wanted::Audit => Store::open_to_verify(&database).await.map_err(|e| fail(&e))?,
        _ => Some(Store::open(&database, Clock::new().now()).await.map_err(|e| fail(&e))?),
    };
    let Some(store) = store else {
        return Err(fail(&format!("there is no database `{}`", database.display())));
    };
    let value = match wanted {
        Wanted::Export => {
            let registry = store.load().await.map_err(|e| fail(&e))?;
            let material = MaterialFiles::new(&gateway.config, &config.state_dir);
            let material = material.read(&registry, &material.kept(&registry)).material;
            let (config, _) = with_policy(config).await.map_err(|e| fail(&e))?;
            let promotion = store.promotion().await.map_err(|e| fail(&e))?;
            let sources = Sources { material, ..config.sources(registry, promotion.as_ref()) };
            let (snapshot, _) = Snapshot::build(sources, None, Clock::new().now()).map_err(|e| fail(&e))?;
            serde_json::to_value(admin::export_document(&snapshot)).map_err(|e| fail(&e))?
        }
        Wanted::List => {
            let registry = store.load().await.map_err(|e| fail(&e))?;
            serde_json::to_value(admin::list_document(&registry, Clock::new().now())).map_err(|e| fail(&e))?
        }
        Wanted::Partner(id) => {
            let id = PartnerId::parse(id).map_err(|e| fail(&e))?;
            let registry = store.load().await.map_err(|e| fail(&e))?;
            let record = registry.partner(&id).ok_or_else(|| {
                complain("there is no such partner");
                Exit::Problems
            })?;
            let usage = store.usage(Some(&id)).await.map_err(|e| fail(&e))?;
            json!(PartnerAnswer::of(record, usage, Clock::new().now()))
        }
        Wanted::History(call) => {
            let events = store.history(&call.query()).await.map_err(|e| fail(&e))?;
            json!(HistoryAnswer::of(events))
        }
        Wanted::Audit => {
            let (key, records_end) =
                (store.signer().map(|s| s.key()).ok(), RecordEnd::read(&record_end_path(&config.state_dir)));
            let found = AuditAnswer::from(store.verify_history().await.map_err(|e| fail(&e))?);
            json!(AuditAnswer { key, records_end, ..found })
        }
    };
    store.close().await;
    Ok(value)
}

pub(super) fn load(path: &Path) -> Result<Config, Exit> {
    Config::load(path).map_err(|problems| {
        complain(&problems.to_string());
        Exit::Problems
    })
}

/// Who works on the database of a gateway that does not run.
pub(super) fn this_user() -> Actor {
    let uid = Uid::current().as_raw();
    Actor::user(user_name(uid), Some(uid), Way::Offline)
}
