//! Contract version 1, fact by fact: what a policy that names another one is told, and what the schemas and the page
//! about the input are made from.
//!
//! Out: where facts are ([`Shape::at`]), what they are ([`lines`]). The schemas are in `schema`.

use crate::partner::{CredentialKind, CredentialState, PartnerState};

/// One key of a table of the input document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fact {
    pub key: &'static str,
    pub shape: Shape,
    pub source: Source,
    /// When it is there; always, where nothing is said.
    pub when: Option<&'static str>,
    /// What it means, in Markdown.
    pub meaning: &'static str,
}

/// Whom a fact is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Gateway,
    Registry,
    Certificate,
    Connection,
    Request,
    /// The request, read with what the config says about operations, routes and header fields.
    Config,
    Clock,
    Token,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Source::Gateway => "gateway",
            Source::Registry => "registry",
            Source::Certificate => "certificate",
            Source::Connection => "connection",
            Source::Request => "request",
            Source::Config => "request and config",
            Source::Clock => "clock",
            Source::Token => "access token",
        }
    }
}

/// Names that a config or a registry lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    Operations,
    Networks,
    /// Header fields that policy sees.
    Headers,
}

/// What lies under a key of the input document.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Text,
    /// A text that is one of these names.
    Name(Listed),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A whole number.
    Whole,
    /// A whole number, both ends included.
    Within(i64, i64),
    /// The value of a condition, of the type that its declaration names.
    Condition,
    /// Keys that the contract does not know, such as labels, with this below each.
    Open(&'static Shape),
    /// The same, by names in lower case.
    Headers(&'static Shape),
    /// What lies below a key that the contract does not know: nobody says.
    Unknown,
    List(&'static Shape),
    Table(&'static [Fact]),
}

impl Shape {
    pub fn key(&self, name: &str) -> Option<&'static Shape>
    where
        Self: 'static,
    {
        match self {
            Shape::Open(below) | Shape::Headers(below) => Some(below),
            Shape::Condition | Shape::Unknown => Some(&Shape::Unknown),
            Shape::Table(facts) => facts.iter().find(|fact| fact.key == name).map(|fact| &fact.shape),
            Shape::Text | Shape::Name(_) | Shape::OneOf(_) | Shape::Whole | Shape::Within(..) | Shape::List(_) => None,
        }
    }

    /// What a key that is worked out leads to, where that can be said.
    pub fn item(&self) -> Option<&'static Shape> {
        match self {
            Shape::Open(below) | Shape::Headers(below) => Some(below),
            Shape::Condition | Shape::Unknown => Some(&Shape::Unknown),
            Shape::List(item) => Some(item),
            Shape::Text | Shape::Name(_) | Shape::OneOf(_) | Shape::Whole | Shape::Within(..) | Shape::Table(_) => None,
        }
    }

    /// Whether it has keys that the contract does not know.
    pub fn is_open(&self) -> bool {
        matches!(self, Shape::Open(_) | Shape::Headers(_) | Shape::Unknown)
    }

    pub fn keys(&self) -> impl Iterator<Item = &'static str> + use<> {
        let facts = match self {
            Shape::Table(facts) => *facts,
            _ => &[],
        };
        facts.iter().map(|fact| fact.key)
    }

    /// What is under a dotted path below it.
    pub fn at(&'static self, path: &str) -> Option<&'static Shape> {
        path.split('.').filter(|key| !key.is_empty()).try_fold(self, |shape, key| shape.key(key))
    }

    /// Its type, for people.
    pub fn named(&self) -> String {
        match self {
            Shape::Text | Shape::Name(_) => "text".into(),
            Shape::OneOf(texts) => texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", "),
            Shape::Whole => "whole number".into(),
            Shape::Within(least, most) if least == most => format!("`{least}`"),
            Shape::Within(least, i64::MAX) => format!("whole number from {least}"),
            Shape::Within(least, most) => format!("whole number, {least} to {most}"),
            Shape::Condition => "text, whole number, boolean or list of text".into(),
            Shape::Unknown => "anything".into(),
            Shape::Open(below) | Shape::Headers(below) => format!("object, name → {}", below.named()),
            Shape::List(item) => format!("list of {}", item.named()),
            Shape::Table(_) => "object".into(),
        }
    }
}

use Shape::{Condition, Headers, List, Name, OneOf, Open, Table, Text, Whole, Within};
use Source::{Certificate, Clock, Config, Connection, Gateway, Registry, Request, Token};

const TEXTS: Shape = List(&Text);
const OPERATION: Shape = Name(Listed::Operations);
const NETWORKS: Shape = List(&Name(Listed::Networks));
const COUNT: Shape = Within(0, i64::MAX);

impl Fact {
    /// One of which nothing else is said.
    pub fn bare(key: &'static str, shape: Shape) -> Fact {
        always(key, shape, Source::Gateway, "")
    }
}

/// A fact that is always there.
const fn always(key: &'static str, shape: Shape, source: Source, meaning: &'static str) -> Fact {
    Fact { key, shape, source, when: None, meaning }
}

/// A fact that may be absent.
const fn sometimes(key: &'static str, shape: Shape, source: Source, when: &'static str, meaning: &'static str) -> Fact {
    Fact { key, shape, source, when: Some(when), meaning }
}

/// The version of this contract, as every input and both schemas state it.
pub const CONTRACT_VERSION: i64 = 1;

/// The input document.
pub(super) static INPUT: Shape = Table(&[
    always("version", Within(CONTRACT_VERSION, CONTRACT_VERSION), Gateway, "Version of this contract"),
    always("environment", Text, Gateway, "Environment of the gateway (`environment`), such as `production`"),
    always("partner", Table(PARTNER), Registry, "Whose request it is"),
    always("credential", Table(CREDENTIAL), Registry, "What the partner has proved itself with"),
    sometimes(
        "token",
        Table(TOKEN),
        Token,
        "the request comes with one",
        "The access token, whose signature, certificate, audience and end the gateway has looked at",
    ),
    sometimes(
        "api_key",
        Table(API_KEY),
        Registry,
        "the request comes with one, or with an access token that was given for one",
        "The API key, whose secret, certificate and end the gateway has looked at",
    ),
    always("source", Table(SOURCE), Connection, "Where the request comes from"),
    always("tls", Table(TLS), Connection, "What the TLS handshake agreed on"),
    always("request", Table(REQUEST), Request, "What is asked for, byte by byte as it is forwarded"),
    always("time", Table(TIME), Clock, "The instant of the decision; a request that goes on is decided again"),
]);

const PARTNER: &[Fact] = &[
    always("id", Text, Registry, "Its id"),
    always("name", Text, Registry, "Its name, for people"),
    always(
        "state",
        OneOf(PartnerState::NAMES),
        Registry,
        "Where it stands; the floor lets only `active` come this far",
    ),
    always("owner", Text, Registry, "Who answers for it on our side"),
    always("labels", Open(&Text), Registry, "Labels that operators have given it; empty where there are none"),
    always("time_zone", Text, Registry, "IANA name of its time zone; `UTC` where none is set"),
    always("engagement", Table(ENGAGEMENT), Registry, "The period of the business relationship"),
    always("networks", NETWORKS, Registry, "Names of the networks it may call from; `any` is every address"),
    always("grants", List(&Table(GRANT)), Registry, "Its grants of this environment, those that were revoked left out"),
    sometimes(
        "observe",
        List(&Table(OBSERVE)),
        Registry,
        "some custom rule is only observed with it",
        "Custom rules that do not count for it yet",
    ),
];

const OBSERVE: &[Fact] = &[
    always("reason", Text, Registry, "The reason that the rule denies with"),
    always("until_ns", Whole, Registry, "First instant at which it counts"),
];

const ENGAGEMENT: &[Fact] = &[
    sometimes("starts_ns", Whole, Registry, "it has a beginning", "First instant of the engagement"),
    sometimes("ends_ns", Whole, Registry, "it has an end", "First instant after the engagement"),
];

const GRANT: &[Fact] = &[
    always("id", Text, Registry, "Its id: what an allow names"),
    always("owner", Text, Registry, "Who answers for it on our side"),
    always(
        "operations",
        List(&OPERATION),
        Registry,
        "Ids of the operations it is for, patterns such as `invoices.*` resolved",
    ),
    sometimes("networks", NETWORKS, Registry, "the grant names networks", "Networks it is limited to"),
    sometimes("credentials", TEXTS, Registry, "the grant names credentials", "Ids of the credentials it is limited to"),
    sometimes("starts_ns", Whole, Registry, "the grant has a beginning", "First instant of the grant"),
    sometimes("ends_ns", Whole, Registry, "the grant has an end", "First instant after the grant"),
    always(
        "conditions",
        Open(&Condition),
        Registry,
        "Its conditions, as declared in `conditions.yaml`; empty where there are none",
    ),
];

const API_KEY: &[Fact] = &[
    always("id", Text, Registry, "Its id"),
    always("owner", Text, Registry, "Who answers for it on our side"),
    always("grants", TEXTS, Registry, "Ids of the grants that it may be used by"),
    sometimes(
        "operations",
        List(&OPERATION),
        Registry,
        "the key names operations",
        "Ids of the operations that it is for; all that its grants cover, otherwise",
    ),
    sometimes("networks", NETWORKS, Registry, "the key names networks", "Networks it is limited to"),
    always("ends_ns", Whole, Registry, "First instant at which it is not good any more"),
];

const CREDENTIAL: &[Fact] = &[
    always("id", Text, Registry, "Its id"),
    always(
        "kind",
        OneOf(CredentialKind::NAMES),
        Request,
        "What the request proves itself with: a client certificate, or one with an access token or an API key that is bound to it",
    ),
    always(
        "state",
        OneOf(CredentialState::NAMES),
        Registry,
        "Where it stands; the floor lets only `active` come this far",
    ),
    always("labels", Open(&Text), Registry, "Labels that operators have given it; empty where there are none"),
    always("fingerprint_sha256", Text, Certificate, "SHA-256 of the certificate, in hex"),
    always("spki_sha256", Text, Certificate, "SHA-256 of its public key (SubjectPublicKeyInfo), in hex"),
    always("serial", Text, Certificate, "Serial number, in hex"),
    always("issuer", Text, Certificate, "Distinguished name of the issuer (RFC 4514)"),
    always("subject", Text, Certificate, "Distinguished name of the subject (RFC 4514)"),
    always("san", Table(SAN), Certificate, "Subject alternative names; lists that are empty are there"),
    always("not_before_ns", Whole, Certificate, "First instant of its validity"),
    always("not_after_ns", Whole, Certificate, "First instant after its validity"),
    always("key", Table(KEY), Certificate, "Its public key"),
    always("trust_anchor", Text, Certificate, "Name of the trust anchor that the verified chain ends in"),
];

const TOKEN: &[Fact] = &[
    always("issuer", Text, Token, "Who has issued it (`iss`)"),
    always("subject", Text, Token, "Id of the partner it was issued to (`sub`)"),
    always("audience", Text, Token, "Name of the upstream it is for (`aud`)"),
    always("scope", List(&OPERATION), Token, "Ids of the operations it is for (`scope`), sorted"),
    always("grants", TEXTS, Token, "Ids of the grants that its scope was granted by, sorted"),
    always("id", Text, Token, "Its id (`jti`)"),
    always("issued_ns", Whole, Token, "When it was issued (`iat`)"),
    always("expires_ns", Whole, Token, "First instant at which it is over (`exp`)"),
];

const SAN: &[Fact] = &[
    always("uri", TEXTS, Certificate, "URIs, SPIFFE IDs among them"),
    always("dns", TEXTS, Certificate, "DNS names"),
    always("email", TEXTS, Certificate, "E-mail addresses"),
    always("ip", TEXTS, Certificate, "IP addresses"),
];

const KEY: &[Fact] = &[
    always("algorithm", OneOf(crate::identity::KeyAlgorithm::NAMES), Certificate, "Algorithm of the key"),
    always("bits", COUNT, Certificate, "Size of the key"),
];

const SOURCE: &[Fact] = &[
    always(
        "ip",
        Text,
        Connection,
        "Address of the client; behind a trusted load balancer the one that its PROXY header names",
    ),
    always("port", Within(0, 65_535), Connection, "Port of the client"),
    always("networks", NETWORKS, Connection, "Names of all networks that hold the address, sorted, `any` among them"),
];

const TLS: &[Fact] = &[
    always("version", OneOf(&["1.2", "1.3", "unknown"]), Connection, "Version of TLS"),
    always("cipher", Text, Connection, "IANA name of the cipher suite"),
    sometimes("sni", Text, Connection, "the client sent one", "Server name that the client asked for"),
];

const REQUEST: &[Fact] = &[
    always("id", Text, Gateway, "Id of the request, as in its record"),
    always("method", OneOf(METHODS), Request, "Method of HTTP"),
    always("scheme", OneOf(&["https"]), Request, "Scheme"),
    always("host", Text, Request, "Host in lower case, without port"),
    always("path", Text, Request, "Path, undecoded"),
    always("segments", TEXTS, Request, "The path between its slashes, undecoded"),
    always(
        "query",
        Open(&TEXTS),
        Request,
        "Query, key → values in their order, undecoded; a key without `=` has the value \"\"",
    ),
    always(
        "headers",
        Headers(&TEXTS),
        Config,
        "Header fields that `policy.headers` lists, name in lower case → values in their order",
    ),
    sometimes("operation", OPERATION, Config, AN_OPERATION, "Id of the operation"),
    sometimes("params", Open(&Text), Config, AN_OPERATION, "Parameters of its path template, undecoded"),
    sometimes("tags", TEXTS, Config, AN_OPERATION, "Tags of the operation"),
    sometimes("route", Text, Config, "a route serves host and path", "Name of the route"),
    sometimes(
        "content_length",
        COUNT,
        Request,
        "there is no body, or it says its length",
        "Bytes of the body, as stated; 0 where there is none",
    ),
];

const AN_OPERATION: &str = "method and path are a known operation";

/// As `request::SERVED`.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

const TIME: &[Fact] = &[
    always("now_ns", Whole, Clock, "Now"),
    always("weekday", OneOf(DAYS), Clock, "Day of the week, in UTC"),
    always("hour", Within(0, 23), Clock, "Hour, in UTC"),
    always("minute", Within(0, 59), Clock, "Minute, in UTC"),
    always("local", Table(LOCAL), Clock, "The same in the partner's time zone"),
];

const LOCAL: &[Fact] = &[
    always("weekday", OneOf(DAYS), Clock, "Day of the week there"),
    always("hour", Within(0, 23), Clock, "Hour there"),
    always("minute", Within(0, 59), Clock, "Minute there"),
];

const DAYS: &[&str] = &["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Every fact of the contract by its path: `partner.grants[].id`; a table of names that are not the contract's as
/// `partner.labels{}`.
pub fn facts() -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![(String::new(), &INPUT)];
    while let Some((path, shape)) = waiting.pop() {
        match shape {
            List(item) => waiting.push((format!("{path}[]"), item)),
            Table(facts) => {
                let dot = if path.is_empty() { "" } else { "." };
                waiting.extend(facts.iter().map(|fact| (format!("{path}{dot}{}", fact.key), &fact.shape)));
            }
            shape if shape.is_open() => found.push(format!("{path}{{}}")),
            _ => found.push(path),
        }
    }
    found.sort();
    found
}

/// One fact as the page about the input shows it.
pub struct Line {
    /// As a rule writes it: `input.partner.grants[_].id`.
    pub path: String,
    pub kind: String,
    /// When it is there.
    pub when: &'static str,
    pub meaning: &'static str,
    /// Whom it is known from.
    pub source: &'static str,
}

/// Every fact in the order of the contract, tables before what is in them.
pub fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    table("input", &INPUT, &mut lines);
    lines
}

fn table(path: &str, shape: &'static Shape, lines: &mut Vec<Line>) {
    let facts = match shape {
        Table(facts) => *facts,
        List(item) => return table(&format!("{path}[_]"), item, lines),
        _ => return,
    };
    for fact in facts {
        let path = format!("{path}.{}", fact.key);
        lines.push(Line {
            path: path.clone(),
            kind: fact.shape.named(),
            when: fact.when.unwrap_or("always"),
            meaning: fact.meaning,
            source: fact.source.as_str(),
        });
        table(&path, &fact.shape, lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::SERVED;

    #[test]
    fn methods_of_the_contract_are_those_that_are_served() {
        assert_eq!(METHODS, SERVED.iter().map(http::Method::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn algorithms_of_the_contract_are_those_of_keys() {
        use crate::identity::KeyAlgorithm::{Dsa, EcP256, EcP384, EcP521, Ed25519, Other, Rsa};
        let all = [Rsa, EcP256, EcP384, EcP521, Ed25519, Dsa, Other];
        assert_eq!(crate::identity::KeyAlgorithm::NAMES, all.map(crate::identity::KeyAlgorithm::as_str));
    }

    #[test]
    fn every_fact_is_said_in_a_form_that_a_table_can_hold() {
        for line in lines() {
            assert!(!line.meaning.is_empty() && !line.meaning.contains('|'), "{}", line.path);
            assert!(line.meaning.starts_with(char::is_uppercase) && !line.meaning.ends_with('.'), "{}", line.path);
        }
        assert!(lines().len() > facts().len());
    }
}
