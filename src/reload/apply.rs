//! Files applied: what permits no more than there was is live at once, and the rest waits for somebody else.

use super::deny::no_anchor;
use super::edit::{Edited, Subject};
use super::operators::objection;
use super::outside::Outside;
use super::{ChangeError, Publisher, aside, concerned, interrupted, not_live};
use crate::approval::{Approval, FourEyes, Item, Outcome, Present, Verdict, is_void, split};
use crate::clock::UnixNanos;
use crate::config::ApprovalConfig;
use crate::document::Problems;
use crate::gateway::Live;
use crate::history::{Cause, Off};
use crate::name::{AnchorName, ApprovalId, PartnerId};
use crate::operator::Operators;
use crate::partner::{Anchor, Illegal, MAX_EMERGENCY, PartnerRecord, Provenance, illegal, illegal_at_first};
use crate::policy::Promotion;
use crate::registry::{Change, Inconsistent, Registry, find_api_key, find_credential, find_grant};
use crate::snapshot::Snapshot;
use crate::store::{
    Commit, Declaration, DeclaredFile, Plan, PlanLine, PlanOptions, Promoted, lines, parse_declaration, plan,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// What is to be applied, and who asks for it.
pub struct Apply {
    pub wanted: Wanted,
    pub options: PlanOptions,
    pub dry_run: bool,
    pub cause: Cause,
    pub authority: Authority,
    /// What is changed has to be what its tag says; nothing is asked where there is none.
    pub if_match: Option<String>,
}

/// Where what is wanted is written.
pub enum Wanted {
    Files(Vec<DeclaredFile>),
    /// A noun as it is in the form of a registry file, with something changed in it.
    Edited(Edited),
    /// A network or an anchor that is to go.
    Gone(Change),
    /// An anchor that is to speak for more partners, or for fewer: its list may be as long as the registry, and is not written
    /// and read again for one name.
    Bound(Binding),
}

/// Partners that an anchor is bound to besides, and no more.
pub struct Binding {
    pub anchor: AnchorName,
    pub bind: Vec<PartnerId>,
    pub unbind: Vec<PartnerId>,
}

impl Binding {
    /// Absent where it is so already.
    fn change(&self, registry: &Registry) -> Result<Option<Change>, Problems> {
        let Binding { anchor: name, bind, unbind } = self;
        let Some(anchor) = registry.anchor(name) else { return Err(no_anchor(name, registry)) };
        if let Some(unknown) = unbind.iter().find(|id| !registry.may_speak_for(name, id)) {
            let mut problems = Problems::new();
            problems.registry(
                format!("anchors.{name}.partners"),
                format!("`{name}` does not speak for `{unknown}`"),
                None,
            );
            return Err(problems);
        }
        let mut fresh: Vec<PartnerId> = bind.iter().filter(|id| !registry.may_speak_for(name, id)).cloned().collect();
        fresh.sort();
        fresh.dedup();
        if fresh.is_empty() && unbind.is_empty() {
            return Ok(None);
        }
        let unbound: HashSet<&PartnerId> = unbind.iter().collect();
        let kept = anchor.partners.iter().filter(|id| !unbound.contains(id));
        let partners = kept.cloned().chain(fresh).collect();
        Ok(Some(Change::Anchor(name.clone(), Some(Anchor { partners, ..Anchor::clone(anchor) }))))
    }
}

/// What who asks may do beside asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    Ask,
    /// Approve as well; it counts where `approval.four_eyes` is off.
    Approve,
    /// Act alone, in an incident.
    Emergency,
}

/// What came of an apply.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Applied {
    pub lines: Vec<PlanLine>,
    /// Registry revision that is live now.
    pub revision: u64,
    /// False for a dry run, and where nothing was to be changed at once.
    pub changed: bool,
    /// What waits for somebody else to approve it, of what was asked for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
}

/// Changes that were prepared to be live.
pub(super) struct Ready {
    pub changes: Vec<Change>,
    pub snapshot: Snapshot,
    pub outside: Option<Outside>,
}

/// What a commit changes, a line for each noun.
fn would(registry: &Registry, commit: &Commit<'_>) -> Vec<PlanLine> {
    let line = |action: &str, noun: &str, id: &str| PlanLine {
        action: action.into(),
        noun: noun.into(),
        id: id.into(),
        detail: String::new(),
    };
    let Commit { changes, operators, approvals, reports, certificates, enrolments, promotions, .. } = commit;
    let Commit { token_keys, revoked_tokens, passed, .. } = commit;
    let mut all = lines(registry, changes);
    all.extend(operators.iter().map(|one| line("change", "operator", one.name.as_str())));
    all.extend(approvals.iter().map(|one| line("change", "approval", one.id.as_str())));
    all.extend(reports.iter().map(|one| line("create", "report", one.partner.as_str())));
    all.extend(certificates.iter().map(|one| line("create", "certificate", one.serial.as_str())));
    all.extend(enrolments.iter().map(|one| line("change", "enrolment", &one.id)));
    all.extend(promotions.iter().map(|Promoted(one)| match one {
        Some(Promotion { revision, over, .. }) => {
            PlanLine { detail: format!("{revision} in the place of {over}"), ..line("change", "promotion", "policy") }
        }
        None => PlanLine { detail: "the configured policy decides".into(), ..line("remove", "promotion", "policy") },
    }));
    all.extend(revoked_tokens.iter().map(|one| line("create", "revoked_token", &one.id)));
    all.extend(token_keys.iter().map(|one| line("change", "token_key", &one.id)));
    all.extend(passed.iter().map(|one| line(one.verb.as_str(), "partner", one.partner.as_str())));
    all
}

fn inconsistent(found: Vec<Inconsistent>) -> Problems {
    let mut problems = Problems::new();
    found.into_iter().for_each(|wrong| problems.registry(wrong.key(), wrong.reason, None));
    problems
}

/// When the first emergency of a partner began that nobody has reviewed yet.
fn unreviewed(record: &PartnerRecord) -> Option<UnixNanos> {
    let open = record.grants.iter().filter_map(|g| g.emergency.as_deref()).filter(|e| e.reviewed.is_none());
    open.map(|e| e.at).min()
}

impl Publisher {
    /// Plans what files declare and, unless it is a dry run, makes it live: database first, then requests.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn apply(self: &Arc<Self>, apply: Apply) -> Result<Applied, ChangeError> {
        let this = self.clone();
        // Aside, and so to its end: a caller that goes away must not leave the database ahead of what is live.
        aside(async move { this.apply_now(apply).await }).await.unwrap_or_else(|e| Err(interrupted("registry", &e)))
    }

    async fn apply_now(&self, apply: Apply) -> Result<Applied, ChangeError> {
        // Read before anybody has to wait for it; the environment is what the gateway was started in.
        let environment = &self.started.environment;
        let declared = match apply.wanted {
            Wanted::Files(files) => Ok(parse_declaration(&files, environment)?),
            other => Err(other),
        };
        let running = self.state.lock().await;
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let registry = &live.snapshot.registry;
        if let Some(if_match) = &apply.if_match {
            let subject = match &declared {
                Err(Wanted::Edited(edited)) => Some(edited.subject.clone()),
                Err(Wanted::Gone(Change::Network(name, _))) => Some(Subject::Network(name.clone())),
                Err(Wanted::Gone(Change::Anchor(name, _)) | Wanted::Bound(Binding { anchor: name, .. })) => {
                    Some(Subject::Anchor(name.clone()))
                }
                _ => None,
            };
            if subject.is_some_and(|subject| !subject.is_as_seen(if_match, registry)) {
                return Err(ChangeError::Stale);
            }
        }
        let eyes = match apply.authority {
            Authority::Ask => FourEyes::Required,
            Authority::Approve => running.approval.four_eyes,
            Authority::Emergency => FourEyes::Off,
        };
        let own = (eyes == FourEyes::Off).then(|| Arc::new(self.own(&apply.cause)));
        let direct = match &declared {
            Err(Wanted::Gone(change)) => Some(change.clone()),
            Err(Wanted::Bound(binding)) => binding.change(registry)?,
            _ => None,
        };
        let declaration = match declared {
            Ok(declaration) => declaration,
            // Nobody has written that file: what is wrong is said by its key.
            Err(Wanted::Edited(edited)) => {
                parse_declaration(&edited.files(registry, environment)?, environment).map_err(Problems::unplaced)?
            }
            Err(Wanted::Gone(_) | Wanted::Bound(_) | Wanted::Files(_)) => Declaration::default(),
        };
        let (operations, now) = (&live.snapshot.operations, self.clock.now());
        let planned = plan(declaration, registry, operations, apply.options, own.as_ref(), now)?;
        let Plan { mut changes, notes, mut next, places } = planned;
        if let Some(change) = direct {
            changes.push(change);
            next = registry.with(registry.revision() + 1, &changes).map_err(inconsistent)?;
        }
        // All of it is looked at, whether it is live at once or waits.
        let whole = self.prepare(&live, &changes, &next).map_err(|found| places.locate(found))?;
        let open = self.waiting().await?;
        let asked = open.iter().flat_map(|approval| &approval.items).filter_map(|item| match item {
            Item::Grant { partner, after: Some(_), .. } => Some(partner.clone()),
            _ => None,
        });
        let parts = split(registry, changes.clone(), &asked.collect());
        self.legal(&changes, registry).map_err(|found| places.locate(found))?;
        self.credentials_within_limits(&changes, registry, &running.approval).map_err(|found| places.locate(found))?;
        self.api_keys_within_limits(&changes, &live.snapshot).map_err(|found| places.locate(found))?;
        self.nobody_else_s(&changes, registry).await?.map_err(|found| places.locate(found))?;
        self.within_limits(&parts.waiting, registry, &next, &running.approval, &apply.cause)
            .map_err(|found| places.locate(found))?;
        let mut cause = apply.cause;
        let (ready, approval, lines) = if eyes == FourEyes::Off || parts.waiting.is_empty() {
            cause.four_eyes = (!parts.waiting.is_empty()).then_some(Off::Off);
            let lines = lines(registry, &changes);
            (Some(Ready { changes, snapshot: whole.0, outside: whole.1 }), None, lines)
        } else {
            let mut shown = lines(registry, &parts.now);
            let fresh = self.not_asked_yet(parts.waiting, &open, registry, &mut shown);
            let approval = self.asked(fresh, &running.approval, &cause)?;
            (self.ready(&live, parts.now)?, approval, shown)
        };
        let lines = [notes, lines].concat();
        let revision = registry.revision();
        let ready = ready.filter(|ready| !ready.changes.is_empty());
        if apply.dry_run || cause.dry_run || (ready.is_none() && approval.is_none()) {
            return Ok(Applied { lines, revision, changed: false, approval: None });
        }
        let changed = ready.is_some();
        let mut approvals = self.voided(open, registry, ready.as_ref(), &cause);
        approvals.extend(approval.iter().cloned());
        let commit = Commit { approvals: &approvals, ..Commit::default() };
        let revision = self.commit_and_publish(&live, ready, commit, &cause).await?;
        if let Some(approval) = &approval {
            tracing::info!(approval = %approval.id, requester = approval.requester, "approval is asked for");
        }
        Ok(Applied { lines, revision, changed, approval: approval.map(|a| a.id) })
    }

    /// What waits for approval and refers to something that is taken away or exchanged now.
    pub(super) fn voided(
        &self,
        open: Vec<Approval>,
        registry: &Registry,
        ready: Option<&Ready>,
        cause: &Cause,
    ) -> Vec<Approval> {
        let changes = ready.map(|ready| ready.changes.as_slice()).unwrap_or_default();
        let outcome = Outcome {
            verdict: Verdict::Void,
            author: cause.actor.name.clone(),
            at: self.clock.now(),
            reason: Some("what it refers to was taken away or exchanged: ask again".into()),
        };
        let void = open.into_iter().filter(|approval| is_void(approval, registry, changes));
        void.map(|approval| Approval { outcome: Some(outcome.clone()), ..approval }).collect()
    }

    /// Who asks has approved as well.
    fn own(&self, cause: &Cause) -> Provenance {
        Provenance {
            id: None,
            requester: cause.actor.name.clone(),
            approver: cause.actor.name.clone(),
            at: self.clock.now(),
            justification: cause.reason.clone(),
            ticket: cause.ticket.clone(),
        }
    }

    /// Whether what is written down follows from what there is.
    pub(super) fn legal(&self, changes: &[Change], registry: &Registry) -> Result<(), Problems> {
        let (now, mut problems) = (self.clock.now(), Problems::new());
        for change in changes {
            let Change::Partner(partner, Some(record)) = change else { continue };
            let found = registry
                .partner(partner)
                .map_or_else(|| illegal_at_first(record, now), |before| illegal(before, record, now));
            for Illegal { key, reason, fix } in found {
                problems.registry(format!("partners.{partner}.{key}"), reason, Some(fix));
            }
        }
        if problems.has_errors() { Err(problems) } else { Ok(()) }
    }

    /// What a config says of how long credentials may be good, where one is new or gets another end.
    fn credentials_within_limits(
        &self,
        changes: &[Change],
        registry: &Registry,
        config: &ApprovalConfig,
    ) -> Result<(), Problems> {
        let Some(most) = config.max_credential else { return Ok(()) };
        let (days, limit) = (most.as_secs() / 86_400, self.clock.now().saturating_add(most));
        let mut problems = Problems::new();
        for change in changes {
            let Change::Partner(partner, Some(record)) = change else { continue };
            let old = registry.partner(partner);
            for credential in record.credentials.iter().filter(|c| c.ends.is_none_or(|ends| ends > limit)) {
                let before = old.and_then(|old| find_credential(old, &credential.id));
                if before
                    .is_none_or(|before| (before.ends, &before.matching) != (credential.ends, &credential.matching))
                {
                    let reason = format!("must be there, at most {days} days ahead (`approval.max_credential_days`)");
                    let fix = "let the credential end sooner, and let another one succeed it: `credential rotate`";
                    problems.registry(
                        format!("partners.{partner}.credentials.{}.ends", credential.id),
                        reason,
                        Some(fix),
                    );
                }
            }
        }
        if problems.has_errors() { Err(problems) } else { Ok(()) }
    }

    /// Whether there are API keys at all, and what the config says of how long they may be good.
    fn api_keys_within_limits(&self, changes: &[Change], snapshot: &Snapshot) -> Result<(), Problems> {
        let settings = snapshot.tokens.as_ref().and_then(|tokens| tokens.settings.api_keys);
        let mut problems = Problems::new();
        for change in changes {
            let Change::Partner(partner, Some(record)) = change else { continue };
            let old = snapshot.registry.partner(partner);
            for key in record.api_keys.iter().filter(|key| key.revoked.is_none()) {
                let before = old.and_then(|old| find_api_key(old, &key.id));
                if before.is_some_and(|before| before.ends == key.ends) {
                    continue;
                }
                let at = |name: &str| format!("partners.{partner}.api_keys.{}{name}", key.id);
                let Some(settings) = settings else {
                    problems.registry(at(""), "nobody has API keys here", Some("add `tokens.api_keys` to the config"));
                    continue;
                };
                if key.ends > self.clock.now().saturating_add(settings.longest) {
                    let days = settings.longest.as_secs() / 86_400;
                    let reason = format!("is more than {days} days ahead (`tokens.api_keys.max_lifetime`)");
                    problems.registry(at(".ends"), reason, Some("let another key take its place then"));
                }
                if before.is_none() && key.ends <= self.clock.now() {
                    problems.registry(at(".ends"), "is over already", None);
                }
            }
        }
        if problems.has_errors() { Err(problems) } else { Ok(()) }
    }

    /// Whether certificates and keys that are registered were not seen of, or given to, another partner.
    async fn nobody_else_s(
        &self,
        changes: &[Change],
        registry: &Registry,
    ) -> Result<Result<(), Problems>, ChangeError> {
        let mut problems = Problems::new();
        for change in changes {
            let Change::Partner(partner, Some(record)) = change else { continue };
            let old = registry.partner(partner);
            for credential in &record.credentials {
                let before = old.and_then(|old| find_credential(old, &credential.id));
                let Some((kind, hash)) = credential.matching.bytes_of_client() else { continue };
                if before.is_some_and(|before| before.matching == credential.matching) {
                    continue;
                }
                let of = self.partners_of(registry, &hash).await?;
                let other = of.iter().find(|other| *other != partner);
                if let Some(other) = other {
                    let reason =
                        format!("this {} was seen of `{other}`: one client cannot be two partners", kind.as_str());
                    let key = format!("partners.{partner}.credentials.{}.match", credential.id);
                    problems.registry(key, reason, Some("have the partner make a key of its own"));
                }
            }
        }
        Ok(if problems.has_errors() { Err(problems) } else { Ok(()) })
    }

    /// What a config says of whatever would permit more.
    fn within_limits(
        &self,
        waiting: &[Item],
        registry: &Registry,
        next: &Registry,
        config: &ApprovalConfig,
        cause: &Cause,
    ) -> Result<(), Problems> {
        let mut problems = Problems::new();
        if config.require_ticket && !waiting.is_empty() && cause.ticket.as_deref().is_none_or(|t| t.trim().is_empty()) {
            let reason = "this would permit more than there is, and `approval.require_ticket` asks for a ticket";
            problems.registry("ticket", reason, Some("name it with --ticket"));
        }
        for item in waiting {
            let Item::Grant { partner, id, after: Some(grant), .. } = item else { continue };
            let Some(ends) = grant.period.ends else { continue };
            let key = format!("partners.{partner}.grants.{id}.ends");
            let before = registry.partner(partner).and_then(|r| find_grant(r, id.as_str()));
            if before.is_some_and(|g| g.revoked.is_some()) {
                let reason = "is revoked, and never comes back";
                problems.registry(format!("partners.{partner}.grants.{id}"), reason, Some("ask for another grant"));
            }
            if before.is_some_and(|g| g.emergency.is_some()) {
                let reason = "an emergency grant is never extended";
                problems.registry(format!("partners.{partner}.grants.{id}"), reason, Some("ask for a grant"));
            }
            let begins = grant.period.starts.unwrap_or(self.clock.now()).max(self.clock.now());
            if let Some(most) = config.max_grant.filter(|most| ends > begins.saturating_add(*most)) {
                let days = most.as_secs() / 86_400;
                let reason = format!("is more than {days} days ahead (`approval.max_grant_days`)");
                problems.registry(key.clone(), reason, Some("let it end sooner, and extend it then"));
            }
            if let Some(first) = grant.emergency.as_ref().and(registry.partner(partner)).and_then(|r| unreviewed(r)) {
                if ends > first.saturating_add(MAX_EMERGENCY) {
                    let reason = format!(
                        "`{partner}` has an emergency grant since {first} that nobody has reviewed: together they last at \
                         most {} h",
                        MAX_EMERGENCY.as_secs() / 3_600
                    );
                    problems.registry(key.clone(), reason, Some("have another operator review it first: grant review"));
                }
            }
            let engagement = next.partner(partner).and_then(|record| record.partner.engaged().ends);
            if let Some(end) = engagement.filter(|end| ends > *end) {
                let reason = format!("is after the engagement of `{partner}` has ended ({end})");
                problems.registry(key, reason, Some("let it end with the engagement at the latest"));
            }
        }
        if problems.has_errors() { Err(problems) } else { Ok(()) }
    }

    /// The parts that do not wait already. Each has a line.
    fn not_asked_yet(
        &self,
        waiting: Vec<Item>,
        open: &[Approval],
        registry: &Registry,
        lines: &mut Vec<PlanLine>,
    ) -> Vec<Item> {
        let operators = self.operators();
        let present = Present { registry, operators: &operators };
        let mut fresh = Vec::new();
        for item in waiting {
            let widens = item.widens(present);
            let why = if widens.is_empty() { "goes with the rest".to_owned() } else { widens.join("; ") };
            let known = open.iter().find(|approval| approval.items.contains(&item));
            let (action, detail) = match known {
                Some(approval) => ("waits", format!("{}: {why}", approval.id)),
                None => ("request", why),
            };
            lines.push(PlanLine { action: action.into(), noun: item.noun().into(), id: item.id().into(), detail });
            if known.is_none() {
                fresh.push(item);
            }
        }
        fresh
    }

    pub(super) fn asked(
        &self,
        items: Vec<Item>,
        config: &ApprovalConfig,
        cause: &Cause,
    ) -> Result<Option<Approval>, Problems> {
        if items.is_empty() {
            return Ok(None);
        }
        let (requester, reason, ticket) = (&cause.actor.name, cause.reason.clone(), cause.ticket.clone());
        match Approval::request(requester, items, reason, ticket, self.clock.now(), config.lapse_after) {
            Ok(approval) => Ok(Some(approval)),
            Err(reason) => {
                let mut problems = Problems::new();
                problems.registry("approval", reason, None);
                Err(problems)
            }
        }
    }

    pub(super) fn ready(&self, live: &Live, changes: Vec<Change>) -> Result<Option<Ready>, Problems> {
        if changes.is_empty() {
            return Ok(None);
        }
        let registry = &live.snapshot.registry;
        let next = registry.with(registry.revision() + 1, &changes).map_err(inconsistent)?;
        let (snapshot, outside) = self.prepare(live, &changes, &next)?;
        Ok(Some(Ready { changes, snapshot, outside }))
    }

    /// Database first, then requests. The changes are those of `ready`.
    pub(super) async fn commit_and_publish(
        &self,
        live: &Live,
        ready: Option<Ready>,
        commit: Commit<'_>,
        cause: &Cause,
    ) -> Result<u64, ChangeError> {
        let revision = live.snapshot.registry.revision();
        let changes = ready.as_ref().map(|ready| ready.changes.as_slice()).unwrap_or_default();
        let Commit { operators, approvals, .. } = commit;
        let next = operators
            .iter()
            .try_fold(Operators::clone(&self.operators()), |all, one| all.changed(one.clone(), self.clock.now()));
        let next = next.map_err(objection)?;
        let commit = Commit { changes, ..commit };
        if cause.dry_run {
            return Err(ChangeError::DryRun(would(&live.snapshot.registry, &commit)));
        }
        let committed = self.store.commit_all(revision, commit, cause, self.clock.now()).await;
        let revision = committed.inspect_err(|_| self.metrics.registry_ok.set(0))?;
        let committed = Instant::now();
        if !operators.is_empty() {
            self.operated(next);
        }
        if let Some(Ready { changes, snapshot, outside }) = ready {
            self.publish(snapshot, None, concerned(&changes), committed).await?;
            if let Some(outside) = outside {
                self.taken(outside, Some(&live.snapshot.material)).await;
            }
            tracing::info!(revision, changes = changes.len(), "the registry has changed");
        }
        self.metrics.registry_ok.set(1);
        self.committed.notify_one();
        if !approvals.is_empty() {
            self.waiting().await?;
        }
        Ok(revision)
    }
}
