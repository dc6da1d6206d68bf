"""The figures of an observed backfill: where its wall time went, what happened when, and which series its vendor was slow with."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from tapecheck.backfill.analysis import PRIMARY_SHARE
from tapecheck.backfill.observe.analysis import ObserveSummary
from tapecheck.backfill.observe.recording import Recording
from tapecheck.charts import figure

PARTS = {
    "vendor": "vendor in flight",
    "database": "database working",
    "transaction": "transaction open,\ndatabase waits for its client",
    "overlap": "several of these at once",
    "own": "neither: its own computing",
}
COLOURS = dict(zip(PARTS, (*(figure.PALETTE[i] for i in (0, 3, 1, 5)), "#777777"), strict=True))
STEPS = 100  # of the clock
MOST_SERIES = 20


def observe_parts(*, recording: Recording, summary: ObserveSummary) -> figure.Chart:
    """Draw each part of the wall time with its 95 % interval, and the share of busy time of vendor, database and own computing."""
    caption = figure.Caption("Where the wall time of the backfill went", recording.context, summary.looks, "looks at the database")
    with caption.drawing(2, height=5.6, height_ratios=(len(summary.parts), 3)) as (chart, (wall, busy)):
        parts = list(summary.parts.items())
        shares = [part.share for _, part in parts]
        errors = [[part.share - part.low for _, part in parts], [part.high - part.share for _, part in parts]]
        look: dict[str, Any] = {"ecolor": "black", "capsize": 3, "error_kw": {"linewidth": 1}}
        wall.barh([PARTS[name] for name, _ in parts], shares, xerr=errors, color=[COLOURS[name] for name, _ in parts], **look)
        _figures(wall, [f"{part.share:.1%} ({part.seconds:,.3g} s)" for _, part in parts])
        wall.set_xlabel("share of wall time, with the 95 % interval that sampling leaves")
        kinds = list(summary.kinds.items())
        busy.barh([name for name, _ in kinds], [kind.busy_share for _, kind in kinds], color=figure.PALETTE[0])
        _figures(busy, [f"{kind.busy_share:.1%} ({kind.busy_s:,.3g} s)" for _, kind in kinds])
        rule = f"{PRIMARY_SHARE:.0%} of busy time: beyond it a part is the bottleneck"
        busy.axvline(PRIMARY_SHARE, color=figure.LIMIT, linestyle=(0, (4, 2)), linewidth=1.4, label=rule)
        busy.set_xlabel("share of busy time")
        for ax in (wall, busy):
            ax.invert_yaxis()
            ax.set_xlim(0, 1)
            ax.xaxis.set_major_formatter(PercentFormatter(1, 0))
    return chart


def _figures(ax: Axes, texts: list[str]) -> None:
    for row, text in enumerate(texts):
        ax.text(1.01, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)


def observe_timeline(*, recording: Recording, summary: ObserveSummary) -> figure.Chart:
    """Draw on one clock how many requests were in flight, what the database did, rows that came, and cores that were used."""
    context, tables = recording.context, recording.tables
    caption = figure.Caption("What happened when", context, summary.requests)
    with caption.drawing(4, height=7.5, sharex=True) as (chart, (vendor, database, rows, cores)):
        edges = np.linspace(context.began_ns, context.ended_ns, STEPS + 1)
        clock_s = (edges - context.began_ns) / 1e9
        began, ended = (np.sort(tables["exchanges"].column(name).to_numpy()) for name in ("began_ns", "ended_ns"))
        vendor.stairs(_in_flight(began, ended, edges), clock_s, fill=True, color=COLOURS["vendor"], label="requests in flight (mean)")
        _refusals(vendor, recording)
        vendor.set_ylabel("requests")
        at = tables["sessions"].column("at_ns").to_numpy()
        looks = np.maximum(np.histogram(at, edges)[0], 1)
        below = np.zeros(STEPS)
        for name, column in (("database", "working"), ("transaction", "open")):
            mean = np.histogram(at, edges, weights=tables["sessions"].column(column).to_numpy().astype(float))[0] / looks
            database.stairs(below + mean, clock_s, baseline=below, fill=True, color=COLOURS[name], label=PARTS[name].replace("\n", " "))
            below = below + mean
        database.set_ylabel("sessions")
        _inserted(rows, recording)
        _cores(cores, recording)
        cores.set_xlabel("time since the backfill began (s)")
        for ax in (vendor, database, rows, cores):
            ax.set_ylim(0)
    return chart


def _in_flight(began: "figure.Numbers", ended: "figure.Numbers", edges: "figure.Numbers") -> "figure.Numbers":
    """Return how many requests were in flight on average in each step."""

    def until(times: "figure.Numbers") -> "figure.Numbers":
        sums = np.r_[0, np.cumsum(times - edges[0])]
        count = np.searchsorted(times, edges)
        flown: figure.Numbers = count * (edges - edges[0]) - sums[count]
        return flown

    return np.diff(until(began) - until(ended)) / np.diff(edges)


def _refusals(ax: Axes, recording: Recording) -> None:
    status = recording.tables["exchanges"].column("status").to_numpy()
    bad = (status == 0) | (status >= 400)
    at_s = (recording.tables["exchanges"].column("ended_ns").to_numpy()[bad] - recording.context.began_ns) / 1e9
    if len(at_s):
        ax.plot(at_s, np.zeros(len(at_s)), "x", color=figure.BAD, clip_on=False, label="refused or failed")


def _inserted(ax: Axes, recording: Recording) -> None:
    """Draw how many rows each table had got, by the statistics of the server."""
    ax.set_ylabel("rows inserted")
    names = list(dict.fromkeys(recording.tables["rows"].column("table").to_pylist()))
    for i, name in enumerate(names):
        own = [row for row in recording.tables["rows"].to_pylist() if row["table"] == name and row["inserted"] is not None]
        at_s = [(row["at_ns"] - recording.context.began_ns) / 1e9 for row in own]
        ax.plot(at_s, [row["inserted"] - own[0]["inserted"] for row in own], label=f"rows of {figure.shorten(name, 40)}", **figure.nth(i))
    ax.yaxis.set_major_formatter(figure.plain())
    if not names:
        figure.note(ax, "the target names no tables")


def _cores(ax: Axes, recording: Recording) -> None:
    ax.set_ylabel("cores")
    cpu = recording.tables["cpu"]
    at_ns, used_s = cpu.column("at_ns").to_numpy(), cpu.column("cpu_s").to_numpy()
    if len(at_ns) < 2:
        figure.note(ax, "its processes were not seen for long enough")
        return
    at_s = (at_ns - recording.context.began_ns) / 1e9
    ax.stairs(np.maximum(np.diff(used_s), 0) / np.diff(at_s), at_s, fill=True, color="#777777", label="cores used by its processes")


def observe_series(*, recording: Recording, summary: ObserveSummary) -> figure.Chart:
    """Draw how long the vendor took for each ticker and timeframe, the slowest first."""
    found = sorted(summary.series.items(), key=lambda item: -item[1].vendor_s)
    caption = figure.Caption("Time of the vendor for each series", recording.context, summary.requests)
    if not found:
        return caption.empty("no request reached the recording proxy")
    shown, left = found[:MOST_SERIES], found[MOST_SERIES:]
    with caption.drawing(height=1.4 + 0.28 * (len(shown) + bool(left))) as (chart, (ax,)):
        names = [figure.shorten(name, 40) for name, _ in shown] + ([f"{len(left)} others together"] if left else [])
        took = [one.vendor_s for _, one in shown] + ([sum(one.vendor_s for _, one in left)] if left else [])
        texts = [f"{one.requests:,} requests, {one.vendor_s:.3g} s" for _, one in shown]
        texts += [f"{sum(one.requests for _, one in left):,} requests, {took[-1]:.3g} s"] if left else []
        ax.barh(np.arange(len(names)), took, color=figure.PALETTE[0])
        ax.set_yticks(np.arange(len(names)), names)
        ax.invert_yaxis()
        ax.set_xlabel("sum of response times (s)")
        _figures(ax, texts)
    return chart
