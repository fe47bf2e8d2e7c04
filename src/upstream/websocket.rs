//! Connections for WebSockets, which are never ready to be read in the same breath in which they were written.
//!
//! pingora-proxy 0.9.1 queues the (empty) end of the request's body for the upstream's half. Where a quick upstream's 101
//! is read before that is taken from the queue, the end of the request's body passes for the end of the upgraded stream,
//! and the WebSocket ends as soon as it was opened. A first look that finds nothing leaves the queue to be taken first.

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_error::{Error, ErrorType, OrErr};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

#[derive(Debug)]
pub(super) struct Patient {
    pub timeout: Duration,
}

#[async_trait]
impl Connect for Patient {
    async fn connect(&self, address: &SocketAddr) -> pingora_error::Result<Stream> {
        let SocketAddr::Inet(address) = address else {
            return Err(Error::explain(ErrorType::ConnectError, "not an IP address"));
        };
        let tcp = match tokio::time::timeout(self.timeout, TcpStream::connect(address)).await {
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(Error::because(ErrorType::ConnectRefused, "connecting to the upstream", e));
            }
            Ok(connected) => connected.or_err(ErrorType::ConnectError, "connecting to the upstream")?,
            Err(_) => return Err(Error::explain(ErrorType::ConnectTimedout, "connecting to the upstream")),
        };
        let socket = Socket { tcp, written: false };
        Ok(Stream::from(VirtualSocketStream::new(Box::new(socket))))
    }
}

#[derive(Debug)]
struct Socket {
    tcp: TcpStream,
    /// And not read since.
    written: bool,
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.written) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl VirtualSocket for Socket {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.tcp.set_nodelay(true),
            _ => Ok(()),
        }
    }
}
