//! TLS sessions from before a change carry no right into after it.

use super::*;
use crate::harness::http2::{block_on, request};
use crate::harness::{Dial, Finished, OpensslCa, put};
use std::path::{Path, PathBuf};

/// What ends acme's right.
const ENDINGS: [&str; 7] =
    ["revoked", "denied", "anchor replaced", "anchor removed", "partner removed", "partner ended", "rotated"];

/// Sessions of clients of both kinds and both versions of TLS.
struct Sessions {
    rustls: Vec<Dial>,
    http2: Vec<Dial>,
    openssl: Vec<(&'static str, PathBuf)>,
}

/// What came of an attempt to go on with a session.
#[derive(Debug, PartialEq, Eq)]
struct Attempt {
    resumed: bool,
    /// `None` when the gateway lets nobody in.
    status: Option<u16>,
}

impl Sessions {
    #[track_caller]
    fn begin(gate: &Gate) -> Self {
        let dial = gate.dial().identity(&gate.acme);
        let both = |dial: Dial| vec![dial.clone().resuming(), dial.tls12().resuming()];
        let (rustls, http2) = (both(dial.clone()), both(dial.alpn(&["h2"])));
        let openssl =
            ["-tls1_3", "-tls1_2"].map(|version| (version, gate.dir.path().join(format!("session{version}"))));
        let sessions = Sessions { rustls, http2, openssl: openssl.into() };
        for (n, attempt) in sessions.attempts(gate, "-sess_out").into_iter().enumerate() {
            assert_eq!(attempt, Attempt { resumed: false, status: Some(200) }, "{n}");
        }
        // They would be resumed.
        for (n, attempt) in sessions.attempts(gate, "-sess_in").into_iter().enumerate() {
            assert_eq!(attempt, Attempt { resumed: true, status: Some(200) }, "{n}");
        }
        // A session of TLS 1.3 is good once: the next is taken from here.
        for attempt in sessions.attempts(gate, "-sess_out") {
            assert_eq!(attempt.status, Some(200));
        }
        sessions
    }

    fn attempts(&self, gate: &Gate, option: &str) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        for dial in &self.rustls {
            attempts.push(match dial.handshake() {
                crate::harness::Tried::Open(mut conn) => {
                    let resumed = conn.state().handshake_kind() == Some(rustls::HandshakeKind::Resumed);
                    let status = conn.try_send(get("/items")).and_then(|()| conn.try_response()).ok().map(|r| r.status);
                    Attempt { resumed, status }
                }
                _ => Attempt { resumed: false, status: None },
            });
        }
        attempts.extend(self.http2.iter().map(|dial| block_on(over_http2(dial))));
        for (version, file) in &self.openssl {
            let said = s_client(gate, &[version, option, file.to_str().unwrap()]);
            let text = said.text();
            let status = text.split_once("HTTP/1.1 ").map(|(_, rest)| rest[..3].parse().unwrap());
            attempts.push(Attempt { resumed: text.contains("\nReused, "), status });
        }
        attempts
    }
}

async fn over_http2(dial: &Dial) -> Attempt {
    let Ok(tls) = dial.try_secure().await else { return Attempt { resumed: false, status: None } };
    let resumed = tls.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let status = async {
        let (send, connection) = h2::client::handshake(tls).await?;
        tokio::spawn(connection);
        let (answer, _) = send.ready().await?.send_request(request("GET", "/items"), true)?;
        Ok::<_, h2::Error>(answer.await?.status().as_u16())
    };
    Attempt { resumed, status: status.await.ok() }
}

fn s_client(gate: &Gate, arguments: &[&str]) -> Finished {
    let head = format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    gate.s_client(Some(&gate.acme), &[&["-ign_eof"], arguments].concat(), head.as_bytes())
}

#[test]
fn session_from_before_a_right_ended_carries_none() {
    for ending in ENDINGS {
        let mut setup = Setup::new();
        if ending == "revoked" {
            setup = revoking(setup, "acme-ca", "{crl: ['file:acme.crl']}");
        }
        let ca = OpensslCa::of(&setup.acme_ca);
        let list = setup.dir.path().join("acme.crl");
        put(&list, &ca.list(WHOLE));
        let successor = client(&setup, &setup.acme_ca, "successor", &[]);
        let another = setup.pki.authority("another-ca");
        assert!(another.pem_file.exists());
        let mut text = setup.registry_text().to_owned();
        if ending == "rotated" {
            let by = |who: &Identity| format!("match: {{fingerprint_sha256: {}}}", who.fingerprint());
            text = text.replace("match: {uri: \"spiffe://acme.example/client\"}", &by(&setup.acme));
            setup = setup.registry(&text);
            text = text.replace(&by(&setup.acme), &by(&successor));
        }
        let gate = setup.start();
        let sessions = Sessions::begin(&gate);
        let anchor_line = "  acme-ca: {certificate: acme-ca.pem, partners: [acme]}\n";
        let (from, to) = (text.find("  acme:\n").unwrap(), text.find("  globex:\n").unwrap());
        let without_acme = format!("{}{}", &text[..from], &text[to..]);
        match ending {
            "revoked" => {
                let generation = gate.metric("partnergate_snapshot_trust_generation");
                ca.revoke(&gate.acme);
                put(&list, &ca.list(WHOLE));
                await_some("the list", || {
                    (gate.metric("partnergate_snapshot_trust_generation") > generation).then_some(())
                });
            }
            "denied" => {
                let serial = gate.acme.serial();
                gate.cli(&["anchor", "deny", "acme-ca", "--serial", &serial, "--reason", "x"]).ok();
            }
            "anchor replaced" => gate.apply(&text.replace("certificate: acme-ca.pem", "certificate: another-ca.pem")),
            "anchor removed" => gate.apply(&without_acme.replace(anchor_line, "")),
            "partner removed" => gate.apply(&without_acme.replace("partners: [acme]", "partners: [globex]")),
            "partner ended" => drop(gate.cli(&["partner", "offboard", "acme", "--yes", "--reason", "is over"]).ok()),
            _ => gate.apply(&text),
        }
        let attempts = sessions.attempts(&gate, "-sess_in");
        let ends_trust = matches!(ending, "revoked" | "denied" | "anchor replaced" | "anchor removed");
        for (n, attempt) in attempts.iter().enumerate() {
            if ends_trust {
                assert_eq!(*attempt, Attempt { resumed: false, status: None }, "{ending} {n}");
            } else {
                assert_eq!(attempt.status, Some(403), "{ending} {n}");
            }
        }
        assert_eq!(gate.upstream.text().matches("GET /items").count(), 18, "{ending}: what was let in before");
        if ending == "rotated" {
            accepted(&gate, &successor);
        }
    }
}

#[test]
fn no_early_data_is_taken() {
    let gate = Gate::start();
    let file = gate.dir.path().join("session");
    let file = file.to_str().unwrap();
    let first = s_client(&gate, &["-tls1_3", "-sess_out", file]).text();
    assert!(first.contains("Max Early Data: 0\n"), "{first}");
    // A client that would send some has no leave to.
    let early = gate.pki.write("early", 0o600, get("/items/early").as_bytes());
    let second = s_client(&gate, &["-tls1_3", "-sess_in", file, "-early_data", early.to_str().unwrap()]).text();
    assert!(second.contains("\nReused, TLSv1.3") && second.contains("Early data was not sent"), "{second}");
    assert!(second.contains("HTTP/1.1 200"), "{second}");
    // One that sends it without leave is not heard; what it sends after the handshake is.
    s_client(&gate, &["-tls1_3", "-sess_out", file]);
    permit_early_data(Path::new(file));
    let third = s_client(&gate, &["-tls1_3", "-sess_in", file, "-early_data", early.to_str().unwrap()]).text();
    assert!(third.contains("Early data was rejected"), "{third}");
    assert!(third.contains("HTTP/1.1 200"), "{third}");
    let records = gate.settle();
    let paths: Vec<&str> = records.iter().filter_map(|r| r["input"]["request"]["path"].as_str()).collect();
    assert_eq!(paths, ["/items"; 4]);
}

/// Writes into a session of OpenSSL's that the gateway takes early data.
fn permit_early_data(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let begin = "-----BEGIN SSL SESSION PARAMETERS-----";
    let body: String = text.lines().skip_while(|l| *l != begin).skip(1).take_while(|l| !l.starts_with('-')).collect();
    let der = data_encoding::BASE64.decode(body.as_bytes()).unwrap();
    // SEQUENCE with a length of two bytes; its parts in the order of their tags, early data being [15].
    assert_eq!(der[..2], [0x30, 0x82]);
    let (mut head, mut rest) = (Vec::new(), &der[4..]);
    while !rest.is_empty() && !(0xb0..0xc0).contains(&rest[0]) {
        assert_ne!(rest[0], 0xaf, "it says so already");
        let length = match rest[1] {
            0x82 => 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]])),
            0x81 => 3 + usize::from(rest[2]),
            short => 2 + usize::from(short),
        };
        head.extend_from_slice(&rest[..length]);
        rest = &rest[length..];
    }
    let body = [&head[..], &[0xaf, 4, 2, 2, 0x40, 0], rest].concat();
    let der = [&[0x30, 0x82], &u16::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat();
    let lines: Vec<String> = data_encoding::BASE64
        .encode(&der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let end = "-----END SSL SESSION PARAMETERS-----";
    std::fs::write(file, format!("{begin}\n{}\n{end}\n", lines.join("\n"))).unwrap();
}
