//! What a partner needs on its first day: where to call, who answers there, what it may call, how it gets a certificate, and
//! what refusals mean.

use super::Shared;
use super::answer::{Answer, live, sent, unknown, wrong};
use crate::clock::UnixNanos;
use crate::gateway::Live;
use crate::identity::certificate_pem;
use crate::name::PartnerId;
use crate::operation::Operation;
use crate::partner::{Grant, GrantState, PartnerRecord, PartnerStage};
use crate::reason::Code;
use crate::reload::Publisher;
use crate::store::DeclaredFile;
use crate::token::OauthEndpoint;
use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Files for a partner.
#[derive(Serialize, JsonSchema)]
pub(super) struct Kit {
    files: Vec<DeclaredFile>,
}

pub(super) async fn show(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<Kit> {
    let live = live(&shared)?;
    let record = PartnerId::parse(&id).ok().and_then(|id| live.snapshot.registry.partner(&id).cloned());
    let record = record.ok_or_else(|| unknown("partner"))?;
    if record.partner.stage(shared.publisher.now()) == PartnerStage::Ended {
        return Err(wrong(&format!("`{}` has ended: there is nothing that it may call", record.partner.id)));
    }
    sent(Kit { files: files(&shared.publisher, &live, &record) })
}

/// An operation that a partner may call, and where.
struct Granted<'a> {
    operation: &'a Operation,
    grant: &'a Grant,
    host: String,
}

fn files(publisher: &Publisher, live: &Live, record: &PartnerRecord) -> Vec<DeclaredFile> {
    let now = publisher.now();
    let granted = granted(live, record, now);
    let file = |name: &str, text: String| DeclaredFile { name: name.into(), text };
    let openapi = serde_json::to_string_pretty(&openapi(record, &granted, publisher)).unwrap_or_default();
    let mut files =
        vec![file("README.md", readme(publisher, live, record, &granted)), file("openapi.json", openapi + "\n")];
    // By what it is verified who answers; the same CA of several certificates once.
    let served = live.snapshot.certificates.iter().flat_map(|certificate| &certificate.ca);
    let known: BTreeSet<String> = served.map(|der| certificate_pem(der)).collect();
    if !known.is_empty() {
        files.push(file("server-ca.pem", known.into_iter().collect()));
    }
    if let Some(ca) = publisher.ca_certificate() {
        files.push(file("client-ca.pem", certificate_pem(&ca)));
    }
    files
}

/// What the partner may call now or will, by id.
fn granted<'a>(live: &'a Live, record: &'a PartnerRecord, now: UnixNanos) -> Vec<Granted<'a>> {
    let (operations, routes) = (&live.snapshot.operations, &live.snapshot.routes);
    let mut found: BTreeMap<&str, Granted<'a>> = BTreeMap::new();
    for grant in record.grants_in(&live.snapshot.environment) {
        if !matches!(grant.state(now), GrantState::Approved | GrantState::Active) {
            continue;
        }
        for operation in grant.operations.iter().filter_map(|id| operations.get(id)) {
            let of = operations.route_of(&operation.id);
            let route = routes.iter().find(|route| of.is_some() && route.operations == of);
            let host = route.and_then(|route| route.hosts.first()).map(|host| host.as_str().to_owned());
            let host = host.unwrap_or_default();
            found.entry(operation.id.as_str()).or_insert(Granted { operation, grant, host });
        }
    }
    found.into_values().collect()
}

fn port(publisher: &Publisher) -> u16 {
    publisher.partner_port().unwrap_or(443)
}

fn openapi(record: &PartnerRecord, granted: &[Granted<'_>], publisher: &Publisher) -> Value {
    let mut paths = Map::new();
    for Granted { operation, .. } in granted {
        let parameters: Vec<Value> = operation
            .params()
            .iter()
            .map(|name| json!({"name": &**name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        let described = json!({
            "operationId": operation.id.as_str(), "tags": operation.tags, "parameters": parameters,
            "responses": {"default": {"description": "As the API answers; refusals of the gateway are problem documents."}},
        });
        let item = paths.entry(operation.template.to_string()).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(operation.method.as_str().to_ascii_lowercase(), described);
        }
    }
    let mut hosts: Vec<&str> = granted.iter().map(|granted| granted.host.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let servers: Vec<Value> =
        hosts.iter().map(|host| json!({"url": format!("https://{host}:{}", port(publisher))})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {"title": format!("What {} may call", record.partner.name), "version": "1"},
        "servers": servers,
        "security": [{"certificate": []}],
        "components": {"securitySchemes": {"certificate": {"type": "mutualTLS"}}},
        "paths": paths,
    })
}

fn readme(publisher: &Publisher, live: &Live, record: &PartnerRecord, granted: &[Granted<'_>]) -> String {
    let partner = &record.partner;
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!("# {}: calling the API\n", partner.name));
    let contact = partner.contact.as_deref().unwrap_or("your contact");
    line(format!(
        "Questions go to {contact} ({}). Say your partner id, `{}`, and the `request_id` of an answer.\n",
        partner.owner, partner.id
    ));
    let engaged = partner.engaged();
    if let Some(ends) = engaged.ends {
        line(format!("The engagement ends at {ends}.\n"));
    }
    line("## Where\n".into());
    let mut hosts: Vec<&str> = granted.iter().map(|granted| granted.host.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    for host in &hosts {
        line(format!("- `https://{host}:{}`", port(publisher)));
    }
    let has_ca = live.snapshot.certificates.iter().any(|c| !c.ca.is_empty());
    let issuers: Vec<String> = live.snapshot.certificates.iter().map(|c| c.facts.issuer.to_string()).collect();
    line(format!(
        "\nTLS 1.2 or 1.3, HTTP/1.1 or HTTP/2. The server's certificate is from {}{}. Every connection needs a client \
         certificate.\n",
        issuers.join(" or "),
        if has_ca { " (`server-ca.pem`)" } else { "" }
    ));
    line("## Your certificate\n".into());
    line("Make the key where it will be used; it never leaves you.\n".into());
    line("```sh\nopenssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem".into());
    line(format!("openssl req -new -key key.pem -subj /CN={} -out request.pem\n```\n", partner.id));
    let trust = if has_ca { "--cacert server-ca.pem " } else { "" };
    match publisher.enrol_port() {
        Some(port) => {
            // Its own certificate says what it is called; a name for many hosts is as good as the API's.
            let host = publisher.enrol_host().or_else(|| hosts.first().map(|host| (*host).to_owned()));
            let host = host.unwrap_or_else(|| "HOST".into());
            line(
                "With the enrolment code that you are told another way, you get it by yourself (EST, RFC 7030):\n"
                    .into(),
            );
            let post = format!(
                "-H \"Content-Type: application/pkcs10\" --data-binary @request.b64 \\\n    {trust}-o answer.b64 \
                 https://{host}:{port}/.well-known/est"
            );
            let keep = "openssl base64 -d -in answer.b64 | openssl pkcs7 -inform DER -print_certs -out cert.pem";
            line(format!(
                "```sh\nopenssl req -in request.pem -outform DER | openssl base64 > request.b64\ncurl --fail-with-body \
                 --user \"enrol:CODE\" {post}/simpleenroll || cat answer.b64\n{keep}\n```\n"
            ));
            line("Renew it before it ends, with the certificate that you have and for the very same names:\n".into());
            line(format!(
                "```sh\nopenssl x509 -x509toreq -copy_extensions copyall -in cert.pem -signkey key.pem -out request.pem\n\
                 openssl req -in request.pem -outform DER | openssl base64 > request.b64\ncurl --fail-with-body --cert cert.pem --key \
                 key.pem {post}/simplereenroll || cat answer.b64\n{keep}\n```\n\nThe CA is `client-ca.pem`.\n"
            ));
        }
        None => line("Send `request.pem`, and never `key.pem`, to your contact.\n".into()),
    }
    for credential in &record.credentials {
        let ends = credential.ends.map(|ends| format!(", until {ends}")).unwrap_or_default();
        let (state, kind) = (credential.stage(publisher.now()), credential.matching.kind());
        line(format!("- `{}` is {}, known by its {}{ends}", credential.id, state.as_str(), kind.as_str()));
    }
    line("\n## What you may call\n".into());
    line("`openapi.json` has the same for programs.\n".into());
    line("| call | operation | until |\n| --- | --- | --- |".into());
    for Granted { operation, grant, host } in granted {
        let ends = grant.period.ends.map(|ends| ends.to_string()).unwrap_or_default();
        line(format!(
            "| `{} https://{host}:{}{}` | {} | {ends} |",
            operation.method.as_str(),
            port(publisher),
            operation.template,
            operation.id
        ));
    }
    let networks = partner.networks.iter().filter_map(|name| live.snapshot.registry.network(name));
    let cidrs: Vec<String> = networks.flat_map(|network| &network.cidrs).map(ToString::to_string).collect();
    if !cidrs.is_empty() {
        line(format!("\nCalls are taken from {}.", cidrs.join(", ")));
    }
    if let Some(first) = granted.iter().find(|granted| granted.operation.method.as_str() == "GET") {
        line("\n## Try it\n".into());
        line(format!(
            "```sh\ncurl {trust}--cert cert.pem --key key.pem https://{}:{}{}\n```",
            first.host,
            port(publisher),
            first.operation.template
        ));
    }
    if let Some(access) = live.snapshot.tokens.as_ref().and_then(|tokens| tokens.access.as_ref()) {
        line("\n## Access tokens\n".into());
        line(format!(
            "A call needs none. Software that speaks OAuth gets one with the client certificate, for some or all of the \
             operations above, and sends it as `Authorization: Bearer`; it is accepted with this certificate alone.\n\n\
             ```sh\ncurl {trust}--cert cert.pem --key key.pem {}{} \\\n  --data grant_type=client_credentials --data \
             client_id={}\n```\n\nThe rest is in its metadata (RFC 8414), at `{}{}`.",
            access.server.issuer,
            OauthEndpoint::Token.path(),
            partner.id,
            access.server.issuer,
            OauthEndpoint::Metadata.path()
        ));
    }
    let keys = live.snapshot.tokens.as_ref().and_then(|tokens| tokens.api_keys.as_ref());
    let open = record.api_keys.iter().filter(|key| key.revoked.is_none());
    for (n, key) in open.filter(|_| keys.is_some()).enumerate() {
        if n == 0 {
            line("\n## API keys\n".into());
            line(
                "A key is sent in `X-API-Key` with every call, is accepted with your certificate alone, and never belongs \
                 into a URL. Your contact hands it over, once.\n"
                    .into(),
            );
        }
        line(format!("- `{}` is {}, until {}", key.id, key.stage(publisher.now()).as_str(), key.ends));
    }
    line("\n## What refusals mean\n".into());
    line(
        "They are problem documents (RFC 9457) with a `code`:\n\n| code | status | meaning |\n| --- | --- | --- |"
            .into(),
    );
    for code in Code::ALL {
        line(format!("| `{}` | {} | {} |", code.as_str(), code.status(), code.detail()));
    }
    out
}
