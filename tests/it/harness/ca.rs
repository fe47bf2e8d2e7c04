//! A CA that is run with `openssl ca`, for its revocation lists.

use super::pki::{Authority, Identity, Pki, openssl_key};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A CA in a folder of its own.
pub struct OpensslCa {
    folder: tempfile::TempDir,
    pub pki: Pki,
    pub certificate: PathBuf,
    key: PathBuf,
    config: PathBuf,
}

impl OpensslCa {
    /// One that `openssl` makes, with a key of these arguments of `openssl genpkey`.
    pub fn new(key: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new(folder.path());
        let (certificate, key) = (pki.write("ca.pem", 0o644, b""), openssl_key(&pki, "ca", key));
        let ca = Self::with(folder, pki, certificate, key);
        let (certificate, key) = (ca.certificate.display().to_string(), ca.key.display().to_string());
        ca.openssl(&format!(
            "req -x509 -new -subj /O=Tests/CN=CA -days 30 -extensions ext -key {key} -out {certificate}"
        ));
        ca
    }

    /// What an authority that is there already would publish.
    pub fn of(authority: &Authority) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new(folder.path());
        Self::with(folder, pki, authority.pem_file.clone(), authority.key_file.clone())
    }

    fn with(folder: tempfile::TempDir, pki: Pki, certificate: PathBuf, key: PathBuf) -> Self {
        let index = pki.write("index.txt", 0o644, b"");
        let number = pki.write("crlnumber", 0o644, b"0FFF\n");
        let config = format!(
            "[ca]\ndefault_ca=it\n[it]\ndatabase={}\ncrlnumber={}\ndefault_md=default\ndefault_crl_days=7\n\
             [number]\nauthorityKeyIdentifier=keyid:always\n\
             [users]\nissuingDistributionPoint=critical,@idp\n[idp]\nfullname=URI:http://crl.example/users.crl\n\
             onlyuser=TRUE\n[indirect]\nissuingDistributionPoint=critical,@all\n[all]\nindirectCRL=TRUE\n\
             [some]\nissuingDistributionPoint=critical,@compromised\n[compromised]\n\
             fullname=URI:http://crl.example/users.crl\nonlysomereasons=keyCompromise\n[delta]\n2.5.29.27=critical,DER:020101\n\
             [req]\ndistinguished_name=name\n[name]\n[ext]\nbasicConstraints=critical,CA:TRUE\n\
             keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n",
            index.display(),
            number.display()
        );
        let config = pki.write("ca.cnf", 0o644, config.as_bytes());
        OpensslCa { folder, pki, certificate, key, config }
    }

    #[track_caller]
    pub fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' '));
        if arguments.starts_with("req") || arguments.starts_with("ca") {
            command.arg("-config").arg(&self.config);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Puts a certificate with this serial into the CA's database, revoked for this reason.
    pub fn revoke_serial(&self, serial: &str, reason: &str) {
        let index = self.folder.path().join("index.txt");
        let mut lines = std::fs::read_to_string(&index).unwrap();
        lines.push_str(&format!("R\t301231000000Z\t260101000000Z{reason}\t{serial}\tunknown\t/CN=client\n"));
        std::fs::write(&index, lines).unwrap();
    }

    /// `openssl ca -revoke` of a client's certificate.
    #[track_caller]
    pub fn revoke(&self, who: &Identity) {
        self.revoke_file(&who.chain_file);
    }

    /// The same for the first certificate of a PEM file.
    #[track_caller]
    pub fn revoke_file(&self, certificate: &Path) {
        let (ca, key) = (self.certificate.display(), self.key.display());
        self.openssl(&format!("ca -revoke {} -cert {ca} -keyfile {key}", certificate.display()));
    }

    /// `openssl ca -gencrl`, in PEM.
    #[track_caller]
    pub fn list(&self, extra: &str) -> Vec<u8> {
        let out = self.folder.path().join("list.pem");
        let (certificate, key) = (self.certificate.display(), self.key.display());
        self.openssl(&format!("ca -gencrl -cert {certificate} -keyfile {key} -out {}{extra}", out.display()));
        std::fs::read(out).unwrap()
    }

    /// The next list, in DER.
    #[track_caller]
    pub fn der(&self, extra: &str) -> Vec<u8> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(&self.list(extra)).unwrap();
        pem.contents
    }

    /// The part of the next list that is for certificates which name this place.
    #[track_caller]
    pub fn part(&self, url: &str) -> Vec<u8> {
        let config = std::fs::read_to_string(&self.config).unwrap();
        let place = format!("[part]\nissuingDistributionPoint=critical,@place\n[place]\nfullname=URI:{url}\n");
        std::fs::write(&self.config, format!("{config}{place}")).unwrap();
        let list = self.list(" -crlexts part");
        std::fs::write(&self.config, config).unwrap();
        list
    }
}
