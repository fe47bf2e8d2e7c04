//! Our connection under pingora's sessions: TLS over pingora's buffered TCP stream, carrying who the peer is.

use super::frames::{Refusals, Watch};
use crate::gateway::Connection;
use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::protocols::l4::stream::Stream as TcpIo;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
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
    /// What is left to do when the connection ends.
    farewell: Farewell,
    fence: Arc<Fence>,
    /// On HTTP/2.
    watch: Option<Watch>,
}

/// Keeps the next request of an HTTP/1 client away from the one that is being served. While it is closed, what comes
/// is kept, and only the end of the connection is seen.
#[derive(Debug, Default)]
pub(super) struct Fence {
    closed: AtomicBool,
    early: Mutex<BytesMut>,
}

/// Bytes that may come before their time; more are left in the socket.
const MAX_EARLY: usize = 64 * 1024;

impl Fence {
    /// `early` has come already.
    pub(super) fn close(&self, early: BytesMut) {
        *self.early.lock().unwrap_or_else(PoisonError::into_inner) = early;
        self.closed.store(true, Ordering::Release);
    }

    /// What has come meanwhile.
    pub(super) fn open(&self) -> BytesMut {
        self.closed.store(false, Ordering::Release);
        std::mem::take(&mut *self.early.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
enum Farewell {
    /// Until the deadline, if the client does not take it.
    Say(Option<Pin<Box<Sleep>>>),
    /// Said; until the first deadline what comes is thrown away, until the second while it still comes.
    Listen(Pin<Box<Sleep>>, Pin<Box<Sleep>>),
    Done,
}

impl Conn {
    pub(super) fn new(tls: TlsStream<TcpIo>, facts: Arc<Connection>, digest: Arc<ProxyDigest>) -> Self {
        Conn { tls, facts, digest, farewell: Farewell::Say(None), fence: Arc::default(), watch: None }
    }

    /// From here on, what the HTTP/2 library refuses on its own is told.
    pub(super) fn watch(&mut self) -> Arc<Refusals> {
        let refusals = Arc::new(Refusals::default());
        self.watch = Some(Watch::new(refusals.clone()));
        refusals
    }

    pub(super) fn facts(&self) -> &Arc<Connection> {
        &self.facts
    }

    pub(super) fn fence(&self) -> &Arc<Fence> {
        &self.fence
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.fence.closed.load(Ordering::Acquire) {
            let before = buf.filled().len();
            let read = Pin::new(&mut this.tls).poll_read(cx, buf);
            if let Some(watch) = &mut this.watch {
                watch.received(buf.filled().get(before..).unwrap_or_default());
            }
            return read;
        }
        let mut early = this.fence.early.lock().unwrap_or_else(PoisonError::into_inner);
        while early.len() < MAX_EARLY {
            let mut bytes = [0; 4 * 1024];
            let mut piece = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.tls).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            early.extend_from_slice(piece.filled());
        }
        Poll::Pending
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tls).poll_write(cx, buf);
        if let (Poll::Ready(Ok(n)), Some(watch)) = (&written, &mut self.watch) {
            watch.sent(buf.get(..*n).unwrap_or_default());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    /// Ends our side, and where a client may still be sending, listens to its last words. Here and not in
    /// [`Shutdown`], because pingora's sessions end a connection through this one.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.farewell {
                Farewell::Say(deadline) => {
                    let deadline = deadline.get_or_insert_with(|| Box::pin(sleep(LINGER_SILENCE)));
                    match Pin::new(&mut this.tls).poll_shutdown(cx) {
                        Poll::Pending if deadline.as_mut().poll(cx).is_pending() => return Poll::Pending,
                        Poll::Pending => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                        Poll::Ready(said) => said?,
                    }
                    this.farewell = if this.facts.linger.load(Ordering::Acquire) {
                        Farewell::Listen(Box::pin(sleep(LINGER_TOTAL)), Box::pin(sleep(LINGER_SILENCE)))
                    } else {
                        Farewell::Done
                    };
                }
                Farewell::Listen(total, silence) => {
                    let mut bytes = [0; 8 * 1024];
                    let mut buffer = ReadBuf::new(&mut bytes);
                    match Pin::new(&mut *this.tls.get_mut().0).poll_read(cx, &mut buffer) {
                        Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                            silence.as_mut().reset(Instant::now() + LINGER_SILENCE);
                            if total.as_mut().poll(cx).is_ready() {
                                this.farewell = Farewell::Done;
                            }
                        }
                        Poll::Ready(_) => this.farewell = Farewell::Done,
                        Poll::Pending => {
                            if total.as_mut().poll(cx).is_pending() && silence.as_mut().poll(cx).is_pending() {
                                return Poll::Pending;
                            }
                            this.farewell = Farewell::Done;
                        }
                    }
                }
                Farewell::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
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
        // pingora tells pooled connections apart by it; ours are never pooled.
        UniqueIDType::try_from(self.facts.id & 0x7fff_ffff).unwrap_or(0)
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
