//! Policy bundles as files: what others can read of ours, and we of theirs. What is signed is judged by a second
//! implementation of the format, in Python.

use crate::harness::{Finished, Setup, openssl_key, python, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const RULE: &str = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-late\"} if {\n\
                    \tinput.time.hour >= data.custom.limits.until\n}\n";
const REASONS: &str = "reasons:\n  x-late: 'after hours'\n";

/// The shipped policy with a rule that has data, and a key of each kind in each form.
struct Office {
    setup: Setup,
    folder: PathBuf,
}

impl Office {
    fn new() -> Self {
        let (setup, folder) = Setup::new().own_policies();
        // No part of a policy that is served.
        std::fs::remove_dir_all(folder.join("examples")).unwrap();
        std::fs::write(folder.join("custom/late.rego"), RULE).unwrap();
        std::fs::write(folder.join("custom/limits.yaml"), "limits: {until: 18, factor: 1.50, name: 'Öl <b>&'}\n")
            .unwrap();
        std::fs::write(folder.join("reasons.yaml"), REASONS).unwrap();
        Office { setup, folder }
    }

    fn file(&self, name: &str) -> String {
        self.setup.dir.path().join(name).display().to_string()
    }

    fn cli(&self, arguments: &[&str]) -> Finished {
        self.setup.cli(&[&["policy"], arguments].concat())
    }

    fn build(&self, name: &str, more: &[&str]) -> String {
        let (folder, file) = (self.folder.display().to_string(), self.file(name));
        self.cli(&[&["build", &folder, "-o", &file], more].concat()).ok();
        file
    }

    /// A private key and its public half, in files.
    fn key(&self, kind: &str) -> (String, String) {
        let pki = &self.setup.pki;
        let openssl = |arguments: &[&str]| drop(run(Command::new("openssl").args(arguments), b"").ok());
        let public = self.file(&format!("{kind}.pub"));
        let rsa = || openssl_key(pki, kind, &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
        let file = match kind {
            "rsa-pkcs8" => rsa(),
            "rsa-pkcs1" => {
                let (from, to) = (rsa(), pki.write("pkcs1.key", 0o600, b""));
                openssl(&["rsa", "-traditional", "-in", from.to_str().unwrap(), "-out", to.to_str().unwrap()]);
                assert!(std::fs::read_to_string(&to).unwrap().contains("BEGIN RSA PRIVATE KEY"));
                to
            }
            "ec-sec1" => {
                let to = pki.write("sec1.key", 0o600, b"");
                // With the parameters before it, as openssl has them.
                openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-out", to.to_str().unwrap()]);
                assert!(std::fs::read_to_string(&to).unwrap().contains("BEGIN EC PRIVATE KEY"));
                to
            }
            _ => openssl_key(pki, kind, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        };
        let file = file.display().to_string();
        openssl(&["pkey", "-in", &file, "-pubout", "-out", &public]);
        (file, public)
    }

    /// Unpacks a bundle with GNU tar.
    fn unpack(&self, bundle: &str, into: &str) -> PathBuf {
        let folder = self.setup.dir.path().join(into);
        std::fs::create_dir(&folder).unwrap();
        let done = run(Command::new("tar").args(["xzf", bundle, "-C"]).arg(&folder), b"");
        assert_eq!(done.stderr, "", "tar has something to say");
        done.ok();
        folder
    }

    /// Packs a folder with GNU tar, as people do.
    fn pack(&self, folder: &Path, name: &str) -> String {
        let file = self.file(name);
        run(Command::new("tar").args(["czf", &file, "-C"]).arg(folder).arg("."), b"").ok();
        file
    }
}

fn files(folder: &Path) -> Vec<String> {
    let listed = run(Command::new("find").args([".", "-type", "f", "-printf", "%P\\n"]).current_dir(folder), b"").ok();
    let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// The hash of a file as the documentation of OPA's bundles describes it, and a signature over all of them: written from
/// that description, with nothing of ours.
const PYTHON: &str = r#"
import hashlib, json, os, re, sys
import jwt

class Number(str):
    pass

def text(value):
    out = json.dumps(value, ensure_ascii=False)
    return out.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")

def canonical(value):
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode())
        return "{" + ",".join(text(key) + ":" + canonical(value[key]) for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, str):
        return text(value)
    return json.dumps(value)

def content(path):
    with open(path, "rb") as file:
        raw = file.read()
    if os.path.basename(path) in ("data.json", "data.yaml", "signatures.json", ".manifest"):
        return canonical(json.loads(raw, parse_int=Number, parse_float=Number)).encode()
    return raw

def files(folder):
    for below, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(below, name)
            if os.path.relpath(path, folder) != ".signatures.json":
                yield os.path.relpath(path, folder), path

def digest(path, algorithm):
    return hashlib.new(algorithm.replace("-", "").lower(), content(path)).hexdigest()

command, folder, key, algorithm = sys.argv[1:5]
if command == "sign":
    hashed, claims, kid = sys.argv[5], json.loads(sys.argv[6]), sys.argv[7]
    listed = [{"name": name, "hash": digest(path, hashed), "algorithm": hashed} for name, path in files(folder)]
    headers = {"kid": kid} if kid else {}
    token = jwt.encode({"files": listed, **claims}, open(key).read(), algorithm=algorithm, headers=headers)
    with open(os.path.join(folder, ".signatures.json"), "w") as file:
        json.dump({"signatures": [token]}, file)
else:
    tokens = json.load(open(os.path.join(folder, ".signatures.json")))["signatures"]
    assert len(tokens) == 1, tokens
    claims = jwt.decode(tokens[0], open(key).read(), algorithms=[algorithm])
    listed = {file["name"]: file for file in claims.pop("files")}
    there = dict(files(folder))
    assert sorted(listed) == sorted(there), (sorted(listed), sorted(there))
    for name, path in there.items():
        assert listed[name]["algorithm"] == "SHA-256", listed[name]
        assert listed[name]["hash"] == digest(path, "SHA-256"), name
    print(json.dumps({"header": jwt.get_unverified_header(tokens[0]), "claims": claims}))
"#;

fn second(python: &Path, arguments: &[&str]) -> Finished {
    run(Command::new(python).args(["-c", PYTHON]).args(arguments), b"")
}

#[test]
fn policy_goes_through_a_bundle_and_gnu_tar_and_comes_back() {
    let office = Office::new();
    let bundle = office.build("one.tar.gz", &[]);
    let again = office.build("two.tar.gz", &[]);
    assert_eq!(std::fs::read(&bundle).unwrap(), std::fs::read(again).unwrap(), "equal folders make equal bytes");
    let unpacked = office.unpack(&bundle, "unpacked");
    let named = files(&unpacked);
    let shipped: Vec<String> = files(&office.folder)
        .into_iter()
        .filter(|name| name.ends_with(".rego") && !name.ends_with("_test.rego"))
        .chain([".manifest", "custom/data.json", "partnergate/conditions.yaml", "reasons.yaml"].map(str::to_owned))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    assert_eq!(named, shipped);
    for name in named.iter().filter(|name| name.ends_with(".rego") || *name == "reasons.yaml") {
        assert_eq!(std::fs::read(unpacked.join(name)).unwrap(), std::fs::read(office.folder.join(name)).unwrap());
    }
    let json_of =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(unpacked.join(name)).unwrap()).unwrap() };
    assert_eq!(json_of("custom/data.json"), json!({"limits": {"until": 18, "factor": 1.5, "name": "Öl <b>&"}}));
    let manifest = json_of(".manifest");
    assert_eq!(manifest["roots"], json!(["custom", "partnergate"]));
    assert_eq!((&manifest["rego_version"], &manifest["metadata"]["partnergate"]["contract"]), (&json!(1), &json!(1)));
    let checked: Value =
        serde_json::from_str(&office.cli(&["check", unpacked.to_str().unwrap(), "--output", "json"]).ok()).unwrap();
    assert_eq!(manifest["revision"], checked["revision"], "what records will name the policy by");
    let of_folder = office.cli(&["check", office.folder.to_str().unwrap(), "--output", "json"]).ok();
    let of_folder: Value = serde_json::from_str(&of_folder).unwrap();
    assert_eq!(manifest["revision"], of_folder["revision"], "as that of the folder with its tests");

    // What GNU tar makes of the folder is a bundle too, once it is signed.
    let (private, public) = office.key("ec-pkcs8");
    let packed = office.pack(&unpacked, "packed.tar.gz");
    let unsigned = office.cli(&["verify", &packed, "--key", &public, "--algorithm", "ES256"]);
    assert!(unsigned.exit == Some(3) && unsigned.stderr.contains("it is not signed"), "{}", unsigned.stderr);
    office.cli(&["sign", &packed, "--key", &private, "--algorithm", "ES256"]).ok();
    let said = office.cli(&["verify", &packed, "--key", &public, "--algorithm", "ES256"]).ok();
    assert!(said.contains(checked["revision"].as_str().unwrap()), "{said}");
    // The policy folder itself is one as far as OPA would read it: not where it has data of ours.
    let folder = office.pack(&office.folder, "folder.tar.gz");
    let refused = office.cli(&["sign", &folder, "--key", &private, "--algorithm", "ES256"]);
    assert!(refused.exit == Some(3) && refused.stderr.contains("`custom/limits.yaml` would not be read by OPA"));
    std::fs::remove_file(office.folder.join("custom/limits.yaml")).unwrap();
    std::fs::write(office.folder.join("custom/data.yaml"), "limits: {until: 18}\n").unwrap();
    let folder = office.pack(&office.folder, "folder.tar.gz");
    office.cli(&["sign", &folder, "--key", &private, "--algorithm", "ES256"]).ok();
    office.cli(&["verify", &folder, "--key", &public, "--algorithm", "ES256"]).ok();
    // And its tests where they are wanted.
    let with = office.build("with.tar.gz", &["--with-tests", "--revision", "2026-11-30 α"]);
    let listed = run(Command::new("tar").args(["tzf", &with]), b"").ok();
    assert!(listed.lines().any(|name| name == "partnergate/decision_test.rego"), "{listed}");
}

#[test]
fn signature_is_good_to_somebody_else() {
    let Some(python) = python(&["jwt", "cryptography"]) else { return };
    let office = Office::new();
    for (kind, algorithm) in
        [("rsa-pkcs8", "RS256"), ("rsa-pkcs1", "RS256"), ("ec-pkcs8", "ES256"), ("ec-sec1", "ES256")]
    {
        let (private, public) = office.key(kind);
        let bundle = office.build("bundle.tar.gz", &[]);
        let sign = ["sign", &bundle, "--key", &private, "--algorithm", algorithm];
        office.cli(&[&sign[..], &["--key-id", "2026", "--scope", "production"]].concat()).ok();
        let unpacked = office.unpack(&bundle, kind);
        let seen = second(&python, &["verify", unpacked.to_str().unwrap(), &public, algorithm]).ok();
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(seen["header"]["alg"], algorithm);
        assert_eq!((&seen["header"]["kid"], &seen["claims"]["keyid"]), (&json!("2026"), &json!("2026")));
        assert_eq!(seen["claims"]["scope"], "production");
        // A folder that is signed where it lies is the same.
        std::fs::write(
            unpacked.join("custom/data.json"),
            b"{\"limits\": { \"until\": 18.0, \"\\u0061\": \"\\u2028\"} }",
        )
        .unwrap();
        assert_ne!(second(&python, &["verify", unpacked.to_str().unwrap(), &public, algorithm]).exit, Some(0));
        office.cli(&["sign", unpacked.to_str().unwrap(), "--key", &private, "--algorithm", algorithm]).ok();
        let seen = second(&python, &["verify", unpacked.to_str().unwrap(), &public, algorithm]).ok();
        assert!(!seen.contains("kid"), "{seen}");
        let packed = office.pack(&unpacked, "packed.tar.gz");
        office.cli(&["verify", &packed, "--key", &public, "--algorithm", algorithm]).ok();
    }
}

#[test]
fn signature_of_somebody_else_is_good_to_us() {
    let Some(python) = python(&["jwt", "cryptography"]) else { return };
    let office = Office::new();
    let nasty = r#"{ "z": [1.0, 1e2, 1E+2, -0, 0.10, 123456789012345678901234567890, 1e-7, -0.0e0],
        "é": {"b": 1, "a": 2, "B": 3, "ä": 4, "😀": 5, "\ud83d\ude00x": 6, "": 7},
        "text": "<b>&</b> \u0041\u00e9 \u2028\u2029 \u0000\u0001\u001f\u007f \b\f\n\r\t \"\\\/ α © ™ 😀",
        "nothing": [null, true, false, {}, [], [[[{"deep": [{}]}]]], ""],
        "a\u2028b": 1, "limits": {"until": 18} }"#;
    for (kind, algorithm, hashed) in [("rsa-pkcs8", "RS256", "SHA-512"), ("ec-sec1", "ES256", "SHA-384")] {
        let (private, public) = office.key(kind);
        let bundle = office.build("bundle.tar.gz", &[]);
        let folder = office.unpack(&bundle, kind);
        let shown = folder.to_str().unwrap();
        std::fs::write(folder.join("custom/data.json"), nasty).unwrap();
        std::fs::write(folder.join("custom/README"), "neither of us reads it").unwrap();
        second(&python, &["sign", shown, &private, algorithm, hashed, r#"{"scope": "s", "iss": "x", "iat": 1}"#, "k"])
            .ok();
        let packed = office.pack(&folder, "theirs.tar.gz");
        let verify = |more: &[&str]| {
            office.cli(&[&["verify", &packed, "--key", &public, "--algorithm", algorithm], more].concat())
        };
        verify(&["--scope", "s", "--key-id", "k"]).ok();
        for (more, expected) in [
            (&["--scope", "s", "--key-id", "other"][..], "the key `k` is not known; known are other"),
            (&["--key-id", "k"], "signed for the scope `s`, and none is asked for"),
        ] {
            let refused = verify(more);
            assert!(refused.exit == Some(3) && refused.stderr.contains(expected), "{}", refused.stderr);
            let refused = verify(&[more, &["--output", "json"]].concat());
            let parsed: Value = serde_json::from_str(&refused.text()).unwrap();
            assert!(parsed["ok"] == false && parsed["problems"][0]["reason"].as_str().unwrap().contains(expected));
        }
        let (_, stranger) = office.key(if algorithm == "RS256" { "rsa-pkcs1" } else { "ec-pkcs8" });
        let refused = office.cli(&["verify", &packed, "--key", &stranger, "--algorithm", algorithm, "--scope", "s"]);
        assert!(refused.exit == Some(3) && refused.stderr.contains(&format!("not by the key `{stranger}`")));
        let other = if algorithm == "RS256" { "ES256" } else { "RS256" };
        let refused = office.cli(&["verify", &packed, "--key", &public, "--algorithm", other, "--scope", "s"]);
        assert!(refused.exit == Some(3) && refused.stderr.contains("a key of another kind"), "{}", refused.stderr);
        // One byte of what neither of us reads.
        std::fs::write(folder.join("custom/README"), "neither of us reads at").unwrap();
        let packed = office.pack(&folder, "altered.tar.gz");
        let refused = office.cli(&["verify", &packed, "--key", &public, "--algorithm", algorithm, "--scope", "s"]);
        assert!(refused.exit == Some(3) && refused.stderr.contains("`custom/README` is not what was signed"));
    }
}

#[test]
fn what_cannot_be_built_or_signed_says_why() {
    let office = Office::new();
    let folder = office.folder.display().to_string();
    let out = office.file("out.tar.gz");
    std::fs::write(office.folder.join("custom/late.rego"), RULE.replace("input.time.hour", "input.time.hours"))
        .unwrap();
    let refused = office.cli(&["build", &folder, "-o", &out]);
    assert_eq!(refused.exit, Some(3));
    assert!(refused.stderr.contains("custom/late.rego:6:13") && refused.stderr.contains("did you mean `hour`"));
    assert!(!Path::new(&out).exists(), "what does not pass is not built");
    std::fs::write(office.folder.join("custom/late.rego"), RULE).unwrap();
    let refused = office.cli(&["build", &folder, "-o", "/nonexistent/out.tar.gz"]);
    assert!(refused.exit == Some(1) && refused.stderr.contains("does not exist"), "{}", refused.stderr);
    let bundle = office.build("bundle.tar.gz", &[]);
    let (private, public) = office.key("ec-pkcs8");
    for (arguments, exit, expected) in [
        (["sign", &bundle, "--key", &private, "--algorithm", "RS256"], 3, "a key of another kind than RS256 needs"),
        (
            ["sign", &bundle, "--key", &public, "--algorithm", "ES256"],
            3,
            "holds a public key, and signing takes the private one",
        ),
        (["sign", &bundle, "--key", "/nonexistent", "--algorithm", "ES256"], 3, "does not exist"),
        (["sign", &bundle, "--key", &private, "--algorithm", "HS256"], 2, "signatures are RS256, "),
        (["sign", "/nonexistent", "--key", &private, "--algorithm", "ES256"], 3, "does not exist"),
        (["verify", &bundle, "--key", &private, "--algorithm", "ES256"], 3, "name the public key: `openssl pkey -in "),
        (["verify", &private, "--key", &public, "--algorithm", "ES256"], 3, "the gzip is broken"),
    ] {
        let refused = office.cli(&arguments);
        assert!(refused.exit == Some(exit) && refused.stderr.contains(expected), "{arguments:?}: {}", refused.stderr);
    }
    let linked = office.unpack(&bundle, "linked");
    std::os::unix::fs::symlink("/etc/passwd", linked.join("custom/passwd")).unwrap();
    let refused = office.cli(&["sign", linked.to_str().unwrap(), "--key", &private, "--algorithm", "ES256"]);
    assert!(refused.exit == Some(3) && refused.stderr.contains("is no file"), "{}", refused.stderr);
    let packed = office.pack(&linked, "linked.tar.gz");
    let refused = office.cli(&["sign", &packed, "--key", &private, "--algorithm", "ES256"]);
    assert!(refused.exit == Some(3) && refused.stderr.contains("a symbolic link"), "{}", refused.stderr);
    // A dry run of what has none does nothing.
    let refused = office.setup.cli(&["--dry-run", "policy", "sign", &bundle, "--key", &private]);
    assert_eq!(refused.exit, Some(2), "{}", refused.stderr);
}
