//! Where calls come in: the admin socket, and the admin listener over TLS.

use super::caller::Connection;
use super::router;
use crate::identity::Certificate;
use crate::reload::Publisher;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Connections over the network that are served at once.
const MAX_CONNECTIONS: usize = 64;
/// For a handshake, and for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For a whole call over the network, answer included.
const CALL_TIMEOUT: Duration = Duration::from_secs(600);
/// How long it is waited after a connection could not be accepted.
const AGAIN: Duration = Duration::from_millis(50);

/// Serves the admin socket until the task is dropped. `uid` is the user that the gateway runs as.
pub async fn serve(listener: UnixListener, publisher: Arc<Publisher>, uid: u32) {
    let router = router(publisher, uid);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let uid = stream.peer_cred().ok().map(|c| c.uid());
                    let _ = connections.spawn(talk(stream, Connection::Socket { uid }, router.clone()));
                }
                Err(e) => refused(&e).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves the admin listener until the task is dropped, with the certificates that the config has at the time. Of those
/// that have not shown who they are, the oldest goes when others need its place: silence keeps no operator out.
pub async fn serve_tls(listener: TcpListener, publisher: Arc<Publisher>, uid: u32) {
    let router = router(publisher.clone(), uid);
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<(AbortHandle, Arc<AtomicBool>)> = VecDeque::new();
    loop {
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    refused(&e).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        oldest_first.retain(|(connection, _)| !connection.is_finished());
        if oldest_first.len() >= MAX_CONNECTIONS {
            let unknown = oldest_first.iter().position(|(_, known)| !known.load(Ordering::Relaxed));
            match unknown.and_then(|at| oldest_first.remove(at)) {
                Some((oldest, _)) => oldest.abort(),
                // Every place is an operator's.
                None => continue,
            }
        }
        let (tls, router, known) = (publisher.admin_tls(), router.clone(), Arc::new(AtomicBool::new(false)));
        let knows = known.clone();
        let connection = connections.spawn(async move {
            if let Some(tls) = tls {
                shake_hands(stream, address, tls, router, knows).await;
            }
        });
        oldest_first.push_back((connection, known));
    }
}

async fn refused(e: &io::Error) {
    tracing::warn!(error = %e, "an admin connection could not be accepted");
    tokio::time::sleep(AGAIN).await;
}

async fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    router: Router,
    known: Arc<AtomicBool>,
) {
    let stream = match timeout(HEAD_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return tracing::warn!(%address, error = %e, "an admin connection without a handshake"),
        Err(_) => return tracing::warn!(%address, "an admin connection whose handshake took too long"),
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    // What cannot be read shows nobody.
    let certificate = match shown.map(|der| Certificate::from_der(der)) {
        None => None,
        Some(Ok(certificate)) => Some(Arc::new(certificate)),
        Some(Err(fault)) => return tracing::warn!(%address, error = %fault.detail, "an admin certificate is refused"),
    };
    drop(timeout(CALL_TIMEOUT, talk(stream, Connection::Tls { address, certificate, known }, router)).await);
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, shows: Connection, router: Router) {
    let service = TowerToHyperService::new(router.layer(Extension(shows)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // Whoever asks again shows again who it is.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // How a caller ends its connection is nobody's concern.
    drop(connection.await);
}
