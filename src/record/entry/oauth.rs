//! What records say of access tokens and API keys: of those that requests come with, and of tokens that were issued and
//! revoked. None holds a token or a key itself.

use crate::decision::Granted;
use crate::partner::ApiKey;
use crate::reason::Reason;
use crate::token::{AccessToken, OauthEndpoint, OauthError, RevokedToken};

/// The authorization server's part in a request.
pub struct OauthEntry<'a> {
    pub endpoint: OauthEndpoint,
    pub issued: Option<&'a Granted>,
    pub revoked: Option<&'a RevokedToken>,
}

#[derive(serde::Serialize)]
pub(super) struct OauthLine<'a> {
    endpoint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued: Option<IssuedLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<&'a str>,
}

/// No part of it is a secret: the token itself is not among it.
#[derive(serde::Serialize)]
struct IssuedLine<'a> {
    id: &'a str,
    audience: &'a str,
    scope: Vec<&'a str>,
    grants: Vec<&'a str>,
    expires: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
}

impl<'a> OauthLine<'a> {
    pub(super) fn of(entry: &'a OauthEntry<'a>, reason: Option<&Reason>) -> Self {
        OauthLine {
            endpoint: entry.endpoint.name(),
            error: reason.map(|reason| OauthError::of(reason).as_str()),
            issued: entry.issued.map(|granted| IssuedLine {
                id: &granted.token.id,
                audience: granted.upstream.as_str(),
                scope: granted.scope.split(' ').collect(),
                grants: granted.grants.iter().map(AsRef::as_ref).collect(),
                expires: granted.token.expires.to_string(),
                from: granted.from.as_deref(),
            }),
            revoked: entry.revoked.map(|token| token.id.as_str()),
        }
    }
}

/// No part of it is a secret: the hash is not among it either.
#[derive(serde::Serialize)]
pub(super) struct Key<'a> {
    id: &'a str,
    owner: &'a str,
    grants: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    networks: Option<Vec<&'a str>>,
    ends: String,
}

impl<'a> Key<'a> {
    pub(super) fn of(key: &'a ApiKey) -> Self {
        Key {
            id: key.id.as_str(),
            owner: &key.owner,
            grants: key.grants.iter().map(AsRef::as_ref).collect(),
            operations: key.operations.as_ref().map(|all| all.iter().map(AsRef::as_ref).collect()),
            networks: key.networks.as_ref().map(|all| all.iter().map(|name| name.as_str()).collect()),
            ends: key.ends.to_string(),
        }
    }
}

/// No part of it is a secret: the signature is not among it.
#[derive(serde::Serialize)]
pub(super) struct Token<'a> {
    issuer: &'a str,
    subject: &'a str,
    audience: &'a str,
    scope: Vec<&'a str>,
    grants: Vec<&'a str>,
    id: &'a str,
    issued: String,
    expires: String,
}

impl<'a> Token<'a> {
    pub(super) fn of(token: &'a AccessToken) -> Self {
        Token {
            issuer: &token.issuer,
            subject: token.partner.as_str(),
            audience: token.upstream.as_str(),
            scope: token.scope.iter().map(AsRef::as_ref).collect(),
            grants: token.grants.iter().map(AsRef::as_ref).collect(),
            id: &token.id,
            issued: token.issued.to_string(),
            expires: token.expires.to_string(),
        }
    }
}
