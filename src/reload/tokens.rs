//! The keys that tokens are signed with: made when they are due, kept in the database, and withdrawn by operators.
//!
//! In: the config, the clock, what operators want. Out: a key in the database with an event of it, and then a snapshot that
//! signs with it. Must never: sign with a key that the database does not have.

use super::{ChangeError, Publisher, aside, interrupted, not_live, told};
use crate::clock::UnixNanos;
use crate::config::Config;
use crate::decision;
use crate::document::Problems;
use crate::gateway::{Concerns, Live};
use crate::history::{Actor, Cause, Way};
use crate::name::PartnerId;
use crate::partner::Revoked;
use crate::store::{Commit, Store};
use crate::token::{KeyState, RevokedToken, StoredKey, TokenSettings, Tokens};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often it is looked whether the next key is due.
const LOOK: Duration = Duration::from_secs(1);

/// The keys, for operators.
#[derive(Serialize, JsonSchema)]
pub struct KeysState {
    issuer: String,
    /// By the time from which they sign.
    keys: Vec<KeyState>,
}

/// What is wanted of the keys.
pub enum KeyWish {
    /// The next one: now, or once others had time to learn of it.
    Next { at_once: bool },
    /// This one is not to be believed any more.
    Withdraw(String),
}

/// What a config signs with; that of `running` where nothing has changed. Where the database has no key that signs, the
/// first one is made.
pub(super) async fn of(
    config: &Config,
    running: Option<Arc<Tokens>>,
    store: &Store,
    now: UnixNanos,
) -> Result<Option<Arc<Tokens>>, ChangeError> {
    let Some(settings) = &config.tokens else { return Ok(None) };
    if let Some(running) = running.filter(|running| running.settings == *settings) {
        return Ok(Some(running));
    }
    let mut stored = store.token_keys().await?;
    let revoked = store.revoked_tokens(now).await?;
    let mut tokens = opened(settings, stored.clone(), config)?;
    if tokens.ring.signer(now).is_none() {
        let key = made(settings, now, now)?;
        let commit = Commit { token_keys: std::slice::from_ref(&key), ..Commit::default() };
        store.commit_all(store.revision().await?, commit, &gateway("there was no key that signs"), now).await?;
        tracing::info!(key = key.id, "the first signing key");
        stored.push(key);
        tokens = opened(settings, stored, config)?;
    }
    Ok(Some(Arc::new(tokens.with_revoked(revoked, now))))
}

fn made(settings: &TokenSettings, signs_from: UnixNanos, now: UnixNanos) -> Result<StoredKey, ChangeError> {
    let key = StoredKey::generate(settings.algorithm, &settings.secret, (now, signs_from));
    key.map_err(|reason| wrong(&reason, None).into())
}

impl Publisher {
    /// Makes the next key whenever it is due.
    pub async fn watch_keys(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = told(&mut stop) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let Some(live) = self.live.load_full() else { continue };
            let (tokens, now) = (live.snapshot.tokens.as_ref(), self.clock.now());
            let since = tokens.and_then(|tokens| tokens.ring.signs_since(now));
            self.metrics.token_key_since.set(since.map_or(0.0, |since| since.seconds() as f64));
            let Some(tokens) = tokens else { continue };
            if tokens.ring.due(&tokens.settings.rotation, now).is_none() {
                continue;
            }
            let this = self.clone();
            let made = aside(async move { this.next_key_now(None, &gateway("the next key is due")).await }).await;
            match made {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => e.log(),
                Err(e) => tracing::error!(error = %e, "the signing keys were not looked at"),
            }
        }
    }

    /// The keys as they are.
    pub fn keys(&self) -> Option<KeysState> {
        self.live.load().as_ref().and_then(|live| live.snapshot.tokens.as_ref().map(|tokens| state(tokens, self.now())))
    }

    /// The public keys as others verify with them.
    pub fn jwks(&self) -> Option<Value> {
        self.live.load().as_ref().and_then(|live| Some(live.snapshot.tokens.as_ref()?.ring.jwks(self.now())))
    }

    /// Does with the keys what an operator wants.
    ///
    /// # Errors
    /// There are none, or not this one; nothing was changed.
    pub async fn change_keys(self: &Arc<Self>, wish: KeyWish, cause: Cause) -> Result<KeysState, ChangeError> {
        let this = self.clone();
        let done = aside(async move {
            match wish {
                KeyWish::Next { at_once } => this.next_key_now(Some(at_once), &cause).await,
                KeyWish::Withdraw(id) => this.withdraw_key_now(&id, &cause).await,
            }
        });
        done.await.unwrap_or_else(|e| Err(interrupted("signing keys", &e)))
    }

    /// `wanted` where an operator wants it, and whether at once; otherwise only where it is due.
    async fn next_key_now(&self, wanted: Option<bool>, cause: &Cause) -> Result<KeysState, ChangeError> {
        let running = self.state.lock().await;
        self.catch_up(&running).await?;
        let (live, tokens) = self.signing()?;
        let (now, rotation) = (self.clock.now(), &tokens.settings.rotation);
        let due = match wanted {
            Some(true) => Some(now),
            Some(false) => Some(now.saturating_add(rotation.ahead)),
            None => tokens.ring.due(rotation, now),
        };
        let Some(signs_from) = due else { return Ok(state(&tokens, now)) };
        let key = made(&tokens.settings, signs_from, now)?;
        tracing::info!(key = key.id, signs_from = %key.signs_from, "a new signing key");
        self.sign_with(&live, &tokens, vec![key], cause, &running).await
    }

    async fn withdraw_key_now(&self, id: &str, cause: &Cause) -> Result<KeysState, ChangeError> {
        let running = self.state.lock().await;
        self.catch_up(&running).await?;
        let (live, tokens) = self.signing()?;
        let now = self.clock.now();
        let Some(found) = tokens.stored.iter().find(|key| key.id == id) else {
            return Err(
                wrong(&format!("there is no signing key `{id}`"), Some("`partnergate token keys` shows them")).into()
            );
        };
        if found.withdrawn.is_some() {
            return Ok(state(&tokens, now));
        }
        let (reason, author) = (cause.reason.clone().unwrap_or_default(), cause.actor.name.clone());
        let mut keys =
            vec![StoredKey { withdrawn: Some(Box::new(Revoked { reason, author, at: now })), ..found.clone() }];
        // What signs from now on is none that was made before: who has one key may have had the others.
        if tokens.ring.signer(now).is_some_and(|(_, signs)| signs == id) {
            keys.push(made(&tokens.settings, now, now)?);
        }
        tracing::warn!(key = id, author = cause.actor.name, "the signing key is withdrawn");
        self.sign_with(&live, &tokens, keys, cause, &running).await
    }

    /// Revokes an access token of a partner, which wants it so.
    ///
    /// # Errors
    /// It could not be written; it is as good as before.
    pub async fn revoke_token(self: &Arc<Self>, token: RevokedToken, source: SocketAddr) -> Result<(), ChangeError> {
        // Whoever asks for many at once waits in nobody's way: operators change things under the same lock.
        if !self.revoking.enter(&token.partner) {
            return Err(busy().into());
        }
        let this = self.clone();
        let done = aside(async move {
            // Also where the caller has gone away, it is over only then.
            let _place = Place(&this.revoking, token.partner.clone());
            this.revoke_token_now(token, source).await
        });
        let done = done.await;
        done.unwrap_or_else(|e| Err(interrupted("access tokens", &e)))
    }

    async fn revoke_token_now(&self, token: RevokedToken, source: SocketAddr) -> Result<(), ChangeError> {
        let running = self.state.lock().await;
        self.catch_up(&running).await?;
        let (live, tokens) = self.signing()?;
        let (partner, now) = (token.partner.clone(), self.clock.now());
        let access = tokens.access.as_ref();
        if access.is_some_and(|access| access.is_revoked(&token.id)) {
            return Ok(());
        }
        if access.is_some_and(|access| access.revoked_of(&partner, now) >= decision::MOST_REVOKED) {
            return Err(busy().into());
        }
        let changed = [token];
        let next = tokens.with_revoked(changed.iter().cloned(), now);
        let snapshot = live.snapshot.with_tokens(Some(Arc::new(next)), now)?;
        let actor = Actor { address: Some(source.to_string()), ..Actor::user(partner.as_str(), None, Way::Partner) };
        let cause = Cause::new(actor, Some("its client has revoked it".into()), None);
        let commit = Commit { revoked_tokens: &changed, ..Commit::default() };
        self.commit_and_publish(&live, None, commit, &cause).await?;
        self.publish(snapshot, None, Concerns::Partners(vec![partner]), Instant::now()).await?;
        Ok(())
    }

    fn signing(&self) -> Result<(Arc<Live>, Arc<Tokens>), ChangeError> {
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let Some(tokens) = live.snapshot.tokens.clone() else {
            return Err(wrong("the gateway signs nothing", Some("add `tokens` to the config")).into());
        };
        Ok((live, tokens))
    }

    /// Database first, then requests.
    async fn sign_with(
        &self,
        live: &Arc<Live>,
        tokens: &Tokens,
        changed: Vec<StoredKey>,
        cause: &Cause,
        running: &Config,
    ) -> Result<KeysState, ChangeError> {
        let mut stored = tokens.stored.clone();
        stored.retain(|key| changed.iter().all(|new| new.id != key.id));
        stored.extend(changed.iter().cloned());
        let revoked = tokens.access.iter().flat_map(|access| access.revoked()).cloned();
        let next = opened(&tokens.settings, stored, running)?.with_revoked(revoked, self.clock.now());
        let next = Arc::new(next);
        let snapshot = live.snapshot.with_tokens(Some(next.clone()), self.clock.now())?;
        let commit = Commit { token_keys: &changed, ..Commit::default() };
        self.commit_and_publish(live, None, commit, cause).await?;
        // Nobody has lost a right by it.
        self.publish(snapshot, None, Concerns::Partners(Vec::new()), Instant::now()).await?;
        Ok(state(&next, self.clock.now()))
    }
}

fn busy() -> Problems {
    wrong("too many tokens of this partner are revoked, or are just being revoked", Some("try again later"))
}

/// Whose tokens are just being revoked.
#[derive(Default)]
pub(super) struct Revoking(Mutex<BTreeSet<PartnerId>>);

/// A place among them, as long as it lasts.
struct Place<'a>(&'a Revoking, PartnerId);

impl Revoking {
    /// One for each partner, and so few altogether that a change by an operator does not wait long behind them.
    fn enter(&self, partner: &PartnerId) -> bool {
        const MOST: usize = 4;
        let mut all = self.all();
        all.len() < MOST && all.insert(partner.clone())
    }

    fn all(&self) -> MutexGuard<'_, BTreeSet<PartnerId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.all().remove(&self.1);
    }
}

fn opened(settings: &TokenSettings, stored: Vec<StoredKey>, config: &Config) -> Result<Tokens, Problems> {
    Tokens::new(settings.clone(), stored, config.environment.clone()).map_err(|reason| keys_not_opened(&reason))
}

/// Why the keys of the database cannot be used.
pub fn keys_not_opened(reason: &str) -> Problems {
    wrong(reason, Some("set `tokens.secret` to what it was when the key was made"))
}

fn state(tokens: &Tokens, now: UnixNanos) -> KeysState {
    KeysState { issuer: tokens.settings.server.issuer.to_string(), keys: tokens.ring.states(&tokens.stored, now) }
}

fn gateway(why: &str) -> Cause {
    Cause::new(Actor::user("partnergate", None, Way::Gateway), Some(why.to_owned()), None)
}

fn wrong(reason: &str, fix: Option<&str>) -> Problems {
    let mut problems = Problems::new();
    problems.file("tokens", reason, fix);
    problems
}
