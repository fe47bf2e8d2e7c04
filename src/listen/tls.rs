//! The TLS side of a snapshot: server certificates by name, client certificates judged by `trust`.

use crate::clock::{Clock, UnixNanos};
use crate::identity::{Fault, Peer};
use crate::reason::Reason;
use crate::record::Presented;
use crate::request::Host;
use crate::snapshot::{ServerCertificate, Snapshot};
use crate::trust::Trust;
use arc_swap::ArcSwapOption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

/// TLS settings of the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// TLS 1.2 beside 1.3.
    pub allow_tls12: bool,
    pub session_cache: usize,
}

/// The TLS config that new connections use.
#[derive(Default)]
pub struct TlsSlot {
    current: ArcSwapOption<Current>,
}

pub(super) struct Current {
    pub config: Arc<ServerConfig>,
    pub trust: Arc<Trust>,
    certificates: Arc<Vec<ServerCertificate>>,
    settings: TlsSettings,
}

impl Current {
    pub fn has_certificate_for(&self, server_name: &str) -> bool {
        Host::parse(server_name).is_ok_and(|name| self.certificates.iter().any(|c| c.serves(&name)))
    }
}

impl TlsSlot {
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn current(&self) -> Option<Arc<Current>> {
        self.current.load_full()
    }

    /// Takes over what of a snapshot concerns TLS. A new config, and with it an empty session store, is made only when
    /// certificates or trust have changed: sessions survive changes that do not concern them, and no others.
    ///
    /// `settings` are those in use when absent.
    ///
    /// # Errors
    /// rustls refuses the combination.
    pub fn publish(&self, snapshot: &Snapshot, settings: Option<TlsSettings>, clock: &Arc<Clock>) -> Result<(), Error> {
        let current = self.current.load();
        let Some(settings) = settings.or_else(|| current.as_ref().map(|c| c.settings)) else {
            return Err(Error::General("no TLS settings".into()));
        };
        if let Some(now) = current.as_ref() {
            let same =
                Arc::ptr_eq(&now.trust, &snapshot.trust) && Arc::ptr_eq(&now.certificates, &snapshot.certificates);
            if same && now.settings == settings {
                return Ok(());
            }
        }
        let config = build(snapshot, settings, clock)?;
        self.current.store(Some(Arc::new(Current {
            config: Arc::new(config),
            trust: snapshot.trust.clone(),
            certificates: snapshot.certificates.clone(),
            settings,
        })));
        Ok(())
    }
}

fn build(snapshot: &Snapshot, settings: TlsSettings, clock: &Arc<Clock>) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&rustls::SupportedProtocolVersion] = if settings.allow_tls12 {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    } else {
        &[&rustls::version::TLS13]
    };
    let verifier = Verifier { trust: snapshot.trust.clone(), clock: clock.clone(), provider: provider.clone() };
    let resolver = Resolver { certificates: snapshot.certificates.clone() };
    let mut config = ServerConfig::builder_with_details(provider, clock.clone())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if settings.session_cache == 0 {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.session_storage = ServerSessionMemoryCache::new(settings.session_cache);
    }
    config.max_early_data_size = 0;
    Ok(config)
}

/// What the verifier found out about a client during one handshake.
#[derive(Default)]
pub(super) struct Evidence {
    pub outcome: Option<Result<Peer, Fault>>,
    /// The leaf, when the chain was refused.
    pub leaf: Option<Box<Presented>>,
}

tokio::task_local! {
    /// Set around each handshake; the verifier is called synchronously inside it.
    pub(super) static EVIDENCE: RefCell<Evidence>;
}

struct Verifier {
    trust: Arc<Trust>,
    clock: Arc<Clock>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ClientCertVerifier for Verifier {
    /// None: they would list every partner's CA to the world.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let now: UnixNanos = self.clock.now();
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        let outcome = self.trust.verify(&chain, now);
        let answer = match &outcome {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(fault) => Err(Error::InvalidCertificate(alert_of(&fault.reason))),
        };
        let leaf = outcome.is_err().then(|| Box::new(Presented::of(end_entity)));
        // Outside a handshake of ours there is nobody to tell, and so nobody to let in.
        let told = EVIDENCE.try_with(|evidence| *evidence.borrow_mut() = Evidence { outcome: Some(outcome), leaf });
        if told.is_err() {
            return Err(Error::General("no handshake is waiting for this verdict".into()));
        }
        answer
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The error that makes rustls send the alert which fits best (RFC 8446 section 6.2).
fn alert_of(reason: &Reason) -> CertificateError {
    match reason {
        Reason::CertificateUnknownIssuer => CertificateError::UnknownIssuer,
        Reason::CertificateExpired => CertificateError::Expired,
        Reason::CertificateNotYetValid => CertificateError::NotValidYet,
        Reason::CertificateRevoked => CertificateError::Revoked,
        Reason::RevocationUnknown => CertificateError::UnknownRevocationStatus,
        Reason::CertificateBadSignature => CertificateError::BadSignature,
        Reason::CertificateWrongUsage => CertificateError::InvalidPurpose,
        _ => CertificateError::BadEncoding,
    }
}

#[derive(Debug)]
struct Resolver {
    certificates: Arc<Vec<ServerCertificate>>,
}

impl ResolvesServerCert for Resolver {
    /// By server name; the first certificate for clients that send none, nothing for a name that is not ours.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |c: &&ServerCertificate| c.key.key.choose_scheme(schemes).is_some();
        let found = match hello.server_name() {
            None => self.certificates.iter().find(fits).or_else(|| self.certificates.first()),
            Some(name) => {
                let name = Host::parse(name).ok()?;
                let serving = || self.certificates.iter().filter(|c| c.serves(&name));
                serving().find(|c| fits(c)).or_else(|| serving().next())
            }
        };
        found.map(|c| c.key.clone())
    }
}
