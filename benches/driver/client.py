"""A client for checks: one request at a time, with or without a certificate, resuming a session or not."""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path

from .pki import HOST


class Client:
    """A connection as one of the run's clients. It is opened on the first request and then kept."""

    def __init__(self, pki: Path, port: int, who: str | None = "acme", session: ssl.SSLSession | None = None) -> None:
        self.context = ssl.create_default_context(cafile=pki / "server-ca.pem")
        if who is not None:
            self.context.load_cert_chain(pki / f"{who}.pem", pki / f"{who}.key")
        self.port = port
        self.session = session
        self.connection: http.client.HTTPConnection | None = None
        self.tls: ssl.SSLSocket | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        if self.connection is not None:
            self.connection.close()

    def status(self, method: str, path: str, body: bytes | None = None) -> int:
        """The status code of one request."""
        if self.connection is None:
            self.connection = self._open()
        self.connection.request(method, path, body, {"Host": f"{HOST}:{self.port}"})
        answer = self.connection.getresponse()
        answer.read()
        return answer.status

    def _open(self) -> http.client.HTTPConnection:
        tcp = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = self.context.wrap_socket(tcp, server_hostname=HOST, session=self.session)
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        connection.sock = self.tls
        return connection


def resumes(pki: Path, port: int, path: str) -> bool:
    """Whether a second connection may resume the session of a first one."""
    with Client(pki, port) as first:
        first.status("GET", path)
        session = first.tls.session if first.tls else None
        if session is None or not session.has_ticket and not session.id:
            return False
        with Client(pki, port, session=session) as second:
            # Sessions belong to the context that they were made in.
            second.context = first.context
            second.status("GET", path)
            return bool(second.tls and second.tls.session_reused)
