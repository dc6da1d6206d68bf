"""Writes what the benchmarks found: JSON, Markdown tables and a chart. It computes nothing."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .accuracy import Known
from .backfill import END_TO_END, RAW, READY, Way
from .targets import Target
from .throughput import Row

PALETTE = {"tapecheck": "#0072B2", "wrk": "#E69F00", "hey": "#009E73", "k6": "#CC79A7", "locust": "#56B4E9"}
BEGIN, END = "<!-- bench {}: begin -->", "<!-- bench {}: end -->"  # of the part of that name
VERDICT = {True: "met", False: "**missed**", None: "not measured"}


def targets_table(targets: Sequence[Target]) -> list[str]:
    """Return the lines of a Markdown table of targets."""
    lines = ["| target | wanted | measured | n | |", "|---|---|---|---|---|"]
    return lines + [f"| {one.what} | {one.target} | {one.measured} | {one.n} | {VERDICT[one.met]} |" for one in targets]


def load_tables(found: dict[str, Any]) -> list[str]:
    """Return the lines of the tables of `load.run`."""
    return [*throughput_table(found["throughput"]), "", *freeze_table(found["freezes"])]


def backfill_tables(found: dict[str, Any]) -> list[str]:
    """Return the lines of the tables of `backfill.run`."""
    return [*ways_table(found["ways"], found["beside"]), "", *stages_table(found)]


def remarks(found: dict[str, Any]) -> list[str]:
    """Return what the tables do not say."""
    return [*_half_rate(found), *_limits(found), *(f"Skipped: {why}." for why in found.get("skipped", ()))]


def _half_rate(found: dict[str, Any]) -> Iterator[str]:
    if how := found.get("half_rate"):
        yield (
            f"Half the highest rate against the server of known latency was {how['rate_rps']:,.0f} requests/s, "
            f"of which {how['achieved_ratio']:.1%} were sent in time, with {how['cpu_ratio']:.0%} of the generator's core."
        )


def _limits(found: dict[str, Any]) -> Iterator[str]:
    """Say what the cores had to do, and what ratio that allows at best: by itself it says neither who waited nor for what."""
    ways = {way.name: way for way in found.get("ways", ())}
    for way in (ways[name] for name in (END_TO_END, READY) if name in ways):
        least_s, cores = way.least_s(found["cores"]), found["cores"]
        yield (
            f"{way.name.capitalize()}: {sum(way.cpu_s.values()):.1f} s of CPU time, {way.cpu_s['upstream']:.1f} s of it the upstream's; "
            f"with {cores} cores never idle that takes {least_s:.1f} s, {median(ways[RAW].seconds) / least_s:.2f} x raw COPY at best."
        )
    if "beside" in found:
        beside = found["beside"]
        yield (
            f"Every way stored the same {beside['rows']:,} rows in {beside['pages']} pages, each committed "
            f"(synchronous_commit {beside['synchronous_commit']}), with the checksum {beside['checksum']}."
        )


def throughput_table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a Markdown table of rates; nginx's busy cores tell whether the generator was the limit."""
    lines = [
        "| body | generator | requests/s, median (lowest - highest) | n | tapecheck is (lowest - highest) "
        "| CPU a request (µs) | nginx, busy cores | failed | counted by nginx too |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio = "" if row.generator == "tapecheck" else f"{row.ratio:.2f} x ({row.lowest_ratio:.2f} - {row.highest_ratio:.2f})"
        lines.append(
            f"| {row.body} | {row.generator} | {row.rps:,.0f} ({row.lowest_rps:,.0f} - {row.highest_rps:,.0f}) | {row.n} | {ratio} "
            f"| {row.cpu_us:.1f} | {row.server_cpu_ratio:.2f} | {row.failed:,} | {row.seen_ratio:.1%} |"
        )
    return lines


def freeze_table(known: Sequence[Known]) -> list[str]:
    """Return the lines of a Markdown table of what each generator says of a server that is frozen 1 s of every 5."""
    quantiles = {one.quantile: one.true_ms for one in known}
    lines = [
        "| frozen 1 s of every 5 s, 200 requests/s | " + " | ".join(f"{q} (ms)" for q in quantiles) + " | n |",
        "|---|" + "---:|" * (len(quantiles) + 1),
    ]
    lines.append("| the truth | " + " | ".join(f"{true_ms:,.0f}" for true_ms in quantiles.values()) + " | |")
    for name in dict.fromkeys(one.generator for one in known):
        mine = [one for one in known if one.generator == name]
        lines.append(f"| {name} | " + " | ".join(f"{one.measured_ms:,.0f}" for one in mine) + f" | {mine[0].n:,} |")
    return lines


def ways_table(ways: Sequence[Way], beside: dict[str, Any]) -> list[str]:
    """Return the lines of a Markdown table of how fast the same rows came into the same table, and what that cost whom."""
    lines = [
        f"| {beside['rows']:,} bars, without features | rows/s, median (lowest - highest) | n "
        f"| beside raw COPY over {beside['connections']} connections | over one "
        "| CPU (s): ours | database | upstream | busy cores |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for way in ways:
        cpu = " | ".join(f"{way.cpu_s[who]:.1f}" if who in way.cpu_s else "" for who in ("ours", "database", "upstream"))
        lines.append(
            f"| {way.name} | {median(way.rates):,.0f} ({min(way.rates):,.0f} - {max(way.rates):,.0f}) | {len(way.rates)} "
            f"| {_spread(way.ratios)} | {_spread(way.ratios_one)} | {cpu} | {way.busy_cores:.2f} |"
        )
    return lines


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} x ({min(ratios):.2f} - {max(ratios):.2f})"


def stages_table(found: dict[str, Any]) -> list[str]:
    """Return the lines of a Markdown table of how long the stages of each refill were busy, many at once."""
    refills = [(way.name, way.rows, median(way.seconds), way.busy_s) for way in found["ways"] if way.busy_s]
    more = {"whole": "all, with features", "memory": "and more days", "limited": "with a rate limit"}
    refills += [(what, found[name]["rows"], found[name]["wall_s"], found[name]["busy_s"]) for name, what in more.items()]
    stages = list(refills[0][3])
    lines = [
        "| busy time of the stages (s), many at once | bars | wall | " + " | ".join(stages) + " |",
        "|---|" + "---:|" * (len(stages) + 2),
    ]
    for what, rows, wall_s, busy_s in refills:
        lines.append(f"| {what} | {rows:,} | {wall_s:.1f} | " + " | ".join(f"{busy_s[stage]:.1f}" for stage in stages) + " |")
    return lines


def chart(rows: Sequence[Row], freezes: Sequence[Known], footer: str, path: Path) -> None:
    """Draw the requests a second of each generator and body, and what each says of a server that freezes."""
    bodies = list(dict.fromkeys(row.body for row in rows))
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "tapecheck"}):
        figure = Figure(figsize=(12, 4.4), layout="constrained")
        axes = list(figure.subplots(1, len(bodies) + 1, squeeze=False).flat)
        for ax, body in zip(axes, bodies, strict=False):
            _rates(ax, [row for row in rows if row.body == body], body)
        _freezes(axes[-1], freezes)
        figure.supxlabel(footer, x=0.99, ha="right", fontsize=8.5, color="#555555")
        figure.savefig(path, dpi=110)


def _rates(ax: Axes, rows: Sequence[Row], body: str) -> None:
    rates = [row.rps for row in rows]
    reach = [[row.rps - row.lowest_rps for row in rows], [row.highest_rps - row.rps for row in rows]]
    bars = ax.bar([row.generator for row in rows], rates, color=[PALETTE[row.generator] for row in rows], yerr=reach, capsize=4)
    ax.bar_label(bars, labels=[f"{rate:,.0f}" for rate in rates], padding=6, fontsize=9)
    ax.set_title(f"Requests/s from one core, {body} body", loc="left", fontsize=11)
    ax.set_ylabel("requests/s (median, lowest, highest round)", fontsize=9.5)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.margins(y=0.15)


def _freezes(ax: Axes, known: Sequence[Known]) -> None:
    quantiles = {one.quantile: one.true_ms for one in known}
    names = list(dict.fromkeys(one.generator for one in known))
    width = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        measured = [one.measured_ms for one in known if one.generator == name]
        at = [j + (i - (len(names) - 1) / 2) * width for j in range(len(measured))]
        ax.bar(at, measured, width, color=PALETTE[name], label=name)
    for j, true_ms in enumerate(quantiles.values()):
        ax.hlines(true_ms, j - 0.45, j + 0.45, color="#222222", linestyle="--", label="the truth" if j == 0 else None)
    ax.set_xticks(range(len(quantiles)), list(quantiles))
    ax.set_ylabel("reported latency (ms)", fontsize=9.5)
    ax.set_title("Server frozen 1 s of every 5 s", loc="left", fontsize=11)
    ax.set_ylim(top=max(ax.get_ylim()[1], 1350))
    ax.legend(frameon=False, fontsize=8.5, ncols=3, loc="upper left")


def paste(parts: Mapping[str, Sequence[str]], page: Path) -> None:
    """Put the lines of each part between its marks in a page, in place of what was there; other parts' stay."""
    text = page.read_text(encoding="utf-8")
    for name, lines in parts.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        old, _, after = rest.partition(end)
        if text.count(begin) != 1 or text.count(end) != 1 or begin + old + end not in text:
            raise ValueError(f"{page} has not exactly one block between {begin} and {end}")
        text = before + "\n".join([begin, *lines, end]) + after
    page.write_text(text, encoding="utf-8")
