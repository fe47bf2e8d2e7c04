use super::*;
use crate::jose::{Algorithm, VerifyKey};
use data_encoding::BASE64URL_NOPAD;
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest;
use std::io::Write;
use tar::{EntryType, Header};

const MAIN: &str = "package partnergate\nimport rego.v1\ndefault decision := {\"allow\": false, \"reasons\": []}\n";

fn keys() -> (SignKey, VerifyKey) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let private = SignKey::from_pem(Algorithm::Es256, pair.serialize_pem().as_bytes()).unwrap();
    (private, VerifyKey::from_pem(Algorithm::Es256, pair.public_key_pem().as_bytes()).unwrap())
}

fn by(id: &str, key: VerifyKey) -> Verification {
    Verification { keys: [(id.to_owned(), key)].into(), ..Verification::default() }
}

fn anybody() -> Verification {
    Verification { required: Required::No, ..Verification::default() }
}

fn claims(key_id: Option<&str>, scope: Option<&str>) -> SignatureClaims {
    SignatureClaims { key_id: key_id.map(str::to_owned), scope: scope.map(str::to_owned) }
}

fn archive(files: &[(&str, &str)]) -> Archive {
    Archive::of(files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))).unwrap()
}

fn source(files: &[(&str, &str)]) -> PolicySource {
    let mut files: Vec<(String, String)> = files.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect();
    files.sort();
    PolicySource { files }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// One entry of a tar, with whatever name.
fn entry(name: &[u8], kind: EntryType, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = entries.concat();
    out.resize(out.len() + 1024, 0);
    out
}

fn file(name: &str, text: &str) -> Vec<u8> {
    entry(name.as_bytes(), EntryType::Regular, text.as_bytes())
}

/// What a bundle with these entries beside a good one is refused for.
fn refused(entries: &[Vec<u8>]) -> String {
    let mut all = vec![file("main.rego", MAIN)];
    all.extend_from_slice(entries);
    let read = Bundle::read(&gzip(&tar(&all)), BundleLimits::default(), &anybody());
    read.expect_err("it is taken").to_string()
}

fn form(name: &str, text: &str) -> String {
    String::from_utf8(signed_form(name, text.as_bytes()).unwrap().into_owned()).unwrap()
}

#[test]
fn a_document_is_hashed_as_go_writes_it() {
    for (text, expected) in [
        (
            r#"{ "b" : 1.0, "a" : [ 1e2, -0, 123.456789012345678901234567890 ] }"#,
            r#"{"a":[1e2,-0,123.456789012345678901234567890],"b":1.0}"#,
        ),
        (r#"{"x": "<foo></foo>&", "y": "α © ™", "z": "\/"}"#, r#"{"x":"<foo></foo>&","y":"α © ™","z":"/"}"#),
        (
            "[\"\\u2028\\u2029\", \"\\u0000\\u001f\\u007f\", \"\\b\\f\\n\\r\\t\\\"\\\\\"]",
            "[\"\\u2028\\u2029\",\"\\u0000\\u001f\u{7f}\",\"\\b\\f\\n\\r\\t\\\"\\\\\"]",
        ),
        (r#"{"é": 1, "z": 2, "Z": 3, "": 4, "😀": 5}"#, r#"{"":4,"Z":3,"z":2,"é":1,"😀":5}"#),
        (r#"["\ud83d\ude00", {}, [], null, true, false]"#, r#"["😀",{},[],null,true,false]"#),
    ] {
        assert_eq!(form("custom/data.json", text), expected);
        assert_eq!(form("a/signatures.json", text), expected);
        assert_eq!(form(".manifest", text), expected);
    }
    // The digest of `{"a":1}`, from `printf '{"a":1}' | sha256sum`.
    let digest = hex::encode(digest::digest(&digest::SHA256, form("data.json", "{\n\t\"a\": 1 }\n").as_bytes()));
    assert_eq!(digest, "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862");
    // What is no document is hashed as it lies there.
    for name in ["data.yml", "reasons.yaml", "a.rego", "xdata.json", ".signatures.json", "data.json.rego"] {
        assert_eq!(form(name, "{ \"b\": 1 }"), "{ \"b\": 1 }");
    }
    let yaml = "b: [1, 2.50, 1.0e21, 1.0e-7, text, true, null]\na: {x: 'it''s'}\n";
    assert_eq!(form("data.yaml", yaml), r#"{"a":{"x":"it's"},"b":[1,2.5,1e+21,1e-7,"text",true,null]}"#);
    assert_eq!(form("data.yaml", "{\"a\": 1.0}"), r#"{"a":1.0}"#);
    for bad in ["{\"a\": 1, \"a\": 2}", "{", "{\"a\": \"\\ud800\"}", "{} {}", "{\"a\": .inf}", "a: 1", ""] {
        assert!(signed_form("data.json", bad.as_bytes()).is_err(), "{bad}");
    }
    let deep = "[".repeat(200) + &"]".repeat(200);
    assert!(signed_form("data.json", deep.as_bytes()).is_err());
    assert!(signed_form("data.json", b"\"\xff\"").is_err());
}

#[test]
fn a_built_bundle_is_the_same_bytes_again_and_reads_as_the_same_policy() {
    let policy = source(&[
        ("partnergate/main.rego", MAIN),
        ("partnergate/main_test.rego", "package partnergate_test\nimport rego.v1\n"),
        ("custom/limits.yaml", "hours: {from: 8, to: 18}\nfactor: 1.50\n"),
        ("custom/names.json", "{\"names\": [\"ä\", \"b\"]}"),
        ("top.yaml", "calendar: [mon]\n"),
        ("reasons.yaml", "reasons:\n  x-a: 'a'\n"),
        ("conditions.yaml", "conditions: {}\n"),
    ]);
    let (built, manifest) = build(&policy, None, Tests::Without).unwrap();
    assert_eq!(manifest.roots, ["calendar", "custom", "partnergate"]);
    let bytes = built.write().unwrap();
    let reversed = PolicySource { files: policy.files.iter().rev().cloned().collect() };
    assert_eq!(build(&reversed, None, Tests::Without).unwrap().0.write().unwrap(), bytes);
    let read = Bundle::read(&bytes, BundleLimits::default(), &anybody()).unwrap();
    let names: Vec<&str> = read.source.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["conditions.yaml", "custom/data.json", "data.json", "partnergate/main.rego", "reasons.yaml"]);
    assert_eq!(read.source.files[1].1, r#"{"factor":1.5,"hours":{"from":8,"to":18},"names":["ä","b"]}"#);
    assert_eq!(read.manifest, manifest);
    // Without another name for it, the revision is what records name the policy by.
    assert_eq!(manifest.revision, *read.source.revision());
    // A folder is called as the bundle of it, with tests in it or without; and what is not served is no part of that.
    assert_eq!(manifest.revision, *policy.revision());
    let other = |path: &str, text: &str| {
        let files = policy.files.iter().map(|(p, t)| (p.clone(), if p == path { text.to_owned() } else { t.clone() }));
        PolicySource { files: files.collect() }.revision()
    };
    assert_eq!(other("partnergate/main_test.rego", "# Another one.\n"), policy.revision());
    assert_eq!(other("top.yaml", "# The days.\ncalendar:\n  - mon\n"), policy.revision());
    assert_ne!(other("top.yaml", "calendar: [tue]\n"), policy.revision());
    assert_ne!(other("reasons.yaml", "reasons:\n  x-a: 'b'\n"), policy.revision());
    assert_ne!(other("partnergate/main.rego", &format!("{MAIN}\n")), policy.revision());
    let broken = PolicySource { files: vec![("a.json".into(), "{".into()), ("a_test.rego".into(), "x".into())] };
    assert_eq!(broken.revision(), broken.served().revision());
    let (with, _) = build(&policy, None, Tests::With).unwrap();
    assert_eq!(Bundle::of(&with, &anybody()).unwrap().source.revision(), policy.revision());
    let (with, manifest) = build(&policy, Some("2026-11-30"), Tests::With).unwrap();
    assert_eq!(manifest.revision, "2026-11-30");
    assert_eq!(manifest.roots, ["calendar", "custom", "partnergate", "partnergate_test"]);
    assert!(with.get("partnergate/main_test.rego").is_some());
    assert!(Bundle::of(&with, &anybody()).is_ok());
    let twice = source(&[("custom/a.yaml", "x: 1"), ("custom/b.yaml", "x: 2"), ("main.rego", MAIN)]);
    assert!(build(&twice, None, Tests::With).unwrap_err().to_string().contains("another data file"));
    assert!(build(&policy, Some("a\nb"), Tests::With).is_err());
}

#[test]
fn a_bundle_is_whose_signature_it_has() {
    let (private, public) = keys();
    let mut bundle = archive(&[("main.rego", MAIN), ("data.json", "{ \"partnergate_data\": 1.0 }"), ("LICENSE", "x")]);
    bundle.sign(&private, &claims(Some("k1"), Some("prod"))).unwrap();
    let how = Verification { scope: "prod".into(), ..by("k1", public.clone()) };
    let good = Bundle::of(&bundle, &how).unwrap();
    assert_eq!(good.signed_by, Some(SignedBy { key_id: "k1".into(), algorithm: "ES256" }));
    // Through the file, and with spaces that were not hashed.
    let mut spaced = bundle.clone();
    spaced.set("data.json", b"{\n  \"partnergate_data\"  : 1.0\n}\n".to_vec());
    let read = Bundle::read(&spaced.write().unwrap(), BundleLimits::default(), &how).unwrap();
    // What was hashed is what is used.
    assert_eq!(read.source, good.source);

    let refused = |archive: &Archive, how: &Verification| Bundle::of(archive, how).unwrap_err().to_string();
    let altered = |name: &str, content: &str| {
        let mut altered = bundle.clone();
        altered.set(name, content.as_bytes().to_vec());
        altered
    };
    assert!(refused(&altered("main.rego", &MAIN.replace("false", "true")), &how).contains("`main.rego` is not what"));
    assert!(refused(&altered("data.json", "{\"partnergate_data\": 1}"), &how).contains("`data.json` is not what"));
    assert!(refused(&altered("more.rego", MAIN), &how).contains("`more.rego` is not covered"));
    assert!(refused(&altered("README", ""), &how).contains("`README` is not covered"));
    let mut fewer = bundle.clone();
    fewer.files_mut().remove("LICENSE");
    assert!(refused(&fewer, &how).contains("`LICENSE` was signed and is not there"));
    fewer.files_mut().remove(SIGNATURES);
    assert!(refused(&fewer, &how).contains("not signed"));
    assert!(Bundle::of(&fewer, &Verification { required: Required::No, ..how.clone() }).unwrap().signed_by.is_none());

    assert!(refused(&bundle, &by("k1", public.clone())).contains("signed for the scope `prod`"));
    assert!(
        refused(&bundle, &Verification { scope: "prod".into(), ..by("k2", public.clone()) }).contains("known are k2")
    );
    // A signature that is there is good even where none is asked for.
    let other = Verification { scope: "prod".into(), required: Required::No, ..by("k1", keys().1) };
    assert!(refused(&bundle, &other).contains("not by the key `k1`"));
    assert!(Bundle::of(&bundle, &anybody()).unwrap().signed_by.is_none());
    // The config's choice of key stands above the token's.
    let chosen = Verification {
        keys: [("k1".to_owned(), keys().1), ("k3".to_owned(), public.clone())].into(),
        key_id: Some("k3".into()),
        ..how.clone()
    };
    assert_eq!(Bundle::of(&bundle, &chosen).unwrap().signed_by.unwrap().key_id, "k3");
    let mut unnamed = bundle.clone();
    unnamed.sign(&private, &claims(None, Some("prod"))).unwrap();
    assert!(refused(&unnamed, &how).contains("names no key"));
    assert!(Bundle::of(&unnamed, &Verification { key_id: Some("k1".into()), ..how }).is_ok());
}

/// A token of these parts, signed.
fn token(private: &SignKey, header: &str, payload: &str) -> String {
    let signed =
        format!("{}.{}", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(payload.as_bytes()));
    let signature = BASE64URL_NOPAD.encode(&private.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[test]
fn a_token_is_judged_by_the_keys_of_the_config_alone() {
    let (private, public) = keys();
    let how = by("k", public);
    let hash = |algorithm| hex::encode(digest::digest(algorithm, MAIN.as_bytes()));
    let listed = |hash: &str, algorithm: &str| {
        format!(r#"{{"files":[{{"name":"main.rego","hash":"{hash}","algorithm":"{algorithm}"}}]}}"#)
    };
    let judged = |tokens: &[String]| {
        let mut bundle = archive(&[("main.rego", MAIN)]);
        bundle.set(SIGNATURES, json!({"signatures": tokens}).to_string().into_bytes());
        Bundle::of(&bundle, &how).map(|_| ()).map_err(|e| e.to_string())
    };
    let header = r#"{"alg":"ES256","kid":"k"}"#;
    for (name, algorithm) in [("SHA-256", &digest::SHA256), ("SHA-384", &digest::SHA384), ("SHA-512", &digest::SHA512)]
    {
        assert_eq!(judged(&[token(&private, header, &listed(&hash(algorithm), name))]), Ok(()));
    }
    let good = listed(&hash(&digest::SHA256), "SHA-256");
    // The key's id in the payload is where older versions of OPA have it.
    let older = good.replacen('{', r#"{"keyid":"k","#, 1);
    assert_eq!(judged(&[token(&private, r#"{"alg":"ES256"}"#, &older)]), Ok(()));
    let says = |header: &str, payload: &str, expected: &str| {
        let why = judged(&[token(&private, header, payload)]).unwrap_err();
        assert!(why.contains(expected), "{why}");
    };
    let weak = hex::encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, MAIN.as_bytes()));
    says(header, &listed(&weak, "SHA-1"), "hashed with `SHA-1`");
    says(header, &listed("d41d8cd98f00b204e9800998ecf8427e", "MD5"), "hashed with `MD5`");
    says(header, &listed(&hash(&digest::SHA256), ""), "hashed with ``");
    says(header, &listed("zz", "SHA-256"), "not what was signed");
    says(r#"{"alg":"none","kid":"k"}"#, &good, "is for ES256");
    says(r#"{"alg":"HS256","kid":"k"}"#, &good, "is for ES256");
    says(r#"{"alg":"RS256","kid":"k"}"#, &good, "is for ES256");
    says(r#"{"kid":"k"}"#, &good, "says no algorithm");
    says(r#"{"alg":"ES256","kid":"k","crit":["b64"],"b64":false}"#, &good, "`crit`");
    let one = format!(r#"{{"name":"main.rego","hash":"{}","algorithm":"SHA-256"}}"#, hash(&digest::SHA256));
    says(header, &format!(r#"{{"files":[{one},{one}]}}"#), "listed twice");
    says(header, "[]", "no list of files");
    let good = token(&private, header, &good);
    assert!(judged(&[]).unwrap_err().contains("0 signatures"));
    assert!(judged(&[good.clone(), good.clone()]).unwrap_err().contains("2 signatures"));
    for bad in ["", "a.b", "a.b.c.d", "..", &good[1..], &format!("{good}="), &good[..good.len() - 2]] {
        assert!(judged(&[bad.to_owned()]).is_err(), "{bad}");
    }
    // Everything else of it altered by one bit.
    for at in 0..good.len() {
        let mut altered = good.clone().into_bytes();
        altered[at] ^= 1;
        if let Ok(altered) = String::from_utf8(altered) {
            assert!(judged(std::slice::from_ref(&altered)).is_err(), "{at}: {altered}");
        }
    }
}

#[test]
fn a_key_is_only_taken_for_its_own_algorithm() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let (public, private) = (pair.public_key_pem(), pair.serialize_pem());
    assert!(VerifyKey::from_pem(Algorithm::Es256, public.as_bytes()).unwrap_err().contains("P-256"));
    assert!(VerifyKey::from_pem(Algorithm::Rs256, public.as_bytes()).unwrap_err().contains("RSA"));
    assert!(SignKey::from_pem(Algorithm::Es256, private.as_bytes()).err().unwrap().contains("P-256"));
    let pair = rcgen::KeyPair::generate().unwrap();
    let both = [pair.public_key_pem(), pair.serialize_pem()].concat();
    assert!(VerifyKey::from_pem(Algorithm::Es256, both.as_bytes()).unwrap_err().contains("only the public key"));
    let two = pair.public_key_pem().repeat(2);
    assert!(VerifyKey::from_pem(Algorithm::Es256, two.as_bytes()).unwrap_err().contains("more than one"));
    assert!(VerifyKey::from_pem(Algorithm::Es256, b"").is_err());
    assert!(SignKey::from_pem(Algorithm::Es256, pair.public_key_pem().as_bytes()).is_err());
    let certificate = rcgen::CertificateParams::default().self_signed(&pair).unwrap().pem();
    let key = VerifyKey::from_pem(Algorithm::Es256, certificate.as_bytes()).unwrap();
    assert_eq!(key, VerifyKey::from_pem(Algorithm::Es256, pair.public_key_pem().as_bytes()).unwrap());
}

#[test]
fn a_name_that_is_no_plain_path_is_refused() {
    for (name, expected) in [
        ("../main.rego", "leads out"),
        ("a/../../main.rego", "leads out"),
        ("a/./b.rego", "leads out"),
        ("/../x.rego", "leads out"),
        ("//etc/passwd", "empty part"),
        ("/./x.rego", "leads out"),
        ("a//b.rego", "empty part"),
        ("a/", "empty part"),
        ("C:\\x.rego", "backslash"),
        ("a\nb.rego", "control"),
        ("a\u{1b}[2J.rego", "control"),
        ("main.rego", "is there twice"),
        ("/main.rego", "is there twice"),
        ("./main.rego", "is there twice"),
        ("a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r.rego", "too deep"),
    ] {
        let why = refused(&[file(name, "x")]);
        assert!(why.contains(expected), "{name:?}: {why}");
    }
    assert!(refused(&[entry(b"a\xff.rego", EntryType::Regular, b"")]).contains("not UTF-8"));
    // A name in a header of its own is judged like any other.
    for long in ["../".repeat(50) + "x.rego", "a".repeat(600), "a\0b".to_owned()] {
        let header = entry(b"././@LongLink", EntryType::GNULongName, &[long.as_bytes(), b"\0"].concat());
        let why = refused(&[header, file("short", "x")]);
        assert!(why.contains("the name"), "{why}");
    }
    let pax = b"24 path=../outside.rego\n";
    let why = refused(&[entry(b"pax", EntryType::XHeader, pax), file("inside.rego", "x")]);
    assert!(why.contains("leads out"), "{why}");
    assert!(refused(&[entry(b"../", EntryType::Directory, b"")]).contains("leads out"));
    assert!(Archive::of([("../x".to_owned(), Vec::new())]).is_err());
    assert!(Archive::of([("x".to_owned(), Vec::new()), ("/x".to_owned(), Vec::new())]).is_err());
}

#[test]
fn only_files_and_folders_are_taken() {
    for (kind, expected) in [
        (EntryType::Symlink, "symbolic link"),
        (EntryType::Link, "hard link"),
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "pipe"),
        (EntryType::XGlobalHeader, "header for everything"),
        (EntryType::new(b'V'), "unknown kind"),
    ] {
        let why = refused(&[entry(b"x", kind, b"")]);
        assert!(why.contains(expected), "{why}");
    }
    let folders = [entry(b"./", EntryType::Directory, b""), entry(b"a/", EntryType::Directory, b"")];
    let whole = [folders.concat(), file("./a/main.rego", MAIN)];
    let read = Bundle::read(&gzip(&tar(&whole)), BundleLimits::default(), &anybody()).unwrap();
    assert_eq!(read.source.files[0].0, "a/main.rego");
}

#[test]
fn what_is_cut_off_or_goes_on_is_refused() {
    let whole = tar(&[file("main.rego", MAIN), file("other.rego", MAIN)]);
    let packed = gzip(&whole);
    let read = |bytes: &[u8]| Bundle::read(bytes, BundleLimits::default(), &anybody()).map_err(|e| e.to_string());
    assert!(read(&packed).is_ok());
    for end in 0..packed.len() {
        assert!(read(&packed[..end]).is_err(), "cut off at {end} of {}", packed.len());
    }
    for end in 0..whole.len() - 512 {
        assert!(read(&gzip(&whole[..end])).is_err(), "the tar is cut off at {end} of {}", whole.len());
    }
    let why = read(&[packed.clone(), b"x".to_vec()].concat()).unwrap_err();
    assert!(why.contains("behind the end of the gzip"), "{why}");
    let twice = [packed.clone(), gzip(&tar(&[file("third.rego", MAIN)]))].concat();
    assert!(read(&twice).unwrap_err().contains("behind the end of the gzip"));
    let why = read(&gzip(&[whole, file("third.rego", MAIN)].concat())).unwrap_err();
    assert!(why.contains("behind the end of the tar"), "{why}");
    let mut wrong = packed;
    let crc = wrong.len() - 8;
    wrong[crc] ^= 1;
    assert!(read(&wrong).is_err());
    assert!(read(b"").is_err());
    assert!(read(b"<!doctype html>").is_err());
}

#[test]
fn what_is_too_large_is_refused_before_it_is_held() {
    let limits = BundleLimits { size: 64 * 1024, file: 8 * 1024, files: 3, depth: 2 };
    let read = |bytes: &[u8]| Archive::read(bytes, limits).map(|_| ()).map_err(|e| e.to_string());
    // A gigabyte in a megabyte.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..1024 {
        bomb.write_all(&zeros).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    let why = Archive::read(&bomb, BundleLimits::default()).unwrap_err().to_string();
    assert!(why.contains("larger than 67108864 bytes"), "{why}");
    assert!(read(&vec![0; 64 * 1024 + 1]).unwrap_err().contains("larger than 65536"));
    let full = gzip(&vec![0; 64 * 1024]);
    assert_eq!(read(&full), Ok(()), "as much as there may be");
    assert!(read(&gzip(&vec![0; 64 * 1024 + 1])).unwrap_err().contains("larger than"));
    let files = |n: usize| (0..n).map(|n| file(&format!("f{n}"), "")).collect::<Vec<_>>();
    assert_eq!(read(&gzip(&tar(&files(3)))), Ok(()));
    assert!(read(&gzip(&tar(&files(4)))).unwrap_err().contains("more than 3 files"));
    let folders: Vec<_> = (0..4).map(|n| entry(format!("f{n}/").as_bytes(), EntryType::Directory, b"")).collect();
    assert!(read(&gzip(&tar(&folders))).unwrap_err().contains("more than 3 folders"));
    let large = "x".repeat(8 * 1024 + 1);
    assert!(read(&gzip(&tar(&[file("large", &large)]))).unwrap_err().contains("`large` has more than 8192 bytes"));
    // A header that promises more than there is.
    let mut header = Header::new_gnu();
    header.set_path("promised").unwrap();
    header.set_size(4096);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    assert!(read(&gzip(&tar(&[header.as_bytes().to_vec()]))).is_err());
    header.set_size(u64::MAX / 2);
    header.set_cksum();
    assert!(read(&gzip(&tar(&[header.as_bytes().to_vec()]))).is_err());
    assert!(read(&gzip(&tar(&[file("a/b/c/d", "")]))).unwrap_err().contains("too deep"));
}

#[test]
fn what_the_gateway_does_not_serve_is_refused_by_name() {
    for (name, expected) in [
        ("patch.json", "a change to another bundle"),
        ("policy.wasm", "WebAssembly"),
        ("a/policy.wasm", "WebAssembly"),
        ("plan.json", "compiled plan"),
        ("a/.manifest", "belongs at the top"),
        ("a/.signatures.json", "belongs at the top"),
        ("custom/limits.yaml", "policy build"),
        ("custom/limits.json", "policy build"),
        ("custom/more.yaml", "policy build"),
        (".hidden.rego", "is hidden"),
        (".git/x.rego", "is hidden"),
        ("a.rego", "no package"),
    ] {
        let why = refused(&[file(name, "x")]);
        assert!(why.contains(expected), "{name}: {why}");
    }
    assert!(refused(&[entry(b"a.rego", EntryType::Regular, b"package a\xff")]).contains("not UTF-8"));
    assert!(refused(&[file("custom/data.json", "{\"a\": 1, \"a\": 2}")]).contains("twice"));
    let empty = gzip(&tar(&[file("data.json", "{}")]));
    let why = Bundle::read(&empty, BundleLimits::default(), &anybody()).unwrap_err().to_string();
    assert!(why.contains("no Rego"), "{why}");
}

#[test]
fn what_lies_outside_of_the_roots_is_refused() {
    let with = |manifest: &str, files: &[(&str, &str)]| {
        let mut all = archive(files);
        all.set(MANIFEST, manifest.as_bytes().to_vec());
        Bundle::of(&all, &anybody()).map(|bundle| bundle.manifest).map_err(|e| e.to_string())
    };
    let main = ("main.rego", MAIN);
    let custom = ("x.rego", "# of ours\npackage partnergate.custom\n");
    let manifest = with(r#"{"revision": "7", "roots": ["/partnergate/"]}"#, &[main, custom]).unwrap();
    assert_eq!((manifest.revision.as_str(), manifest.roots), ("7", vec!["partnergate".to_owned()]));
    assert_eq!(with("{}", &[main, custom, ("data.json", "{\"a\": 1}")]).unwrap().roots, [""]);
    let says = |manifest: &str, files: &[(&str, &str)], expected: &str| {
        let why = with(manifest, files).unwrap_err();
        assert!(why.contains(expected), "{why}");
    };
    let ours = r#"{"roots": ["partnergate", "custom/limits"]}"#;
    says(ours, &[main, ("a.rego", "package partnergates\n")], "about `partnergates`");
    says(ours, &[main, ("a_test.rego", "package other\n")], "about `other`");
    says(ours, &[main, ("a.rego", "package other[\"partnergate\"]\n")], "about `other/partnergate`");
    says(ours, &[main, ("data.json", "{\"custom\": {\"limits\": {\"a\": 1}, \"other\": 1}}")], "about `custom/other`");
    says(ours, &[main, ("custom/data.json", "{\"limits\": 1, \"x\": {}}")], "about `custom/x`");
    says(ours, &[main, ("custom/data.yml", "limits: 1\nx: {}\n")], "about `custom/x`");
    says(ours, &[main, ("data.json", "{\"custom\": 1}")], "about `custom`");
    assert!(with(ours, &[main, ("custom/data.json", "{\"limits\": {\"any\": [1]}}")]).is_ok());
    assert!(with(ours, &[main, ("data.json", "{\"custom\": {}}")]).is_ok());
    says(r#"{"roots": []}"#, &[main], "outside");
    for (roots, overlap) in [
        (r#"["a", "a/b"]"#, true),
        (r#"["a/b", "a"]"#, true),
        (r#"["", "partnergate"]"#, true),
        (r#"["partnergate", "/partnergate"]"#, true),
        (r#"["partnergate", "partnergate2", "part"]"#, false),
    ] {
        let judged = with(&format!("{{\"roots\": {roots}}}"), &[main]);
        assert_eq!(judged.is_err_and(|why| why.contains("overlap")), overlap, "{roots}");
    }
    says(r#"{"rego_version": 0}"#, &[main], "Rego version 0");
    says(r#"{"rego_version": 1, "file_rego_versions": {"/main.rego": 0}}"#, &[main], "Rego version 0");
    assert!(with(r#"{"rego_version": 1, "file_rego_versions": {"/main.rego": 1}}"#, &[main]).is_ok());
    says(r#"{"wasm": [{"entrypoint": "a", "module": "b"}]}"#, &[main], "WebAssembly");
    says(r#"{"Roots": ["a"]}"#, &[main], "unknown field");
    says("[]", &[main], "cannot be read");
    says(&format!("{{\"revision\": \"{}\"}}", "x".repeat(201)), &[main], "longer than 200");
    says(r#"{"revision": "a\u001b[2J"}"#, &[main], "cannot be shown");
    says(r#"{"metadata": {"partnergate": {"contract": 2}}}"#, &[main], "contract version 2");
    assert!(with(r#"{"metadata": {"partnergate": {"contract": 1}, "git": {"x": []}}}"#, &[main]).is_ok());
}
