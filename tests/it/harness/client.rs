//! A TLS client that sends the bytes it is told to, with any certificate, fitting key or not.

use super::DEADLINE;
use super::pki::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A connection to be.
#[derive(Clone)]
pub struct Dial {
    address: SocketAddr,
    from: Option<IpAddr>,
    first: Vec<u8>,
    name: Option<String>,
    alpn: Vec<Vec<u8>>,
    versions: Vec<&'static SupportedProtocolVersion>,
    identity: Option<Arc<CertifiedKey>>,
    config: Option<Arc<ClientConfig>>,
}

/// What became of a connection.
pub enum Tried {
    Open(Box<TlsConn>),
    /// The alert that the gateway sent.
    Alert(AlertDescription),
    /// The connection ended without one.
    Closed(io::Error),
}

impl Dial {
    pub fn new(address: SocketAddr, name: &str) -> Self {
        Dial {
            address,
            from: None,
            first: Vec::new(),
            name: Some(name.to_owned()),
            alpn: Vec::new(),
            versions: vec![&rustls::version::TLS13],
            identity: None,
            config: None,
        }
    }

    /// Another listener, such as `[::1]:PORT`.
    #[must_use]
    pub fn to(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// From this address of the machine, such as 127.0.0.2.
    #[must_use]
    pub fn from(mut self, address: IpAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// With these bytes before all others, such as a PROXY header.
    #[must_use]
    pub fn first(mut self, bytes: &[u8]) -> Self {
        self.first = bytes.to_vec();
        self
    }

    /// With this chain. The key must be one that rustls can sign with; it need not fit.
    #[must_use]
    pub fn identity(mut self, who: &Identity) -> Self {
        let chain = who.chain.iter().cloned().map(CertificateDer::from).collect();
        let key = any_supported_type(&PrivateKeyDer::try_from(who.key.clone()).unwrap()).unwrap();
        self.identity = Some(Arc::new(CertifiedKey::new(chain, key)));
        self
    }

    /// With another server name, or none.
    #[must_use]
    pub fn sni(mut self, name: Option<&str>) -> Self {
        self.name = name.map(str::to_owned);
        self
    }

    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// TLS 1.2 instead of 1.3.
    #[must_use]
    pub fn tls12(mut self) -> Self {
        self.versions = vec![&rustls::version::TLS12];
        self
    }

    /// Keeps one TLS config, so that further connections of this one resume its session where the gateway lets them.
    #[must_use]
    pub fn resuming(mut self) -> Self {
        self.config = Some(self.config());
        self
    }

    /// The TCP connection alone, with the first bytes sent.
    #[track_caller]
    pub fn tcp(&self) -> TcpStream {
        let mut stream = match self.from {
            None => TcpStream::connect(self.address).unwrap(),
            // The standard library cannot choose the source address.
            Some(from) => std::thread::scope(|scope| {
                // On a thread of its own, because asynchronous clients call this as well.
                let connecting = || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
                    runtime.block_on(async {
                        let v4 = self.address.is_ipv4();
                        let socket = if v4 { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
                        let socket = socket.unwrap();
                        socket.bind(SocketAddr::new(from, 0)).unwrap();
                        let stream = socket.connect(self.address).await.unwrap().into_std().unwrap();
                        stream.set_nonblocking(false).unwrap();
                        stream
                    })
                };
                scope.spawn(connecting).join().unwrap()
            }),
        };
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&self.first).unwrap();
        stream
    }

    fn config(&self) -> Arc<ClientConfig> {
        if let Some(config) = &self.config {
            return config.clone();
        }
        let provider = Arc::new(default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&self.versions).unwrap();
        // Which certificate came is for the test to look at; that it is the right one for real clients, curl checks.
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(key) => builder.with_client_cert_resolver(Arc::new(Always(key.clone()))),
        };
        config.alpn_protocols = self.alpn.clone();
        Arc::new(config)
    }

    /// The TLS state of a connection that has not begun, for tests that carry the bytes themselves.
    pub fn state(&self) -> ClientConnection {
        let name = match &self.name {
            Some(name) => ServerName::try_from(name.clone()).unwrap(),
            // For an address, no name is sent (RFC 6066 section 3).
            None => ServerName::from(self.address.ip()),
        };
        ClientConnection::new(self.config(), name).unwrap()
    }

    /// The same connection for asynchronous clients.
    pub async fn secure(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        self.try_secure().await.unwrap()
    }

    /// The same where the gateway may refuse.
    pub async fn try_secure(&self) -> io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
        let tcp = self.tcp();
        tcp.set_nonblocking(true).unwrap();
        let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
        let name = match &self.name {
            Some(name) => ServerName::try_from(name.clone()).unwrap(),
            None => ServerName::from(self.address.ip()),
        };
        tokio_rustls::TlsConnector::from(self.config()).connect(name, tcp).await
    }

    /// Runs the handshake. With TLS 1.3 the client's part ends before the gateway has looked at its certificate, so
    /// [`Tried::Open`] says nothing yet about that.
    #[track_caller]
    pub fn handshake(&self) -> Tried {
        let mut tcp = self.tcp();
        let mut state = self.state();
        while state.is_handshaking() {
            if let Err(e) = state.complete_io(&mut tcp) {
                return Tried::refused(e);
            }
        }
        Tried::Open(Box::new(TlsConn { stream: StreamOwned::new(state, tcp), unread: Vec::new() }))
    }

    /// An open connection.
    #[track_caller]
    pub fn open(&self) -> TlsConn {
        match self.handshake() {
            Tried::Open(conn) => *conn,
            Tried::Alert(alert) => panic!("the gateway sent the alert {alert:?}"),
            Tried::Closed(e) => panic!("the gateway closed the connection: {e}"),
        }
    }

    /// Runs the handshake to the gateway's verdict, which must be a refusal: the alert, or `None` for a bare close.
    #[track_caller]
    pub fn refused(&self) -> Option<AlertDescription> {
        let tried = match self.handshake() {
            Tried::Open(mut conn) => match conn.stream.read(&mut [0]) {
                Ok(0) => panic!("the gateway closed the connection properly"),
                Ok(_) => panic!("the gateway has sent data"),
                Err(e) => Tried::refused(e),
            },
            tried => tried,
        };
        match tried {
            Tried::Alert(alert) => Some(alert),
            Tried::Closed(e) if e.kind() == io::ErrorKind::WouldBlock => panic!("the gateway said nothing"),
            Tried::Open(_) | Tried::Closed(_) => None,
        }
    }
}

impl Tried {
    fn refused(e: io::Error) -> Tried {
        match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Tried::Alert(*alert),
            _ => Tried::Closed(e),
        }
    }
}

/// An open TLS connection.
pub struct TlsConn {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// Received behind the last response.
    unread: Vec<u8>,
}

impl TlsConn {
    /// What was agreed on.
    pub fn state(&self) -> &ClientConnection {
        &self.stream.conn
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.stream.sock
    }

    /// The server's certificate.
    pub fn server_certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().unwrap()[0].to_vec()
    }

    pub fn source(&self) -> SocketAddr {
        self.stream.sock.local_addr().unwrap()
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// One HTTP/1 answer to a request that is not HEAD; interim answers are returned like others.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        match self.try_response() {
            Ok(response) => response,
            Err(e) => panic!("no answer: {e}"),
        }
    }

    /// One HTTP/1 answer without a body, such as one to HEAD.
    #[track_caller]
    pub fn response_head(&mut self) -> Response {
        match self.try_head() {
            Ok(response) => response,
            Err(e) => panic!("no answer: {e}"),
        }
    }

    fn try_head(&mut self) -> io::Result<Response> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        Ok(Response::new(self.unread.drain(..end).collect()))
    }

    pub fn try_response(&mut self) -> io::Result<Response> {
        let mut response = self.try_head()?;
        if response.status < 200 || matches!(response.status, 204 | 304) {
            return Ok(response);
        }
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.line()?;
                let size =
                    usize::from_str_radix(size.split(';').next().unwrap().trim(), 16).map_err(io::Error::other)?;
                let mut chunk = self.exactly(size + 2)?;
                chunk.truncate(size);
                response.body.extend(chunk);
                if size == 0 {
                    return Ok(response);
                }
            }
        }
        match response.header("content-length") {
            Some(length) => response.body = self.exactly(length.parse().map_err(io::Error::other)?)?,
            None => {
                self.read_to_end()?;
                response.body = std::mem::take(&mut self.unread);
            }
        }
        Ok(response)
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn request(&mut self, bytes: impl AsRef<[u8]>) -> Response {
        self.send(bytes);
        self.response()
    }

    /// The next bytes, whatever they are; fails at the end of the connection.
    pub fn more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.unread.extend_from_slice(&buffer[..n]);
                Ok(())
            }
        }
    }

    fn read_to_end(&mut self) -> io::Result<()> {
        loop {
            match self.more() {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> io::Result<Vec<u8>> {
        self.exactly(n)
    }

    fn exactly(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < n {
            self.more()?;
        }
        Ok(self.unread.drain(..n).collect())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.more()?;
        }
    }

    /// Fails unless the gateway ends the connection without another byte.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.unread), "", "bytes before the end");
        match self.more() {
            Ok(()) => panic!("not closed, but: {}", String::from_utf8_lossy(&self.unread)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => panic!("left open"),
            Err(_) => {}
        }
    }

    /// Whether nothing comes within a time: for what must *not* happen, so keep it short.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.stream.sock.set_read_timeout(Some(time)).unwrap();
        let quiet = self.unread.is_empty()
            && self.more().is_err_and(|e| matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
        self.stream.sock.set_read_timeout(Some(DEADLINE)).unwrap();
        quiet
    }
}

/// An HTTP/1 answer.
pub struct Response {
    pub status: u16,
    /// Status line and fields, as they came.
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    fn new(head: Vec<u8>) -> Self {
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("not HTTP: {head}"));
        Response { status, head, body: Vec::new() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|l| l.split_once(':'));
        fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The public code of a refusal.
    #[track_caller]
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}")).to_owned()
    }

    /// The gateway's id of the request.
    #[track_caller]
    pub fn id(&self) -> &str {
        self.header("x-request-id").unwrap_or_else(|| panic!("no X-Request-Id: {self:?}"))
    }

    /// Fails with everything that is known unless the answer has this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}{}", self.head, self.text());
        self
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n{}{}", self.head, self.text())
    }
}

/// Sends its one chain whatever the server asks for.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
