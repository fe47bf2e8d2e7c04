//! API keys of partners: made, succeeded, listed. What is the same for every credential is in `credential`.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::client::{FIND, Gateway, ask};
use super::edit::{Asking, edit, id, planned};
use super::keeper::Keeper;
use super::{Because, Exit, Form, complain, say};
use crate::admin::{ApiKeyCall, FindKeyCall, KeyRotateCall};
use crate::disk;
use crate::identity::{Certificate, MAX_REQUEST};
use http::Method;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The certificate that a key is good with.
#[derive(Debug, clap::Args)]
pub(super) struct Bound {
    /// Of an API key: the partner's certificate, in PEM; the key is good with it alone.
    #[arg(long, value_name = "FILE", conflicts_with = "public_key_of")]
    certificate: Option<PathBuf>,
    /// Of an API key: a certificate, in PEM; the key is good with every one that has the same public key.
    #[arg(long, value_name = "FILE")]
    public_key_of: Option<PathBuf>,
}

/// What an API key is for.
#[derive(Debug, clap::Args)]
pub(super) struct Purpose {
    /// Of an API key: a grant that it may be used by. May be given several times.
    #[arg(long = "grant", value_name = "ID", requires = "api_key")]
    grants: Vec<String>,
    /// Of an API key: an operation that it is for; all that its grants cover when absent.
    #[arg(long = "operation", value_name = "ID", requires = "api_key")]
    operations: Vec<String>,
    /// Of an API key: a network that it may come from; where its grants allow it when absent.
    #[arg(long = "network", value_name = "NAME", requires = "api_key")]
    networks: Vec<String>,
    /// Of an API key: who answers for it on our side; who answers for its grant when absent.
    #[arg(long, requires = "api_key")]
    owner: Option<String>,
}

impl Bound {
    fn read(&self) -> Result<Option<Map<String, Value>>, Exit> {
        let (file, option, whole) = match (&self.certificate, &self.public_key_of) {
            (Some(file), _) => (file, "--certificate", true),
            (None, Some(file)) => (file, "--public-key-of", false),
            (None, None) => return Ok(None),
        };
        let wrong = |reason: String| {
            complain(&format!("{option}: `{}` {reason}", file.display()));
            Exit::Problems
        };
        let text = disk::read(file, MAX_REQUEST * 2).map_err(|reason| wrong(reason.to_string()))?;
        let der = CertificateDer::from_pem_slice(&text).map_err(|_| wrong("contains no certificate in PEM".into()))?;
        let facts = Certificate::from_der(&der).map_err(|reason| wrong(reason.to_string()))?;
        let (key, hash) =
            if whole { ("fingerprint_sha256", facts.fingerprint) } else { ("spki_sha256", facts.spki_sha256) };
        Ok(Some(Map::from_iter([(key.to_owned(), json!(hash))])))
    }
}

fn path(partner: &str, key: &str) -> Result<String, Exit> {
    Ok(format!("/v1/partners/{}/api-keys/{}", id("partner", partner)?, id("API key", key)?))
}

pub(super) async fn add(
    gateway: &Gateway,
    (partner, key): (&str, &str),
    (purpose, bound): (Purpose, &Bound),
    (ends, file): (Option<String>, Option<&Path>),
    asking: Asking,
) -> Result<Exit, Exit> {
    let path = path(partner, key)?;
    let Asking { because: Because { reason, ticket }, form } = asking;
    let Some(bound_to) = bound.read()? else {
        complain("an API key is bound to a certificate: name it with --certificate, or --public-key-of");
        return Err(Exit::Problems);
    };
    if purpose.grants.is_empty() {
        complain("an API key is for grants of the partner: name one with --grant");
        return Err(Exit::Problems);
    }
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let call = json!(ApiKeyCall {
        grants: purpose.grants,
        operations: some(purpose.operations),
        networks: some(purpose.networks),
        bound_to,
        owner: purpose.owner,
        ends,
        dry_run: false,
        reason,
        ticket,
    });
    made(gateway, Method::PUT, &path, &call, file, form).await
}

/// What a rotation says besides which key takes the place of which.
pub(super) struct Rotation<'a> {
    pub bound: &'a Bound,
    pub ends: Option<String>,
    pub overlap: Option<String>,
    pub file: Option<&'a Path>,
}

pub(super) async fn rotate(
    gateway: &Gateway,
    (partner, key, successor): (&str, &str, String),
    Rotation { bound, ends, overlap, file }: Rotation<'_>,
    asking: Asking,
) -> Result<Exit, Exit> {
    let path = format!("{}/rotate", path(partner, key)?);
    let Asking { because: Because { reason, ticket }, form } = asking;
    let bound_to = bound.read()?;
    let call = json!(KeyRotateCall { successor, bound_to, ends, overlap, dry_run: false, reason, ticket });
    made(gateway, Method::POST, &path, &call, file, form).await
}

/// Lets a key that there is take the place of another one, or lets that stay after all.
pub(super) async fn retire(
    gateway: &Gateway,
    (partner, key): (&str, &str),
    successor: Option<String>,
    overlap: Option<String>,
    asking: Asking,
) -> Result<Exit, Exit> {
    let mut retiring = json!({"successor": successor});
    if let (Some(object), Some(overlap)) = (retiring.as_object_mut(), overlap) {
        object.insert("overlap".into(), overlap.into());
    }
    let set = Map::from_iter([("retiring".to_owned(), successor.map_or(Value::Null, |_| retiring))]);
    Ok(edit(gateway, Method::PATCH, &path(partner, key)?, set, None, asking).await)
}

async fn made(
    gateway: &Gateway,
    method: Method,
    path: &str,
    call: &Value,
    file: Option<&Path>,
    form: Form,
) -> Result<Exit, Exit> {
    let keeper = Keeper::new(file)?;
    let mut answer = ask(gateway, method, path, Some(call)).await?;
    let kept = keeper.keep("api_key", &mut answer);
    let shown = form.show(Ok(answer), |answer| {
        planned(answer);
        if let Some(file) = answer["api_key_file"].as_str() {
            say(&format!("the key is in {file}, and nowhere else"));
        }
        if let Some(key) = answer["api_key"].as_str() {
            say(key);
            say("keep it now: it is shown this once");
        }
    });
    Ok(kept.err().unwrap_or(shown))
}

/// Whose key it is, which somebody has found somewhere.
pub(super) async fn find(gateway: &Gateway, file: Option<&Path>, form: Form) -> Result<Exit, Exit> {
    let api_key = match file {
        Some(file) => disk::read(file, MAX_REQUEST).map(|text| String::from_utf8_lossy(&text).into_owned()),
        None => std::io::read_to_string(std::io::stdin().lock().take(4096)).map_err(|e| disk::plain(&e)),
    };
    let api_key = api_key.map_err(|reason| {
        complain(&format!("the key cannot be read: {reason}"));
        Exit::Problems
    })?;
    let answer = ask(gateway, Method::POST, FIND, Some(&json!(FindKeyCall { api_key }))).await;
    Ok(form.show(answer, |answer| {
        let [id, partner, state] =
            ["id", "partner", "state"].map(|name| answer[name].as_str().unwrap_or_default().to_owned());
        say(&format!(
            "`{id}` of `{partner}`, which is {state}: partnergate credential revoke {partner} {id} --reason …"
        ));
    }))
}

/// The keys of a partner, or of all, behind its credentials.
pub(super) fn list(answer: &Value) {
    let keys = answer["api_keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    if keys.is_empty() {
        return;
    }
    say("");
    let row = |[id, partner, state, grants, then]: [&str; 5]| {
        say(format!("{id:<24} {partner:<16} {state:<9} {grants:<34} {then}").trim_end());
    };
    row(["API KEY", "PARTNER", "STATE", "GRANTS", "THEN (UTC)"]);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let names = |v: &Value| v.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
    for key in keys {
        let then = match key["successor"].as_str() {
            _ if key["state"].as_str() == Some("revoked") => text(&key["revoked"]["reason"]),
            Some(successor) => format!("{successor} succeeds it, from {} on", text(&key["retires"])),
            None => format!("ends {}", text(&key["ends"])),
        };
        let [id, partner, state] = ["id", "partner", "state"].map(|name| text(&key[name]));
        row([&id, &partner, &state, &names(&key["grants"]), &then]);
        for (kind, hash) in key["bound_to"].as_object().into_iter().flatten() {
            say(&format!("  bound to     {kind} {}", text(hash)));
        }
        for (name, label) in [("operations", "only for"), ("networks", "only from")] {
            if key[name].is_array() {
                say(&format!("  {label:<12} {}", names(&key[name])));
            }
        }
        for used in key["usage"].as_array().into_iter().flatten() {
            let [network, first, last] = ["network", "first", "last"].map(|name| text(&used[name]));
            say(&format!("  used         {} times from {network}, first {first}, last {last}", used["count"]));
        }
    }
}
