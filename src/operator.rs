//! Those who operate the gateway: who they are, how they show it, and what they may do.
//!
//! In: what somebody shows: a user of this machine, a token, a certificate. Out: one operator, or why not; whether a
//! role permits an act; what of a change of operators is legal now. Must never: do I/O; keep a token, only its hash; let
//! two operators be shown by the same thing.

use crate::clock::UnixNanos;
use crate::identity::{Certificate, Fingerprint, Match};
use crate::name::OperatorName;
use ring::rand::{SecureRandom, SystemRandom};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// What every token begins with, so that one that lies about is found by those who look for secrets.
const TOKEN_PREFIX: &str = "pgo_";
/// Bytes of a token's id and of its secret.
const TOKEN_ID: usize = 5;
const TOKEN_SECRET: usize = 32;
/// Tokens of one operator.
const MAX_TOKENS: usize = 16;
/// Operators of one gateway.
const MAX_OPERATORS: usize = 1_000;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// # Errors
            /// A sentence with the words that there are.
            pub fn parse(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|one| one.as_str()).collect();
                    format!("`{}` is none of {}", text.escape_debug(), known.join(", "))
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What an operator is there for. Each role may look but the last.
    Role {
        /// Looks.
        Viewer "viewer",
        /// Asks for changes.
        Requester "requester",
        /// Lets changes of others happen, and says who operates.
        Approver "approver",
        /// Stops and lets go on: suspensions, denials of certificates, reloads.
        Operator "operator",
        /// Looks at the history too.
        Auditor "auditor",
        /// An upstream: asks whether an access token is good, and nothing else.
        Introspector "introspector",
    }
}

/// What a call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Whether an access token is good.
    Introspect,
    /// Registry, status and use.
    Look,
    /// History and audit.
    LookBack,
    /// Changes of partners, networks and anchors.
    Request,
    /// What others have asked for.
    Approve,
    /// Ends of grants and credentials.
    End,
    /// Stops, and what takes them back; emergencies; reloads.
    Operate,
    /// Operators and their tokens.
    Govern,
}

impl Act {
    /// The roles that permit it; one is enough.
    pub fn roles(self) -> &'static [Role] {
        match self {
            Act::Introspect => Role::ALL,
            Act::Look => &[Role::Viewer, Role::Requester, Role::Approver, Role::Operator, Role::Auditor],
            Act::LookBack => &[Role::Requester, Role::Approver, Role::Operator, Role::Auditor],
            Act::Request => &[Role::Requester],
            Act::End => &[Role::Requester, Role::Operator],
            Act::Operate => &[Role::Operator],
            Act::Approve | Act::Govern => &[Role::Approver],
        }
    }
}

/// A person or a pipeline that operates the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    pub name: OperatorName,
    pub roles: BTreeSet<Role>,
    /// The user of this machine, as the kernel names it on the admin socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// A client certificate under the admin listener's CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Match>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

/// A bearer token, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Part of the token, and no secret.
    pub id: String,
    /// Of the secret, which has 256 random bits: nothing slower than this is needed.
    pub sha256: Fingerprint,
    pub created: UnixNanos,
    pub expires: UnixNanos,
}

/// Why an operator is one no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    pub reason: String,
    pub author: String,
    pub at: UnixNanos,
}

impl Operator {
    pub fn may(&self, act: Act) -> bool {
        self.disabled.is_none() && act.roles().iter().any(|role| self.roles.contains(role))
    }

    fn has_a_way_in(&self, now: UnixNanos) -> bool {
        self.uid.is_some() || self.certificate.is_some() || self.tokens.iter().any(|t| now < t.expires)
    }

    /// What it may that `before` may not, or is shown by that does not show `before`.
    pub fn widens(&self, before: Option<&Operator>) -> Vec<String> {
        let roles = self.roles.iter().filter(|role| before.is_none_or(|b| !b.roles.contains(role)));
        let roles: Vec<&str> = roles.map(|role| role.as_str()).collect();
        let mut widens = Vec::new();
        if before.is_none() {
            widens.push(format!("is new, as {}", roles.join(", ")));
        } else if !roles.is_empty() {
            widens.push(format!("becomes {}", roles.join(", ")));
        }
        if before.is_some_and(|b| b.disabled.is_some()) && self.disabled.is_none() {
            widens.push("is let in again".into());
        }
        let tokens = self.tokens.iter().filter(|t| before.is_none_or(|b| b.tokens.iter().all(|o| o.id != t.id)));
        widens.extend(
            tokens.map(|t| format!("is shown by the token {} until {}, which who asks for it holds", t.id, t.expires)),
        );
        if let Some(uid) = self.uid.filter(|uid| before.is_none_or(|b| b.uid != Some(*uid))) {
            widens.push(format!("is shown by the user {uid}"));
        }
        if let Some(m) = self.certificate.as_ref().filter(|m| before.is_none_or(|b| b.certificate.as_ref() != Some(m)))
        {
            widens.push(format!("is shown by a certificate with {}", m.kind().as_str()));
        }
        widens
    }
}

impl Token {
    /// A new token: what is kept of it, and the text that is told once.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate(created: UnixNanos, expires: UnixNanos) -> Result<(Token, String), String> {
        let (mut id, mut secret) = ([0; TOKEN_ID], [0; TOKEN_SECRET]);
        let random = SystemRandom::new();
        random
            .fill(&mut id)
            .and_then(|()| random.fill(&mut secret))
            .map_err(|_| "the system gives no random numbers".to_owned())?;
        let (id, secret) = (hex::encode(id), data_encoding::BASE64URL_NOPAD.encode(&secret));
        let text = format!("{TOKEN_PREFIX}{id}_{secret}");
        Ok((Token { id, sha256: Fingerprint::of(secret.as_bytes()), created, expires }, text))
    }
}

/// Why nobody was recognised. None of it says whether there is such a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrecognised {
    #[error("the token is not good: unknown, revoked or expired")]
    Token,
    #[error("no operator has a certificate like this one")]
    Certificate,
    #[error("the user {0} is no operator: an approver adds one with `partnergate operator add`")]
    User(u32),
    #[error("nothing shows who is calling: send a token, or a client certificate of an operator")]
    Nothing,
    #[error("the operator `{0}` is disabled")]
    Disabled(OperatorName),
}

/// All operators. None can be shown by what shows another.
#[derive(Clone, Debug, Default)]
pub struct Operators {
    by_name: BTreeMap<OperatorName, Arc<Operator>>,
}

impl Operators {
    /// # Errors
    /// Two of them can be shown by the same thing, or there are too many.
    pub fn new(operators: impl IntoIterator<Item = Operator>) -> Result<Self, String> {
        let mut all = Operators::default();
        for operator in operators {
            all = all.with(operator)?;
        }
        Ok(all)
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Operator>> {
        self.by_name.values()
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Operator>> {
        self.by_name.get(name)
    }

    /// Who has this token.
    ///
    /// # Errors
    /// Nobody, or not any more.
    pub fn by_token(&self, shown: &str, now: UnixNanos) -> Result<(&Arc<Operator>, &Token), Unrecognised> {
        let parts = shown.strip_prefix(TOKEN_PREFIX).and_then(|rest| rest.split_once('_'));
        let (id, secret) = parts.ok_or(Unrecognised::Token)?;
        let hash = Fingerprint::of(secret.as_bytes());
        // Digests are compared, and of what is compared with nobody can choose the bytes: time tells nothing.
        let found = self.iter().find_map(|operator| {
            let token = operator.tokens.iter().find(|t| t.id == id && t.sha256 == hash && now < t.expires)?;
            Some((operator, token))
        });
        let (operator, token) = found.ok_or(Unrecognised::Token)?;
        Ok((enabled(operator)?, token))
    }

    /// Who this user of the machine is.
    ///
    /// # Errors
    /// Nobody, or not any more.
    pub fn by_uid(&self, uid: u32) -> Result<&Arc<Operator>, Unrecognised> {
        enabled(self.iter().find(|o| o.uid == Some(uid)).ok_or(Unrecognised::User(uid))?)
    }

    /// Whose certificate this is. Its chain was verified.
    ///
    /// # Errors
    /// Nobody's, or not any more, or of more than one.
    pub fn by_certificate(&self, certificate: &Certificate) -> Result<&Arc<Operator>, Unrecognised> {
        let mut found = self.iter().filter(|o| o.certificate.as_ref().is_some_and(|m| m.is_met_by(certificate)));
        match (found.next(), found.next()) {
            (Some(operator), None) => enabled(operator),
            _ => Err(Unrecognised::Certificate),
        }
    }

    /// With this operator in it, in place of the one of the same name.
    ///
    /// # Errors
    /// What it is shown by shows another one, it has no role, or there are too many.
    pub fn with(&self, operator: Operator) -> Result<Self, String> {
        let name = &operator.name;
        for other in self.iter().filter(|o| o.name != *name) {
            let same = if operator.uid.is_some() && operator.uid == other.uid {
                Some(format!("the user {}", operator.uid.unwrap_or_default()))
            } else if operator.certificate.is_some() && operator.certificate == other.certificate {
                Some("this certificate".to_owned())
            } else {
                operator.tokens.iter().find(|t| other.tokens.iter().any(|o| o.id == t.id)).map(|t| t.id.clone())
            };
            if let Some(same) = same {
                return Err(format!("{same} shows the operator `{}` already: nobody is two operators", other.name));
            }
        }
        if operator.roles.is_empty() {
            return Err(format!("the operator `{name}` has no role"));
        }
        if operator.tokens.len() > MAX_TOKENS {
            return Err(format!("the operator `{name}` has {MAX_TOKENS} tokens already: revoke one first"));
        }
        let mut by_name = self.by_name.clone();
        by_name.insert(name.clone(), Arc::new(operator));
        if by_name.len() > MAX_OPERATORS {
            return Err(format!("there are {MAX_OPERATORS} operators already"));
        }
        Ok(Operators { by_name })
    }

    /// Those who may approve and have a way in.
    pub fn approvers(&self, now: UnixNanos) -> impl Iterator<Item = &Arc<Operator>> {
        self.iter().filter(move |o| o.may(Act::Approve) && o.has_a_way_in(now))
    }

    /// What a change makes of all: somebody who may say who operates must be left.
    ///
    /// # Errors
    /// Nobody would be left, or what [`Operators::with`] says.
    pub fn changed(&self, operator: Operator, now: UnixNanos) -> Result<Self, String> {
        let name = operator.name.clone();
        let next = self.with(operator)?;
        if next.approvers(now).next().is_some() {
            return Ok(next);
        }
        Err(format!(
            "without `{name}` nobody would be left who may approve and say who operates: give another operator the role \
             `approver` first"
        ))
    }
}

fn enabled(operator: &Arc<Operator>) -> Result<&Arc<Operator>, Unrecognised> {
    match &operator.disabled {
        None => Ok(operator),
        Some(_) => Err(Unrecognised::Disabled(operator.name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixNanos = UnixNanos(1_000);

    fn operator(name: &str, roles: &[Role]) -> Operator {
        Operator {
            name: OperatorName::parse(name).unwrap(),
            roles: roles.iter().copied().collect(),
            uid: None,
            certificate: None,
            tokens: Vec::new(),
            disabled: None,
        }
    }

    fn disabled() -> Option<Disabled> {
        Some(Disabled { reason: "left".into(), author: "bob".into(), at: NOW })
    }

    #[test]
    fn each_act_has_its_roles() {
        for (role, acts) in [
            (Role::Viewer, &[Act::Look][..]),
            (Role::Requester, &[Act::Look, Act::LookBack, Act::Request, Act::End]),
            (Role::Approver, &[Act::Look, Act::LookBack, Act::Approve, Act::Govern]),
            (Role::Operator, &[Act::Look, Act::LookBack, Act::End, Act::Operate]),
            (Role::Auditor, &[Act::Look, Act::LookBack]),
        ] {
            for act in [Act::Look, Act::LookBack, Act::Request, Act::Approve, Act::End, Act::Operate, Act::Govern] {
                assert_eq!(operator("a", &[role]).may(act), acts.contains(&act), "{role} {act:?}");
                assert!(!Operator { disabled: disabled(), ..operator("a", &[role]) }.may(act), "{role} {act:?}");
            }
        }
    }

    #[test]
    fn token_shows_its_operator_until_it_expires_or_is_altered() {
        let (token, text) = Token::generate(NOW, UnixNanos(2_000)).unwrap();
        let (_, other) = Token::generate(NOW, UnixNanos(2_000)).unwrap();
        assert_ne!(text, other);
        let alice = Operator { tokens: vec![token.clone()], ..operator("alice", &[Role::Viewer]) };
        assert!(!serde_json::to_string(&alice).unwrap().contains(text.rsplit('_').next().unwrap()));
        let all = Operators::new([alice.clone(), operator("bob", &[Role::Viewer])]).unwrap();
        assert_eq!(all.by_token(&text, NOW).unwrap().0.name.as_str(), "alice");
        assert!(all.by_token(&text, UnixNanos(1_999)).is_ok());
        for (shown, now) in [
            (text.clone(), UnixNanos(2_000)),
            (other, NOW),
            (format!("{text}x"), NOW),
            (text[..text.len() - 1].to_owned(), NOW),
            (text.replace("pgo_", ""), NOW),
            (format!("pgo_{}_", token.id), NOW),
            (format!("pgo_{}_{}", token.id, token.sha256), NOW),
            (String::new(), NOW),
        ] {
            assert_eq!(all.by_token(&shown, now).unwrap_err(), Unrecognised::Token, "{shown}");
        }
        let all = Operators::new([Operator { disabled: disabled(), ..alice }]).unwrap();
        assert!(matches!(all.by_token(&text, NOW), Err(Unrecognised::Disabled(_))));
    }

    #[test]
    fn nobody_is_two_operators() {
        let alice = Operator { uid: Some(7), ..operator("alice", &[Role::Viewer]) };
        let all = Operators::new([alice.clone()]).unwrap();
        let refused = all.with(Operator { uid: Some(7), ..operator("bob", &[Role::Viewer]) }).unwrap_err();
        assert!(refused.contains("the user 7 shows the operator `alice` already"), "{refused}");
        assert!(all.with(Operator { roles: BTreeSet::from([Role::Auditor]), ..alice }).is_ok());
        let uri = |name: &str| Operator {
            certificate: Some(Match::uri("https://corp.example/carol").unwrap()),
            ..operator(name, &[Role::Viewer])
        };
        assert!(all.with(uri("carol")).unwrap().with(uri("dave")).is_err());
        assert!(all.with(operator("erin", &[])).unwrap_err().contains("no role"));
    }

    fn with_uid(uid: u32, operator: Operator) -> Operator {
        Operator { uid: Some(uid), ..operator }
    }

    #[test]
    fn somebody_who_says_who_operates_is_left() {
        let all = Operators::new([
            with_uid(1, operator("alice", &[Role::Approver])),
            with_uid(2, operator("bob", &[Role::Operator])),
        ])
        .unwrap();
        let gone = Operator { disabled: disabled(), ..with_uid(1, operator("alice", &[Role::Approver])) };
        assert!(all.changed(gone.clone(), NOW).unwrap_err().contains("nobody would be left"));
        assert!(all.changed(operator("alice", &[Role::Viewer]), NOW).is_err());
        // Who has no way in is nobody who could.
        assert!(all.changed(operator("alice", &[Role::Approver]), NOW).is_err());
        let two = all.changed(with_uid(2, operator("bob", &[Role::Operator, Role::Approver])), NOW).unwrap();
        assert!(two.changed(gone, NOW).unwrap().get("alice").is_some_and(|a| a.disabled.is_some()));
    }
}
