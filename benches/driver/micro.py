"""The criterion benchmark: what one decision costs, and whether it grows with the number of partners."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from .machine import PROXY_CORE, Trouble, pinned
from .peers import REPO


def run(target: Path) -> list[dict[str, Any]]:
    """Name, median and its confidence interval in µs, of each benchmark."""
    results = target / "criterion"
    command = ["cargo", "bench", "--locked", "--profile", "dist", "--bench", "decide", "--", "--noplot"]
    before = {path: path.stat().st_mtime for path in results.glob("**/new/estimates.json")}
    done = subprocess.run(pinned(PROXY_CORE, command), cwd=REPO, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Trouble(f"`{' '.join(command)}` ended with {done.returncode}")
    fresh = [path for path in sorted(results.glob("**/new/estimates.json")) if before.get(path) != path.stat().st_mtime]
    if not fresh:
        raise Trouble(f"criterion left no results in {results}")
    return [read(path) for path in fresh]


def read(estimates: Path) -> dict[str, Any]:
    name = json.loads((estimates.parent / "benchmark.json").read_text())["full_id"]
    median = json.loads(estimates.read_text())["median"]
    interval = median["confidence_interval"]
    return {
        "name": name,
        "median_us": median["point_estimate"] / 1000,
        "low_us": interval["lower_bound"] / 1000,
        "high_us": interval["upper_bound"] / 1000,
    }
