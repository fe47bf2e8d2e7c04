//! Talking to the running gateway, over its admin socket or its admin listener.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::{Exit, complain};
use crate::admin::KEY_TYPED;
use crate::config::Config;
use crate::disk;
use crate::document::parse_secret;
use crate::token::find_key;
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Largest token, key and certificate file.
const MAX_FILE: usize = 1024 * 1024;
/// Of an admin listener whose URL names none.
const PORT: u16 = 9443;

/// Which gateway, and who calls it.
#[derive(Debug, clap::Args)]
pub(super) struct Gateway {
    /// The config file.
    #[arg(short, long, global = true, default_value = "partnergate.yaml", env = "PARTNERGATE_CONFIG")]
    pub config: PathBuf,
    /// Show what the command would change, and change nothing.
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// The operator's token, as a reference: file:PATH (mode 0600 or 0400), env:NAME or credential:NAME. Without one, the
    /// gateway goes by the user or by the certificate.
    #[arg(id = "admin-token", long = "token", global = true, env = "PARTNERGATE_TOKEN", value_name = "REFERENCE", help_heading = REMOTE)]
    token: Option<String>,
    /// The admin listener, or a socket by its path, instead of the admin socket that the config file says.
    #[arg(id = "admin-listener", long = "admin", global = true, env = "PARTNERGATE_ADMIN", value_name = "https://HOST:PORT|unix:PATH", help_heading = REMOTE)]
    admin: Option<String>,
    /// CA certificates of the admin listener, in PEM.
    #[arg(long, global = true, env = "PARTNERGATE_ADMIN_CA", value_name = "FILE", help_heading = REMOTE)]
    admin_ca: Option<PathBuf>,
    /// The operator's client certificate, and its intermediates, in PEM.
    #[arg(long, global = true, env = "PARTNERGATE_ADMIN_CERT", value_name = "FILE", help_heading = REMOTE)]
    admin_cert: Option<PathBuf>,
    /// Its key, as a reference.
    #[arg(long, global = true, env = "PARTNERGATE_ADMIN_KEY", value_name = "REFERENCE", help_heading = REMOTE)]
    admin_key: Option<String>,
}

const REMOTE: &str = "Who calls, and whom";

/// The one call that a key itself is sent with.
pub(super) const FIND: &str = "/v1/api-keys/find";

/// Sends one call to the gateway. What it says against it goes to stderr.
pub(super) async fn ask(gateway: &Gateway, method: Method, target: &str, body: Option<&Value>) -> Result<Value, Exit> {
    let joined = if target.contains('?') { '&' } else { '?' };
    let dry = gateway.dry_run && !method.is_safe();
    let target = if dry { format!("{target}{joined}dry_run=true") } else { target.to_owned() };
    let answer = match call(gateway, method, &target, body).await {
        Ok(answer) => answer,
        Err(Wrong { exit, text }) => {
            complain(&text);
            return Err(exit);
        }
    };
    answer.accepted().map_err(|(exit, text)| {
        complain(&text);
        exit
    })
}

struct Wrong {
    exit: Exit,
    text: String,
}

fn failed(text: String) -> Wrong {
    Wrong { exit: Exit::Failed, text }
}

fn problems(text: String) -> Wrong {
    Wrong { exit: Exit::Problems, text }
}

/// An answer: status and JSON body.
struct Answer {
    status: u16,
    body: Value,
}

async fn call(gateway: &Gateway, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Wrong> {
    let text = body.map(Value::to_string).unwrap_or_default();
    // What was typed into a command is kept with it.
    if !path.starts_with(FIND) && (find_key(path).is_some() || find_key(&text).is_some()) {
        return Err(problems(KEY_TYPED.into()));
    }
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(text)))
        .map_err(|e| failed(e.to_string()))?;
    if let Some(reference) = &gateway.token {
        let token = secret("--token", reference)?;
        let shown = format!("Bearer {}", String::from_utf8_lossy(&token).trim());
        let mut value = header::HeaderValue::try_from(shown).map_err(|_| problems("--token: is no token".into()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    let host = |host: &str| header::HeaderValue::try_from(host).map_err(|e| failed(e.to_string()));
    match &gateway.admin {
        None => {
            let places = Config::places(&gateway.config).map_err(|found| {
                problems(format!("{found}\n--admin unix:STATE_DIR/admin.sock reaches a gateway past its config"))
            })?;
            request.headers_mut().insert(header::HOST, host("admin")?);
            talk(connect(&places.socket).await.map_err(failed)?, request).await.map_err(failed)
        }
        Some(url) if url.starts_with("unix:") => {
            request.headers_mut().insert(header::HOST, host("admin")?);
            let socket = Path::new(url.trim_start_matches("unix:"));
            talk(connect(socket).await.map_err(failed)?, request).await.map_err(failed)
        }
        Some(url) => {
            let (name, port) = parse_url(url).map_err(problems)?;
            request.headers_mut().insert(header::HOST, host(&format!("{name}:{port}"))?);
            let tls = Arc::new(client_tls(gateway)?);
            let failed = |e: std::io::Error| failed(format!("`{url}`: {e}"));
            let stream = TcpStream::connect((name.trim_matches(['[', ']']), port)).await.map_err(failed)?;
            let server = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
                .map_err(|e| problems(format!("--admin: {e}")))?;
            let stream = TlsConnector::from(tls).connect(server, stream).await.map_err(failed)?;
            talk(stream, request).await.map_err(self::failed)
        }
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, String> {
    UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!(
                "no gateway is running on `{}`; start it, or use --offline where the command has it",
                socket.display()
            )
        }
        ErrorKind::PermissionDenied => format!(
            "`{}` is closed to this user: call as the gateway's user or root, or let a group in with `admin.group`",
            socket.display()
        ),
        _ => format!("`{}`: {e}", socket.display()),
    })
}

async fn talk<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |e: &dyn std::fmt::Display| format!("the gateway did not answer: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.map_err(|e| failed(&e))?.to_bytes();
    driver.abort();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(Answer { status, body })
}

fn parse_url(url: &str) -> Result<(String, u16), String> {
    let wrong = || format!("--admin: `{url}` is neither https://HOST:PORT nor unix:PATH");
    let parsed: Uri = url.parse().map_err(|_| wrong())?;
    let plain = parsed.path().trim_matches('/').is_empty() && parsed.query().is_none();
    match (parsed.scheme_str(), parsed.host()) {
        (Some("https"), Some(host)) if plain => Ok((host.to_owned(), parsed.port_u16().unwrap_or(PORT))),
        _ => Err(wrong()),
    }
}

fn client_tls(gateway: &Gateway) -> Result<ClientConfig, Wrong> {
    let certificates = |option: &str, path: &Path| -> Result<Vec<CertificateDer<'static>>, Wrong> {
        let wrong = |reason: String| problems(format!("{option}: `{}` {reason}", path.display()));
        let pem = disk::read(path, MAX_FILE).map_err(&wrong)?;
        let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        if found.is_empty() { Err(wrong("contains no certificates in PEM".into())) } else { Ok(found) }
    };
    let Some(ca) = &gateway.admin_ca else {
        return Err(problems("--admin needs --admin-ca: the CA certificates of the admin listener".into()));
    };
    let mut roots = RootCertStore::empty();
    for one in certificates("--admin-ca", ca)? {
        roots.add(one).map_err(|e| problems(format!("--admin-ca: {e}")))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?
        .with_root_certificates(roots);
    match (&gateway.admin_cert, &gateway.admin_key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(chain), Some(key)) => {
            let key = PrivateKeyDer::from_pem_slice(&secret("--admin-key", key)?)
                .map_err(|_| problems("--admin-key: contains no private key in PEM".into()))?;
            let chain = certificates("--admin-cert", chain)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| problems(format!("--admin-key: {e}")))
        }
        _ => Err(problems("--admin-cert and --admin-key belong together".into())),
    }
}

fn secret(option: &str, reference: &str) -> Result<Vec<u8>, Wrong> {
    let reference = parse_secret(reference).map_err(|reason| problems(format!("{option}: {reason}")))?;
    match disk::secret(&reference, MAX_FILE) {
        Ok((_, bytes)) => Ok(bytes),
        Err(no) => {
            let fix = no.fix.map(|fix| format!("; {fix}")).unwrap_or_default();
            Err(problems(format!("{option}: {}{fix}", no.reason)))
        }
    }
}

impl Answer {
    /// The body, or what the gateway said against it.
    fn accepted(self) -> Result<Value, (Exit, String)> {
        if self.status < 300 {
            return Ok(self.body);
        }
        let problems: Vec<&str> =
            self.body["problems"].as_array().map(|l| l.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
        let title = self.body["title"].as_str().unwrap_or("refused");
        let text = if problems.is_empty() { title.to_owned() } else { format!("{}\n{title}", problems.join("\n")) };
        let exit = match self.status {
            401 | 403 => Exit::NotPermitted,
            404 | 422 => Exit::Problems,
            _ => Exit::Failed,
        };
        Err((exit, text))
    }
}
