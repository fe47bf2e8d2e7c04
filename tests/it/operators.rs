//! Those who operate the gateway: how they show who they are, what their roles permit, and that nobody else gets in.
//! Threat 28.

use crate::harness::{
    Authority, Finished, Gate, HOST, Identity, Pki, Setup, await_some, python, run, skipped, this_user,
};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NOT_PERMITTED: Option<i32> = Some(4);

#[track_caller]
fn refused(finished: &Finished, exit: Option<i32>, said: &str) {
    assert_eq!(finished.exit, exit, "{}{}", finished.text(), finished.stderr);
    assert!(finished.stderr.contains(said), "no `{said}` in {}", finished.stderr);
}

/// An operator with a token, and where that is.
#[track_caller]
fn operator(gate: &Gate, name: &str, roles: &[&str]) -> String {
    let file = gate.dir.path().join(format!("{name}.token"));
    let mut arguments = vec!["operator", "add", name, "--with-token", "--token-file", file.to_str().unwrap()];
    roles.iter().for_each(|role| arguments.extend(["--role", role]));
    gate.cli(&arguments).ok();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    format!("file:{}", file.display())
}

#[track_caller]
fn as_one(gate: &Gate, token: &str, arguments: &[&str]) -> Finished {
    gate.cli(&[&["--token", token], arguments].concat())
}

fn events(gate: &Gate, which: &[&str]) -> Vec<Value> {
    let text = gate.cli(&[&["history", "--output", "json"], which].concat()).ok();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn first_operators_are_named_once_and_before_that_nothing_is_changed() {
    let gate = Setup::new().without_operators().start();
    assert!(gate.log().contains("there are no operators yet"), "{}", gate.log());
    let apply = |gate: &Gate| gate.try_apply("environment: test\nnetworks: {a: {cidrs: [10.0.0.0/8]}}\n");
    refused(&apply(&gate), NOT_PERMITTED, "`partnergate admin bootstrap` makes the first operators");
    // Looking is for whoever has the machine.
    assert!(gate.cli(&["status"]).ok().contains("registry     revision 0"));
    let name = this_user();
    let me = format!("{name}=user:{name}");
    let bootstrap = |more: &[&str]| gate.cli(&[&["admin", "bootstrap"], more].concat());
    let file = gate.dir.path().join("second.token");
    // A file that is there is no place for a token, and then nothing is named.
    fs::write(&file, "something else").unwrap();
    let there = bootstrap(&[&me, &format!("second=token:{}", file.display())]);
    refused(&there, Some(3), "name a new file. Nothing was changed");
    assert_eq!(fs::read_to_string(&file).unwrap(), "something else");
    fs::remove_file(&file).unwrap();
    for (operators, exit, said) in [
        (&[&*me][..], Some(2), "2 values required"),
        (&[&*me, "second"], Some(3), "`second`: write NAME=user:USER"),
        (&[&*me, "Second=token"], Some(3), "`Second` is not an id"),
        (&[&*me, "second=user:no-such-user"], Some(3), "has no user `no-such-user`"),
        (&[&*me, &format!("second=user:{name}")], Some(3), "nobody is two operators"),
        (&[&*me, &format!("{name}=token")], Some(3), "named twice"),
        (&[&*me, "second=certificate:cn=x"], Some(3), "none of uri="),
    ] {
        refused(&bootstrap(operators), exit, said);
    }
    let said = bootstrap(&[&me, &format!("second=token:{}", file.display())]).ok();
    assert!(said.contains("roles     viewer, requester, approver, operator, auditor"), "{said}");
    assert!(!said.contains("pgo_"), "it went to the file: {said}");
    assert!(fs::read_to_string(&file).unwrap().starts_with("pgo_"));
    refused(&bootstrap(&["a=token", "b=token"]), NOT_PERMITTED, "there are operators already");

    // It is what the history begins with.
    let all = events(&gate, &["all"]);
    assert_eq!((&all[0]["seq"], &all[0]["verb"], all.len()), (&1.into(), &"bootstrap".into(), 4), "{all:?}");
    // The second attempt is there as well; what was tried before anybody had a name is not.
    assert_eq!((&all[3]["noun"], &all[3]["id"]), (&"call".into(), &"POST /v1/bootstrap".into()));
    assert_eq!(all[0]["after"], json!({"operators": [name, "second"]}));
    assert_eq!((&all[0]["actor"]["way"], &all[0]["actor"]["name"]), (&"admin-socket".into(), &name.as_str().into()));
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: 4 events"));
    gate.apply("environment: test\nnetworks: {a: {cidrs: [10.0.0.0/8]}}\n");
}

#[test]
fn each_role_permits_its_acts_and_no_other() {
    let gate = Gate::start();
    let folder = gate.write_registry(gate.registry_text());
    let serial = gate.acme.serial();
    let deny = ["anchor", "deny", "acme-ca", "--serial", &serial, "--reason", "x"];
    let undeny = ["anchor", "undeny", "acme-ca", "--serial", &serial, "--reason", "x"];
    let acts: [(&str, &[&str]); 12] = [
        ("look", &["status"]),
        ("look", &["partner", "show", "acme"]),
        ("look", &["operator", "list"]),
        ("look-back", &["history", "all"]),
        ("look-back", &["audit", "verify"]),
        ("request", &["apply", "--yes", "-f", folder.to_str().unwrap()]),
        ("operate", &deny),
        ("operate", &undeny),
        ("operate", &["partner", "suspend", "globex", "--reason", "x"]),
        ("operate", &["partner", "resume", "globex", "--reason", "x"]),
        ("operate", &["reload"]),
        ("govern", &["operator", "roles", "nobody", "--role", "viewer", "--reason", "x"]),
    ];
    for (role, may) in [
        ("viewer", &["look"][..]),
        ("requester", &["look", "look-back", "request"]),
        ("approver", &["look", "look-back", "govern"]),
        ("operator", &["look", "look-back", "operate"]),
        ("auditor", &["look", "look-back"]),
    ] {
        let token = operator(&gate, role, &[role]);
        for (act, arguments) in acts {
            let finished = as_one(&gate, &token, arguments);
            if !may.contains(&act) {
                let said = format!("the operator `{role}` has the roles {role}; this takes one of: ");
                refused(&finished, NOT_PERMITTED, &said);
            } else if act == "govern" {
                refused(&finished, Some(3), "there is no operator `nobody`");
            } else {
                finished.ok();
            }
        }
    }
    // Nothing came of what was refused but the evidence that it was tried.
    let by_auditor = events(&gate, &["all"]).into_iter().filter(|e| e["actor"]["name"] == "auditor");
    let (tried, done): (Vec<Value>, Vec<Value>) =
        by_auditor.partition(|e| e["verb"] == "call" && e["after"]["status"] == 403);
    assert_eq!((tried.len(), done), (7, Vec::new()));
    assert!(gate.metric("partnergate_admin_calls_total{result=\"refused\"}") >= 30.0, "{}", gate.metrics());
}

/// Who tried what they may not is evidence as much as who did what they may.
#[test]
fn calls_that_are_refused_and_reloads_are_in_the_history() {
    let gate = Gate::start();
    let viewer = operator(&gate, "vera", &["viewer"]);
    let before = events(&gate, &["all"]).len();
    let suspend = ["partner", "suspend", "acme", "--reason", "I can"];
    refused(&as_one(&gate, &viewer, &suspend), NOT_PERMITTED, "the operator `vera` has the roles viewer");
    refused(&gate.cli(&["partner", "suspend", "nobody", "--reason", "typo"]), Some(3), "");
    gate.cli(&["reload"]).ok();
    // What only looks, and what only would be, is none of it.
    as_one(&gate, &viewer, &["partner", "list"]).ok();
    let dry = as_one(&gate, &viewer, &[&suspend[..], &["--dry-run"]].concat());
    refused(&dry, NOT_PERMITTED, "vera");
    let calls = events(&gate, &["calls"]);
    let told: Vec<(&str, &str, u64)> = calls
        .iter()
        .map(|e| {
            (e["id"].as_str().unwrap(), e["actor"]["name"].as_str().unwrap(), e["after"]["status"].as_u64().unwrap())
        })
        .collect();
    let me = this_user();
    assert_eq!(
        told,
        [
            ("POST /v1/partners/acme/suspend", "vera", 403),
            ("POST /v1/partners/nobody/suspend", &*me, 422),
            ("POST /v1/reload", &*me, 200),
        ],
        "{calls:?}"
    );
    assert_eq!(events(&gate, &["all"]).len(), before + 3);
    let shown = gate.cli(&["history", "calls"]).ok();
    assert!(shown.contains("title the operator `vera` has the roles viewer"), "{shown}");
    // Nobody fills the disk with it: thirty in a minute are written, and how many more there were.
    let token = fs::read_to_string(viewer.strip_prefix("file:").unwrap()).unwrap();
    for _ in 0..40 {
        let status = run(
            Command::new("curl")
                .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "--unix-socket"])
                .arg(gate.dir.path().join("state/admin.sock"))
                .args(["-H", &format!("Authorization: Bearer {}", token.trim())])
                .args(["-H", "content-type: application/json", "-d", "{}", "http://admin/v1/lockdown/on"]),
            b"",
        );
        assert_eq!(status.ok(), "403");
    }
    let locks = events(&gate, &["calls"]).iter().filter(|e| e["id"] == "POST /v1/lockdown/on").count();
    // The minute may have turned over meanwhile.
    assert!((29..40).contains(&locks), "{locks}");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

#[test]
fn token_ends_with_its_time_its_revocation_or_its_operator() {
    let gate = Gate::start();
    let token = operator(&gate, "pipeline", &["requester"]);
    as_one(&gate, &token, &["status"]).ok();
    let shown = gate.cli(&["operator", "show", "pipeline"]).ok();
    let id = shown.lines().find_map(|l| l.trim().strip_prefix("shown by  token ")?.split(' ').next()).unwrap();
    let revoke = ["operator", "token", "revoke", "pipeline", id, "--reason", "was in a log"];
    gate.cli(&revoke).ok();
    let not_good = "the token is not good: unknown, revoked or expired";
    refused(&as_one(&gate, &token, &["status"]), NOT_PERMITTED, not_good);
    refused(&gate.cli(&revoke), Some(3), &format!("has no token `{id}`"));

    // A short one, and a new one in its place.
    let short = gate.dir.path().join("short");
    let add = |expires: &str, file: &Path| {
        gate.cli(&[
            "operator",
            "token",
            "add",
            "pipeline",
            "--expires",
            expires,
            "--token-file",
            file.to_str().unwrap(),
        ])
    };
    add("2s", &short).ok();
    let short = format!("file:{}", short.display());
    as_one(&gate, &short, &["status"]).ok();
    await_some("the end of a token", || (as_one(&gate, &short, &["status"]).exit == NOT_PERMITTED).then_some(()));
    assert!(gate.cli(&["operator", "list"]).ok().contains(" expired "));
    refused(&add("367d", &gate.dir.path().join("long")), Some(3), "at most 366 days");
    let long = gate.dir.path().join("long");
    add("366d", &long).ok();
    let long = format!("file:{}", long.display());
    as_one(&gate, &long, &["status"]).ok();

    gate.cli(&["operator", "disable", "pipeline", "--reason", "left", "--ticket", "HR-1"]).ok();
    refused(&as_one(&gate, &long, &["status"]), NOT_PERMITTED, "the operator `pipeline` is disabled");
    assert!(gate.cli(&["operator", "list"]).ok().contains("DISABLED"));
    gate.cli(&["operator", "enable", "pipeline", "--reason", "is back"]).ok();
    as_one(&gate, &long, &["status"]).ok();
    let shown = gate.cli(&["history", "operator", "pipeline"]).ok();
    assert!(
        shown.contains("[HR-1]: left") && shown.contains(": is back") && shown.contains(": was in a log"),
        "{shown}"
    );
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

#[test]
fn one_who_may_approve_is_always_left() {
    let gate = Gate::start();
    let me = this_user();
    let disabled = gate.cli(&["operator", "disable", "second", "--reason", "left"]);
    let warning = format!("warning: `{me}` alone may approve now");
    assert!(disabled.exit == Some(0) && disabled.stderr.starts_with(&warning), "{}", disabled.stderr);
    let said = "nobody would be left who may approve";
    refused(&gate.cli(&["operator", "disable", &me, "--reason", "x"]), Some(3), said);
    refused(&gate.cli(&["operator", "roles", &me, "--role", "viewer", "--reason", "x"]), Some(3), said);
    let second = format!("file:{}", gate.dir.path().join("second.token").display());
    refused(&as_one(&gate, &second, &["status"]), NOT_PERMITTED, "is disabled");
    operator(&gate, "third", &["approver"]);
    gate.cli(&["operator", "roles", &me, "--role", "viewer", "--reason", "x"]).ok();
    refused(&gate.cli(&["reload"]), NOT_PERMITTED, "has the roles viewer; this takes one of: operator");
}

#[test]
fn wrong_operators_are_refused_with_what_is_wrong() {
    let gate = Gate::start();
    let me = this_user();
    for (more, exit, said) in [
        (&["x", "--role", "viewer"][..], Some(2), "--with-token"),
        (&["x", "--role", "admin", "--with-token"], Some(3), "`admin` is none of viewer, requester"),
        (&["Bad", "--role", "viewer", "--with-token"], Some(3), "`Bad` is not an id"),
        (&["second", "--role", "viewer", "--with-token"], Some(3), "there is an operator `second` already"),
        (&["x", "--role", "viewer", "--user", &me], Some(3), "nobody is two operators"),
        (&["x", "--role", "viewer", "--certificate", "subject=CN=x"], Some(3), "common name"),
    ] {
        refused(&gate.cli(&[&["operator", "add"], more].concat()), exit, said);
    }
    refused(&gate.cli(&["operator", "show", "x"]), Some(3), "there is no such operator");
    refused(&gate.cli(&["operator", "disable", "second", "--reason", " "]), Some(3), "a reason is needed");
    let file = gate.dir.path().join("open");
    fs::write(&file, "pgo_x_y").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = as_one(&gate, &format!("file:{}", file.display()), &["status"]);
    refused(&open, Some(3), "can be read by others (mode 0644); chmod 0600");
    refused(&as_one(&gate, "pgo_a_b", &["status"]), Some(3), "--token: ");
}

/// Whoever has to stop something is not kept from it by a mistake in the config.
#[test]
fn broken_config_keeps_nobody_from_the_gateway() {
    let gate = Gate::start();
    fs::write(gate.config_file(), "environment: [\nstate_dir: x").unwrap();
    let broken = gate.cli(&["lockdown", "on", "--reason", "incident"]);
    refused(&broken, Some(3), "--admin unix:STATE_DIR/admin.sock reaches a gateway past its config");
    let socket = format!("unix:{}", gate.dir.path().join("state/admin.sock").display());
    gate.cli(&["--admin", &socket, "lockdown", "on", "--reason", "incident"]).ok();
    assert!(gate.cli(&["--admin", &socket, "status"]).ok().contains("LOCKDOWN"));
}

/// Threat 27: what an operator shows is a secret.
#[test]
fn tokens_are_kept_nowhere() {
    let gate = Gate::start();
    let reference = operator(&gate, "pipeline", &["viewer"]);
    as_one(&gate, &reference, &["status"]).ok();
    let token = fs::read_to_string(reference.strip_prefix("file:").unwrap()).unwrap();
    let wrong = format!("{token}x");
    fs::write(gate.dir.path().join("wrong"), &wrong).unwrap();
    fs::set_permissions(gate.dir.path().join("wrong"), fs::Permissions::from_mode(0o600)).unwrap();
    as_one(&gate, &format!("file:{}", gate.dir.path().join("wrong").display()), &["status"]);
    let secret = token.splitn(3, '_').nth(2).unwrap().as_bytes();
    assert!(secret.len() > 40);
    let folder = gate.dir.path().join("state");
    let mut looked_at = vec![gate.log().into_bytes(), gate.records_text().into_bytes()];
    looked_at.extend(fs::read_dir(&folder).unwrap().flatten().filter_map(|file| fs::read(file.path()).ok()));
    assert!(looked_at.len() > 4);
    for text in &looked_at {
        assert!(!text.windows(secret.len()).any(|part| part == secret), "{}", String::from_utf8_lossy(text));
    }
}

/// A gate with the admin listener, and who may come in with a certificate.
struct Remote {
    gate: Gate,
    operators: Authority,
    carol: Identity,
}

/// A certificate in the files of `file` that says it is the one of `name`.
fn named(pki: &Pki, ca: &Authority, file: &str, name: &str) -> Identity {
    pki.client(ca, file, |p| {
        let uri = format!("https://corp.example/{name}");
        p.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
    })
}

fn remote() -> Remote {
    let setup = Setup::new();
    let server = setup.pki.server(&setup.server_ca, "admin", &["localhost", "127.0.0.1"]);
    let operators = setup.pki.authority("operators-ca");
    let carol = named(&setup.pki, &operators, "carol", "carol");
    let gate = setup
        .set("admin.listen", json!(["127.0.0.1:0"]))
        .set("admin.chain", server.chain_file.to_str().unwrap())
        .set("admin.key", format!("file:{}", server.key_file.display()))
        .set("admin.client_ca", operators.pem_file.to_str().unwrap())
        .start();
    let add = ["operator", "add", "carol", "--role", "operator", "--certificate", "uri=https://corp.example/carol"];
    gate.cli(&add).ok();
    Remote { gate, operators, carol }
}

impl Remote {
    /// A command over the network, from a folder that has no config.
    #[track_caller]
    fn cli(&self, who: Option<&Identity>, more: &[&str]) -> Finished {
        let admin = format!("https://localhost:{}", self.gate.admin_address().port());
        let ca = self.gate.server_ca.pem_file.to_str().unwrap();
        let mut arguments = vec!["--admin", &*admin, "--admin-ca", ca];
        let (chain, key);
        if let Some(who) = who {
            (chain, key) = (who.chain_file.to_str().unwrap(), format!("file:{}", who.key_file.display()));
            arguments.extend(["--admin-cert", chain, "--admin-key", &*key]);
        }
        self.gate.cli(&[&arguments, more].concat())
    }

    /// One call of curl: status and body.
    #[track_caller]
    fn curl(&self, who: Option<&Identity>, more: &[&str]) -> (String, Finished) {
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            "20",
            "--write-out",
            "\n%{http_code}",
        ]);
        command.arg("--cacert").arg(&self.gate.server_ca.pem_file).args(more);
        if let Some(who) = who {
            command.arg("--cert").arg(&who.chain_file).arg("--key").arg(&who.key_file);
        }
        command.arg(format!("https://localhost:{}/v1/status", self.gate.admin_address().port()));
        let finished = run(&mut command, b"");
        (finished.text().rsplit('\n').next().unwrap_or_default().to_owned(), finished)
    }
}

#[test]
fn operators_come_in_over_the_network_with_a_certificate_or_a_token() {
    let remote = remote();
    let gate = &remote.gate;
    let said = remote.cli(Some(&remote.carol), &["partner", "suspend", "globex", "--reason", "odd"]).ok();
    assert!(said.contains("`globex` is suspended"), "{said}");
    let event = events(gate, &["partner", "globex"]).pop().unwrap();
    let actor = &event["actor"];
    assert_eq!((&actor["name"], &actor["way"]), (&"carol".into(), &"admin-tls".into()), "{event}");
    assert_eq!(actor["certificate"], remote.carol.fingerprint());
    assert!(actor["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{event}");
    let shown = gate.cli(&["history", "partner", "globex"]).ok();
    assert!(shown.contains(&format!("by carol (admin-tls, certificate {}", remote.carol.fingerprint())), "{shown}");

    let token = operator(gate, "pipeline", &["requester"]);
    let folder = gate.write_registry(&gate.registry_text().replace("Acme GmbH", "Acme AG"));
    remote
        .cli(None, &["--token", &token, "apply", "--yes", "-f", folder.to_str().unwrap(), "--reason", "renamed"])
        .ok();
    let event = events(gate, &["partner", "acme"]).pop().unwrap();
    let id = event["actor"]["token"].as_str().unwrap();
    let text = fs::read_to_string(token.strip_prefix("file:").unwrap()).unwrap();
    assert!(text.starts_with(&format!("pgo_{id}_")), "{event}");
    // Who sends a token is whom it shows, whatever certificate comes with it.
    let both = remote.cli(Some(&remote.carol), &["--token", &token, "reload"]);
    refused(&both, NOT_PERMITTED, "the operator `pipeline` has the roles requester");
}

#[test]
fn nobody_else_comes_in_over_the_network() {
    let remote = remote();
    let gate = &remote.gate;
    // Nothing shown; a token that is none; somebody the CA knows and we do not.
    let (status, answer) = remote.curl(None, &["--include"]);
    assert_eq!(status, "401", "{answer:?}");
    assert!(answer.text().to_lowercase().contains("www-authenticate: bearer"), "{answer:?}");
    for header in ["Authorization: Bearer pgo_0000000000_x", "Authorization: Basic cm9vdDo=", "Authorization: x"] {
        assert_eq!(remote.curl(Some(&remote.carol), &["-H", header]).0, "401", "{header}");
    }
    let dave = named(&gate.pki, &remote.operators, "dave", "dave");
    let (status, answer) = remote.curl(Some(&dave), &[]);
    assert_eq!(status, "401", "{answer:?}");
    assert!(answer.text().contains("no operator has a certificate like this one"), "{answer:?}");
    // A partner's certificate, and one that says it is carol's, from another CA.
    let forged = named(&gate.pki, &gate.acme_ca, "forged", "carol");
    for who in [&gate.acme, &forged] {
        let (status, answer) = remote.curl(Some(who), &[]);
        assert!(status == "000" && answer.exit != Some(0), "{answer:?}");
    }
    // Nor is it one for the partners' listener.
    let at_the_partners = gate.curl(Some(&remote.carol), "/items", &[]);
    assert_eq!(at_the_partners.status, 0, "no anchor of a partner: {at_the_partners:?}");
    // A page in a browser that has the certificate.
    for header in ["Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Origin: null"] {
        let (status, answer) = remote.curl(Some(&remote.carol), &["-H", header]);
        assert_eq!(status, "403", "{answer:?}");
        assert!(answer.text().contains("pages in a browser"), "{answer:?}");
    }
    assert_eq!(remote.curl(Some(&remote.carol), &[]).0, "200");
    assert_eq!(gate.cli(&["operator", "disable", "carol", "--reason", "left"]).exit, Some(0));
    assert_eq!(remote.curl(Some(&remote.carol), &[]).0, "403");
    assert!(gate.metric("partnergate_admin_calls_total{result=\"unrecognised\"}") >= 5.0);
    assert!(gate.log().contains("an admin call of nobody"), "{}", gate.log());
    // A client that trusts another CA does not talk to it.
    let stranger = gate.cli(&[
        "--admin",
        &format!("https://localhost:{}", gate.admin_address().port()),
        "--admin-ca",
        gate.acme_ca.pem_file.to_str().unwrap(),
        "status",
    ]);
    refused(&stranger, Some(1), "UnknownIssuer");
}

/// Nothing that the admin listener answers is on the partner or the status listener.
#[test]
fn admin_api_is_on_no_other_listener() {
    let gate = Gate::start();
    for path in ["/v1/partners", "/v1/status", "/v1/operators", "/v1/export"] {
        assert_eq!(gate.http(path).0, 404, "{path}");
        let answer =
            gate.dial().identity(&gate.acme).open().request(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        assert_eq!(answer.status, 403, "{path}");
    }
}

#[test]
fn silent_callers_keep_no_operator_out() {
    let Some(python) = python(&["ssl"]) else { return };
    let remote = remote();
    let port = remote.gate.admin_address().port().to_string();
    // As many as are served at once, each after its handshake.
    let silent = "import socket, ssl, sys, time\n\
                  c = ssl.create_default_context(cafile=sys.argv[2])\n\
                  held = [c.wrap_socket(socket.create_connection(('localhost', int(sys.argv[1]))), \
                  server_hostname='localhost') for _ in range(64)]\n\
                  print('held', flush=True)\n\
                  time.sleep(60)\n";
    let mut command = Command::new(python);
    command.args(["-c", silent, &port]).arg(&remote.gate.server_ca.pem_file);
    let mut process = crate::harness::Process::start(&mut command, remote.gate.dir.path(), "silent");
    process.await_output("64 connections", |p| p.out().contains("held").then_some(()));
    assert!(remote.cli(Some(&remote.carol), &["status"]).ok().contains("partnergate "));
}

#[test]
fn renewed_certificate_of_the_listener_is_taken_with_a_reload() {
    let remote = remote();
    let gate = &remote.gate;
    let shown = || {
        let port = gate.admin_address().port();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "localhost"]);
        let out = run(&mut command, b"").text();
        let (_, rest) = out.split_once("-----BEGIN CERTIFICATE-----").unwrap();
        rest.split("-----END").next().unwrap().to_owned()
    };
    let before = shown();
    let renewed = gate.pki.server(&gate.server_ca, "admin-renewed", &["localhost", "127.0.0.1"]);
    let path = |key: &str| PathBuf::from(gate.config()["admin"][key].as_str().unwrap().trim_start_matches("file:"));
    fs::copy(&renewed.chain_file, path("chain")).unwrap();
    fs::copy(&renewed.key_file, path("key")).unwrap();
    await_some("the new certificate", || (shown() != before).then_some(()));
    remote.cli(Some(&remote.carol), &["status"]).ok();
}

#[test]
fn admin_listener_that_cannot_be_is_no_start() {
    let refused = |setup: Setup, said: &str| {
        let (exit, log) = setup.start_expecting_failure();
        assert_eq!(exit, Some(3), "{log}");
        assert!(log.contains(said), "no `{said}` in {log}");
    };
    let listening = || Setup::new().set("admin.listen", json!(["127.0.0.1:0"]));
    refused(listening(), "`admin.listen`: needs a server certificate");
    let setup = listening();
    let server = setup.pki.server(&setup.server_ca, "admin", &["localhost"]);
    let with = |setup: Setup, key: &Path| {
        let chain = server.chain_file.to_str().unwrap();
        setup.set("admin.chain", chain).set("admin.key", format!("file:{}", key.display()))
    };
    let other = setup.acme.key_file.clone();
    let setup = with(setup, &other);
    let (exit, log) = setup.start_expecting_failure();
    assert_eq!(exit, Some(3), "{log}");
    assert!(log.contains("`admin.key`") && log.contains("does not fit the certificate"), "{log}");
    let setup = with(setup, &server.key_file).set("admin.client_ca", "missing.pem");
    refused(setup, "`admin.client_ca`");
    refused(
        Setup::new().set("admin.group", "no-such-group"),
        "`admin.group`: this machine has no group `no-such-group`",
    );
}

/// Users of the machine, let in by their group and judged by who they are.
#[test]
fn users_of_a_group_come_in_as_the_operators_they_are() {
    let id = run(Command::new("id").arg("-u"), b"").ok();
    let setpriv = Command::new("setpriv").arg("--version").stdout(Stdio::null()).status();
    if id.trim() != "0" || !setpriv.is_ok_and(|s| s.success()) {
        skipped("other user to call as: only root has one");
        return;
    }
    let setup = Setup::new();
    let folder = setup.dir.path().join("run");
    fs::create_dir(&folder).unwrap();
    for open in [setup.dir.path(), &folder] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let socket = folder.join("admin.sock");
    let gate = setup.set("admin.socket", socket.to_str().unwrap()).set("admin.group", "daemon").start();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(!gate.dir.path().join("state/admin.sock").exists());
    gate.cli(&["operator", "add", "erin", "--role", "viewer", "--user", "65534"]).ok();
    // Group 1 is daemon's.
    let call = |user: &str, group: &str, path: &str| {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups", "curl", "--silent"]);
        command.args(["--show-error", "--noproxy", "*", "--max-time", "20", "--write-out", "\n%{http_code}"]);
        if path == "/v1/reload" {
            command.args(["-X", "POST"]);
        }
        command.arg("--unix-socket").arg(&socket).arg(format!("http://admin{path}"));
        let finished = run(&mut command, b"");
        finished.text().rsplit('\n').next().unwrap_or_default().to_owned()
    };
    assert_eq!(call("65534", "1", "/v1/status"), "200");
    assert_eq!(call("65534", "1", "/v1/reload"), "403", "a viewer");
    assert_eq!(call("65533", "1", "/v1/status"), "403", "no operator");
    assert_eq!(call("65534", "65534", "/v1/status"), "000", "not of the group");
    assert!(gate.log().contains("operator=\"erin\""), "{}", gate.log());
}
