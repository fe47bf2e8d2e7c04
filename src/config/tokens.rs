//! `tokens`: what the gateway signs itself.

use super::files::{At, Reader};
use crate::document::{Problems, Section};
use crate::jose::Algorithm;
use crate::request::Host;
use crate::token::{ASSERTION_LIFETIME, Rotation, TokenSettings, check_secret};

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
    // A name and nothing else, so that the path of its metadata is the same for everybody (RFC 8414 section 3).
    let host = issuer.strip_prefix("https://").filter(|host| Host::parse(host).is_ok_and(|h| h.as_str() == *host));
    if host.is_none() {
        let reason = format!("`{issuer}` is not `https://` and a host name in lower case, without anything behind it");
        problems.push(issuer_at.error(reason, Some("write it like https://api.partners.example.com")));
        return None;
    }
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
    Some(Some(TokenSettings {
        issuer: issuer.into(),
        algorithm: Algorithm::parse(section.text("algorithm")?)?,
        secret: secret.into(),
        rotation: Rotation { every, ahead, longest: ASSERTION_LIFETIME },
    }))
}
