"""The proxies: how each is started, and the check that it enforces what the others enforce."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .client import Client, resumes
from .load import PATH
from .machine import LOAD_CORE, PROXY_CORE, Running, Trouble, free_port, output_of, running, wait_for

REPO = Path(__file__).resolve().parents[2]
TEMPLATES = REPO / "benches" / "peers"
# partnergate in both ways: as it is, and with a candidate evaluated beside its policy.
OURS = ("partnergate", "candidate")
NAMES = ("passthrough", *OURS, "envoy", "nginx", "haproxy")


@dataclass(frozen=True)
class Tools:
    """Programs, as paths or names on PATH."""

    partnergate: str
    passthrough: str
    nginx: str
    haproxy: str
    envoy: str
    oha: str

    def versions(self) -> dict[str, str]:
        asked = {
            "partnergate": [self.partnergate, "--version"],
            "Envoy": [self.envoy, "--version"],
            "nginx": [self.nginx, "-v"],
            "HAProxy": [self.haproxy, "-v"],
            "oha": [self.oha, "--version"],
            "OpenSSL": ["openssl", "version"],
            "rustc": ["rustc", "--version"],
        }
        found = {
            name: next(line for line in output_of(how).splitlines() if line.strip()) for name, how in asked.items()
        }
        found["partnergate"] += f" at {output_of(['git', '-C', str(REPO), 'rev-parse', '--short', 'HEAD']).strip()}"
        if output_of(["git", "-C", str(REPO), "status", "--porcelain", "--", "src", "policies", "Cargo.lock"]).strip():
            found["partnergate"] += " with uncommitted changes"
        lock = (REPO / "Cargo.lock").read_text()
        for crate in ("pingora-proxy", "rustls"):
            versions = re.findall(rf'name = "{crate}"\nversion = "([^"]+)"', lock)
            found[crate] = ", ".join(versions)
        # Envoy also says which commit and which TLS library: COMMIT/VERSION/…/TLS.
        said = found["Envoy"].rpartition("version:")[2].strip().split("/")
        found["Envoy"] = f"{said[1]}, {said[-1]}" if len(said) > 2 else found["Envoy"]
        return {name: re.sub(r"^(\w+ )?version: ", "", text).strip() for name, text in found.items()}


@dataclass(frozen=True)
class Proxy:
    """One that runs and is ready."""

    name: str
    process: Running
    port: int
    folder: Path
    status_port: int = 0

    def metrics(self) -> dict[str, float]:
        """partnergate's own metrics, by name and labels as they are written."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def refusals(self) -> str:
        """partnergate's own words on what it refused; nothing for the others."""
        if self.name not in OURS:
            return ""
        found = {key: value for key, value in self.metrics().items() if key.startswith("partnergate_denials_total")}
        return f"; since its start {found}"


def fill(template: Path, to: Path, **values: object) -> Path:
    """Copies a template with every `@name@` filled in."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise Trouble(f"{template.name}: nothing is known as {match[0]}")
        return str(values[match[1]])

    to.write_text(re.sub(r"@(\w+)@", value, template.read_text()))
    return to


@contextmanager
def upstream(tools: Tools, folder: Path) -> Iterator[int]:
    """The upstream of all proxies; gives its port."""
    folder.mkdir()
    port = free_port()
    config = fill(TEMPLATES / "upstream.nginx.conf", folder / "nginx.conf", run=folder, port=port)
    with running("upstream", _nginx(tools, folder, config), LOAD_CORE, folder / "log") as process:
        wait_for("the upstream's start", lambda: _listens(port), process)
        yield port


@contextmanager
def start(
    name: str, tools: Tools, pki: Path, upstream_port: int, where: Path, per_source: int = 0
) -> Iterator[Proxy]:
    """A proxy of its own for one measurement, on its core, ready; its folder is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=where))
    port, status_port = free_port(), free_port()
    values = {
        "run": folder,
        "pki": pki,
        "port": port,
        "upstream": upstream_port,
        "status": status_port,
        "repo": REPO,
        "per_source": per_source,
    }

    def filled(template: str) -> Path:
        return fill(TEMPLATES / template, folder / template, **values)

    stop = signal.SIGTERM
    if name == "nginx":
        command = _nginx(tools, folder, filled("nginx.conf"))
    elif name == "haproxy":
        command = [tools.haproxy, "-f", str(filled("haproxy.cfg"))]
    elif name == "envoy":
        command = [
            tools.envoy,
            "--config-path",
            str(filled("envoy.yaml")),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ]
    elif name == "passthrough":
        # On SIGTERM pingora waits for minutes.
        stop = signal.SIGINT
        command = [
            tools.passthrough,
            "--listen",
            f"127.0.0.1:{port}",
            "--upstream",
            f"127.0.0.1:{upstream_port}",
            "--cert",
            str(pki / "server.pem"),
            "--key",
            str(pki / "server.key"),
            "--client-ca",
            str(pki / "partner-ca.pem"),
        ]
    else:
        config = filled("partnergate.yaml")
        if name == "candidate":
            add_candidate(config, folder / "candidate")
        command = [tools.partnergate, "--config", str(config)]
        registry = folder / "registry"
        registry.mkdir()
        shutil.copy(TEMPLATES / "registry.yaml", registry)
        shutil.copy(pki / "partner-ca.pem", registry)
        output_of([*command, "db", "import", "-f", str(registry)])
        command.append("serve")
    try:
        with running(name, command, PROXY_CORE, folder / "log", stop) as process:
            proxy = Proxy(name, process, port, folder, status_port)
            if name in OURS:
                wait_for("its start", lambda: is_ready(status_port), process)
            else:
                wait_for("its start", lambda: _listens(port), process)
            yield proxy
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def add_candidate(config: Path, folder: Path) -> None:
    """A candidate that is the shipped policy with one rule more, evaluated on every decision."""
    shutil.copytree(REPO / "policies", folder)
    rule = 'deny contains {"reason": "x-closed"} if input.request.operation == "reports.read"'
    (folder / "custom" / "closed.rego").write_text(f"package partnergate.custom\n\nimport rego.v1\n\n{rule}\n")
    (folder / "reasons.yaml").write_text('reasons:\n  x-closed: "Reports are closed"\n')
    text = config.read_text()
    config.write_text(text.replace(f"  dir: {REPO}/policies\n", f"  dir: {REPO}/policies\n  candidate: {{dir: {folder}}}\n"))


def operated(command: list[str]) -> None:
    """Makes this user an operator of a gateway that does not run yet."""
    me = f"bench=user:{os.getuid()}"
    output_of([*command, "db", "operator", me, "--reason", "a benchmark changes what it measures"])


def is_ready(status_port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", status_port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def check(proxy: Proxy, pki: Path) -> None:
    """That the proxy lets through what it should and nothing else, and that no session can be resumed."""
    expected: list[tuple[str | None, str, str, int]] = [
        ("acme", "GET", PATH, 200),
        ("acme", "GET", "/v1/orders/7", 200),
        ("acme", "POST", "/v1/orders", 200),
    ]
    refused: list[tuple[str | None, str, str, int]] = [
        ("acme", "GET", "/v1/other/7", 403),
        ("acme", "DELETE", PATH, 403),
        ("acme", "GET", f"{PATH}/lines", 403),
        ("stranger", "GET", PATH, 403),
    ]
    if proxy.name != "passthrough":
        expected += refused
    for who, method, path, status in expected:
        with Client(pki, proxy.port, who) as client:
            got = client.status(method, path, b"{}" if method == "POST" else None)
        if got != status:
            raise Trouble(f"{proxy.name} answers {method} {path} of {who} with {got} instead of {status}")
    # nginx takes the connection and answers 400; the others end it.
    try:
        with Client(pki, proxy.port, None) as client:
            got = client.status("GET", PATH)
        if got != 400:
            raise Trouble(f"{proxy.name} answers a client without a certificate with {got}")
    except (OSError, http.client.HTTPException):
        pass
    if resumes(pki, proxy.port, PATH):
        raise Trouble(f"{proxy.name} resumes sessions: its new connections cannot be compared")


def _nginx(tools: Tools, folder: Path, config: Path) -> list[str]:
    return [tools.nginx, "-p", str(folder), "-e", "stderr", "-c", str(config)]


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
