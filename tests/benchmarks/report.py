"""Writes what the benchmarks found: Markdown tables and a chart. It computes nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .accuracy import Known
from .backfill import END_TO_END, RAW, READY
from .load import Row
from .recovery import kills_table
from .targets import Target, spread

PALETTE = {"tapecheck": "#0072B2", "wrk": "#E69F00", "hey": "#009E73", "k6": "#CC79A7", "locust": "#56B4E9"}
BEGIN, END = "<!-- bench {}: begin -->", "<!-- bench {}: end -->"  # of the part of that name
VERDICT = {True: "met", False: "**missed**", None: "not measured"}


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, texts: int = 1) -> list[str]:
    """Return the lines of a Markdown table whose first columns are texts and whose others are numbers."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (heads, *rows)]
    return [lines[0], "|" + "---|" * texts + "---:|" * (len(heads) - texts), *lines[1:]]


def targets_table(targets: Sequence[Target]) -> list[str]:
    """Return the lines of a table of targets."""
    rows = [(one.what, one.target, one.measured, one.n, VERDICT[one.met]) for one in targets]
    return table(("target", "wanted", "measured", "n", ""), rows, texts=5)


def load_tables(found: dict[str, Any]) -> list[str]:
    """Return the tables of `load.run`: rates, and what each generator says of a server that is frozen 1 s of every 5.

    Busy cores of nginx tell whether the generator was the limit.
    """
    heads = ("body", "generator", "requests/s, median (lowest - highest)", "n", "tapecheck is (lowest - highest)", "CPU a request (µs)",
             "nginx, busy cores", "failed", "counted by nginx too")  # fmt: skip
    rates = [
        (row.body, row.generator, f"{row.rps:,.0f} ({row.lowest_rps:,.0f} - {row.highest_rps:,.0f})", row.n,
         "" if row.generator == "tapecheck" else f"{row.ratio:.2f} x ({row.lowest_ratio:.2f} - {row.highest_ratio:.2f})",
         f"{row.cpu_us:.1f}", f"{row.server_cpu_ratio:.2f}", f"{row.failed:,}", f"{row.seen_ratio:.1%}")
        for row in found["throughput"]
    ]  # fmt: skip
    true_ms, said = _by_generator(found["freezes"])
    freezes = [("the truth", *(f"{ms:,.0f}" for ms in true_ms.values()), "")]
    freezes += [(name, *(f"{one.measured_ms:,.0f}" for one in own), f"{own[0].n:,}") for name, own in said.items()]
    frozen = ("frozen 1 s of every 5 s, 200 requests/s", *(f"{quantile} (ms)" for quantile in true_ms), "n")
    return [*table(heads, rates, texts=2), "", *table(frozen, freezes)]


def _by_generator(known: Sequence[Known]) -> tuple[dict[str, float], dict[str, list[Known]]]:
    names = dict.fromkeys(one.generator for one in known)
    return {one.quantile: one.true_ms for one in known}, {name: [one for one in known if one.generator == name] for name in names}


def backfill_tables(found: dict[str, Any]) -> list[str]:
    """Return the tables of `backfill.run`: how fast the same rows came in and what that cost whom, and how long stages were busy."""
    beside = found["beside"]
    heads = (f"{beside['rows']:,} bars, without features", "rows/s, median (lowest - highest)", "n",
             f"beside raw COPY over {beside['connections']} connections", "over one", "CPU (s): ours", "database", "upstream",
             "busy cores")  # fmt: skip
    rates = [
        (way.name, f"{median(way.rates):,.0f} ({min(way.rates):,.0f} - {max(way.rates):,.0f})", len(way.rates),
         spread(way.ratios), spread(way.ratios_one),
         *(f"{way.cpu_s[who]:.1f}" if who in way.cpu_s else "" for who in ("ours", "database", "upstream")), f"{way.busy_cores:.2f}")
        for way in found["ways"]
    ]  # fmt: skip
    refills = [(way.name, way.rows, median(way.seconds), way.busy_s) for way in found["ways"] if way.busy_s]
    more = {"whole": "all, with features", "memory": "and more days", "limited": "with a rate limit"}
    refills += [(what, found[name]["rows"], found[name]["wall_s"], found[name]["busy_s"]) for name, what in more.items()]
    stages = list(refills[0][3])
    busy = [(what, f"{rows:,}", f"{wall_s:.1f}", *(f"{busy_s[one]:.1f}" for one in stages)) for what, rows, wall_s, busy_s in refills]
    return [*table(heads, rates), "", *table(("busy time of the stages (s), many at once", "bars", "wall", *stages), busy)]


def recovery_tables(found: dict[str, Any]) -> list[str]:
    """Return the tables of `recovery.run`."""
    rows = [
        (f"{one.planted_s:g} s", "yes" if one.hanging else "no", ", ".join(f"{error:+.0f}" for error in one.errors_ms), len(one.errors_ms))
        for one in found["outages"]
    ]
    heads = ("planted outage (SIGSTOP)", "beside a hanging dependency", "error of each trial (ms)", "n")
    return [*table(heads, rows, texts=3), "", *table(*kills_table(found["kills"]), texts=7)]


def compare_tables(found: dict[str, Any]) -> list[str]:
    """Return the table of `recorded.compare`."""
    steps = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found["steps"].items())
    return table(
        ("whole process, each time", "of the last one", "samples of each run"), [(_each(found), steps, f"{found['rows']:,}")], texts=2
    )


def index_tables(found: dict[str, Any]) -> list[str]:
    """Return the table of `recorded.index`."""
    pages = ", ".join(f"{name} {size / 1e3:,.0f} kB" for name, size in found["page_bytes"].items())
    heads = ("index, each time", "written", "recorded runs", "their results")
    return table(heads, [(_each(found), pages, f"{found['runs']:,}", f"{found['result_bytes'] / 1e6:.0f} MB")], texts=2)


def _each(found: dict[str, Any]) -> str:
    return ", ".join(f"{seconds:.2f} s" for seconds in found["seconds"])


def remarks(found: dict[str, Any]) -> Iterator[str]:
    """Say what the tables do not: how busy the generator was, and what the cores allow at best, whoever waited for whom."""
    if how := found.get("half_rate"):
        yield (
            f"Half the highest rate against the server of known latency was {how['rate_rps']:,.0f} requests/s, "
            f"of which {how['achieved_ratio']:.1%} were sent in time, with {how['cpu_ratio']:.0%} of the generator's core."
        )
    ways = {way.name: way for way in found.get("ways", ())}
    for way in (ways[name] for name in (END_TO_END, READY) if name in ways):
        least_s, cores = way.least_s(found["cores"]), found["cores"]
        yield (
            f"{way.name.capitalize()}: {sum(way.cpu_s.values()):.1f} s of CPU time, {way.cpu_s['upstream']:.1f} s of it the upstream's; "
            f"with {cores} cores never idle that takes {least_s:.1f} s, {median(ways[RAW].seconds) / least_s:.2f} x raw COPY at best."
        )
    if beside := found.get("beside"):
        yield (
            f"Every way stored the same {beside['rows']:,} rows in {beside['pages']} pages, each committed "
            f"(synchronous_commit {beside['synchronous_commit']}), with the checksum {beside['checksum']}."
        )
    yield from (f"Skipped: {why}." for why in found.get("skipped", ()))


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
    true_ms, said = _by_generator(known)
    width = 0.8 / max(len(said), 1)
    for i, (name, own) in enumerate(said.items()):
        at = [j + (i - (len(said) - 1) / 2) * width for j in range(len(own))]
        ax.bar(at, [one.measured_ms for one in own], width, color=PALETTE[name], label=name)
    for j, ms in enumerate(true_ms.values()):
        ax.hlines(ms, j - 0.45, j + 0.45, color="#222222", linestyle="--", label="the truth" if j == 0 else None)
    ax.set_xticks(range(len(true_ms)), list(true_ms))
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
