"""The edge: what an allowed partner on a connection of its own notices of floods, with the limits that hold by default.

Half-open: 2,000 clients that have sent a ClientHello and no more; each that is thrown out comes again. Rapid reset:
another partner's HTTP/2 connections, on which streams are opened and reset as fast as they go (CVE-2023-44487); each
that is ended is made anew. The floods share a core with what is measured and give way to it.
"""

from __future__ import annotations

import multiprocessing
import os
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import peers
from .client import Client
from .load import PATH
from .machine import Trouble, wait_for
from .pki import HOST

HALF_OPEN = 2000
# The default of `partner.limits.handshakes_per_source`.
PER_SOURCE = 100
# Requests per second of the partner that is measured.
RATE = 200
TARGET = 3.0


def run(tools: peers.Tools, pki: Path, where: Path, seconds: float) -> str:
    """The figures as a text."""
    lines = [f"{'':<28}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}  core busy  handshakes/s  resets seen/s"]
    floods: list[tuple[str, list[tuple[Callable[..., None], int]]]] = [
        ("quiet", []),
        (f"{HALF_OPEN:,} half-open handshakes", [(half_open, 1)]),
        ("rapid reset", [(rapid_reset, 2)]),
        ("both", [(half_open, 1), (rapid_reset, 2)]),
    ]
    quiet = 0.0
    with (
        peers.upstream(tools, where / "upstream") as upstream_port,
        peers.start("partnergate", tools, pki, upstream_port, where, PER_SOURCE) as proxy,
    ):
        with Client(pki, proxy.port) as client:
            paced(client, 2)
            for name, kinds in floods:
                with flooded(proxy, pki, kinds):
                    before, cpu, began = proxy.metrics(), proxy.process.cpu_seconds(), time.monotonic()
                    times = sorted(paced(client, seconds))
                    took = time.monotonic() - began
                    busy = (proxy.process.cpu_seconds() - cpu) / took
                    after = proxy.metrics()
                p50, p99 = (times[int(len(times) * part)] * 1000 for part in (0.5, 0.99))
                quiet = quiet or p99
                shakes = counted(before, after, "partnergate_handshakes_total") / took
                resets = counted(before, after, "partnergate_malformed_total") / took
                lines.append(
                    f"{name:<28}{p50:>9.2f}{p99:>9.2f}{p99 / quiet:>8.2f}  {busy:>9.0%}  {shakes:>12.0f}  {resets:>13.0f}"
                )
    return "\n".join([*lines, f"The ratio is p99 to quiet p99; the target is at most {TARGET:g}."])


def paced(client: Client, seconds: float) -> list[float]:
    """The time of each of so many requests per second, one after the other."""
    times = []
    due = time.monotonic()
    end = due + seconds
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        # From when it was due: a request that waits for the one before it has waited.
        status = client.status("GET", PATH)
        times.append(time.monotonic() - due)
        if status != 200:
            raise Trouble(f"an allowed request was answered with {status}")
        due += 1 / RATE
    return times


def counted(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return sum(value - before.get(key, 0) for key, value in after.items() if key.startswith(name))


@contextmanager
def flooded(proxy: peers.Proxy, pki: Path, kinds: list[tuple[Callable[..., None], int]]) -> Iterator[None]:
    children = [
        multiprocessing.Process(target=flood, args=(kind, pki, proxy.port, number), daemon=True)
        for kind, count in kinds
        for number in range(count)
    ]
    for child in children:
        child.start()
    try:
        if any(kind is half_open for kind, _ in kinds):
            waiting = "partnergate_handshakes_in_progress"
            wait_for("the flood", lambda: proxy.metrics()[waiting] >= 400, proxy.process, pause=0.1)
        elif kinds:
            time.sleep(1)
        yield
        if not all(child.is_alive() for child in children):
            raise Trouble("a flood has ended")
    finally:
        for child in children:
            child.kill()
            child.join()


def flood(kind: Callable[..., None], pki: Path, port: int, number: int) -> None:
    # Gets the core only while nobody else wants it: what the client would notice of this process is not the gateway's.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    kind(pki, port, number)


def half_open(pki: Path, port: int, _: int) -> None:
    hello = client_hello(pki)
    selector = selectors.DefaultSelector()

    def add(number: int) -> None:
        # From so many addresses that the limit of each is not what stops them.
        tcp = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.1.{number % 40 + 1}", 0))
        tcp.sendall(hello)
        tcp.setblocking(False)
        selector.register(tcp, selectors.EVENT_READ, number)

    for number in range(HALF_OPEN):
        with suppress(OSError):
            add(number)
    while True:
        for key, _events in selector.select():
            tcp = key.fileobj
            assert isinstance(tcp, socket.socket)
            try:
                ended = not tcp.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                ended = True
            if ended:
                selector.unregister(tcp)
                tcp.close()
                with suppress(OSError):
                    add(key.data)


def client_hello(pki: Path) -> bytes:
    context = ssl.create_default_context(cafile=pki / "server-ca.pem")
    out = ssl.MemoryBIO()
    half = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=HOST)
    with suppress(ssl.SSLWantReadError):
        half.do_handshake()
    return out.read()


def rapid_reset(pki: Path, port: int, number: int) -> None:
    context = ssl.create_default_context(cafile=pki / "server-ca.pem")
    context.load_cert_chain(pki / "globex.pem", pki / "globex.key")
    context.set_alpn_protocols(["h2"])
    # Method and scheme from the static table, path and authority as literals (RFC 7541).
    block = b"\x82\x87" + b"".join(
        bytes([index, len(value)]) + value for index, value in ((0x04, PATH.encode()), (0x01, HOST.encode()))
    )
    streams = b"".join(
        frame(1, 5, stream, block) + frame(3, 0, stream, (8).to_bytes(4, "big")) for stream in range(1, 2000, 2)
    )
    opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + streams
    while True:
        with suppress(OSError):
            tcp = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.2.{number + 1}", 0))
            with context.wrap_socket(tcp, server_hostname=HOST) as tls:
                tls.settimeout(1)
                tls.sendall(opening)
                while tls.recv(65536):
                    pass


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
