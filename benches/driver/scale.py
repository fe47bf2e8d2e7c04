"""100,000 partners with 3 credentials and 5 grants each: start, memory, and what a change of the registry does to requests."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from . import load, peers
from .client import Client
from .load import Found
from .machine import LOAD_CORE, PROXY_CORE, Trouble, free_port, output_of, pinned, running, wait_for

PARTNERS_PER_FILE = 5_000
RATE = 500
SECONDS = 10.0
# A change of a grant gives acme this, and takes it away again.
CHANGED_PATH = "/v1/reports/2026"
PERIOD = "2040-01-01T00:00:00Z"


def run(tools: peers.Tools, pki: Path, where: Path, partners: int) -> dict[str, Any]:
    folder = where / "scale"
    folder.mkdir()
    registry = write_registry(folder / "registry", pki, partners)
    results: dict[str, Any] = {"partners": partners}
    with peers.upstream(tools, where / "scale-upstream") as upstream_port:
        port, status_port = free_port(), free_port()
        config = peers.fill(
            peers.TEMPLATES / "partnergate.yaml",
            folder / "partnergate.yaml",
            run=folder,
            pki=pki,
            port=port,
            upstream=upstream_port,
            status=status_port,
            repo=peers.REPO,
            per_source=0,
        )
        command = [tools.partnergate, "--config", str(config)]
        results["apply_s"] = timed([*command, "db", "import", "-f", str(registry)])
        peers.operated(command)
        say(f"{partners} partners imported offline in {results['apply_s']:.1f} s")

        starting = time.monotonic()
        with running("partnergate", [*command, "serve"], PROXY_CORE, folder / "log") as process:
            wait_for("its start", lambda: peers.is_ready(status_port), process, seconds=120, pause=0.002)
            results["start_s"] = time.monotonic() - starting
            results["rss_at_start_mb"] = process.rss_mb()
            say(f"ready after {results['start_s']:.2f} s with {results['rss_at_start_mb']:.0f} MB")
            output_of(pinned(LOAD_CORE, load.command(tools.oha, pki, port, ("-c", "32"), 2)))
            results["rss_after_load_mb"] = process.rss_mb()
            results["calm"] = asdict(loaded(tools, pki, port, partial(look, pki, port)))
            say(f"slowest request {results['calm']['slowest']:.1f} ms without changes")
            changes = (grant_changes(folder), *partner_changes(folder))
            results["changes"] = [changed(change, command, tools, pki, port) for change in changes]
            results["rss_after_changes_mb"] = process.rss_mb()
            results["commands"] = [
                {**commanded(what, command, tools, pki, port), "rss_mb": process.rss_mb()}
                for what in ("reload", "partner list", "export")
            ]
    shutil.rmtree(folder)
    return results


def changed(change: Change, command: list[str], tools: peers.Tools, pki: Path, port: int) -> dict[str, Any]:
    found = loaded(tools, pki, port, partial(change.make, command, pki, port))
    say(
        f"{change.what} live after {median(change.live_ms):.0f} ms (at most {max(change.live_ms):.0f} ms); "
        f"slowest request {found.slowest:.1f} ms"
    )
    return {"what": change.what, "live_ms": change.live_ms, "command_ms": change.command_ms, "load": asdict(found)}


def commanded(what: str, command: list[str], tools: peers.Tools, pki: Path, port: int) -> dict[str, Any]:
    """An operator's command under load, which goes on for longer than an export takes."""
    took: list[float] = []

    def meanwhile() -> None:
        took.append(timed([*command, *what.split()]))

    found = loaded(tools, pki, port, meanwhile, 2 * SECONDS)
    say(f"`{what}` took {took[0]:.2f} s; slowest request {found.slowest:.1f} ms")
    return {"what": what, "took_s": took[0], "load": asdict(found)}


def look(pki: Path, port: int) -> None:
    """Asks all the time, as is done while a change is waited for."""
    with Client(pki, port) as client:
        end = time.monotonic() + SECONDS / 2
        while time.monotonic() < end:
            client.status("GET", CHANGED_PATH)
            time.sleep(0.001)


def loaded(tools: peers.Tools, pki: Path, port: int, meanwhile: Callable[[], None], seconds: float = SECONDS) -> Found:
    """A steady load, with something going on a second after it has begun."""
    options = ("-c", "16", "-q", str(RATE), "--latency-correction")
    command = pinned(LOAD_CORE, load.command(tools.oha, pki, port, options, seconds))
    oha = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(1)
        meanwhile()
        if oha.poll() is not None:
            raise Trouble(f"something took longer than a load of {seconds:g} s: there is nothing to compare")
        out, complaint = oha.communicate(timeout=seconds + 30)
    finally:
        if oha.poll() is None:
            oha.kill()
            oha.wait()
    if oha.returncode != 0:
        raise Trouble(f"oha ended with {oha.returncode}:\n{complaint}")
    return load.read(out)


@dataclass
class Change:
    """Commands that change something, and who gets which status on which path when it is so."""

    what: str
    commands: dict[int, list[str]]
    who: str = "acme"
    # None where no request sees it: the command ends when it is live.
    path: str | None = None
    times: int = 1
    live_ms: list[float] = field(default_factory=list)
    command_ms: list[float] = field(default_factory=list)

    def make(self, command: list[str], pki: Path, port: int) -> None:
        """Makes the change and takes it back so many times, looking for its effect all the time."""
        with Client(pki, port, self.who) as client:
            for _ in range(self.times):
                for status in self.commands:
                    self._once(command, client, status)
                    time.sleep(0.3)

    def _once(self, command: list[str], client: Client, status: int) -> None:
        """From the start of the command to the first request that is decided anew; the command's own time is in it."""
        if self.path and client.status("GET", self.path) == status:
            raise Trouble(f"{self.path} is answered with {status} before the change to it")
        started = time.monotonic()
        change = pinned(LOAD_CORE, [*command, *self.commands[status]])
        child = subprocess.Popen(change, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        ended: list[float] = []

        def wait() -> None:
            child.wait()
            ended.append(time.monotonic())

        waiting = threading.Thread(target=wait)
        waiting.start()
        live = time.monotonic()
        while self.path and client.status("GET", self.path) != status:
            if child.poll() not in (None, 0) or time.monotonic() - started > 30:
                child.kill()
                raise Trouble(f"a change ({self.what}) is not live; the command said: {child.communicate()[1]}")
            time.sleep(0.001)
            live = time.monotonic()
        waiting.join()
        complaint = child.communicate()[1]
        if child.returncode != 0:
            raise Trouble(f"a change ({self.what}) failed: {complaint}")
        self.live_ms.append(((live if self.path else ended[0]) - started) * 1000)
        self.command_ms.append((ended[0] - started) * 1000)


def grant_changes(folder: Path) -> Change:
    """A grant of one partner gets an operation, and loses it again."""
    commands = {}
    for status in (200, 403):
        operations = ["invoices.read", "reports.read"] if status == 200 else ["invoices.read"]
        commands[status] = applied(folder / f"grant-{status}", acme(operations))
    return Change("a grant", commands, path=CHANGED_PATH, times=3)


def partner_changes(folder: Path) -> list[Change]:
    """A partner comes, its name is put on the anchor's list of 100,000, and it gets credentials and grants."""
    name = "stranger"
    add = ["partner", "add", name, "--name", "Stranger", "--owner", "bench", "--network", "near", "--ends", PERIOD]
    bind = ["anchor", "bind", "partner-ca", "--partner", name]
    whole = applied(folder / "new-partner", partner(name))
    return [
        Change("a new partner", {200: add}),
        Change("an anchor bound to it", {200: bind}),
        Change("its credentials and grants", {200: whole}, name, load.PATH),
    ]


def applied(place: Path, partners: str) -> list[str]:
    """The command that applies a file with these partners."""
    place.mkdir()
    (place / "partners.yaml").write_text("environment: bench\npartners:\n" + partners)
    return ["apply", "--yes", "-f", str(place)]


def write_registry(folder: Path, pki: Path, partners: int) -> Path:
    """acme and so many others, 3 credentials and 5 grants each, in files that people could still open."""
    folder.mkdir()
    shutil.copy(pki / "partner-ca.pem", folder)
    names = ["acme", *(f"p{number}" for number in range(1, partners))]
    (folder / "base.yaml").write_text(
        "environment: bench\nnetworks:\n  near: {cidrs: [127.0.0.0/8]}\n"
        f"anchors:\n  partner-ca: {{certificate: partner-ca.pem, partners: [{', '.join(names)}]}}\n"
        "partners:\n" + acme(["invoices.read"])
    )
    others = names[1:]
    for start in range(0, len(others), PARTNERS_PER_FILE):
        text = "".join(partner(name) for name in others[start : start + PARTNERS_PER_FILE])
        (folder / f"partners-{start:06}.yaml").write_text("environment: bench\npartners:\n" + text)
    return folder


def acme(operations: list[str]) -> str:
    """The partner that the load comes from; it has as many grants."""
    return partner("acme").replace("[invoices.read]", f"[{', '.join(operations)}]")


def partner(name: str) -> str:
    return f"""\
  {name}:
    name: Partner {name}
    owner: bench
    engagement: {{starts: 2020-01-01T00:00:00Z, ends: {PERIOD}}}
    networks: [near]
    credentials:
      {name}: {{anchor: partner-ca, match: {{uri: "spiffe://bench.example/{name}"}}}}
      {name}-b: {{anchor: partner-ca, match: {{uri: "spiffe://bench.example/{name}/b"}}}}
      {name}-c: {{anchor: partner-ca, match: {{uri: "spiffe://bench.example/{name}/c"}}}}
    grants:
      {name}-1: {{owner: bench, operations: [invoices.read], ends: {PERIOD}}}
      {name}-2: {{owner: bench, operations: [orders.read], ends: {PERIOD}}}
      {name}-3: {{owner: bench, operations: [orders.create], ends: {PERIOD}}}
      {name}-4: {{owner: bench, operations: [orders.read], credentials: [{name}-b], ends: {PERIOD}}}
      {name}-5: {{owner: bench, operations: [orders.create], credentials: [{name}-c], ends: {PERIOD}}}
"""


def timed(command: list[str]) -> float:
    """Runs a command to its end. What it prints is dropped."""
    started = time.monotonic()
    output_of(["sh", "-c", 'exec "$@" >/dev/null', "sh", *command])
    return time.monotonic() - started


def say(text: str) -> None:
    print(f"scale: {text}", flush=True)
