//! Certificate authorities and certificates, made anew for each test and kept in its folder.

use super::command::run;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Weak keys and signatures are what some tests are about.
const WEAK: [&str; 4] = ["-provider", "default", "-provider", "legacy"];
/// Extensions for `openssl x509`.
const CLIENT: &str = "keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\n\
                      subjectAltName=URI:spiffe://NAME.example/client\n";
const INTERMEDIATE: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// Where the certificates of one test lie.
#[derive(Clone)]
pub struct Pki {
    dir: PathBuf,
}

/// Something that issues.
pub struct Authority {
    pub name: String,
    pub der: Vec<u8>,
    pub pem_file: PathBuf,
    pub key_file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Itself and what is above it without the root, as a client sends it; empty for a root.
    above: Vec<Vec<u8>>,
}

/// A certificate chain, leaf first, with its key.
#[derive(Clone)]
pub struct Identity {
    pub name: String,
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8.
    pub key: Vec<u8>,
    pub chain_file: PathBuf,
    pub key_file: PathBuf,
}

impl Pki {
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        Pki { dir: dir.to_owned() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A root with the subject `O=Tests, CN=NAME`.
    #[track_caller]
    pub fn authority(&self, name: &str) -> Authority {
        self.authority_with(name, |_| {})
    }

    #[track_caller]
    pub fn authority_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = authority_params(name);
        change(&mut params);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        self.keep_authority(name, der, params, key, Vec::new())
    }

    /// An authority below another one.
    #[track_caller]
    pub fn intermediate(
        &self,
        above: &Authority,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = authority_params(name);
        change(&mut params);
        let der = params.signed_by(&key, &above.issuer).unwrap().der().to_vec();
        let chain = std::iter::once(der.clone()).chain(above.above.iter().cloned()).collect();
        self.keep_authority(name, der, params, key, chain)
    }

    /// Another certificate for the key of an authority.
    #[track_caller]
    pub fn reissued(&self, ca: &Authority, name: &str) -> Authority {
        let key = KeyPair::from_pem(&std::fs::read_to_string(&ca.key_file).unwrap()).unwrap();
        let params = authority_params(name);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        self.keep_authority(name, der, params, key, Vec::new())
    }

    fn keep_authority(
        &self,
        name: &str,
        der: Vec<u8>,
        params: CertificateParams,
        key: KeyPair,
        above: Vec<Vec<u8>>,
    ) -> Authority {
        let pem_file = self.write(&format!("{name}.pem"), 0o644, pem("CERTIFICATE", &der).as_bytes());
        let key_file = self.write(&format!("{name}.key"), 0o600, key.serialize_pem().as_bytes());
        Authority { name: name.to_owned(), der, pem_file, key_file, issuer: Issuer::new(params, key), above }
    }

    /// A client certificate, P-256, good from yesterday for a month, with the subject `O=Tests, CN=NAME` and clientAuth.
    #[track_caller]
    pub fn client(&self, ca: &Authority, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        self.client_with_key(ca, name, KeyPair::generate().unwrap(), change)
    }

    /// The same for a key that is there already.
    #[track_caller]
    pub fn client_with_key(
        &self,
        ca: &Authority,
        name: &str,
        key: KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = leaf_params(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let der = params.signed_by(&key, &ca.issuer).unwrap().der().to_vec();
        let chain = std::iter::once(der).chain(ca.above.iter().cloned()).collect();
        self.identity(name, chain, key.serialize_der())
    }

    /// A certificate that nobody has vouched for.
    #[track_caller]
    pub fn self_signed(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = leaf_params(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        self.identity(name, vec![der], key.serialize_der())
    }

    /// A server certificate for names and addresses.
    #[track_caller]
    pub fn server(&self, ca: &Authority, name: &str, names: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = leaf_params(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
            .unwrap()
            .subject_alt_names;
        let der = params.signed_by(&key, &ca.issuer).unwrap().der().to_vec();
        let chain = std::iter::once(der).chain(ca.above.iter().cloned()).collect();
        self.identity(name, chain, key.serialize_der())
    }

    /// A client certificate for a key that `openssl` made and rcgen cannot read, issued with `openssl x509`; `extra`
    /// are its further arguments, such as `-sha1`.
    #[track_caller]
    pub fn client_by_openssl(&self, ca: &Authority, name: &str, key_pem: &Path, extra: &[&str]) -> Identity {
        let der = self.sign_by_openssl((&ca.pem_file, &ca.key_file), name, key_pem, CLIENT, extra);
        let key = PrivateKeyDer::from_pem_file(key_pem).unwrap().secret_der().to_vec();
        let chain = std::iter::once(der).chain(ca.above.iter().cloned()).collect();
        self.identity(name, chain, key)
    }

    /// The same below an intermediate of the same making: `above` is the intermediate's key and the arguments that it is
    /// issued with.
    #[track_caller]
    pub fn client_below_openssl(
        &self,
        ca: &Authority,
        name: &str,
        (issuing_key, issued_with): (&Path, &[&str]),
        extra: &[&str],
    ) -> Identity {
        let above = format!("{name}-ca");
        let issuing =
            self.sign_by_openssl((&ca.pem_file, &ca.key_file), &above, issuing_key, INTERMEDIATE, issued_with);
        let key_pem = openssl_key(self, name, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        let certificate = self.dir.join(format!("{above}.crt"));
        let der = self.sign_by_openssl((&certificate, issuing_key), name, &key_pem, CLIENT, extra);
        let key = PrivateKeyDer::from_pem_file(&key_pem).unwrap().secret_der().to_vec();
        self.identity(name, vec![der, issuing], key)
    }

    /// A root that `openssl` has made, whatever is wrong with it, beside the others as `NAME.pem`. Without extensions it
    /// is of version 1.
    #[track_caller]
    pub fn root_by_openssl(&self, name: &str, key_pem: &Path, extensions: Option<&str>, extra: &[&str]) -> Vec<u8> {
        let (request, certificate) = (self.dir.join(format!("{name}.csr")), self.dir.join(format!("{name}.pem")));
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-subj", &format!("/O=Tests/CN={name}"), "-key"]).arg(key_pem);
        run(command.arg("-out").arg(&request).args(WEAK), b"").ok();
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", "30", "-in"]).arg(&request).arg("-signkey").arg(key_pem);
        if let Some(text) = extensions {
            command.arg("-extfile").arg(self.write(&format!("{name}.ext"), 0o600, text.as_bytes()));
        }
        run(command.arg("-out").arg(&certificate).args(WEAK).args(extra), b"").ok();
        std::fs::copy(key_pem, self.dir.join(format!("{name}.key"))).unwrap();
        CertificateDer::from_pem_file(&certificate).unwrap().to_vec()
    }

    /// A client certificate below a root of [`Pki::root_by_openssl`].
    #[track_caller]
    pub fn client_of_openssl_root(&self, root: &str, name: &str) -> Identity {
        let key_pem = openssl_key(self, name, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        let (ca, ca_key) = (self.dir.join(format!("{root}.pem")), self.dir.join(format!("{root}.key")));
        let der = self.sign_by_openssl((&ca, &ca_key), name, &key_pem, CLIENT, &[]);
        let key = PrivateKeyDer::from_pem_file(&key_pem).unwrap().secret_der().to_vec();
        self.identity(name, vec![der], key)
    }

    fn sign_by_openssl(
        &self,
        (ca, ca_key): (&Path, &Path),
        name: &str,
        key_pem: &Path,
        extensions: &str,
        extra: &[&str],
    ) -> Vec<u8> {
        let extensions = extensions.replace("NAME", name);
        let extensions = self.write(&format!("{name}.ext"), 0o600, extensions.as_bytes());
        let (request, certificate) = (self.dir.join(format!("{name}.csr")), self.dir.join(format!("{name}.crt")));
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-subj", &format!("/O=Tests/CN={name}"), "-key"]).arg(key_pem);
        run(command.arg("-out").arg(&request).args(WEAK), b"").ok();
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", "30", "-in"]).arg(&request).arg("-CA").arg(ca);
        command.arg("-CAkey").arg(ca_key).arg("-extfile").arg(extensions).arg("-out").arg(&certificate);
        run(command.args(WEAK).args(extra), b"").ok();
        CertificateDer::from_pem_file(&certificate).unwrap().to_vec()
    }

    /// A chain and a key as they are, whether they fit or not.
    pub fn identity(&self, name: &str, chain: Vec<Vec<u8>>, key: Vec<u8>) -> Identity {
        let text: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        let chain_file = self.write(&format!("{name}.chain.pem"), 0o644, text.as_bytes());
        let key_file = self.write(&format!("{name}.key.pem"), 0o600, pem("PRIVATE KEY", &key).as_bytes());
        Identity { name: name.to_owned(), chain, key, chain_file, key_file }
    }

    /// Writes a file, over one that is there.
    pub fn write(&self, name: &str, mode: u32, bytes: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        let _ = std::fs::remove_file(&path);
        let mut file = File::options().create_new(true).write(true).mode(mode).open(&path).unwrap();
        file.write_all(bytes).unwrap();
        path
    }
}

impl Identity {
    pub fn leaf(&self) -> &[u8] {
        &self.chain[0]
    }

    /// SHA-256 of the certificate in hex.
    pub fn fingerprint(&self) -> String {
        hex::encode(digest(&SHA256, self.leaf()))
    }

    /// SHA-256 of its public key info in hex.
    pub fn spki(&self) -> String {
        self.read(|c| hex::encode(digest(&SHA256, c.public_key().raw)))
    }

    /// Its serial number in hex.
    pub fn serial(&self) -> String {
        let octets = self.read(|c| hex::encode(c.raw_serial()));
        octets.strip_prefix("00").unwrap_or(&octets).to_owned()
    }

    /// Its key for another certificate.
    pub fn key_pair(&self) -> KeyPair {
        KeyPair::try_from(self.key.as_slice()).unwrap()
    }

    /// The same chain, signed for with the key of another: for chains whose own key no TLS library would use. The
    /// gateway judges a chain before it sees the signature.
    #[must_use]
    pub fn signing_as(&self, other: &Identity) -> Identity {
        Identity { key: other.key.clone(), key_file: other.key_file.clone(), ..self.clone() }
    }

    fn read<T>(&self, look: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T) -> T {
        let (_, certificate) = x509_parser::parse_x509_certificate(self.leaf()).unwrap();
        look(&certificate)
    }
}

/// A private key in a PEM file, made by `openssl genpkey` with these arguments.
#[track_caller]
pub fn openssl_key(pki: &Pki, name: &str, arguments: &[&str]) -> PathBuf {
    let path = pki.write(&format!("{name}.openssl-key.pem"), 0o600, b"");
    let mut command = Command::new("openssl");
    run(command.arg("genpkey").args(arguments).arg("-out").arg(&path), b"").ok();
    path
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Tests");
    params.distinguished_name.push(DnType::CommonName, name);
    valid(&mut params, -1, 30);
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

/// Sets the validity in days from now, negative ones for the past.
pub fn valid(params: &mut CertificateParams, from: i64, to: i64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let at = |days: i64| epoch + Duration::from_secs(now.saturating_add_signed(days * 86_400));
    (params.not_before, params.not_after) = (at(from), at(to));
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
