//! The access token that a request comes with. It narrows what the certificate may do, and never stands in its place.

use super::{Refused, Situation};
use crate::clock::UnixNanos;
use crate::identity::Peer;
use crate::partner::PartnerRecord;
use crate::reason::Reason;
use crate::request::{Brought, RequestFacts};
use crate::route::TokenUse;
use crate::snapshot::Snapshot;
use crate::token::AccessToken;
use std::sync::Arc;

/// As it may not come (RFC 6750 section 2.3): in the URL it has leaked.
const IN_QUERY: &str = "access_token";

/// Servers behind may read a name in any case, and `.` as `_`.
fn is_in_query(name: &str) -> bool {
    let plain = name.bytes().map(|c| if c == b'.' { b'_' } else { c.to_ascii_lowercase() });
    name.len() == IN_QUERY.len() && plain.eq(IN_QUERY.bytes())
}

/// The token, where there is one and it is good for this partner with this certificate; without a peer, with whichever.
pub(super) fn token_of(
    snapshot: &Snapshot,
    record: &PartnerRecord,
    peer: Option<&Peer>,
    (request, situation): (&RequestFacts, &Situation<'_>),
    now: UnixNanos,
) -> Result<Option<Arc<AccessToken>>, Refused> {
    let Some(access) = snapshot.tokens.as_ref().and_then(|tokens| tokens.access.as_ref()) else { return Ok(None) };
    let route = situation.route.route();
    let wanted = route.map_or(TokenUse::Accepted, |route| route.token);
    if wanted == TokenUse::Ignored {
        return Ok(None);
    }
    let refuse = |reason: Reason, detail: String| Err((vec![reason], Some(detail)));
    if request.canonical.query_pairs().any(|(name, _)| is_in_query(name)) {
        return refuse(Reason::TokenAmbiguous, format!("`{IN_QUERY}` is in the query"));
    }
    let text = match &request.bearer {
        Brought::Text(text) => text,
        Brought::Unclear(why) => return refuse(Reason::TokenAmbiguous, (*why).to_owned()),
        Brought::None if wanted == TokenUse::Required => return Err((vec![Reason::TokenMissing], None)),
        Brought::None => return Ok(None),
    };
    let token = access.verified(text, now).map_err(|(reason, detail)| (vec![reason], Some(detail.to_owned())))?;
    if token.partner != record.partner.id {
        return refuse(Reason::TokenWrongPartner, format!("it is `{}` of `{}`", token.id, token.partner));
    }
    if let Some(peer) = peer.filter(|peer| peer.leaf.fingerprint != token.certificate) {
        let (is, came) = (token.certificate, peer.leaf.fingerprint);
        return refuse(
            Reason::TokenWrongCertificate,
            format!("it is `{}`, bound to {is}, and came with {came}", token.id),
        );
    }
    match route {
        Some(route) if route.upstream != token.upstream => {
            let detail =
                format!("it is `{}` for `{}`, and the route's is `{}`", token.id, token.upstream, route.upstream);
            refuse(Reason::TokenWrongAudience, detail)
        }
        _ => Ok(Some(token)),
    }
}
