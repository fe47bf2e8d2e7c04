//! The anchors of a registry file.

use super::Reader;
use crate::clock::UnixNanos;
use crate::document::Section;
use crate::identity::{Fingerprint, Serial, check_trust_domain};
use crate::name::{AnchorName, PartnerId};
use crate::partner::{
    Anchor, Bundle, ClientAuthUsage, CrlSource, Denied, DeniedCertificate, Der, Revocation, RevocationMode, Root,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

impl Reader<'_> {
    pub(super) fn anchor(&mut self, id: &str, section: Section<'_>) -> Option<Anchor> {
        let path = format!("anchors.{id}");
        let root = self.root(section, &path);
        let revocation = self.revocation(section, &path);
        let denied = self.denied(section, &path);
        Some(Anchor {
            name: AnchorName::parse(id).ok()?,
            root: root?,
            partners: section.texts("partners").iter().filter_map(|p| PartnerId::parse(p).ok()).collect(),
            environments: self.environments(section, &path),
            client_auth: ClientAuthUsage::parse(section.text("client_auth")?)?,
            max_lifetime: section.has("max_lifetime").then(|| section.duration("max_lifetime")),
            revocation: revocation?,
            denied: denied?,
        })
    }

    fn root(&mut self, section: Section<'_>, path: &str) -> Option<Root> {
        let at = section.own_node()?;
        if let Some(written) = section.text("self_signed") {
            if section.has("certificate") || section.has("bundle") {
                let reason = "has `self_signed` and `certificate` or `bundle`";
                self.problems.push(at.error(path, reason, Some("keep one of them")));
                return None;
            }
            let node = section.node("self_signed")?;
            let self_signed = self.certificate(node, written, &format!("{path}.self_signed"))?;
            return Some(Root::SelfSigned { self_signed });
        }
        match (section.text("certificate"), section.has("bundle")) {
            (Some(written), false) => {
                let certificate =
                    self.certificate(section.node("certificate")?, written, &format!("{path}.certificate"))?;
                Some(Root::Certificate { certificate })
            }
            (None, true) => {
                let bundle = section.section("bundle");
                let trust_domain = bundle.text("trust_domain")?.to_owned();
                if let Err(reason) = check_trust_domain(&trust_domain) {
                    let key = format!("{path}.bundle.trust_domain");
                    self.problems.push(bundle.node("trust_domain")?.error(key, reason, None));
                    return None;
                }
                Some(Root::Bundle { bundle: Bundle { trust_domain, file: bundle.text("file")?.into() } })
            }
            (None, false) => {
                let fix = "add `certificate: FILE.pem`, `bundle` for a SPIFFE trust domain, or `self_signed` for a client certificate \
                           that is its own anchor";
                self.problems.push(at.error(
                    path,
                    "has neither `certificate` nor `bundle` nor `self_signed`",
                    Some(fix),
                ));
                None
            }
            (Some(_), true) => {
                self.problems.push(at.error(path, "has both `certificate` and `bundle`", Some("keep one of them")));
                None
            }
        }
    }

    /// The one certificate of a PEM file of the folder, or of a PEM that is written inline.
    fn certificate(&mut self, node: &crate::document::Node, written: &str, key: &str) -> Option<Der> {
        let pem = if written.contains("-----BEGIN") {
            written
        } else {
            match self.files.iter().find(|f| f.name == written.trim_start_matches("./")) {
                Some(file) => &file.text,
                None => {
                    let reason = format!("there is no file `{written}` in the folder");
                    let fix = "put the certificate there in PEM, with the ending .pem or .crt";
                    self.problems.push(node.error(key, reason, Some(fix)));
                    return None;
                }
            }
        };
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect();
        let [certificate] = certificates.as_slice() else {
            let reason = format!("`{written}` holds {} certificates in PEM; one is expected", certificates.len());
            self.problems.push(node.error(key, reason, None));
            return None;
        };
        Some(Der(certificate.to_vec()))
    }

    fn revocation(&mut self, section: Section<'_>, path: &str) -> Option<Revocation> {
        let Some(node) = section.node("revocation") else { return Some(Revocation::default()) };
        let (section, path) = (section.section("revocation"), format!("{path}.revocation"));
        let mut good = true;
        let mut sources = Vec::new();
        for (item, text) in section.node("crl").map(|n| n.items()).unwrap_or_default().iter().zip(section.texts("crl"))
        {
            match CrlSource::parse(&text) {
                Ok(source) => sources.push(source),
                Err(reason) => {
                    self.problems.push(item.error(format!("{path}.crl"), reason, None));
                    good = false;
                }
            }
        }
        let mut intermediates = Vec::new();
        let written = section.texts("intermediates");
        for (item, file) in section.node("intermediates").map(|n| n.items()).unwrap_or_default().iter().zip(written) {
            match self.certificate(item, &file, &format!("{path}.intermediates")) {
                Some(der) => intermediates.push(der),
                None => good = false,
            }
        }
        let distribution_points = section.boolean("distribution_points");
        let named = !sources.is_empty() || distribution_points;
        let mode = match section.text("mode").and_then(RevocationMode::parse) {
            Some(mode) => mode,
            None if named => RevocationMode::Required,
            None => RevocationMode::Off,
        };
        if mode == RevocationMode::Required && !named {
            let fix = "name a list in `crl`, or set `distribution_points: true`";
            let reason = "is required and there is no source of lists, so that every certificate would be refused";
            self.problems.push(node.error(path, reason, Some(fix)));
            good = false;
        }
        let grace = section.duration("grace");
        good.then_some(Revocation { mode, grace, sources, distribution_points, intermediates })
    }

    fn denied(&mut self, section: Section<'_>, path: &str) -> Option<Vec<Denied>> {
        let mut denied = Vec::new();
        let mut good = true;
        for (_, entry) in section.tables("denied") {
            let at = entry.own_node()?;
            let certificate = match (entry.text("serial"), entry.text("fingerprint")) {
                (Some(serial), None) => Serial::parse(serial).map(DeniedCertificate::Serial),
                (None, Some(fingerprint)) => Fingerprint::parse(fingerprint).map(DeniedCertificate::Fingerprint),
                _ => Err("names exactly one of `serial` and `fingerprint`".to_owned()),
            };
            match certificate {
                Ok(certificate) => denied.push(Denied {
                    certificate,
                    reason: entry.text("reason")?.to_owned(),
                    author: entry.text("author")?.to_owned(),
                    at: UnixNanos(entry.time("at")?),
                }),
                Err(reason) => {
                    self.problems.push(at.error(format!("{path}.denied"), reason, None));
                    good = false;
                }
            }
        }
        denied.sort_by(|a, b| a.certificate.cmp(&b.certificate));
        denied.dedup_by(|a, b| a.certificate == b.certificate);
        good.then_some(denied)
    }
}
