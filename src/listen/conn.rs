//! Our connection under pingora's sessions: TLS over pingora's buffered TCP stream, carrying who the peer is.

use crate::gateway::Connection;
use async_trait::async_trait;
use pingora_core::protocols::l4::stream::Stream as TcpIo;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::server::TlsStream;

/// How long the last words of a client are listened to before its connection is closed.
const LINGER_TOTAL: Duration = Duration::from_secs(5);
const LINGER_SILENCE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Conn {
    tls: TlsStream<TcpIo>,
    facts: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    id: UniqueIDType,
}

impl Conn {
    pub(super) fn new(
        tls: TlsStream<TcpIo>,
        facts: Arc<Connection>,
        digest: Arc<ProxyDigest>,
        id: UniqueIDType,
    ) -> Self {
        Conn { tls, facts, digest, id }
    }

    pub(super) fn facts(&self) -> &Arc<Connection> {
        &self.facts
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        let _ = tokio::time::timeout(LINGER_SILENCE, AsyncWriteExt::shutdown(self)).await;
        if self.facts.linger.load(Ordering::Acquire) {
            linger(self.tls.get_mut().0).await;
        }
    }
}

/// Our side has been shut down; what the client still sends is read and thrown away, so that the kernel does not
/// answer it with a reset that destroys what we sent last.
pub(super) async fn linger(io: &mut TcpIo) {
    let work = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(Ok(n)) = tokio::time::timeout(LINGER_SILENCE, io.read(&mut buffer)).await {
            if n == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER_TOTAL, work).await;
}

impl UniqueID for Conn {
    fn id(&self) -> UniqueIDType {
        self.id
    }
}

impl Ssl for Conn {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.facts.http2 { ALPN::H2 } else { ALPN::H1 })
    }
}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[async_trait]
impl Peek for Conn {}
