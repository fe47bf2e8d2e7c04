"""The comparison: every proxy in every mode, interleaved, over several rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import load, peers
from .load import MODES, Mode
from .machine import Trouble

Sample = dict[str, Any]

WARM_UP = 1.0
# A measurement with anything else than 200 in it is repeated: a refusal is cheap and would look fast. On a busy machine
# even a good request may be refused, because limits on time are held in real time; then the last try counts, noted.
TRIES = 3
TOLERABLE = 0.001


def run(tools: peers.Tools, pki: Path, where: Path, names: Sequence[str], rounds: int, seconds: float) -> list[Sample]:
    """One sample for each round, mode and proxy. Each round begins with another proxy, so that none is always first."""
    samples = []
    with peers.upstream(tools, where / "upstream") as upstream_port:
        for number in range(rounds):
            turn = number % len(names)
            for mode in MODES:
                for name in (*names[turn:], *names[:turn]):
                    sample = attempt(name, tools, pki, upstream_port, where, mode, seconds)
                    samples.append({"round": number, "mode": mode.name, "proxy": name, **sample})
                    print(f"round {number + 1}/{rounds}  {mode.name:<5} {name:<12} {in_short(sample)}", flush=True)
    return samples


def attempt(
    name: str, tools: peers.Tools, pki: Path, upstream_port: int, where: Path, mode: Mode, seconds: float
) -> Sample:
    """One measurement of a proxy that is started for it, repeated when something else than 200 was answered."""
    for number in range(TRIES):
        with peers.start(name, tools, pki, upstream_port, where) as proxy:
            peers.check(proxy, pki)
            sample = {**measure(proxy, tools, pki, mode, seconds), "repeated": number}
            refusals = proxy.refusals()
        if sample["others"] == 0:
            return sample
        print(f"{name}, {mode.name}: {sample['others']} answers were not 200{refusals}", flush=True)
    if sample["others"] > TOLERABLE * sample["completed"]:
        raise Trouble(f"{name} does not answer the load with 200")
    return sample


def measure(proxy: peers.Proxy, tools: peers.Tools, pki: Path, mode: Mode, seconds: float) -> Sample:
    load.run(tools.oha, pki, proxy.port, mode.options, WARM_UP)
    counted = proxy.metrics() if proxy.name in peers.OURS else {}
    before = proxy.process.cpu_seconds()
    found = load.run(tools.oha, pki, proxy.port, mode.options, seconds)
    cpu = proxy.process.cpu_seconds() - before
    proxy.process.check()
    sample: Sample = {
        "cpu_us": cpu / found.completed * 1e6,
        "busy": cpu / found.seconds,
        "per_second": found.completed / found.seconds,
        "p50_ms": found.p50,
        "p99_ms": found.p99,
        "memory_mb": proxy.process.resident_mb(),
        "completed": found.completed,
        "others": sum(found.others.values()),
    }
    if counted:
        after = proxy.metrics()
        sample["decision_us"] = mean_decision(counted, after)
        if proxy.name == "candidate":
            sample["evaluated"] = evaluated(counted, after)
    return sample


def mean_decision(before: dict[str, float], after: dict[str, float]) -> float:
    """Mean time of a decision in µs, as the gateway itself has measured it between two looks."""
    total, count = (
        after[f"partnergate_decision_duration_seconds_{part}"] - before[f"partnergate_decision_duration_seconds_{part}"]
        for part in ("sum", "count")
    )
    return total / count * 1e6


def evaluated(before: dict[str, float], after: dict[str, float]) -> float:
    """On how many of the decisions that it was to be evaluated on the candidate was, from 0 to 1."""
    name = "partnergate_policy_candidate_decisions_total"
    counts = {key: value - before.get(key, 0) for key, value in after.items() if key.startswith(name)}
    missed = sum(value for key, value in counts.items() if "skipped" in key or "failed" in key)
    if sum(counts.values()) == missed:
        raise Trouble(f"the candidate was never evaluated: {counts}")
    return 1 - missed / sum(counts.values())


def in_short(sample: Sample) -> str:
    return (
        f"{sample['cpu_us']:7.1f} µs CPU  {sample['per_second']:8.0f} req/s  p50 {sample['p50_ms']:6.2f} ms  "
        f"p99 {sample['p99_ms']:6.2f} ms  {sample['memory_mb']:6.1f} MB  core {sample['busy']:4.0%} busy"
    )
