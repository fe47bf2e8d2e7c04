"""oha: the load, and what it found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .machine import LOAD_CORE, Trouble, output_of, pinned
from .pki import HOST

PATH = "/v1/invoices/2026-0815"
RATE = 5000


@dataclass(frozen=True)
class Mode:
    name: str
    title: str
    options: tuple[str, ...]


MODES = (
    Mode("h1", "HTTP/1.1, connections kept", ("-c", "32")),
    Mode("h2", "HTTP/2, connections kept", ("--http2", "-c", "4", "-p", "8")),
    Mode("new", "a new connection for each request (HTTP/1.1)", ("--disable-keepalive", "-c", "16")),
    Mode(
        "rate", f"{RATE:,} requests/s, HTTP/1.1, connections kept", ("-c", "32", "-q", str(RATE), "--latency-correction")
    ),
)
# oha cuts off what is under way when the time is over.
HARMLESS = "aborted due to deadline"


@dataclass(frozen=True)
class Found:
    """Times in milliseconds."""

    completed: int
    seconds: float
    p50: float
    p99: float
    p999: float
    slowest: float
    # Status codes other than 200, with how often they came.
    others: dict[str, int]


def command(oha: str, pki: Path, port: int, options: tuple[str, ...], seconds: float) -> list[str]:
    return [
        oha,
        "--no-tui",
        "--output-format",
        "json",
        "--worker-threads",
        "1",
        "-z",
        f"{seconds:g}s",
        *options,
        "--cacert",
        str(pki / "server-ca.pem"),
        "--cert",
        str(pki / "acme.pem"),
        "--key",
        str(pki / "acme.key"),
        "--connect-to",
        f"{HOST}:{port}:127.0.0.1:{port}",
        f"https://{HOST}:{port}{PATH}",
    ]


def run(oha: str, pki: Path, port: int, options: tuple[str, ...], seconds: float) -> Found:
    """Load for so many seconds."""
    return read(output_of(pinned(LOAD_CORE, command(oha, pki, port, options, seconds))))


def read(text: str) -> Found:
    """What oha has written as JSON."""
    found = json.loads(text[text.index("{") :])
    codes, errors = found["statusCodeDistribution"], found["errorDistribution"]
    if "200" not in codes or any(HARMLESS not in error for error in errors):
        raise Trouble(f"the load failed: status codes {codes}, errors {errors}")
    times = found["latencyPercentiles"]
    return Found(
        completed=codes["200"],
        seconds=found["summary"]["total"],
        p50=times["p50"] * 1000,
        p99=times["p99"] * 1000,
        p999=times["p99.9"] * 1000,
        slowest=found["summary"]["slowest"] * 1000,
        others={code: count for code, count in codes.items() if code != "200"},
    )
