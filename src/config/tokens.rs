//! `tokens`: what the gateway signs itself, whether it issues access tokens, and what API keys are for.

use super::files::{At, Reader};
use crate::document::{Problems, Section};
use crate::jose::Algorithm;
use crate::token::{ASSERTION_LIFETIME, ApiKeySettings, KeyUse, Rotation, Server, TokenSettings, check_secret};

pub(super) fn read(
    section: Section<'_>,
    reader: &mut Reader,
    problems: &mut Problems,
) -> Option<Option<TokenSettings>> {
    if section.own_node().is_none() {
        return Some(None);
    }
    let at = |key: &str| section.node(key).map(|node| At { node, key: format!("tokens.{key}") });
    let (issuer_at, issuer) = (at("issuer")?, section.text("issuer")?);
    // No path, so that the one of its metadata is the same for everybody (RFC 8414 section 3).
    let server = match Server::of(issuer) {
        Ok(server) => server,
        Err(reason) => {
            problems.push(issuer_at.error(reason, Some("write it like https://api.partners.example.com")));
            return None;
        }
    };
    let secret_at = at("secret")?;
    let (_, secret) = reader.secret(&secret_at, section.text("secret")?, problems)?;
    if let Err(reason) = check_secret(&secret) {
        let fix = "make one with `openssl rand -base64 32`";
        problems.push(secret_at.error(reason, Some(fix)));
        return None;
    }
    let (every, ahead) = (section.duration("rotate_every"), section.duration("tell_ahead"));
    if ahead >= every {
        let node = section.node("tell_ahead").or_else(|| section.own_node())?;
        let reason = "a key is told before it signs for a shorter time than it signs";
        let fix = "make `tell_ahead` shorter than `rotate_every`";
        problems.push(node.error("tokens.tell_ahead", reason, Some(fix)));
        return None;
    }
    let access = section.section("authorization_server");
    let lifetime = section.has("authorization_server").then(|| access.duration("token_lifetime"));
    let keys = section.section("api_keys");
    let api_keys = match section.has("api_keys") {
        false => None,
        true => {
            let accepted_in = KeyUse::parse(keys.text("accepted_in")?)?;
            if let (KeyUse::Exchange, None) = (accepted_in, lifetime) {
                let node = keys.node("accepted_in").or_else(|| keys.own_node())?;
                let reason = "an API key would be for nothing: it is only exchanged, and no access tokens are given";
                let fix = "add `tokens.authorization_server`, or accept keys in `header`";
                problems.push(node.error("tokens.api_keys.accepted_in", reason, Some(fix)));
                return None;
            }
            Some(ApiKeySettings { accepted_in, longest: keys.duration("max_lifetime") })
        }
    };
    let longest = lifetime.unwrap_or_default().max(ASSERTION_LIFETIME);
    Some(Some(TokenSettings {
        server,
        lifetime,
        api_keys,
        algorithm: Algorithm::parse(section.text("algorithm")?)?,
        secret: secret.into(),
        rotation: Rotation { every, ahead, longest },
    }))
}
