//! The built-in CA and EST: certificates in approved names alone, by an operator and by partners themselves, with curl and
//! openssl; and a revocation list that says what is over.

use crate::grants::{by_second, refused, waits};
use crate::harness::{Finished, Gate, HOST, Setup, await_some, run};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A partner that has made its own key.
pub struct Client {
    pub dir: PathBuf,
}

impl Client {
    pub fn new(gate: &Gate, name: &str) -> Client {
        let dir = gate.dir.path().join(format!("client-{name}"));
        fs::create_dir(&dir).unwrap();
        Client { dir }.with_key("key.pem")
    }

    pub fn with_key(self, name: &str) -> Client {
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &self.path(name)]);
        self
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// A request for a subject and, where it is not empty, a subjectAltName.
    pub fn csr(&self, key: &str, subject: &str, san: &str) -> String {
        let mut arguments = vec!["req", "-new", "-sha256", "-subj", subject];
        let (key, der, added) = (self.path(key), self.path("csr.der"), format!("subjectAltName={san}"));
        arguments.extend(["-key", &key, "-outform", "DER", "-out", &der]);
        if !san.is_empty() {
            arguments.extend(["-addext", &added]);
        }
        openssl(&arguments);
        openssl(&["req", "-inform", "DER", "-in", &der, "-out", &self.path("csr.pem")]);
        openssl(&["base64", "-in", &der, "-out", &self.path("csr.b64")]);
        self.path("csr.b64")
    }

    /// One call of curl to the enrol listener: status, headers and body.
    pub fn est(&self, gate: &Gate, operation: &str, arguments: &[&str]) -> (u16, String, Vec<u8>) {
        let (head, body) = (self.path("head"), self.path("body"));
        let port = gate.enrol_address().port();
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "50", "--noproxy", "*", "--write-out", "%{http_code}"]);
        command.args(["--resolve", &format!("{HOST}:{port}:127.0.0.1"), "-D", &head, "-o", &body]);
        command.arg("--cacert").arg(&gate.server_ca.pem_file).args(arguments);
        let said = run(command.arg(format!("https://{HOST}:{port}/.well-known/est/{operation}")), b"").ok();
        (said.parse().unwrap(), fs::read_to_string(head).unwrap(), fs::read(body).unwrap_or_default())
    }

    pub fn enroll(&self, gate: &Gate, code: &str, csr: &str) -> (u16, String, Vec<u8>) {
        let body = format!("@{csr}");
        let user = format!("whoever:{code}");
        let arguments = ["--user", &user, "-H", "Content-Type: application/pkcs10", "--data-binary", &body];
        self.est(gate, "simpleenroll", &arguments)
    }

    pub fn reenroll(&self, gate: &Gate, (cert, key): (&str, &str), csr: &str) -> (u16, String, Vec<u8>) {
        let (cert, key, body) = (self.path(cert), self.path(key), format!("@{csr}"));
        let arguments =
            ["--cert", &cert, "--key", &key, "-H", "Content-Type: application/pkcs10", "--data-binary", &body];
        self.est(gate, "simplereenroll", &arguments)
    }

    /// The certificate of an EST answer, taken out of its PKCS#7 by openssl.
    pub fn keep(&self, answer: &[u8], name: &str) {
        let (p7, pem) = (self.path("answer.b64"), self.path(name));
        let der = self.path("answer.p7");
        fs::write(&p7, answer).unwrap();
        openssl(&["base64", "-d", "-in", &p7, "-out", &der]);
        let certificates = openssl(&["pkcs7", "-inform", "DER", "-in", &der, "-print_certs"]);
        fs::write(pem, certificates).unwrap();
    }

    /// A request to the partner listener.
    pub fn call(&self, gate: &Gate, (cert, key): (&str, &str), target: &str) -> crate::harness::Curl {
        let (cert, key) = (self.path(cert), self.path(key));
        gate.curl(None, target, &["--cert", &cert, "--key", &key])
    }
}

pub fn openssl(arguments: &[&str]) -> String {
    run(Command::new("openssl").args(arguments), b"").ok()
}

fn text_of(certificate: &str) -> String {
    openssl(&["x509", "-in", certificate, "-noout", "-text"])
}

/// A setup with a CA of its own and an enrol listener.
pub fn with_ca(passphrase: bool) -> Setup {
    with_ca_in(Setup::new(), passphrase)
}

pub fn with_ca_in(setup: Setup, passphrase: bool) -> Setup {
    let ca = setup.dir.path().join("ca");
    let secret = setup.dir.path().join("passphrase");
    let mut init = vec!["ca", "init", "--dir", ca.to_str().unwrap(), "--name", "Partners of Example"];
    let reference = format!("file:{}", secret.display());
    if passphrase {
        setup.pki.write("../passphrase", 0o600, b"correct horse battery staple\n");
        init.extend(["--passphrase", &reference, "--curve", "p384"]);
    }
    let said = setup.cli(&init).ok();
    assert!(said.contains("anchor add partners-ca"), "{said}");
    let server = setup.pki.server(&setup.server_ca, "enrol", &[HOST]);
    let mut issue = json!({
        "anchor": "partners-ca", "certificate": ca.join("partners-ca.pem"),
        "key": format!("file:{}", ca.join("partners-ca.key").display()), "list_url": "http://pki.example/partners-ca.crl", "overlap": "0s",
    });
    if passphrase {
        issue["passphrase"] = reference.into();
    }
    setup.set("issue", issue).set(
        "enrol",
        json!({
            "listen": ["127.0.0.1:0"], "chain": server.chain_file, "key": format!("file:{}", server.key_file.display()),
            "retry_after": "90s",
        }),
    )
}

fn ca_file(gate: &Gate) -> String {
    gate.dir.path().join("ca/partners-ca.pem").display().to_string()
}

/// Registers the CA as an anchor that speaks for a new partner, `initech`.
pub fn onboard(gate: &Gate) {
    let add = ["partner", "add", "initech", "--name", "Initech", "--owner", "sales", "--network", "loopback"];
    gate.cli(&[&add[..], &["--ends", "2099-01-01T00:00:00Z"]].concat()).ok();
    let crl = format!("file:{}", gate.dir.path().join("state/issue/partners-ca.crl").display());
    let add = ["anchor", "add", "partners-ca", "--certificate", &ca_file(gate), "--partner", "initech", "--crl", &crl];
    gate.cli(&add).ok();
    let credential = ["credential", "add", "initech", "initech-1", "--anchor", "partners-ca"];
    gate.cli(&[&credential[..], &["--match", "uri=spiffe://initech.example/erp"]].concat()).ok();
    let grant = ["grant", "request", "initech", "initech-items", "--operation", "items.list", "--owner", "sales"];
    gate.cli(&[&grant[..], &["--ends", "2098-01-01T00:00:00Z"]].concat()).ok();
}

pub fn code(gate: &Gate, credential: &str) -> String {
    let said = gate.cli(&["credential", "enrol", "initech", credential, "--reason", "first certificate"]).ok();
    said.lines().next().unwrap().to_owned()
}

pub const URI: &str = "URI:spiffe://initech.example/erp";

pub fn issue(gate: &Gate, client: &Client, out: &str) -> Finished {
    let (csr, out) = (client.path("csr.pem"), client.path(out));
    gate.cli(&["credential", "issue", "initech", "initech-1", "--csr", &csr, "--out", &out, "--reason", "first one"])
}

#[test]
fn operator_gives_a_certificate_in_the_approved_names_alone() {
    let gate = with_ca(true).start();
    onboard(&gate);
    let client = Client::new(&gate, "initech");
    client.csr("key.pem", "/CN=whatever", URI);
    let said = issue(&gate, &client, "cert.pem").ok();
    assert!(said.contains("for CN=initech-1,O=Initech, until "), "{said}");
    let shown = text_of(&client.path("cert.pem"));
    for line in [URI, "TLS Web Client Authentication", "CA:FALSE", "URI:http://pki.example/partners-ca.crl", "P-256"] {
        assert!(shown.contains(line), "no `{line}` in {shown}");
    }
    openssl(&["verify", "-CAfile", &ca_file(&gate), "-purpose", "sslclient", &client.path("cert.pem")]);
    client.call(&gate, ("cert.pem", "key.pem"), "/items").expect(200);

    // What the partner is told on its first day is enough to call by.
    let kit = gate.dir.path().join("kit");
    gate.cli(&["partner", "kit", "initech", "-d", kit.to_str().unwrap()]).ok();
    assert!(!kit.join("server-ca.pem").exists(), "nobody has said which CA it is");
    let read = |name: &str| fs::read_to_string(kit.join(name)).unwrap();
    let openapi: Value = serde_json::from_str(&read("openapi.json")).unwrap();
    assert_eq!(openapi["paths"].as_object().unwrap().keys().collect::<Vec<_>>(), ["/items"], "{openapi}");
    assert_eq!(openapi["paths"]["/items"].as_object().unwrap().keys().collect::<Vec<_>>(), ["get"], "{openapi}");
    let readme = read("README.md");
    for line in [
        &format!("| `GET https://{HOST}:0/items` | items.list | 2098-01-01T00:00:00Z |")[..],
        "(sales)",
        &format!("https://{HOST}:0/.well-known/est/simpleenroll"),
        "openssl req -new -key key.pem -subj /CN=initech -out request.pem",
        &format!("--cert cert.pem --key key.pem https://{HOST}:0/items"),
        "`initech-1` is active, known by its uri",
        "| `engagement-not-active` | 403 |",
        "127.0.0.1/32",
    ] {
        assert!(readme.contains(line), "no `{line}` in {readme}");
    }
    assert_eq!(read("client-ca.pem").trim(), fs::read_to_string(ca_file(&gate)).unwrap().trim());

    // What was not approved is named, and nothing is given.
    for (subject, san, said) in [
        ("/CN=x", "URI:spiffe://globex.example/client", "asks for the URI `spiffe://globex.example/client`"),
        ("/CN=x", "DNS:globex.example", "asks for the DNS name `globex.example`"),
        ("/CN=x", "URI:spiffe://initech.example/erp,email:a@globex.example", "e-mail address"),
    ] {
        client.csr("key.pem", subject, san);
        refused(&issue(&gate, &client, "other.pem"), 3, said);
    }
    let weak = client.path("weak.pem");
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-out", &weak]);
    client.csr("weak.pem", "/CN=x", "");
    refused(&issue(&gate, &client, "other.pem"), 3, "RSA key of 1024 bits");
    let key =
        gate.cli(&["credential", "issue", "initech", "initech-1", "--reason", "x", "--csr", &client.path("key.pem")]);
    refused(&key, 3, "it stays with the partner");
    client.csr("key.pem", "/CN=x", "");
    let acme =
        gate.cli(&["credential", "issue", "acme", "acme-client", "--reason", "x", "--csr", &client.path("csr.pem")]);
    refused(&acme, 3, "is under the anchor `acme-ca`, and the built-in CA is `partners-ca`");
    // Another partner does not get a certificate for this key.
    gate.cli(&["anchor", "bind", "partners-ca", "--partner", "globex"]).ok();
    let add = ["credential", "add", "globex", "globex-2", "--anchor", "partners-ca", "--match", "dns=a.globex.example"];
    gate.cli(&add).ok();
    let globex =
        gate.cli(&["credential", "issue", "globex", "globex-2", "--reason", "x", "--csr", &client.path("csr.pem")]);
    refused(&globex, 3, "this key is another partner's");

    let listed = gate.cli(&["credential", "issued", "initech"]).ok();
    assert_eq!(listed.lines().filter(|line| line.ends_with(" good")).count(), 1, "{listed}");
    let events = gate.cli(&["history", "all", "--output", "json"]).ok();
    assert!(events.contains("\"noun\":\"certificate\""), "{events}");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

#[test]
fn partner_enrols_and_renews_by_itself() {
    let gate = with_ca(false).start();
    onboard(&gate);
    let client = Client::new(&gate, "initech");
    // What a client reads first (RFC 7030 section 4.1): the CA, as openssl reads PKCS#7.
    let (status, head, body) = client.est(&gate, "cacerts", &[]);
    assert!(status == 200 && head.to_lowercase().contains("content-type: application/pkcs7-mime"), "{head}");
    client.keep(&body, "ca.pem");
    let print = |file: &str| openssl(&["x509", "-in", file, "-noout", "-fingerprint", "-sha256"]);
    assert_eq!(print(&client.path("ca.pem")), print(&ca_file(&gate)));
    let (status, head, body) = client.est(&gate, "csrattrs", &[]);
    assert!(status == 200 && head.to_lowercase().contains("application/csrattrs"), "{head}");
    let der = client.path("attributes");
    fs::write(client.path("attributes.b64"), body).unwrap();
    openssl(&["base64", "-d", "-in", &client.path("attributes.b64"), "-out", &der]);
    let parsed = openssl(&["asn1parse", "-inform", "DER", "-in", &der]);
    assert!(parsed.contains("ecdsa-with-SHA256") && parsed.contains("prime256v1"), "{parsed}");
    // The example of RFC 7030 section 4.5.2 asks for a key and a signature in the same form, on another curve.
    const EXAMPLE: &str =
        "MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw==\n";
    fs::write(client.path("example.b64"), EXAMPLE).unwrap();
    openssl(&["base64", "-d", "-in", &client.path("example.b64"), "-out", &der]);
    let example = openssl(&["asn1parse", "-inform", "DER", "-in", &der]);
    // How deep each element lies and what it is, without where it begins and how long it is.
    let form = |parsed: &str, from: &str| -> Vec<String> {
        let parts = parsed.lines().map(|line| {
            let words: Vec<&str> = line.split([' ', ':', '=']).filter(|word| !word.is_empty()).collect();
            (words[2].to_owned(), words[8..].join(" "))
        });
        let after = parts.skip_while(|(_, what)| !what.ends_with(from)).take(3);
        after.map(|(depth, what)| format!("{depth} {}", what.split(' ').next().unwrap())).collect()
    };
    assert_eq!(form(&parsed, "id-ecPublicKey"), form(&example, "id-ecPublicKey"));
    assert_eq!(form(&parsed, "id-ecPublicKey"), ["2 OBJECT", "2 SET", "3 OBJECT"]);

    // The first certificate, with a code that is good once.
    let csr = client.csr("key.pem", "/CN=erp", "");
    for wrong in ["nothing", "pge_000000000000_AAAA"] {
        let (status, head, _) = client.enroll(&gate, wrong, &csr);
        assert!(status == 401 && head.to_lowercase().contains("www-authenticate: basic"), "{head}");
    }
    let code = code(&gate, "initech-1");
    let wrong_names = client.csr("key.pem", "/CN=erp", "DNS:globex.example");
    let (status, _, body) = client.enroll(&gate, &code, &wrong_names);
    assert!(status == 400 && String::from_utf8_lossy(&body).contains("globex.example"), "a slip costs no code");
    let csr = client.csr("key.pem", "/CN=erp", "");
    let (status, head, body) = client.enroll(&gate, &code, &csr);
    assert_eq!(status, 200, "{head} {}", String::from_utf8_lossy(&body));
    assert!(head.to_lowercase().contains("application/pkcs7-mime; smime-type=certs-only"), "{head}");
    client.keep(&body, "cert.pem");
    client.call(&gate, ("cert.pem", "key.pem"), "/items").expect(200);
    assert_eq!(client.enroll(&gate, &code, &csr).0, 401, "it is good once");

    // Renewed with another key, by the certificate that it renews; the names are the very same.
    let client = client.with_key("key2.pem");
    let csr = client.csr("key2.pem", "/O=Initech/CN=initech-1", URI);
    let (status, _, body) = client.reenroll(&gate, ("cert.pem", "key.pem"), &csr);
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    client.keep(&body, "cert2.pem");
    // It is in use: the one before goes by itself, since nobody said that both are wanted for longer.
    assert_eq!(client.call(&gate, ("cert.pem", "key.pem"), "/items").status, 200);
    client.call(&gate, ("cert2.pem", "key2.pem"), "/items").expect(200);
    await_some("the one before to go", || {
        let listed = gate.cli(&["credential", "issued", "initech"]).ok();
        (listed.matches(": superseded").count() == 1).then_some(())
    });
    await_some("it to be refused", || (client.call(&gate, ("cert.pem", "key.pem"), "/items").exit != 0).then_some(()));
    client.call(&gate, ("cert2.pem", "key2.pem"), "/items").expect(200);
    // The commands of the docs: what openssl makes of the certificate that is there.
    let (cert, key) = (client.path("cert2.pem"), client.path("key2.pem"));
    let (pem, der) = (client.path("again.pem"), client.path("again.der"));
    openssl(&["x509", "-x509toreq", "-copy_extensions", "copyall", "-in", &cert, "-signkey", &key, "-out", &pem]);
    openssl(&["req", "-in", &pem, "-outform", "DER", "-out", &der]);
    openssl(&["base64", "-in", &der, "-out", &client.path("again.b64")]);
    let (status, _, body) = client.reenroll(&gate, ("cert2.pem", "key2.pem"), &client.path("again.b64"));
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let other = client.csr("key2.pem", "/O=Initech/CN=initech-2", URI);
    let (status, _, body) = client.reenroll(&gate, ("cert2.pem", "key2.pem"), &other);
    assert!(status == 400 && String::from_utf8_lossy(&body).contains("`CN=initech-1,O=Initech` with spiffe://"));
    let csr = client.csr("key2.pem", "/O=Initech/CN=initech-1", URI);
    let body = format!("@{csr}");
    let kind = ["-H", "Content-Type: application/pkcs10", "--data-binary", &body];
    assert_eq!(client.est(&gate, "simplereenroll", &kind).0, 401, "nobody shows who renews");
    // The certificate of another CA is that one's to renew, and of no CA at all is nobody's.
    for (who, status) in [(&gate.acme, 400), (&gate.pki.self_signed("stranger", |_| {}), 403)] {
        let (cert, key) = (who.chain_file.display().to_string(), who.key_file.display().to_string());
        let who = ["--cert", cert.as_str(), "--key", key.as_str()];
        assert_eq!(client.est(&gate, "simplereenroll", &[&who[..], &kind[..]].concat()).0, status);
    }
    // Nothing else is served there, and none of it on the partner listener.
    assert_eq!(client.est(&gate, "fullcmc", &["--data", "x"]).0, 404);
    assert_eq!(client.call(&gate, ("cert2.pem", "key2.pem"), "/.well-known/est/cacerts").status, 403);
    let shown = gate.cli(&["history", "all"]).ok();
    assert!(shown.contains("by initech-1 (enrol from 127.0.0.1:"), "{shown}");
    assert_eq!(gate.metric("partnergate_certificates_issued_total"), 3.0);
    let counted = |result: &str| gate.metric(&format!("partnergate_enrolments_total{{result=\"{result}\"}}"));
    let all = ["issued", "refused", "unknown", "waits"].map(counted);
    assert_eq!(all, [3.0, 4.0, 3.0, 0.0]);
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

/// Whatever changes the registry or operators is shown beforehand, and leaves nothing behind.
#[test]
fn every_change_has_a_dry_run_that_changes_nothing() {
    let gate = with_ca(false).start();
    onboard(&gate);
    let client = Client::new(&gate, "initech");
    client.csr("key.pem", "/CN=x", "");
    let (csr, out) = (client.path("csr.pem"), client.path("never.pem"));
    issue(&gate, &client, "cert.pem").ok();
    gate.cli(&["credential", "enrol", "initech", "initech-1", "--reason", "x"]).ok();
    let review = ["partner", "edit", "initech", "--review-every", "90d"];
    gate.cli(&review).ok();
    let emergency = ["grant", "emergency", "initech", "initech-911", "--operation", "items.delete"];
    let emergency = [&emergency[..], &["--for", "2h", "--reason", "x", "--ticket", "INC-7"]].concat();
    let token = format!("file:{}", gate.dir.path().join("second.token").display());
    let folder = gate.write_registry(&gate.registry_text().replace("Acme GmbH", "Acme AG"));
    let serial = gate.acme.serial();
    let state = || {
        let switches = gate.dir.path().join("state/switches.json").exists();
        (gate.cli(&["history", "all"]).ok(), gate.metric("partnergate_snapshot_registry_revision"), switches)
    };
    let before = state();
    let why = ["--reason", "x"];
    let mut calls: Vec<Vec<&str>> = vec![
        vec!["apply", "-f", folder.to_str().unwrap(), "--yes"],
        vec![
            "partner",
            "add",
            "hooli",
            "--name",
            "Hooli",
            "--owner",
            "o",
            "--ends",
            "2099-01-01T00:00:00Z",
            "--network",
            "loopback",
        ],
        vec!["partner", "edit", "acme", "--owner", "o"],
        vec![
            "grant",
            "request",
            "acme",
            "acme-2",
            "--operation",
            "items.delete",
            "--owner",
            "o",
            "--ends",
            "2099-01-01T00:00:00Z",
        ],
        vec!["grant", "shorten", "initech-items", "--ends", "2090-01-01T00:00:00Z"],
        vec!["credential", "add", "acme", "acme-2", "--anchor", "acme-ca", "--match", "dns=a.example"],
        vec!["credential", "rotate", "acme", "acme-client", "--to", "acme-2", "--match", "dns=a.example"],
        vec!["network", "add", "office", "--cidr", "203.0.113.0/24"],
        vec!["network", "edit", "loopback", "--cidr", "127.0.0.1/32"],
        vec!["anchor", "bind", "globex-ca", "--partner", "acme"],
        vec!["anchor", "edit", "globex-ca", "--max-lifetime", "10d"],
        vec!["operator", "add", "third", "--role", "viewer", "--user", "nobody"],
        emergency,
    ];
    for verb in [
        vec!["partner", "suspend", "acme"],
        vec!["partner", "review", "initech"],
        vec!["partner", "offboard", "initech"],
        vec!["partner", "offboard", "initech", "--at", "2090-01-01T00:00:00Z"],
        vec!["lockdown", "on"],
        vec!["lockdown", "on", "--anchor", "acme-ca"],
        vec!["grant", "revoke", "acme-items"],
        vec!["credential", "revoke", "acme", "acme-client"],
        vec!["credential", "issue", "initech", "initech-1", "--csr", &csr, "--out", &out],
        vec!["credential", "enrol", "initech", "initech-1"],
        vec!["credential", "void", "initech", "initech-1"],
        vec!["anchor", "deny", "acme-ca", "--serial", &serial],
        vec!["operator", "roles", "second", "--role", "viewer"],
        vec!["operator", "disable", "second"],
    ] {
        calls.push([&verb[..], &why].concat());
    }
    for call in &calls {
        let shown = gate.cli(&[&call[..], &["--dry-run"]].concat());
        assert_eq!(shown.exit, Some(0), "{call:?}: {} {}", shown.text(), shown.stderr);
        assert!(shown.text().lines().any(|line| line.split_whitespace().count() >= 3), "{call:?}: {}", shown.text());
        assert_eq!(state(), before, "{call:?}");
    }
    assert!(!Path::new(&out).exists());
    for who in [&gate.acme, &gate.globex] {
        gate.curl(Some(who), "/items", &[]).expect(200);
    }
    // What is not legal or not permitted is refused as if it were meant.
    refused(&gate.cli(&["partner", "suspend", "nobody", "--reason", "x", "--dry-run"]), 3, "no such partner");
    gate.cli(&["operator", "roles", "second", "--role", "viewer", "--reason", "x"]).ok();
    refused(&gate.cli(&["--token", &token, "lockdown", "on", "--reason", "x", "--dry-run"]), 4, "has the roles viewer");
    let (status, answer) = gate.admin("POST", "/v1/lockdown/on?dry_run=True", "{\"reason\": \"x\"}");
    assert!(status == 422 && answer.contains("`true` or `false`"), "{status} {answer}");
    assert_eq!(gate.metric("partnergate_emergency_grants_total"), 0.0);
    refused(&gate.cli(&["reload", "--dry-run"]), 2, "this command has none");
    let (status, answer) = gate.admin("POST", "/v1/reload?dry_run=true", "");
    assert!(status == 422 && answer.contains("has no dry run"), "{status} {answer}");
    let answer = gate.cli(&["partner", "suspend", "acme", "--reason", "x", "--dry-run", "--output", "json"]);
    let answer: Value = serde_json::from_str(&answer.ok()).unwrap();
    assert_eq!((&answer["dry_run"], &answer["lines"][0]["id"]), (&true.into(), &"acme".into()), "{answer}");
}

/// The key is on a host of its own: orders go there, certificates and revocation lists come back.
#[test]
fn key_of_the_ca_stays_on_another_host() {
    let mut setup = with_ca(false);
    // The host with the key, and what the gateway has of it.
    let host = setup.dir.path().join("ca-host");
    fs::rename(setup.dir.path().join("ca"), &host).unwrap();
    fs::create_dir(setup.dir.path().join("ca")).unwrap();
    fs::copy(host.join("partners-ca.pem"), setup.dir.path().join("ca/partners-ca.pem")).unwrap();
    let without = setup.dir.path().join("ca/partners-ca.pem");
    setup = setup.set("issue", json!({"anchor": "partners-ca", "certificate": without, "list_lifetime": "60s"}));
    let (_, log) = setup.start_expecting_failure();
    assert!(log.contains("needs the key of the built-in CA"), "{log}");
    let gate = setup.set("enrol", json!({"listen": []})).start();
    onboard(&gate);
    let shown = gate.cli(&["ca", "show"]).ok();
    assert!(shown.contains("on another host") && shown.contains("LIST DUE"), "{shown}");
    let key = shown.lines().find_map(|line| line.strip_prefix("gateway key")).unwrap().trim().to_owned();
    let client = Client::new(&gate, "initech");
    client.csr("key.pem", "/CN=whatever", URI);
    refused(&issue(&gate, &client, "cert.pem"), 3, "the key of the CA is not on this host");

    let at = |name: &str| gate.dir.path().join(name).display().to_string();
    let dir = host.to_str().unwrap();
    let sign = |order: &str, out: &str, key: &str| {
        gate.cli(&["ca", "sign", &at(order), "--dir", dir, "--gateway-key", key, "--out", &at(out), "--yes"])
    };
    let for_it = ["credential", "issue", "initech", "initech-1", "--reason", "first one"];
    let order = |order: &str| {
        let csr = client.path("csr.pem");
        gate.cli(&[&for_it[..], &["--csr", &csr, "--order", &at(order)]].concat())
    };
    let csr = client.path("csr.pem");
    let dry = ["--csr", &csr, "--order", &at("dry.order"), "--dry-run"];
    assert_eq!(gate.cli(&[&for_it[..], &dry].concat()).ok().matches("initech").count(), 1);
    assert!(!Path::new(&at("dry.order")).exists() && !gate.cli(&["history", "all"]).ok().contains(" order partner"));
    assert!(order("first.order").ok().contains(&format!("--gateway-key {key}")));
    let history = gate.cli(&["history", "partner", "initech"]).ok();
    assert!(history.contains(" order partner initech") && history.contains("    credential initech-1"), "{history}");
    // Who carries it can change nothing, and nobody else orders.
    let text = fs::read_to_string(at("first.order")).unwrap();
    fs::write(at("altered.order"), text.replace("spiffe://initech.example/erp", "spiffe://globex.example/c")).unwrap();
    refused(&sign("altered.order", "cert.pem", &key), 3, "was altered");
    refused(&sign("first.order", "cert.pem", &"ab".repeat(32)), 3, "is signed by the gateway key");
    let said = sign("first.order", "cert.pem", &key).ok();
    assert!(said.contains("`initech-1` of `initech` (spiffe://initech.example/erp)"), "{said}");
    fs::copy(at("cert.pem"), client.path("cert.pem")).unwrap();
    // The anchor names the list as its source: before there is one, nobody is let in.
    let file = || gate.cli(&[&for_it[..], &["--certificate", &at("cert.pem")]].concat());
    refused(&file(), 3, "no revocation list of `CN=Partners of Example`");
    gate.cli(&["ca", "order", "--out", &at("list.order")]).ok();
    sign("list.order", "list.crl", &key).ok();
    refused(&sign("list.order", "list.crl", &key), 3, "was carried out already");
    assert!(gate.cli(&["ca", "publish", &at("list.crl")]).ok().contains(", 0 revoked, until "));
    gate.await_metric("partnergate_issued_list_ok", 1.0);
    await_some("the list", || (file().exit == Some(0)).then_some(()));
    let filed = gate.cli(&[&for_it[..], &["--certificate", &at("cert.pem")]].concat());
    assert!(filed.ok().starts_with("filed: serial "));
    let again = gate.cli(&[&for_it[..], &["--certificate", &at("cert.pem")]].concat());
    assert!(again.ok().starts_with("filed: serial "), "twice is harmless");
    assert_eq!(gate.cli(&["credential", "issued", "initech"]).ok().lines().count(), 2);
    // What the CA has signed for somebody else is not filed.
    let strange = gate.pki.client(&gate.acme_ca, "strange", |_| {});
    let strange = strange.chain_file.display().to_string();
    refused(&gate.cli(&[&for_it[..], &["--certificate", &strange]].concat()), 3, "not be recognised");

    client.call(&gate, ("cert.pem", "key.pem"), "/items").expect(200);
    // Another one is signed and not brought back before its credential is over.
    order("second.order").ok();
    sign("second.order", "second.pem", &key).ok();
    refused(&sign("second.order", "again.pem", &key), 3, "was carried out already");
    // A certificate is over: the gateway refuses it at once, and asks for another list.
    gate.cli(&["credential", "revoke", "initech", "initech-1", "--yes", "--reason", "key leaked"]).ok();
    client.call(&gate, ("cert.pem", "key.pem"), "/items").expect(403);
    gate.await_metric("partnergate_issued_list_ok", 0.0);
    gate.cli(&[&for_it[..], &["--certificate", &at("second.pem")]].concat()).ok();
    let issued = gate.cli(&["credential", "issued", "initech"]).ok();
    assert_eq!(issued.matches(": privilege-withdrawn").count(), 2, "it is filed as what it is: {issued}");
    await_some("the list to be due", || {
        gate.cli(&["status"])
            .ok()
            .contains("LIST DUE     the revocation list of the CA is to be signed: it lacks 2")
            .then_some(())
    });
    gate.cli(&["ca", "order", "--out", &at("next.order")]).ok();
    sign("next.order", "next.crl", &key).ok();
    gate.cli(&["ca", "publish", &at("next.crl")]).ok();
    gate.await_metric("partnergate_issued_list_entries", 2.0);
    gate.await_metric("partnergate_issued_list_ok", 1.0);
    refused(&gate.cli(&["ca", "publish", &at("list.crl")]), 3, "and the one that is published");
    let url = format!("http://{}/crl/partners-ca.crl", gate.status_address());
    let served = at("served.crl");
    run(Command::new("curl").args(["--silent", "--fail", "--noproxy", "*", "-o", &served, &url]), b"").ok();
    assert_eq!(fs::read(served).unwrap(), fs::read(at("next.crl")).unwrap());
    let journal = fs::read_to_string(host.join("partners-ca.signed.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 4, "{journal}");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

/// RFC 7030 section 4.2.3: what waits is said to wait, and the code is still good afterwards.
#[test]
fn enrolment_waits_for_approval_and_ends_with_its_partner() {
    let gate = with_ca(false).start();
    onboard(&gate);
    let mut config: Value = serde_json::from_str(&fs::read_to_string(gate.config_file()).unwrap()).unwrap();
    config["approval"]["four_eyes"] = "required".into();
    fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.cli(&["reload"]).ok();
    let add = ["credential", "add", "initech", "initech-2", "--anchor", "partners-ca"];
    let id = waits(&gate.cli(&[&add[..], &["--match", "dns=erp.initech.example"]].concat()).ok());
    let nothing = gate.cli(&["credential", "enrol", "initech", "initech-3", "--reason", "x"]);
    refused(&nothing, 3, "there is no such credential");
    let code = code(&gate, "initech-2");
    let client = Client::new(&gate, "initech");
    let csr = client.csr("key.pem", "/CN=erp", "DNS:erp.initech.example");
    let (status, head, _) = client.enroll(&gate, &code, &csr);
    assert!(status == 202 && head.to_lowercase().contains("retry-after: 90"), "{status} {head}");
    by_second(&gate, &["approval", "approve", &id]).ok();
    let (status, _, body) = client.enroll(&gate, &code, &csr);
    assert_eq!(status, 200);
    client.keep(&body, "cert.pem");
    client.call(&gate, ("cert.pem", "key.pem"), "/items").expect(200);
    // A code that went to the wrong one is taken back.
    let wrong = self::code(&gate, "initech-1");
    let listed = gate.cli(&["credential", "codes", "initech"]).ok();
    let id = listed.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(listed.lines().count() == 2 && wrong.starts_with(&format!("pge_{id}_")), "{listed}");
    let void = ["credential", "void", "initech", "initech-1", "--reason", "sent to the wrong one"];
    assert!(gate.cli(&void).ok().contains("void: nobody"));
    assert!(gate.cli(&void).ok().contains("no code"));
    assert_eq!(client.enroll(&gate, &wrong, &csr).0, 401);
    let history = gate.cli(&["history", "enrolment", &id]).ok();
    assert!(history.contains("create enrolment") && history.contains(": sent to the wrong one"), "{history}");
    // A code that nobody has used goes with its partner.
    let code = self::code(&gate, "initech-1");
    let said = gate.cli(&["partner", "offboard", "initech", "--yes", "--reason", "is over"]).ok();
    assert!(said.contains("enrolment code ") && said.contains(": void"), "{said}");
    assert_eq!(client.enroll(&gate, &code, &csr).0, 401);
    let (status, _, body) = client.reenroll(&gate, ("cert.pem", "key.pem"), &csr);
    assert_eq!(status, 403, "{}", String::from_utf8_lossy(&body));
}

pub fn list(gate: &Gate, dir: &Path) -> Option<(u64, String)> {
    let url = format!("http://{}/crl/partners-ca.crl", gate.status_address());
    let file = dir.join("list.crl").display().to_string();
    let got = run(Command::new("curl").args(["-sf", "--noproxy", "*", "-o", &file, &url]), b"");
    if got.exit != Some(0) {
        return None;
    }
    let ca = ca_file(gate);
    let shown = openssl(&["crl", "-inform", "DER", "-in", &file, "-noout", "-text", "-crlnumber", "-CAfile", &ca]);
    let number = shown.lines().find_map(|line| line.strip_prefix("crlNumber=0x")).unwrap().to_owned();
    Some((u64::from_str_radix(&number, 16).unwrap(), shown))
}

#[test]
fn list_says_what_is_over_and_its_number_only_grows() {
    let mut gate = with_ca(false).start();
    onboard(&gate);
    let dir = gate.dir.path().to_owned();
    let (first, shown) = await_some("the first list", || list(&gate, &dir));
    assert!(shown.contains("No Revoked Certificates"), "{shown}");
    let client = Client::new(&gate, "initech");
    client.csr("key.pem", "/CN=x", "");
    issue(&gate, &client, "cert.pem").ok();
    issue(&gate, &client, "cert2.pem").ok();
    client.call(&gate, ("cert.pem", "key.pem"), "/items").expect(200);
    let serial = |file: &str| {
        let said = openssl(&["x509", "-in", &client.path(file), "-noout", "-serial"]);
        said.trim().strip_prefix("serial=").unwrap().to_owned()
    };
    // One certificate is denied, and the other is as good as it was.
    gate.cli(&["anchor", "deny", "partners-ca", "--serial", &serial("cert.pem"), "--reason", "laptop stolen"]).ok();
    let (second, shown) =
        await_some("the denied one", || list(&gate, &dir).filter(|(_, shown)| shown.contains(&serial("cert.pem"))));
    assert!(
        second > first && shown.contains("Privilege Withdrawn") && !shown.contains(&serial("cert2.pem")),
        "{shown}"
    );
    client.call(&gate, ("cert2.pem", "key.pem"), "/items").expect(200);
    // The credential goes, and with it the other. What was on the list stays.
    gate.cli(&["credential", "revoke", "initech", "initech-1", "--yes", "--reason", "key leaked"]).ok();
    let both = |shown: &String| shown.contains(&serial("cert.pem")) && shown.contains(&serial("cert2.pem"));
    let (third, _) = await_some("both", || list(&gate, &dir).filter(|(_, shown)| both(shown)));
    assert!(third > second);
    gate.restart("KILL");
    let (fourth, _) = await_some("the list after a kill", || list(&gate, &dir).filter(|(_, shown)| both(shown)));
    assert!(fourth > third, "{fourth} {third}");
    // A restore takes the database back to a time before, and the numbers go on.
    let file = dir.join("copy");
    gate.cli(&["db", "backup", file.to_str().unwrap()]).ok();
    gate.stop("TERM");
    fs::remove_dir_all(dir.join("state")).unwrap();
    gate.cli(&["db", "restore", file.to_str().unwrap(), "--reason", "drill"]).ok();
    gate.begin();
    let (fifth, _) = await_some("the list after a restore", || list(&gate, &dir).filter(|(_, shown)| both(shown)));
    assert!(fifth > fourth, "{fifth} {fourth}");
    assert_eq!(gate.metric("partnergate_issued_list_entries"), 2.0);
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

#[test]
fn config_of_a_ca_that_is_none_is_refused_by_its_key() {
    let setup = with_ca(true);
    let without = |change: &dyn Fn(&mut Value), said: &str| {
        let mut config = setup.config().clone();
        change(&mut config);
        let (_, log) = setup.start_text_expecting_failure(&config.to_string());
        assert!(log.contains(said), "no `{said}` in {log}");
    };
    without(&|c| drop(c["issue"].as_object_mut().unwrap().remove("passphrase")), "is encrypted, and no passphrase");
    without(&|c| drop(c.as_object_mut().unwrap().remove("issue")), "`enrol.listen`: needs a built-in CA");
    without(&|c| c["issue"]["certificate"] = setup.acme_ca.pem_file.display().to_string().into(), "another key");
    without(&|c| c["issue"]["certificate"] = setup.acme.chain_file.display().to_string().into(), "`issue.certificate`");
    let again = setup.cli(&["ca", "init", "--dir", setup.dir.path().join("ca").to_str().unwrap()]);
    refused(&again, 3, "is there already");
}

/// What an attacker tried: each of it opened something once.
#[test]
fn nobody_gets_a_certificate_past_lockdowns_revocations_and_changed_names() {
    let gate = with_ca(false).start();
    onboard(&gate);
    let client = Client::new(&gate, "initech");
    // No list is a source of the anchor here: the gateway knows what it has revoked.
    let null = "{\"set\": {\"revocation\": null}}";
    assert_eq!(gate.admin("PATCH", "/v1/anchors/partners-ca", null).0, 200);
    let first = code(&gate, "initech-1");
    let code_now = code(&gate, "initech-1");
    let csr = client.csr("key.pem", "/CN=x", "");
    assert_eq!(client.enroll(&gate, &first, &csr).0, 401, "the last code counts");
    for lockdown in
        [&["lockdown", "on", "--reason", "x"][..], &["lockdown", "on", "--anchor", "partners-ca", "--reason", "x"]]
    {
        gate.cli(lockdown).ok();
        let (status, head, _) = client.enroll(&gate, &code_now, &csr);
        assert!(status == 503 && head.to_lowercase().contains("retry-after"), "{lockdown:?}: {head}");
        let mut off = lockdown.to_vec();
        off[1] = "off";
        gate.cli(&off).ok();
    }
    let (_, _, body) = client.enroll(&gate, &code_now, &csr);
    client.keep(&body, "cert.pem");
    client.call(&gate, ("cert.pem", "key.pem"), "/items").expect(200);
    // The credential gets other names: a code that was made before is for none of them.
    let old = code(&gate, "initech-1");
    let exchange = "{\"set\": {\"match\": {\"uri\": \"urn:initech:hq\"}}}";
    assert_eq!(gate.admin("PATCH", "/v1/partners/initech/credentials/initech-1", exchange).0, 200);
    let (status, _, body) = client.enroll(&gate, &old, &csr);
    assert!(status == 400 && String::from_utf8_lossy(&body).contains("other names"), "{status}");
    // Back again; but the certificate of before is on the list by now, and renews nothing.
    let exchange = "{\"set\": {\"match\": {\"uri\": \"spiffe://initech.example/erp\"}}}";
    assert_eq!(gate.admin("PATCH", "/v1/partners/initech/credentials/initech-1", exchange).0, 200);
    let fingerprint = openssl(&["x509", "-in", &client.path("cert.pem"), "-noout", "-fingerprint", "-sha256"]);
    let fingerprint = fingerprint.trim().split('=').nth(1).unwrap().to_owned();
    let again = client.csr("key.pem", "/O=Initech/CN=initech-1", URI);
    assert_eq!(client.reenroll(&gate, ("cert.pem", "key.pem"), &again).0, 200, "it is good so far");
    gate.cli(&["anchor", "deny", "partners-ca", "--fingerprint", &fingerprint, "--reason", "stolen"]).ok();
    await_some("it is on the list", || {
        gate.cli(&["credential", "issued", "initech"]).ok().contains("revoked at").then_some(())
    });
    gate.cli(&["anchor", "undeny", "partners-ca", "--fingerprint", &fingerprint, "--reason", "found"]).ok();
    let (status, _, body) = client.reenroll(&gate, ("cert.pem", "key.pem"), &again);
    assert!(status == 400 && String::from_utf8_lossy(&body).contains("is revoked"), "{status}");
    // Nor does a partner keep the gateway busy.
    let code = code(&gate, "initech-1");
    let (_, _, body) = client.enroll(&gate, &code, &csr);
    client.keep(&body, "good.pem");
    let renewed: Vec<u16> = (0..6).map(|_| client.reenroll(&gate, ("good.pem", "key.pem"), &again).0).collect();
    assert!(renewed.contains(&503), "{renewed:?}");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

/// Renewals whose clients have gone, before a database that does not answer: a switch is live all the same, long before each
/// of them could have waited for the database.
#[test]
fn partners_that_renew_hold_up_no_switch() {
    let gate = with_ca(false).start();
    onboard(&gate);
    let client = Client::new(&gate, "initech");
    client.csr("key.pem", "/CN=x", "");
    issue(&gate, &client, "cert.pem").ok();
    let csr = client.csr("key.pem", "/O=Initech/CN=initech-1", URI);
    let held = crate::lockdown::Held::of(&gate);
    let (cert, key, body) = (client.path("cert.pem"), client.path("key.pem"), format!("@{csr}"));
    let port = gate.enrol_address().port();
    let url = format!("https://{HOST}:{port}/.well-known/est/simplereenroll");
    for _ in 0..20 {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "0.2", "--noproxy", "*", "--resolve", &format!("{HOST}:{port}:127.0.0.1")]);
        curl.arg("--cacert").arg(&gate.server_ca.pem_file).args(["--cert", &cert, "--key", &key]);
        run(curl.args(["-H", "Content-Type: application/pkcs10", "--data-binary", &body, &url]), b"");
    }
    let said = gate.cli(&["partner", "suspend", "acme", "--reason", "odd traffic"]).ok();
    assert!(said.contains("NOT IN THE DATABASE YET"), "it did not wait: {said}");
    held.let_go();
    await_some("it is in the database", || (gate.metric("partnergate_unsaved_switches") == 0.0).then_some(()));
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

/// A gateway whose server certificate is from a CA of the company's own: partners get that CA with the rest.
#[test]
fn kit_has_the_ca_that_the_server_is_verified_by() {
    let setup = Setup::new();
    let mut certificates = setup.config()["partner"]["certificates"].clone();
    certificates[0]["ca"] = setup.server_ca.pem_file.to_str().unwrap().into();
    let other = setup.pki.authority("other-ca").pem_file;
    let gate = setup.set("partner.certificates", certificates.clone()).start();
    let kit = gate.dir.path().join("kit");
    gate.cli(&["partner", "kit", "acme", "-d", kit.to_str().unwrap()]).ok();
    let given = kit.join("server-ca.pem");
    let url = format!("https://{HOST}:{}/items", gate.address().port());
    let mut curl = Command::new("curl");
    curl.args(["-sf", "--noproxy", "*", "--resolve", &format!("{HOST}:{}:127.0.0.1", gate.address().port())]);
    curl.arg("--cacert").arg(&given).arg("--cert").arg(&gate.acme.chain_file).arg("--key").arg(&gate.acme.key_file);
    run(curl.arg(url), b"").ok();
    assert!(fs::read_to_string(kit.join("README.md")).unwrap().contains("(`server-ca.pem`)"));
    // One that would have every client refuse the gateway is refused.
    let text = fs::read_to_string(gate.dir.path().join("partnergate.yaml")).unwrap();
    let wrong = text.replace(gate.server_ca.pem_file.to_str().unwrap(), other.to_str().unwrap());
    assert_ne!(wrong, text);
    fs::write(gate.dir.path().join("partnergate.yaml"), wrong).unwrap();
    let refused = gate.cli(&["check"]);
    assert!(
        refused.exit == Some(3) && refused.stderr.contains("clients would refuse the gateway"),
        "{}",
        refused.stderr
    );
}
