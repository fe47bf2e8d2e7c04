//! One credential takes the place of another: both are good, the new one is seen in use, the old one goes by itself.

use crate::grants::{by_second, gate, refused, waits};
use crate::harness::{Gate, HOST, Identity, Setup, await_some};
use serde_json::Value;

/// A gate with something of its config set after its first partners are there.
fn gate_with(section: &str, key: &str, value: Value) -> Gate {
    let gate = Setup::new().start();
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(gate.config_file()).unwrap()).unwrap();
    config[section][key] = value;
    std::fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.cli(&["reload"]).ok();
    gate
}

fn status(gate: &Gate, who: &Identity) -> u16 {
    gate.dial().identity(who).open().request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).status
}

fn state(gate: &Gate, id: &str) -> String {
    let list = gate.cli(&["credential", "list", "--partner", "acme"]).ok();
    let line = list.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap_or_default().to_owned();
    line.split_whitespace().nth(2).unwrap_or_default().to_owned()
}

#[test]
fn successor_in_use_lets_the_old_credential_go_by_itself() {
    let gate = gate();
    let next = gate.pki.client(&gate.acme_ca, "acme-next", |_| {});
    let by_key = format!("spki_sha256={}", next.spki());
    let rotate = |overlap: &str| {
        let rotate = ["credential", "rotate", "acme", "acme-client", "--to", "acme-next", "--match", &by_key];
        gate.cli(&[&rotate[..], &["--overlap", overlap, "--reason", "yearly"]].concat())
    };
    let id = waits(&rotate("0s").ok());
    assert_eq!((state(&gate, "acme-client"), status(&gate, &next)), ("active".into(), 403), "all of it waits");
    by_second(&gate, &["approval", "approve", &id]).ok();
    assert_eq!((state(&gate, "acme-client"), state(&gate, "acme-next")), ("retiring".into(), "active".into()));
    // The overlap has passed and nobody has seen the new one: it is stuck, and the old one is good.
    assert_eq!(status(&gate, &gate.acme), 200);
    let shown = gate.cli(&["status"]).ok();
    assert!(
        shown.contains("STUCK        acme-next is to succeed acme-client of acme: its successor is not in use"),
        "{shown}"
    );
    await_some("the gauge", || (gate.metric("partnergate_rotations{state=\"stuck\"}") == 1.0).then_some(()));
    assert_eq!(status(&gate, &next), 200);
    await_some("the old one to go", || (state(&gate, "acme-client") == "revoked").then_some(()));
    assert_eq!((status(&gate, &gate.acme), status(&gate, &next)), (403, 200));
    let shown = gate.cli(&["credential", "list", "--partner", "acme"]).ok();
    assert!(shown.contains("succeeded by `acme-next`, which is in use"), "{shown}");
    assert!(shown.contains(&format!("serial {} until ", next.serial())), "{shown}");
    assert!(shown.contains(&next.fingerprint()), "{shown}");
    await_some("the gauge", || (gate.metric("partnergate_rotations{state=\"stuck\"}") == 0.0).then_some(()));
    // It never comes back, whatever files say.
    let folder = gate.write_registry(gate.registry_text());
    gate.cli(&["apply", "--yes", "-f", folder.to_str().unwrap()]).ok();
    assert_eq!(status(&gate, &gate.acme), 403);
    let activate = gate.cli(&["credential", "activate", "acme", "acme-client"]).ok();
    assert!(activate.contains("nothing to change"), "{activate}");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

#[test]
fn rotation_says_what_is_not_legal_and_is_taken_back_by_two() {
    let gate = gate();
    let client = gate.pki.client(&gate.acme_ca, "acme-next", |_| {});
    let by_key = format!("spki_sha256={}", client.spki());
    let rotate = |old: &str, new: &str, more: &[&str]| {
        gate.cli(&[&["credential", "rotate", "acme", old, "--to", new, "--match", &by_key], more].concat())
    };
    refused(&rotate("nothing", "acme-next", &[]), 3, "has no credential `nothing`; it has acme-client");
    refused(&rotate("acme-client", "acme-client", &[]), 3, "is registered already");
    refused(
        &gate.cli(&["credential", "retire", "acme", "acme-client", "--successor", "acme-next"]),
        3,
        "is not registered yet",
    );
    // A pending successor does not take over before it is activated.
    let id = waits(&rotate("acme-client", "acme-next", &["--pending", "--overlap", "0s"]).ok());
    by_second(&gate, &["approval", "approve", &id]).ok();
    assert_eq!((state(&gate, "acme-next"), status(&gate, &client)), ("pending".into(), 403));
    assert!(gate.cli(&["status"]).ok().contains("its successor is not accepted"));
    refused(&rotate("acme-client", "acme-third", &[]), 3, "matches the same spki");
    let id = waits(&gate.cli(&["credential", "activate", "acme", "acme-next"]).ok());
    // Meanwhile the old one is to stay after all: that is more, and so somebody else looks.
    let cancel = waits(&gate.cli(&["credential", "retire", "acme", "acme-client", "--cancel"]).ok());
    assert!(gate.cli(&["approval", "show", &cancel]).ok().contains("stays, and was being succeeded by `acme-next`"));
    by_second(&gate, &["approval", "approve", &cancel]).ok();
    by_second(&gate, &["approval", "approve", &id]).ok();
    assert_eq!((state(&gate, "acme-client"), state(&gate, "acme-next")), ("active".into(), "active".into()));
    assert_eq!((status(&gate, &gate.acme), status(&gate, &client)), (200, 200));
}

/// A grant for named credentials names the successor too, and files that know of neither leave the rotation alone.
#[test]
fn successor_may_do_what_its_predecessor_may() {
    let gate = Setup::new().registry(&crate::harness::Setup::new().registry_text().replace(
        "operations: [items.read, items.list,",
        "credentials: [acme-client], operations: [items.read, items.list,",
    ));
    let gate = gate.start();
    let next = gate.pki.client(&gate.acme_ca, "acme-next", |_| {});
    let by_key = format!("spki_sha256={}", next.spki());
    let rotate = ["credential", "rotate", "acme", "acme-client", "--to", "acme-next", "--match", &by_key];
    let planned = gate.cli(&[&rotate[..], &["--dry-run"]].concat()).ok();
    assert!(planned.contains("acme-next") && !planned.contains("applied"), "{planned}");
    by_second(&gate, &rotate).ok();
    // Who approved the grant approved just that; the rotation is in the history.
    let grants: Value = serde_json::from_str(&gate.cli(&["grant", "list", "--output", "json"]).ok()).unwrap();
    let of = |id: &str| grants["grants"].as_array().unwrap().iter().find(|g| g["id"] == id).unwrap();
    assert_eq!(of("acme-items")["requester"], "root", "{grants}");
    assert_eq!((status(&gate, &next), state(&gate, "acme-client")), (200, "retiring".into()));
    let listed: Value =
        serde_json::from_str(&gate.cli(&["credential", "list", "--partner", "acme", "--output", "json"]).ok()).unwrap();
    let old = listed["credentials"].as_array().unwrap().iter().find(|c| c["id"] == "acme-client").unwrap();
    assert_eq!(old["successor"], "acme-next", "{listed}");
    assert!(old["retires"].as_str().unwrap() > jiff::Timestamp::now().to_string().as_str(), "{listed}");
}

/// A credential with an end is not accepted from then on, and a config may ask for one.
#[test]
fn credential_ends_whatever_its_certificate_says() {
    let gate = gate_with("approval", "max_credential_days", 30.into());
    let next = gate.pki.client(&gate.acme_ca, "acme-next", |_| {});
    let by_key = format!("fingerprint_sha256={}", next.fingerprint());
    let add = |id: &str, ends: &[&str]| {
        let add = ["credential", "add", "acme", id, "--anchor", "acme-ca", "--match", &by_key];
        gate.cli(&[&add[..], ends].concat())
    };
    refused(&add("acme-next", &[]), 3, "at most 30 days ahead (`approval.max_credential_days`)");
    refused(&add("acme-next", &["--ends", "2099-01-01T00:00:00Z"]), 3, "acme-next.ends`");
    let ends = (jiff::Timestamp::now() + jiff::Span::new().seconds(2)).to_string();
    add("acme-next", &["--ends", &ends]).ok();
    let mut connection = gate.dial().identity(&next).open();
    let get = format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    connection.request(&get).expect(200);
    let denied = await_some("its end", || {
        let answer = gate.dial().identity(&next).open().request(&get);
        (answer.status == 403).then_some(answer)
    });
    assert_eq!(denied.code(), "credential-not-valid");
    assert_eq!(gate.record_of(denied.header("x-request-id").unwrap())["reason"], "credential-ended");
    assert_eq!(state(&gate, "acme-next"), "expired");
}

/// One certificate or key is one partner's, also where it was only seen under a name.
#[test]
fn key_of_another_partner_is_not_registered_and_one_that_two_use_shows() {
    let gate = gate();
    assert_eq!(status(&gate, &gate.acme), 200);
    for kind in ["fingerprint_sha256", "spki_sha256"] {
        let hash = if kind == "spki_sha256" { gate.acme.spki() } else { gate.acme.fingerprint() };
        let by = format!("{kind}={hash}");
        await_some("the certificate to be kept", || {
            gate.cli(&["credential", "list", "--partner", "acme"]).ok().contains("seen ").then_some(())
        });
        let add = ["credential", "add", "globex", "globex-2", "--anchor", "globex-ca", "--match", &by];
        refused(&gate.cli(&add), 3, "was seen of `acme`: one client cannot be two partners");
    }
    // A certificate of globex with the key of acme, under the name that globex has.
    let same = gate.pki.client_with_key(&gate.globex_ca, "globex-same", gate.acme.key_pair(), |p| {
        p.subject_alt_names = vec![rcgen::SanType::URI("spiffe://globex.example/client".try_into().unwrap())];
    });
    assert_eq!(status(&gate, &same), 200, "globex's own CA says so");
    let shown = await_some("it shows", || {
        let shown = gate.cli(&["status"]).ok();
        shown.contains("SHARED KEY").then_some(shown)
    });
    assert!(shown.contains("acme-client") && shown.contains("globex-client"), "{shown}");
    assert_eq!(gate.metric("partnergate_shared_keys"), 1.0);
}
