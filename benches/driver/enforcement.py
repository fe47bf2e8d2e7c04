"""How fast a right that ended is gone: 10,000 open connections with a stream on each, 1,000 of which lose theirs.

Each round one thing ends the right of one partner's streams: a change of the registry, a revocation list, a denial, a
policy, the clock. Two times are taken: the gateway's own, from commit, list or instant to the last stream's end
(`partnergate_revocation_enforcement_seconds`), and the client's, from the call to the last connection's end, which has
the plan of the change, or the next look at a file, in it. And a revocation list of a million entries is taken over
under load.
"""

from __future__ import annotations

import datetime
import multiprocessing
import resource
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from . import peers
from .client import Client
from .load import PATH
from .machine import LOAD_CORE, PROXY_CORE, Trouble, free_port, output_of, running, wait_for
from .pki import HOST

OTHERS = 9_000
AFFECTED = 1_000
REVOKED = 1_000_000
METRIC = "partnergate_revocation_enforcement_seconds"
# A stream that sends a little every now and then and never ends.
STREAM = f"{PATH}?upstream_body_bytes=1000000&upstream_chunks=100000&upstream_chunk_delay_ms=10000"
RATE = 200


@dataclass
class Event:
    """One way of losing a right: the times of its rounds in milliseconds."""

    name: str
    gateway: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)


class Holders:
    """Connections that hold a stream each."""

    def __init__(self, pki: Path, port: int) -> None:
        self.pki, self.port = pki, port
        self.poll = select.epoll()
        self.open: dict[int, tuple[str, ssl.SSLSocket]] = {}

    def hold(self, who: str, count: int) -> None:
        context = ssl.create_default_context(cafile=self.pki / "server-ca.pem")
        context.load_cert_chain(self.pki / f"{who}.pem", self.pki / f"{who}.key")
        head = f"GET {STREAM} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        for _ in range(count):
            tcp = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = context.wrap_socket(tcp, server_hostname=HOST)
            tls.sendall(head)
            answer = tls.recv(4096)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise Trouble(f"a stream of {who} was answered with {answer[:40]!r}")
            tls.setblocking(False)
            self.poll.register(tls, select.EPOLLIN)
            self.open[tls.fileno()] = (who, tls)

    def held(self, who: str) -> int:
        return sum(1 for name, _ in self.open.values() if name == who)

    def drain(self, who: str, seconds: float) -> list[float]:
        """Waits until all of one partner's have ended; when each did."""
        ended, left = [], self.held(who)
        deadline = time.monotonic() + seconds
        while left:
            for number, _ in self.poll.poll(max(0.0, deadline - time.monotonic())):
                name, tls = self.open[number]
                try:
                    gone = not tls.recv(65536)
                except (ssl.SSLWantReadError, BlockingIOError):
                    continue
                except OSError:
                    gone = True
                if gone:
                    ended.append(time.monotonic())
                    self.poll.unregister(number)
                    del self.open[number]
                    tls.close()
                    left -= name == who
                    if name != who:
                        raise Trouble(f"a connection of {name} has ended, and only {who} lost a right")
            if time.monotonic() > deadline:
                raise Trouble(f"{left} streams of {who} are open after {seconds} s")
        return ended


def run(tools: peers.Tools, upstream_program: Path, pki: Path, where: Path, rounds: int) -> dict[str, Any]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # Each process has one for each connection; the way to the upstream is shared.
    wanted = OTHERS + AFFECTED + 5_000
    if most != resource.RLIM_INFINITY and most < wanted:
        raise Trouble(f"{wanted} open files are needed and {most} are allowed: raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    folder = where / "enforcement"
    folder.mkdir()
    policies = folder / "policies"
    shutil.copytree(peers.REPO / "policies", policies)
    reasons = policies / "reasons.yaml"
    reasons.write_text('reasons:\n  x-closed: "Closed for the measurement"\n')
    port, status, upstream_port = free_port(), free_port(), free_port()
    upstream = [str(upstream_program), "--listen", f"127.0.0.1:{upstream_port}"]
    config = folder / "partnergate.yaml"
    text = (peers.TEMPLATES / "partnergate.yaml").read_text()
    text = text.replace("{handshakes_per_source: @per_source@}", "{handshakes_per_source: 0, connections_per_partner: 20000}")
    text = text.replace('endpoints: ["127.0.0.1:@upstream@"]', 'endpoints: ["127.0.0.1:@upstream@"], protocol: h2')
    text = text.replace("  dir: @repo@/policies", f"  dir: {policies}") + "reload: {interval: 1h}\n"
    for key, value in {"run": folder, "pki": pki, "port": port, "upstream": upstream_port, "status": status}.items():
        text = text.replace(f"@{key}@", str(value))
    config.write_text(text)
    crl = folder / "lists"
    crl.mkdir()
    registry = folder / "registry"
    registry.mkdir()
    shutil.copy(pki / "partner-ca.pem", registry)
    base = (peers.TEMPLATES / "registry.yaml").read_text()
    base = base.replace("partners: [acme, globex]}", f"partners: [acme, globex], revocation: {{crl: ['dir:{crl}']}}}}")
    numbers = iter(range(1, 1_000_000))

    def lists(*serials: int) -> None:
        half = folder / "list.half"
        half.write_bytes(revocation_list(pki, next(numbers), serials))
        half.rename(crl / "partner-ca.crl")

    lists()
    gate = [tools.partnergate, "--config", str(config)]
    peers.operated(gate)

    def cli(*arguments: str) -> None:
        output_of([*gate, *arguments])

    def apply(text: str) -> None:
        (registry / "registry.yaml").write_text(text)
        cli("apply", "--yes", "-f", str(registry))

    rule = policies / "custom" / "closed.rego"
    closed = 'package partnergate.custom\n\nimport rego.v1\n\ndeny contains {"reason": "x-closed"} if input.partner.id == "acme"\n'
    serial = int(output_of(["openssl", "x509", "-in", str(pki / "acme.pem"), "-noout", "-serial"]).strip().split("=")[1], 16)

    def policy(text: str | None) -> None:
        rule.write_text(text) if text else rule.unlink()
        cli("reload")

    def soon() -> float:
        ends = time.time() + 3
        stamp = datetime.datetime.fromtimestamp(ends, datetime.UTC).isoformat()
        head, acme, rest = base.partition("acme-invoices: {owner: bench, operations: [invoices.read], ends: ")
        apply(f'{head}{acme}"{stamp}"{rest.removeprefix("2040-01-01T00:00:00Z")}')
        return ends - time.time()

    suspended = base.replace("name: Acme GmbH", "name: Acme GmbH\n    state: suspended")
    narrowed = base.replace("[invoices.read], ends", "[reports.read], ends", 1)
    events: list[tuple[str, Callable[[], float | None], Callable[[], None]]] = [
        ("partner suspended", lambda: apply(suspended), lambda: apply(base)),
        ("grant narrowed", lambda: apply(narrowed), lambda: apply(base)),
        ("certificate denied", lambda: cli("anchor", "deny", "partner-ca", "--serial", f"{serial:x}", "--reason", "measured"),
         lambda: cli("anchor", "undeny", "partner-ca", "--serial", f"{serial:x}", "--reason", "measured")),
        ("revocation list", lambda: lists(serial), lambda: lists()),
        ("policy changed", lambda: policy(closed), lambda: policy(None)),
        ("grant ends by the clock", soon, lambda: apply(base)),
    ]  # fmt: skip
    results = [Event(name) for name, _, _ in events]
    with (
        running("upstream", upstream, LOAD_CORE, folder / "upstream.log") as up,
        running("partnergate", [*gate, "serve"], PROXY_CORE, folder / "log") as process,
    ):
        wait_for("its start", lambda: peers.is_ready(status), process, seconds=60)
        up.check()
        proxy = peers.Proxy("partnergate", process, port, folder, status)
        apply(base)
        wait_for("the list", lambda: proxy.metrics().get('partnergate_crl_lists{anchor="partner-ca"}') == 1, process)
        holders = Holders(pki, port)
        holders.hold("globex", OTHERS)
        for _ in range(rounds):
            for event, (name, end, restore) in zip(results, events, strict=True):
                holders.hold("acme", AFFECTED)
                before = proxy.metrics()
                # Streams that have just begun would have 50 ms to end by themselves.
                time.sleep(1)
                began = time.monotonic()
                worker = threading.Thread(target=end) if name != "grant ends by the clock" else None
                if worker:
                    worker.start()
                else:
                    began = time.monotonic() + (end() or 0)
                last = holders.drain("acme", 30)[-1]
                if worker:
                    worker.join()
                event.client.append((last - began) * 1000)
                # What the clock came upon first is counted first, and the look at all others goes on for a while.
                time.sleep(0.5)
                wait_for("its count", lambda b=before: spent(b, proxy.metrics()) is not None, process)
                event.gateway.append((spent(before, proxy.metrics()) or 0) * 1000)
                restore()
                wait_for("the way back", lambda: Client(pki, port).status("GET", PATH) == 200, process, pause=0.05)
                say(f"{name}: {event.gateway[-1]:.1f} ms in the gateway, {event.client[-1]:.0f} ms for the client")
            if holders.held("globex") != OTHERS:
                raise Trouble("others have lost their streams")
        figures = {"events": [asdict(event) for event in results], "rss_mb": process.rss_mb()}
        for _, tls in holders.open.values():
            tls.close()
    # A gateway that has served nobody, so that its memory is what the list needs.
    with (
        running("upstream", upstream, LOAD_CORE, folder / "upstream.log") as up,
        running("partnergate", [*gate, "serve"], PROXY_CORE, folder / "log") as process,
    ):
        wait_for("its start", lambda: peers.is_ready(status), process, seconds=60)
        up.check()
        figures["million"] = million(pki, crl, folder, peers.Proxy("partnergate", process, port, folder, status), next(numbers))
    return figures


def spent(before: dict[str, float], after: dict[str, float]) -> float | None:
    """What the change in between took. Where the clock came upon some of it first, the largest of what was counted, as
    well as the rest of the sum can tell."""
    count = after[f"{METRIC}_count"] - before[f"{METRIC}_count"]
    total = after[f"{METRIC}_sum"] - before[f"{METRIC}_sum"]
    if count < 1:
        return None
    if count == 1:
        return total
    bounds = {key: float(key.split('"')[1].replace("+Inf", "inf")) for key in after if key.startswith(f"{METRIC}_bucket")}
    largest = min(bounds[key] for key in bounds if after[key] - before.get(key, 0) == count)
    return min(total, largest)


def million(pki: Path, crl: Path, folder: Path, proxy: peers.Proxy, number: int) -> dict[str, float]:
    """A list of a million entries is taken over, twice, while requests are answered."""
    made = revocation_list(pki, number, range(1 << 64, (1 << 64) + REVOKED))
    again = revocation_list(pki, number + 1, range(1 << 64, (1 << 64) + REVOKED))
    with Client(pki, proxy.port) as client:
        for _ in range(200):
            client.status("GET", PATH)
    rss = proxy.process.rss_mb()
    ours, theirs = multiprocessing.Pipe()
    # A process of its own: threads of this one would wait for each other.
    asking = multiprocessing.get_context("fork").Process(target=ask, args=(pki, proxy.port, theirs), daemon=True)
    asking.start()
    theirs.close()
    time.sleep(3)
    quiet = time.monotonic()
    loads, swaps = [], []
    for bytes_ in (made, again):
        half = folder / "list.half"
        half.write_bytes(bytes_)
        generation = proxy.metrics()["partnergate_snapshot_trust_generation"]
        began = time.monotonic()
        half.rename(crl / "partner-ca.crl")
        live = wait_for(
            "the list of a million",
            lambda g=generation: proxy.metrics()["partnergate_snapshot_trust_generation"] > g,
            proxy.process,
            pause=0.02,
        )
        time.sleep(1)
        loads.append(live)
        swaps.append((began - 0.1, time.monotonic()))
    ours.send("stop")
    times: list[tuple[float, float]] = ours.recv()
    asking.join()
    calm_ms = max(took for when, took in times if when < quiet)
    swap_ms = max(took for when, took in times if any(begin <= when <= end for begin, end in swaps))
    after = proxy.process.rss_mb()
    say(f"a million entries: live in {max(loads):.2f} s, slowest request {swap_ms:.1f} ms ({calm_ms:.1f} before), "
        f"{after - rss:.0f} MB more")  # fmt: skip
    size = len(made) / 1e6
    return {"live_s": max(loads), "slowest_ms": swap_ms, "calm_ms": calm_ms, "rss_mb": after - rss, "list_mb": size}


def ask(pki: Path, port: int, told: Connection) -> None:
    """Asks at a steady rate until it is told to stop; gives when each request began and the milliseconds it took."""
    times: list[tuple[float, float]] = []
    with Client(pki, port) as client:
        due = time.monotonic()
        while not told.poll():
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            if client.status("GET", PATH) != 200:
                raise Trouble("an allowed request was denied")
            times.append((began, (time.monotonic() - began) * 1000))
            due = began + 1 / RATE
    told.send(times)


def revocation_list(pki: Path, number: int, serials: Any) -> bytes:
    """A list of the partners' CA, made by hand because `openssl ca` would take minutes for a million."""
    now = datetime.datetime.now(datetime.UTC)
    ecdsa_sha256 = der(0x30, der(0x06, bytes.fromhex("2a8648ce3d040302")))
    name = output_of(["openssl", "x509", "-in", str(pki / "partner-ca.pem"), "-noout", "-subject", "-nameopt", "multiline"])
    common = name.split("=", 2)[-1].strip().splitlines()[0].strip().encode()
    issuer = der(0x30, der(0x31, der(0x30, der(0x06, bytes.fromhex("550403")) + der(0x0C, common))))
    date = when(now - datetime.timedelta(minutes=1))
    entries = b"".join(der(0x30, integer(serial) + date) for serial in serials)
    extension = der(0x30, der(0x06, bytes.fromhex("551d14")) + der(0x04, integer(number)))
    body = integer(1) + ecdsa_sha256 + issuer + date + when(now + datetime.timedelta(days=7))
    body += (der(0x30, entries) if entries else b"") + der(0xA0, der(0x30, extension))
    tbs = der(0x30, body)
    signing = ["openssl", "dgst", "-sha256", "-sign", str(pki / "partner-ca.key")]
    signature = subprocess.run(signing, input=tbs, capture_output=True, check=True).stdout
    return der(0x30, tbs + ecdsa_sha256 + der(0x03, b"\0" + signature))


def when(at: datetime.datetime) -> bytes:
    return der(0x17, at.strftime("%y%m%d%H%M%SZ").encode())


def integer(value: int) -> bytes:
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(length)]) + length + content


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"{OTHERS + AFFECTED:,} connections with a stream on each, {AFFECTED:,} of them affected.",
        "",
        "| what ends the right | gateway: median ms, at most | gateway: slowest ms, at most | client: median ms |",
        "| --- | ---: | ---: | ---: |",
    ]
    for event in figures["events"]:
        gateway, client = event["gateway"], event["client"]
        lines.append(f"| {event['name']} | {median(gateway):.1f} | {max(gateway):.1f} | {median(client):.0f} |")
    m = figures["million"]
    lines += [
        "",
        "The gateway's times are from commit, list or instant to the end of the last stream. Where the clock came upon some "
        "of the streams before the change did, there are several of them, and the bound of the largest one's bucket is "
        "shown. The client's are from the call of the command, with its start, the plan and the commit in them; for the "
        "list, with the wait for the next look (up to 1 s).",
        "",
        f"A list of {REVOKED:,} entries ({m['list_mb']:.0f} MB) is live {m['live_s']:.2f} s after its file is there, "
        f"with the wait for the next look (up to 1 s) in it; the slowest request meanwhile took {m['slowest_ms']:.1f} ms "
        f"({m['calm_ms']:.1f} ms before), and the process has {m['rss_mb']:.0f} MB more.",
    ]
    return "\n".join(lines)


def say(text: str) -> None:
    print(f"   {text}", flush=True)
