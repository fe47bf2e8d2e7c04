"""Measures partnergate beside its peers. `scripts/bench` sets everything up and runs this."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from datetime import date
from pathlib import Path

from . import edge, enforcement, load, micro, peers, pki, report, rounds, scale
from .machine import LOAD_CORE, PROXY_CORE, Trouble, description, pinned


def main() -> int:
    options = arguments()
    # An ordinary end, so that everything which was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        if options.edge:
            print(edge_figures(options))
            return 0
        if options.enforcement:
            print(enforcement_figures(options))
            return 0
        if options.report:
            raw = json.loads(options.report.read_text())
        else:
            raw = measure(options)
            kept = options.target / "bench.json"
            kept.write_text(json.dumps(raw, indent=1))
            print(f"raw figures: {kept}")
        out = options.out or (peers.REPO / "benches" if is_complete(raw) else options.target)
        print(f"results: {report.write(raw, out)}")
    except Trouble as trouble:
        print(f"bench: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures partnergate beside its peers and writes "
        "benches/RESULTS.md. Without --peers, --scale or --micro it does all three.",
    )
    parser.add_argument("--peers", action="store_true", help="compare with nginx, HAProxy, Envoy and bare pingora")
    parser.add_argument("--scale", action="store_true", help="start, memory and changes with many partners")
    parser.add_argument("--micro", action="store_true", help="criterion: what one decision costs")
    parser.add_argument(
        "--edge", action="store_true", help="only: an allowed partner's p99 under floods; writes nothing"
    )
    parser.add_argument(
        "--enforcement", action="store_true", help="only: how fast a right that ended is gone; writes benches/ENFORCEMENT.md"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of the comparison (default: 5)")
    parser.add_argument("--seconds", type=float, default=5, metavar="N", help="length of one measurement (default: 5)")
    parser.add_argument(
        "--only", metavar="NAMES", help=f"compare only these, separated by commas: {', '.join(peers.NAMES)}"
    )
    parser.add_argument(
        "--partners", type=int, default=100_000, metavar="N", help="partners of --scale (default: 100000)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where RESULTS.md and results.svg go; without it an incomplete run writes them to the target folder",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="measure nothing; write the report from raw figures"
    )
    # What scripts/bench has found or built.
    parser.add_argument("--target", type=Path, required=True, help=argparse.SUPPRESS)
    for tool in ("nginx", "haproxy", "envoy", "oha"):
        parser.add_argument(f"--{tool}", required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.peers or options.scale or options.micro):
        options.peers = options.scale = options.micro = True
    options.names = tuple(options.only.split(",")) if options.only else peers.NAMES
    unknown = set(options.names) - set(peers.NAMES)
    if unknown:
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    if options.rounds < 1 or options.seconds <= 0 or options.partners < 1:
        parser.error("--rounds, --seconds and --partners must be positive")
    return options


def tools_of(options: argparse.Namespace) -> peers.Tools:
    built = options.target / "dist"
    return peers.Tools(
        partnergate=str(built / "partnergate"),
        passthrough=str(built / "examples" / "passthrough"),
        nginx=options.nginx,
        haproxy=options.haproxy,
        envoy=options.envoy,
        oha=options.oha,
    )


def enforcement_figures(options: argparse.Namespace) -> str:
    check_machine()
    where = Path(tempfile.mkdtemp(prefix="partnergate-end."))
    where.chmod(0o755)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        pki.make(where / "pki")
        tools = tools_of(options)
        upstream = options.target / "dist" / "examples" / "upstream"
        figures = enforcement.run(tools, upstream, where / "pki", where, options.rounds)
        (options.target / "enforcement.json").write_text(json.dumps(figures, indent=1))
        text = enforcement.table(figures)
        version = tools.versions()["partnergate"]
        machine = ", ".join(f"{key} {value}" for key, value in description().items())
        head = f"# How fast a right that ended is gone\n\n{date.today().isoformat()}, {version}; {machine}. "
        head += f"Made by `scripts/bench --enforcement`, {options.rounds} rounds; the gateway on one core, everything else "
        (options.out or peers.REPO / "benches").joinpath("ENFORCEMENT.md").write_text(f"{head}on another.\n\n{text}\n")
        return text
    finally:
        shutil.rmtree(where, ignore_errors=True)


def edge_figures(options: argparse.Namespace) -> str:
    check_machine()
    where = Path(tempfile.mkdtemp(prefix="partnergate-edge."))
    where.chmod(0o755)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        pki.make(where / "pki")
        return edge.run(tools_of(options), where / "pki", where, options.seconds)
    finally:
        shutil.rmtree(where, ignore_errors=True)


def measure(options: argparse.Namespace) -> report.Raw:
    check_machine()
    tools = tools_of(options)
    given = [word for word in os.environ.get("BENCH_COMMAND", "").split() if word]
    raw: report.Raw = {
        "date": date.today().isoformat(),
        "command": " ".join(["scripts/bench", *given]),
        "machine": description(),
        "versions": tools.versions(),
        "commands": commands(options.seconds),
        "rounds": options.rounds,
        "seconds": options.seconds,
    }
    # A short path: the admin socket's must fit into a socket address.
    where = Path(tempfile.mkdtemp(prefix="partnergate-bench."))
    # nginx's worker may run as another user.
    where.chmod(0o755)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        keys = where / "pki"
        pki.make(keys)
        if options.peers:
            raw["samples"] = rounds.run(tools, keys, where, options.names, options.rounds, options.seconds)
        if options.scale:
            raw["scale"] = scale.run(tools, keys, where, options.partners)
        if options.micro:
            raw["micro"] = micro.run(options.target)
    finally:
        shutil.rmtree(where, ignore_errors=True)
    return raw


def check_machine() -> None:
    if not {PROXY_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        raise Trouble(f"this needs cores {PROXY_CORE} and {LOAD_CORE}: one for the proxy, one for load and upstream")


def commands(seconds: float) -> list[str]:
    """The load's commands with names instead of what differs from run to run."""
    shown = []
    for mode in load.MODES:
        words = pinned(LOAD_CORE, load.command("oha", Path("PKI"), 0, mode.options, seconds))
        shown.append(
            " ".join(words)
            .replace(f"{pki.HOST}:0:127.0.0.1:0", f"{pki.HOST}:PORT:127.0.0.1:PORT")
            .replace(f"{pki.HOST}:0/", f"{pki.HOST}:PORT/")
        )
    return [f"taskset -c {PROXY_CORE} PROXY …", *shown]


def is_complete(raw: report.Raw) -> bool:
    """Whether this is a run whose results are worth keeping."""
    compared = {sample["proxy"] for sample in raw.get("samples", [])}
    scaled = raw.get("scale", {}).get("partners", 0) >= 100_000
    return compared == set(peers.NAMES) and raw["rounds"] >= 5 and scaled and bool(raw.get("micro"))


if __name__ == "__main__":
    sys.exit(main())
