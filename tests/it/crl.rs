//! Revocation lists as a real CA of OpenSSL makes them.

use crate::harness::{Pki, openssl_key};
use partnergate::clock::{Clock, UnixNanos};
use partnergate::identity::{Fault, SerialKey};
use partnergate::reason::Reason;
use partnergate::trust::{CrlFault, Holds, IssuerKey, RevocationList};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::PathBuf;
use std::process::Command;

const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// A CA in a folder, run with `openssl ca`.
struct OpensslCa {
    /// Where it is.
    _folder: tempfile::TempDir,
    pki: Pki,
    certificate: PathBuf,
    key: PathBuf,
    config: PathBuf,
}

impl OpensslCa {
    fn new(key: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new(folder.path());
        let key = openssl_key(&pki, "ca", key);
        let certificate = pki.write("ca.pem", 0o644, b"");
        let index = pki.write("index.txt", 0o644, b"");
        let number = pki.write("crlnumber", 0o644, b"0FFF\n");
        let config = format!(
            "[ca]\ndefault_ca=it\n[it]\ndatabase={}\ncrlnumber={}\ndefault_md=default\ndefault_crl_days=7\n\
             [number]\nauthorityKeyIdentifier=keyid:always\n\
             [users]\nissuingDistributionPoint=critical,@idp\n[idp]\nfullname=URI:http://crl.example/users.crl\n\
             onlyuser=TRUE\n[delta]\n2.5.29.27=critical,DER:020101\n\
             [req]\ndistinguished_name=name\n[name]\n[ext]\nbasicConstraints=critical,CA:TRUE\n\
             keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n",
            index.display(),
            number.display()
        );
        let config = pki.write("ca.cnf", 0o644, config.as_bytes());
        let ca = OpensslCa { _folder: folder, pki, certificate, key, config };
        let (certificate, key) = (ca.certificate.display().to_string(), ca.key.display().to_string());
        ca.openssl(&format!(
            "req -x509 -new -subj /O=Tests/CN=CA -days 30 -extensions ext -key {key} -out {certificate}"
        ));
        ca
    }

    #[track_caller]
    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' '));
        if arguments.starts_with("req") || arguments.starts_with("ca") {
            command.arg("-config").arg(&self.config);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Puts a certificate with this serial into the CA's database, revoked for this reason.
    fn revoke(&self, serial: &str, reason: &str) {
        let index = self.pki.dir().join("index.txt");
        let mut lines = std::fs::read_to_string(&index).unwrap();
        lines.push_str(&format!("R\t301231000000Z\t260101000000Z{reason}\t{serial}\tunknown\t/CN=client\n"));
        std::fs::write(&index, lines).unwrap();
    }

    /// `openssl ca -gencrl`, in PEM.
    #[track_caller]
    fn list(&self, extra: &str) -> Vec<u8> {
        let out = self.pki.dir().join("list.pem");
        let (certificate, key) = (self.certificate.display(), self.key.display());
        self.openssl(&format!("ca -gencrl -cert {certificate} -keyfile {key} -out {}{extra}", out.display()));
        std::fs::read(out).unwrap()
    }

    fn issuer(&self) -> Result<IssuerKey, Fault> {
        IssuerKey::from_certificate(&CertificateDer::from_pem_file(&self.certificate).unwrap())
    }

    fn read(&self, list: &[u8]) -> Result<RevocationList, CrlFault> {
        RevocationList::read(list, &[self.issuer().unwrap()], now())
    }
}

fn now() -> UnixNanos {
    Clock::new().now()
}

#[test]
fn lists_of_openssl_are_read_with_keys_of_every_kind() {
    let p384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
    for (key, digest) in [
        (RSA, " -md sha256"),
        (RSA, " -md sha384"),
        (RSA, " -md sha512"),
        (RSA, " -md sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"),
        (P256, " -md sha256"),
        (p384, " -md sha384"),
        (&["-algorithm", "ED25519"], ""),
    ] {
        let ca = OpensslCa::new(key);
        ca.revoke("0A", "");
        ca.revoke("00FE4711", ",keyCompromise");
        ca.revoke("7B", ",certificateHold");
        let list = ca.read(&ca.list(&format!(" -crlexts number{digest}"))).unwrap();
        assert_eq!((list.revoked(), list.number().unwrap().to_string()), (3, "fff".into()), "{key:?} {digest}");
        for serial in [&[0x0a][..], &[0x00, 0xfe, 0x47, 0x11], &[0x7b]] {
            assert!(list.is_revoked(SerialKey::of_integer(serial)), "{key:?} {digest} {serial:x?}");
        }
        assert!(!list.is_revoked(SerialKey::of_integer(&[0x0b])));
        assert!(list.next_update() > now());
    }
}

#[test]
fn a_list_of_openssl_is_followed_by_the_next_and_not_by_the_one_before() {
    let ca = OpensslCa::new(P256);
    let first = ca.read(&ca.list(" -crlexts number")).unwrap();
    assert_eq!(first.revoked(), 0);
    ca.revoke("0A", "");
    let second = ca.read(&ca.list(" -crlexts number")).unwrap();
    assert!(second.is_revoked(SerialKey::of_integer(&[0x0a])));
    assert_eq!(second.may_replace(&first), Ok(()));
    let back = CrlFault::NumberWentBack { new: "fff".into(), old: "1000".into() };
    assert_eq!(first.may_replace(&second), Err(back));
}

#[test]
fn der_text_before_pem_scope_and_delta_of_openssl_are_told_apart() {
    let ca = OpensslCa::new(P256);
    ca.revoke("0A", "");
    let pem = ca.list(" -crlexts users");
    let list = ca.read(&pem).unwrap();
    assert_eq!(list.scope().holds, Holds::UserCertificates);
    assert_eq!(list.scope().urls, ["http://crl.example/users.crl"]);
    let (from, der, text) =
        (ca.pki.dir().join("list.pem"), ca.pki.dir().join("list.der"), ca.pki.dir().join("list.txt"));
    ca.openssl(&format!("crl -in {} -outform DER -out {}", from.display(), der.display()));
    ca.openssl(&format!("crl -in {} -text -out {}", from.display(), text.display()));
    for file in [der, text] {
        assert_eq!(ca.read(&std::fs::read(file).unwrap()).unwrap().fingerprint(), list.fingerprint());
    }
    assert_eq!(ca.read(&ca.list(" -crlexts delta")).unwrap_err(), CrlFault::Delta);
}

#[test]
fn weak_digests_and_weak_keys_of_openssl_are_refused() {
    let ca = OpensslCa::new(RSA);
    for digest in ["sha1", "md5"] {
        let list = ca.list(&format!(" -crlexts number -md {digest}"));
        assert_eq!(ca.read(&list).unwrap_err(), CrlFault::WeakSignature, "{digest}");
    }
    let weak = OpensslCa::new(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    assert_eq!(weak.issuer().unwrap_err().reason, Reason::CertificateWeakKey);
}
