"""RESULTS.md and its plot, from the raw figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .load import MODES, PATH, RATE
from .peers import NAMES, OURS

Raw = dict[str, Any]

TITLES = {
    "passthrough": "pingora pass-through",
    "partnergate": "**partnergate**",
    "candidate": "partnergate with a candidate",
    "envoy": "Envoy, RBAC",
    "nginx": "nginx, static rules",
    "haproxy": "HAProxy, static rules",
}
ABOUT = f"""\
# Results

Written by `scripts/bench`; do not edit. {{when}}

## What is compared

Five proxies on one pinned core each, one worker; load generator and upstream share the other core. All terminate TLS
(P-256 certificates), require a client certificate and verify it, speak HTTP/1.1 and HTTP/2, keep HTTP/1.1 connections
to the upstream, and have session resumption turned off. All but the pass-through allow three operations of one client
from one network and refuse everything else; that they do so is checked before each measurement. The configs are in
[peers/](peers/).

- **pingora pass-through**: [examples/passthrough.rs](../examples/passthrough.rs), the library that partnergate is built
  on with nothing added: the floor of what the gateway can cost. No rules, no log.
- **partnergate**: full enforcement by the floor and the shipped Rego policy, a record of each request to a file,
  metrics.
- **partnergate with a candidate**: the same, and a second policy evaluated on live requests within the share of a
  processor that is the default.
- **Envoy**: RBAC by URI SAN, method, path, source; access log to a file, which Envoy buffers.
- **nginx**: rules by subject, method, path, source; access log to a file, buffered by config.
- **HAProxy**: the same rules; a log line for each request to stdout, which is a file; HAProxy does not buffer it.

Each proxy is started for each measurement, warmed up for a second and measured for {{seconds:g}} s with `GET {PATH}`
(an answer of about 200 bytes). Runs are interleaved: every round runs every mode with every proxy. Figures are medians
of {{rounds}} rounds, with the smallest and largest in brackets. CPU is user and system time of the proxy's processes
over the run, divided by completed requests; where the core is not fully busy, requests/s is what the load could do and
not what the proxy could. RSS counts pages that processes share once.

As fast as it goes, the faster proxies keep the upstream and the client awake, and the slower ones pay for waking them
again at each message; at {RATE:,} requests/s all do the same work. Where the CPU goes that partnergate needs beyond the
pass-through is in [PROFILE.md](PROFILE.md).
"""


def write(raw: Raw, out: Path) -> Path:
    """Writes RESULTS.md and, when there is something to plot, results.svg beside it."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [ABOUT.format(when=when(raw), seconds=raw["seconds"], rounds=raw["rounds"]), targets(raw), environment(raw)]
    if raw.get("samples"):
        plot(raw, out / "results.svg")
        parts.append("## Proxies\n\n![CPU per request, requests per second and memory](results.svg)\n")
        parts += [mode_table(raw, mode.name, mode.title) for mode in MODES]
        parts.append(repetitions(raw))
    if raw.get("micro"):
        parts.append(micro_table(raw))
    if raw.get("scale"):
        parts.append(scale_table(raw["scale"]))
    results = out / "RESULTS.md"
    results.write_text("\n".join(parts))
    return results


def when(raw: Raw) -> str:
    return f"Measured on {raw['date']}, with `{raw['command']}`."


def environment(raw: Raw) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in raw["machine"].items())
    versions = "\n".join(f"| {name} | {text} |" for name, text in raw["versions"].items())
    commands = "\n".join(raw["commands"])
    return (
        f"## Where\n\n{machine}.\n\n| program | version |\n| --- | --- |\n{versions}\n\n"
        f"The commands, with PORT and PKI of the run:\n\n```\n{commands}\n```\n"
    )


def targets(raw: Raw) -> str:
    rows = [*ratio_targets(raw), *micro_targets(raw), *scale_targets(raw)]
    if not rows:
        return "## Targets\n\nNone was measured.\n"
    lines = [f"| {what} | {target} | {got} | {'met' if met else '**missed**'} |" for what, target, got, met in rows]
    return "\n".join(["## Targets", "", "| what | target | measured | |", "| --- | --- | --- | --- |", *lines, ""])


Row = tuple[str, str, str, bool]


def ratio_targets(raw: Raw) -> list[Row]:
    wanted = [
        ("h1", "passthrough", 1.5, "CPU of pass-through, HTTP/1.1 kept"),
        ("h1", "envoy", 0.7, "CPU of Envoy with RBAC, HTTP/1.1 kept"),
        ("rate", "passthrough", 1.5, f"the same at {RATE:,} requests/s: CPU of pass-through"),
        ("rate", "envoy", 0.7, f"the same at {RATE:,} requests/s: CPU of Envoy with RBAC"),
        ("new", "envoy", 0.8, "CPU of Envoy with RBAC, new connections"),
    ]
    rows = []
    for mode, other, limit, what in wanted:
        ratios = ratios_by_round(raw, mode, other)
        if ratios:
            rows.append((what, f"at most {limit} ×", f"{spread(ratios, 2)} ×", median(ratios) <= limit))
    added = [candidate / alone for alone, candidate in p50_by_round(raw, "rate")]
    if added:
        what = f"p50 with a candidate at {RATE:,} requests/s, to p50 without"
        rows.append((what, "adds nothing", f"{spread(added, 2)} ×", min(added) <= 1 or median(added) <= 1.02))
    return rows


def ratios_by_round(raw: Raw, mode: str, other: str) -> list[float]:
    """partnergate's CPU per request over the other's of the same round."""

    def by_round(proxy: str) -> dict[int, float]:
        return {s["round"]: s["cpu_us"] for s in raw.get("samples", []) if s["mode"] == mode and s["proxy"] == proxy}

    ours, theirs = by_round("partnergate"), by_round(other)
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]


def p50_by_round(raw: Raw, mode: str) -> list[tuple[float, float]]:
    """p50 without and with a candidate, of each round."""
    without, among = (
        {s["round"]: s["p50_ms"] for s in raw.get("samples", []) if s["mode"] == mode and s["proxy"] == name}
        for name in OURS
    )
    return [(without[number], among[number]) for number in sorted(without.keys() & among.keys())]


def micro_targets(raw: Raw) -> list[Row]:
    by_name = {m["name"]: m["median_us"] for m in raw.get("micro", [])}
    few, many = by_name.get("decide among 10"), by_name.get("decide among 100000")
    if few is None or many is None:
        return []
    growth = many / few - 1
    examples = by_name.get("decide with every example")
    known, issued = by_name.get("a token that is known, ES256"), by_name.get("issue a token, ES256")
    return [
        ("one decision, 100,000 partners", "at most 8 µs", f"{many:.2f} µs", many <= 8),
        *([("one decision with every example", "at most 15 µs", f"{examples:.2f} µs", examples <= 15)] if examples else []),
        ("its growth from 10 to 100,000 partners", "less than 20 %", f"{growth:.0%}", growth < 0.2),
        *([("an access token that is known", "at most 3 µs", f"{known:.2f} µs", known <= 3)] if known else []),
        *([("tokens issued on one core", "at least 2,000 /s", f"{1e6 / issued:,.0f} /s", issued <= 500)] if issued else []),
    ]


def scale_targets(raw: Raw) -> list[Row]:
    s = raw.get("scale")
    if not s:
        return []
    of = f"{s['partners']:,} partners"
    rss = max(s["rss_at_start_mb"], s["rss_after_load_mb"])
    return [
        (f"{of}: start to ready", "at most 6 s", f"{s['start_s']:.2f} s", s["start_s"] <= 6),
        (f"{of}: RSS", "at most 400 MB", f"{rss:.0f} MB", rss <= 400),
        *(row for change in s["changes"] for row in change_targets(of, change, s["calm"])),
    ]


def change_targets(of: str, change: dict[str, Any], calm: dict[str, Any]) -> list[Row]:
    live, slowest = change["live_ms"], change["load"]["slowest"]
    return [
        (f"{of}: {change['what']} live", "at most 100 ms", f"{spread(live, 0)} ms", max(live) <= 100),
        (
            f"{of}: slowest request meanwhile",
            "at most 50 ms",
            f"{slowest:.1f} ms ({calm['slowest']:.1f} ms without a change)",
            slowest <= 50,
        ),
    ]


def spread(values: Sequence[float], digits: int) -> str:
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def values_of(raw: Raw, mode: str, proxy: str, key: str) -> list[float]:
    return [s[key] for s in raw["samples"] if s["mode"] == mode and s["proxy"] == proxy and key in s]


def mode_table(raw: Raw, mode: str, title: str) -> str:
    columns = [
        ("CPU µs/request", "cpu_us", 1),
        ("requests/s", "per_second", 0),
        ("p50 ms", "p50_ms", 2),
        ("p99 ms", "p99_ms", 2),
        ("RSS MB", "memory_mb", 1),
        ("core busy", "busy", 2),
    ]
    lines = [
        f"### {title}",
        "",
        f"| | {' | '.join(head for head, _, _ in columns)} |",
        "| --- |" + " --- |" * len(columns),
    ]
    for proxy in (name for name in NAMES if values_of(raw, mode, name, "cpu_us")):
        cells = [spread(values_of(raw, mode, proxy, key), digits) for _, key, digits in columns]
        lines.append(f"| {TITLES[proxy]} | {' | '.join(cells)} |")
    ratios = [(other, ratios_by_round(raw, mode, other)) for other in NAMES if other not in OURS]
    said = [f"{spread(found, 2)} × {TITLES[other]}" for other, found in ratios if found]
    if said:
        lines += ["", "partnergate's CPU per request: " + "; ".join(said) + "."]
    return "\n".join([*lines, ""])


def repetitions(raw: Raw) -> str:
    """Measurements that were thrown away or kept with a flaw, so that nobody has to wonder."""
    said = []
    for name in NAMES:
        samples = [s for s in raw["samples"] if s["proxy"] == name]
        repeated, flawed = sum(s["repeated"] for s in samples), sum(s["others"] for s in samples)
        if repeated:
            said.append(
                f"{repeated} of {TITLES[name].strip('*')}" + (f" ({flawed} such answers are left in)" if flawed else "")
            )
    return (
        f"Measurements that were repeated because something else than 200 was answered: {', '.join(said) or 'none'}.\n"
    )


def micro_table(raw: Raw) -> str:
    lines = [
        "## One decision",
        "",
        "Criterion's medians over `benches/decide.rs` with the profile `dist`, on the proxies'"
        " core; confidence interval of the median in brackets.",
        "",
        "| | µs |",
        "| --- | --- |",
    ]
    lines += micro_rows([m for m in raw["micro"] if not m["name"].startswith("rule/")])
    in_place = [
        f"{spread(found, 1)} µs in {mode.title}"
        for mode in MODES
        if (found := values_of({"samples": raw.get("samples", [])}, mode.name, "partnergate", "decision_us"))
    ]
    if in_place:
        lines += [
            "",
            "In place, between everything else that a request needs, the mean of a decision by the gateway's own"
            f" `partnergate_decision_duration_seconds` is: {'; '.join(in_place)}.",
        ]
    evaluated = [
        f"{spread([100 * value for value in found], 0)} % in {mode.title}"
        for mode in MODES
        if (found := values_of({"samples": raw.get("samples", [])}, mode.name, "candidate", "evaluated"))
    ]
    if evaluated:
        lines += ["", f"A candidate was evaluated on so many of the decisions: {'; '.join(evaluated)}."]
    rules = sorted((m for m in raw["micro"] if m["name"].startswith("rule/")), key=lambda m: -m["median_us"])
    if rules:
        empty = next((m["median_us"] for m in rules if m["name"] == "rule/none"), 0.0)
        lines += [
            "",
            "### The slowest rules",
            "",
            "Each rule of the shipped library by itself, on an allowed request, with what it leads to. The way into the"
            f" machine and out of it takes {empty:.3f} µs of each. Of these, an allowed request comes to `usable_grants`"
            " and to what `decision` asks itself; the denials are worked out when something is refused.",
            "",
            "| | µs |",
            "| --- | --- |",
            *micro_rows([{**m, "name": f"`{m['name'].removeprefix('rule/')}`"} for m in rules if m["name"] != "rule/none"][:12]),
        ]
    return "\n".join([*lines, ""])


def micro_rows(found: Sequence[dict[str, Any]]) -> list[str]:
    return [f"| {m['name']} | {m['median_us']:.3f} ({m['low_us']:.3f}–{m['high_us']:.3f}) |" for m in found]


def scale_table(s: dict[str, Any]) -> str:
    rows = [
        ("`db import` of the whole registry", f"{s['apply_s']:.1f} s"),
        ("from exec to `/readyz` 200", f"{s['start_s']:.2f} s"),
        ("RSS once ready", f"{s['rss_at_start_mb']:.0f} MB"),
        ("RSS after two seconds of full load", f"{s['rss_after_load_mb']:.0f} MB"),
        ("requests without a change: p50, p99, p99.9, slowest", times(s["calm"])),
    ]
    for change in s["changes"]:
        what = change["what"]
        rows += [
            (
                f"{what}: from the start of the command until it is live",
                f"{spread(change['live_ms'], 0)} ms",
            ),
            (f"{what}: the whole command", f"{spread(change['command_ms'], 0)} ms"),
            (f"{what}, {len(change['live_ms'])} times: p50, p99, p99.9, slowest", times(change["load"])),
        ]
    rows.append(("RSS after the changes", f"{s['rss_after_changes_mb']:.0f} MB"))
    for command in s["commands"]:
        what = f"`{command['what']}`"
        rows += [
            (f"{what}: the whole command, and RSS after it", f"{command['took_s']:.2f} s, {command['rss_mb']:.0f} MB"),
            (f"{what}: p50, p99, p99.9, slowest", times(command["load"])),
        ]
    lines = [
        f"## {s['partners']:,} partners with 3 credentials and 5 grants each",
        "",
        "While requests arrive at a steady rate, a grant of one partner gets an operation and loses it again, and a new"
        " partner comes, whose name is put on its CA's list and which gets credentials and grants; then operators' commands are run. Latencies are"
        " corrected for coordinated omission.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {what} | {value} |" for what, value in rows),
    ]
    return "\n".join([*lines, ""])


def times(found: dict[str, Any]) -> str:
    said = ", ".join(f"{found[key]:.1f}" for key in ("p50", "p99", "p999", "slowest")) + " ms"
    others = ", ".join(f"{count} × {code}" for code, count in found["others"].items())
    return f"{said}; besides 200: {others}" if others else said


def plot(raw: Raw, to: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "partnergate", "svg.fonttype": "none", "font.size": 9})
    panels = [("CPU per request (µs)", "cpu_us"), ("requests per second", "per_second"), ("RSS (MB)", "memory_mb")]
    modes = [mode for mode in MODES if mode.name != "rate"]
    names = [name for name in NAMES if any(s["proxy"] == name for s in raw["samples"])]
    colours = {
        "partnergate": "#c2410c",
        "candidate": "#f87171",
        "passthrough": "#fdba74",
        "envoy": "#7c3aed",
        "nginx": "#15803d",
        "haproxy": "#1d4ed8",
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 3.6))
    width = 0.8 / len(names)
    for axis, (title, key) in zip(axes, panels, strict=True):
        for number, name in enumerate(names):
            found = [values_of(raw, mode.name, name, key) for mode in modes]
            middles = [median(values) for values in found]
            bars = [
                [m - min(v) for m, v in zip(middles, found, strict=True)],
                [max(v) - m for m, v in zip(middles, found, strict=True)],
            ]
            places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(modes))]
            axis.bar(
                places,
                middles,
                width,
                yerr=bars,
                color=colours[name],
                label=TITLES[name].strip("*"),
                error_kw={"linewidth": 0.8},
            )
        axis.set_title(title)
        axis.set_xticks(range(len(modes)), ["h1 kept", "h2 kept", "new connections"])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(to, metadata={"Date": None})
