//! A bare pingora pass-through: what the gateway would cost without governing anything. For `scripts/bench` only.
//!
//! It asks for a client certificate, verifies it against one CA and forwards every request: no filter, no log, no
//! record. pingora's server, acceptor and proxy do the work, on as many threads as `--threads` says, with the same TLS
//! library, cryptography and allocator as partnergate. Only the few lines that accept a connection are ours: pingora's
//! listener can ask for client certificates too (`TlsSettings::set_client_cert_verifier`), but it cannot turn session
//! resumption off, and then new connections would be compared with resumed ones.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program: address on stdout, troubles on stderr"
)]

use async_trait::async_trait;
use clap::Parser;
use pingora_core::apps::ServerApp;
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::l4::stream::Stream as TcpIo;
use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::server::{ListenFds, Server, ShutdownWatch};
use pingora_core::services::Service;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpStream;

/// As in partnergate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Forwards every request of a client with a certificate
#[derive(Parser)]
#[command(name = "passthrough")]
struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where requests go, as plain HTTP/1.1
    #[arg(long, value_name = "ADDRESS")]
    upstream: SocketAddr,
    /// PEM certificate chain of the server
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its PEM private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// PEM certificate of the CA that client certificates must come from
    #[arg(long, value_name = "FILE")]
    client_ca: PathBuf,
    /// Worker threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> ExitCode {
    match serve(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("passthrough: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> Result<(), Box<dyn Error>> {
    let acceptor = Acceptor::from_server_config(Arc::new(tls_config(args)?));
    let socket = TcpListener::bind(args.listen)?;
    socket.set_nonblocking(true)?;
    println!("listening on {}", socket.local_addr()?);

    let conf = ServerConf { threads: args.threads, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, conf);
    server.bootstrap();
    let app = Arc::new(http_proxy(&server.configuration, Forward { upstream: args.upstream }));
    server.add_service(Listener { socket: Some(socket), acceptor: Arc::new(acceptor), app });
    server.run_forever()
}

fn tls_config(args: &Args) -> Result<rustls::ServerConfig, Box<dyn Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&args.client_ca)?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain = CertificateDer::pem_file_iter(&args.cert)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&args.key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

struct Forward {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut Self::CTX) -> pingora_error::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

/// pingora's listening service without its settings.
struct Listener {
    socket: Option<TcpListener>,
    acceptor: Arc<Acceptor>,
    app: Arc<HttpProxy<Forward>>,
}

#[async_trait]
impl Service for Listener {
    async fn start_service(&mut self, _: Option<ListenFds>, mut shutdown: ShutdownWatch, _: usize) {
        let Some(Ok(socket)) = self.socket.take().map(tokio::net::TcpListener::from_std) else {
            eprintln!("passthrough: the socket cannot be used");
            return;
        };
        loop {
            tokio::select! {
                _ = shutdown.changed() => return,
                accepted = socket.accept() => match accepted {
                    Ok((tcp, _)) => {
                        let (acceptor, app, shutdown) = (self.acceptor.clone(), self.app.clone(), shutdown.clone());
                        tokio::spawn(async move {
                            if let Err(error) = connection(tcp, &acceptor, &app, &shutdown).await {
                                eprintln!("passthrough: {error}");
                            }
                        });
                    }
                    Err(error) => eprintln!("passthrough: accept: {error}"),
                },
            }
        }
    }

    fn name(&self) -> &str {
        "passthrough"
    }
}

async fn connection(
    tcp: TcpStream,
    acceptor: &Acceptor,
    app: &Arc<HttpProxy<Forward>>,
    shutdown: &ShutdownWatch,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.tls_handshake(TcpIo::from(tcp)).await.map_err(io::Error::other)?;
    app.process_new(Box::new(tls), shutdown).await;
    Ok(())
}
