"""Processes on a pinned core, what they use, and what the machine is."""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROXY_CORE = 0
LOAD_CORE = 1
TICKS = os.sysconf("SC_CLK_TCK")


class Trouble(Exception):
    """Something that the user can do something about; its text says what."""


@dataclass
class Running:
    """A process that was started here."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        if self.child.poll() is not None:
            raise Trouble(f"{self.name} ended with {self.child.returncode}:\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def family(self) -> list[int]:
        """The process and all that descend from it."""
        found, waiting = [], [self.child.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting.extend(int(child) for child in children.read_text().split())
        return found

    def cpu_seconds(self) -> float:
        """User and system time of the whole family since its start."""
        ticks = 0
        for pid in self.family():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def resident_mb(self) -> float:
        """RSS of the family; pages that its processes share count once."""
        kilobytes = 0
        for pid in self.family():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            kilobytes += int(_found(r"^Pss:\s+(\d+)", rollup))
        return kilobytes / 1024

    def rss_mb(self) -> float:
        """VmRSS of the process itself, as `ps` shows it."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(_found(r"^VmRSS:\s+(\d+)", status)) / 1024


@contextmanager
def running(name: str, command: list[str], core: int, log: Path, stop: int = signal.SIGTERM) -> Iterator[Running]:
    """Runs `command` on one core; on the way out it is told to stop, and killed when it does not."""
    with log.open("wb") as out:
        child = subprocess.Popen(pinned(core, command), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield Running(name, child, log)
    finally:
        if child.poll() is None:
            child.send_signal(stop)
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def pinned(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command]


def output_of(command: list[str]) -> str:
    """What a command prints; its failure is ours."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Trouble(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def wait_for(what: str, ready: Callable[[], bool], process: Running, seconds: float = 20, pause: float = 0.01) -> float:
    """Seconds until `ready`, which may also raise OSError as long as it is not."""
    started = time.monotonic()
    while True:
        process.check()
        try:
            if ready():
                return time.monotonic() - started
        except OSError:
            pass
        if time.monotonic() - started > seconds:
            raise Trouble(f"{what} did not happen within {seconds} s; {process.name} said:\n{process.last_words()}")
        time.sleep(pause)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def description() -> dict[str, str]:
    cpu = _found(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), "unknown")
    memory = int(_found(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()))
    return {
        "CPU": cpu,
        "architecture": platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 1024 / 1024:.0f} GiB",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
    }


def _found(pattern: str, text: str, otherwise: str | None = None) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        if otherwise is None:
            raise Trouble(f"no {pattern!r} where it should be")
        return otherwise
    return match.group(1).strip()
