"""Every figure of the workbook, one function each. They draw what they are given and compute nothing that is reported."""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from tapecheck import stats
from tapecheck.load import rows
from tapecheck.load.analysis import GroupSummary, ScenarioSummary
from tapecheck.load.capacity import CapacityResult
from tapecheck.load.recording import Recording
from tapecheck.load.rows import Mask, Numbers, Rows
from tapecheck.stats import Percentile
from tapecheck.verdict import Objective

# Okabe and Ito's colour-blind-safe palette, in an order whose neighbours also differ in grey.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
BAD = "#D55E00"
LIMIT = "#555555"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "tapecheck",
}
MAX_POINTS = 4_000  # a scatter chart shows at most so many a series, extremes always among them


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield


class Chart(Figure):
    """A figure that no global state holds on to, and that Jupyter shows as a PNG because it is a cell's value."""

    _png: bytes | None = None

    def png(self) -> bytes:
        """Return the picture, drawn once, 1,100 pixels wide."""
        if self._png is None:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=110)
            self._png = buffer.getvalue()
        return self._png

    def _repr_png_(self) -> bytes:
        return self.png()

    def __repr__(self) -> str:
        titles = [ax.get_title(loc="left") for ax in self.axes]
        return f"Chart: {self.get_suptitle() or titles[0]}"


def _figure(
    rows: int = 1, columns: int = 1, *, height: float = 4.6, sharex: bool = False, sharey: bool = False
) -> tuple[Chart, list[Axes]]:
    figure = Chart(figsize=(10, height), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    return figure, list(axes.flat)


def _footer(figure: Figure, recording: Recording, n: int) -> None:
    target = recording.context.target
    text = f"target {target.name} ({target.base_url}), run {recording.context.run_id}, n = {n:,} requests"
    figure.supxlabel(text, x=0.99, ha="right", fontsize=8.5, color="#555555")


def _milliseconds() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:.2g}")


def _limits(objectives: Iterable[Objective], metrics: Sequence[str]) -> dict[str, float]:
    return {o.metric: o.limit for o in objectives if o.metric in metrics}


def thin(x: Numbers, y: Numbers, points: int = MAX_POINTS) -> tuple[Numbers, Numbers]:
    """Return at most `points` samples, in the order of x, in which every stretch of x keeps its smallest and largest y.

    The stretches hold equally many samples. So no spike can vanish, however many samples surround it.
    """
    if len(x) <= points:
        return x, y
    if (x[1:] < x[:-1]).any():
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    edges = np.linspace(0, len(x), points // 2 + 1).astype(np.int64)
    stretches = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    keep = np.array([(a + int(y[a:b].argmin()), a + int(y[a:b].argmax())) for a, b in stretches])
    chosen = np.unique(keep)
    return x[chosen], y[chosen]


def load_percentiles(*, recording: Recording, summary: Mapping[str, ScenarioSummary], objectives: Sequence[Objective]) -> Chart:
    """Draw the percentile spectrum of response times per scenario, and beside it p95 by kind of time: response, service, server."""
    with _style():
        figure = Chart(figsize=(10, 5.2), dpi=100, layout="constrained")
        ax, kinds = figure.subplots(1, 2, width_ratios=(2.2, 1), sharey=True)
        for i, (name, scenario) in enumerate(summary.items()):
            if not scenario.requests:
                continue
            line = stats.spectrum(rows.counted(recording.samples, name).response_ms())
            nines = 1 / (1 - line["p"])
            label = f"{name} (n = {scenario.requests:,}{', INVALID' if scenario.invalid else ''})"
            ax.plot(nines, line["value"], color=PALETTE[i % len(PALETTE)], linestyle=LINES[i % len(LINES)], linewidth=2, label=label)
            ax.fill_between(nines, line["low"], line["high"], color=PALETTE[i % len(PALETTE)], alpha=0.15, linewidth=0)
        _tail_axis(ax, objectives)
        ax.set_ylabel("response time (ms)")
        ax.set_title("Response time by percentile, with 95 % intervals", fontsize=12)
        _kinds_of_time(kinds, summary)
        figure.legend(loc="outside upper left", ncols=3, fontsize=9)
        _footer(figure, recording, sum(s.requests for s in summary.values()))
    return figure


def _tail_axis(ax: Axes, objectives: Sequence[Objective]) -> None:
    """Stretch the tail of a percentile axis, and draw each objective at its percentile."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    right = max(ax.get_xlim()[1], 110)
    ax.set_xlim(1, right)
    ticks = [p for p in (0, 0.5, 0.9, 0.99, 0.999, 0.9999) if 1 / (1 - p) <= right]
    ax.set_xticks([1 / (1 - p) for p in ticks], ["min" if p == 0 else f"p{p * 100:g}" for p in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    for metric, limit in _limits(objectives, ("p50_ms", "p90_ms", "p95_ms", "p99_ms")).items():
        at = 1 / (1 - int(metric[1:3]) / 100)
        ax.plot([at / 1.25, at * 1.25], [limit, limit], color=LIMIT, linewidth=2.5)
        ax.annotate(f"{metric[:3]} < {limit:g} ms", (at, limit), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=9)
    ax.yaxis.set_major_formatter(_milliseconds())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("share of requests that were at least this fast")


def _kinds_of_time(ax: Axes, summary: Mapping[str, ScenarioSummary]) -> None:
    kinds = (("response_time_ms", "o", PALETTE[0]), ("service_time_ms", "s", PALETTE[1]), ("server_time_ms", "^", PALETTE[2]))
    for i, (key, marker, colour) in enumerate(kinds):
        found = [(x, times.p95) for x, s in enumerate(summary.values()) if (times := getattr(s, key)) is not None and times.p95.value > 0]
        if found:
            label = key.removesuffix("_time_ms") + " time p95"
            ax.plot([x + (i - 1) * 0.2 for x, _ in found], [p.value for _, p in found], marker, color=colour, label=label)
    ax.set_xticks(range(len(summary)), list(summary), rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    ax.set_title("Where it goes: p95 by kind", fontsize=12)
    ax.tick_params(axis="y", labelleft=True)


def load_timeline(*, recording: Recording, summary: Mapping[str, ScenarioSummary], objectives: Sequence[Objective]) -> Chart:
    """Draw every response time at its intended start, scenarios side by side, failures marked."""
    limit = _limits(objectives, ("p95_ms",)).get("p95_ms")
    with _style():
        figure, axes = _figure(1, len(summary), height=4.4, sharey=True)
        for i, (ax, (name, scenario)) in enumerate(zip(axes, summary.items(), strict=True)):
            part = rows.counted(recording.samples, name)
            if not len(part):
                ax.set_title(f"{name}\nno requests", fontsize=10.5)
                continue
            failed = part.failed()
            ax.plot(*_points(part, ~failed), ".", color=PALETTE[0], markersize=3, alpha=0.5, label="succeeded")
            if failed.any():
                ax.plot(*_points(part, failed), "x", color=BAD, markersize=5, label="failed")
            if limit is not None:
                ax.axhline(limit, color=LIMIT, linestyle="--", linewidth=1)
                if i == 0:
                    ax.annotate(
                        "p95 objective", (0.04, limit), xycoords=("axes fraction", "data"), xytext=(0, 3),
                        textcoords="offset points", fontsize=8.5, color=LIMIT,
                    )  # fmt: skip
            if scenario.invalid:
                ax.set_facecolor("#f3e6e0")
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(_milliseconds())
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.set_title(f"{name.replace('_', chr(10))}{' (INVALID)' if scenario.invalid else ''}", fontsize=10.5)
            ax.set_xlabel("intended start (s)", fontsize=9.5)
        axes[0].set_ylabel("response time (ms)")
        if any(s.failed for s in summary.values()):
            figure.legend(*_both_legends(axes), loc="outside upper right", ncols=2)
        figure.suptitle("Response time of every request over the run", x=0.01, ha="left", fontsize=13)
        _footer(figure, recording, sum(s.requests for s in summary.values()))
    return figure


def _points(part: Rows, chosen: Mask) -> tuple[Numbers, Numbers]:
    """Return intended start (s, since the first) and response time (ms) of the chosen samples, thinned."""
    response_ms = part.response_ms()[chosen]
    intended_ns = part.numbers("intended_ns")
    at_ns, ms = thin(intended_ns[chosen], response_ms)
    return np.asarray((at_ns - intended_ns.min()) / 1e9, dtype=np.float64), ms


def _both_legends(axes: Sequence[Axes]) -> tuple[list[Artist], list[str]]:
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


_DIMENSION_SERIES: tuple[tuple[float, str, str, str, Callable[[GroupSummary], Percentile | None]], ...] = (
    (-0.2, "median", "o", PALETTE[0], lambda group: group.response_time_ms.p50),
    (0.0, "p95", "s", PALETTE[3], lambda group: group.response_time_ms.p95),
    (0.2, "median inside the target", "^", PALETTE[2], lambda group: group.server_time_ms.p50 if group.server_time_ms else None),
)


def load_dimensions(*, recording: Recording, summary: Mapping[str, ScenarioSummary]) -> Chart:
    """Draw median and p95 of response time, and the target's own time, per value of each parameter that was varied."""
    panels = [(name, d, values) for name, s in summary.items() for d, values in s.by.items() if len(values) > 1]
    with _style():
        if not panels:
            return _empty("Response time by parameter value", "no scenario varies a parameter", recording)
        columns = min(len(panels), 3)
        rows = math.ceil(len(panels) / columns)
        figure, axes = _figure(rows, columns, height=3.6 * rows + 0.6)
        for ax, (name, dimension, values) in zip(axes, panels, strict=False):
            at = np.arange(len(values))
            for offset, label, marker, colour, percentile in _DIMENSION_SERIES:
                points = [found for group in values.values() if (found := percentile(group)) is not None]
                if len(points) < len(values):
                    continue
                value = np.array([p.value for p in points])
                low = np.array([p.value if p.low is None else p.low for p in points])
                high = np.array([p.value if p.high is None else p.high for p in points])
                ax.errorbar(
                    at + offset, value, yerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)],
                    fmt=marker, color=colour, capsize=3, label=label,
                )  # fmt: skip
            ax.set_xticks(at, list(values))
            ax.set_xlim(-0.6, len(values) - 0.4)
            ax.set_ylim(bottom=0)
            ax.set_title(f"{name.replace('_', ' ')}: by {dimension}", fontsize=10.5)
            counts = sorted({group.requests for group in values.values()})
            ax.set_xlabel(f"{dimension} (n = {'-'.join(f'{n:,}' for n in (counts[0], counts[-1])[: len(counts)])} each)", fontsize=10)
        for ax in axes[len(panels) :]:
            ax.remove()
        axes[0].set_ylabel("response time (ms)")
        figure.legend(*_both_legends(axes[:1]), loc="outside upper right", ncols=3)
        figure.suptitle("Response time by parameter value, with 95 % intervals", x=0.01, ha="left", fontsize=13)
        _footer(figure, recording, sum(s.requests for s in summary.values()))
    return figure


def _empty(title: str, why: str, recording: Recording) -> Chart:
    figure, (ax,) = _figure(height=2)
    ax.axis("off")
    ax.text(0.5, 0.5, why, ha="center", va="center", color="#555555")
    ax.set_title(title)
    _footer(figure, recording, recording.samples.num_rows)
    return figure


def _clock(recording: Recording) -> float:
    return float(recording.samples.column("intended_ns").to_numpy().min()) if recording.samples.num_rows else 0.0


def _mark_scenarios(axes: Sequence[Axes], recording: Recording, summary: Mapping[str, ScenarioSummary], start: float) -> None:
    """Shade every other scenario, and hatch the invalid ones; name them on the first axis. A sweep counts as one."""
    levels = list(recording.context.rates_rps)
    groups = {name: [name] for name in summary} | ({levels[0].partition(" at ")[0]: levels} if levels else {})
    for i, (name, members) in enumerate(groups.items()):
        parts = [part for member in members if len(part := rows.counted(recording.samples, member))]
        if not parts:
            continue
        first = (min(part.numbers("intended_ns").min() for part in parts) - start) / 1e9
        last = (max(part.numbers("done_ns").max() for part in parts) - start) / 1e9
        hatch = "//" if name in summary and summary[name].invalid else None
        for ax in axes:
            ax.axvspan(first, last, color="#eeeeee" if i % 2 == 0 else "#f8f8f8", zorder=0, hatch=hatch)
        axes[0].annotate(
            name, ((first + last) / 2, 1.0), xycoords=("data", "axes fraction"), xytext=(-4, 3), textcoords="offset points",
            ha="left", va="bottom", rotation=18, rotation_mode="anchor", fontsize=9, annotation_clip=False,
        )  # fmt: skip


def load_throughput(*, recording: Recording, summary: Mapping[str, ScenarioSummary], objectives: Sequence[Objective]) -> Chart:
    """Draw answers and failures per second over the whole run, counted at their completion."""
    limit = _limits(objectives, ("throughput_rps",)).get("throughput_rps")
    with _style():
        if not recording.samples.num_rows:
            return _empty("Throughput and errors over time", "no requests", recording)
        figure, (ax, below) = _figure(2, 1, height=5.6, sharex=True)
        start = _clock(recording)
        part = rows.measured(recording.samples)
        done_s, failed = (part.numbers("done_ns") - start) / 1e9, part.failed()
        longest_s = done_s.max(initial=0.0)
        width_s = max(0.1, float(f"{longest_s / 120:.1g}"))
        steps = int(longest_s / width_s) + 1
        edges = np.arange(steps + 1) * width_s
        step = np.minimum(done_s / width_s, steps - 1).astype(np.int64)
        every, bad = np.bincount(step, minlength=steps), np.bincount(step[failed], minlength=steps)
        for axis, counts, colour, label in ((ax, every - bad, PALETTE[0], "succeeded"), (below, bad, BAD, "failed")):
            axis.stairs(counts / width_s, edges, fill=True, color=colour)
            axis.set_ylabel(f"{label}\n(requests/s)")
            axis.set_ylim(bottom=0, top=None if counts.any() else 1)
        _mark_scenarios((ax, below), recording, summary, start)
        if limit is not None:
            line = ax.axhline(limit, color=LIMIT, linestyle="--", linewidth=1.2)
            figure.legend([line], [f"objective > {limit:g}/s"], loc="outside upper right")
        if not bad.any():
            below.text(0.5, 0.5, "no failed requests", transform=below.transAxes, ha="center", va="center", color="#555555")
        below.set_xlabel(f"time since the first request (s), counted in steps of {width_s:g} s")
        figure.suptitle("Throughput and errors over time", x=0.01, ha="left", fontsize=13)
        _footer(figure, recording, len(part))
    return figure


def load_resources(*, recording: Recording, summary: Mapping[str, ScenarioSummary]) -> Chart:
    """Draw CPU and memory of the watched processes on the clock of the requests."""
    frame = recording.resources.to_pandas()
    with _style():
        if frame.empty:
            return _empty("CPU and memory of the target", "the target file names no local process, or none could be seen", recording)
        start = _clock(recording)
        figure, (ax, below) = _figure(2, 1, height=5.8, sharex=True)
        for i, (name, part) in enumerate(frame.groupby("process", observed=True)):
            seconds = (part.time_ns - start) / 1e9
            look: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "linestyle": LINES[i % len(LINES)], "linewidth": 1.8}
            ax.plot(seconds, part.cpu_ratio, label=str(name), **look)
            below.plot(seconds, part.rss_mb, **look)
        ax.set_ylabel("CPU (busy cores)")
        below.set_ylabel("resident memory (MB)")
        below.set_xlabel("time since the first request (s)")
        _mark_scenarios((ax, below), recording, summary, start)
        for axis in (ax, below):
            axis.set_ylim(bottom=0)
        figure.legend(loc="outside right center")
        figure.suptitle("CPU and memory of the target's processes", x=0.01, ha="left", fontsize=13)
        _footer(figure, recording, len(rows.measured(recording.samples)))
    return figure


def load_capacity(*, recording: Recording, capacity: CapacityResult | None, objectives: Sequence[Objective]) -> Chart:
    """Draw a capacity sweep: p95 over arrival rate with the knee's interval, and throughput over concurrency with the fitted law."""
    limit = _limits(objectives, ("p95_ms",)).get("p95_ms")
    with _style():
        if capacity is None:
            return _empty("Capacity", "the plan has no capacity scenario", recording)
        figure, (left, right) = _figure(1, 2, height=4.8)
        _knee(left, capacity, limit)
        _law(right, capacity)
        figure.suptitle("Capacity: how much before promises break", x=0.01, ha="left", fontsize=13)
        figure.legend(*_both_legends([left, right]), loc="outside lower left", ncols=3, fontsize=9.5)
        _footer(figure, recording, recording.samples.num_rows)
    return figure


_LEVEL_LOOK = {"pass": ("o", PALETTE[0]), "fail": ("X", BAD), "not_proven": ("D", PALETTE[1]), "invalid": ("s", "#999999")}


def _knee(ax: Axes, capacity: CapacityResult, limit: float | None) -> None:
    for verdict, (marker, colour) in _LEVEL_LOOK.items():
        levels = [one for one in capacity.levels if one.verdict == verdict and one.p95_ms is not None]
        if levels:
            p95 = [one.p95_ms.value for one in levels if one.p95_ms is not None]
            ax.plot([one.rate_rps for one in levels], p95, marker, color=colour, markersize=8, label=f"level: {verdict.replace('_', ' ')}")
    if limit is not None:
        ax.axhline(limit, color=LIMIT, linestyle="--", linewidth=1, label="p95 objective")
    if capacity.knee_rps is not None and capacity.knee_high_rps is not None:
        label = f"knee: {capacity.knee_rps:,.0f} to {capacity.knee_high_rps:,.0f}/s"
        ax.axvspan(capacity.knee_rps, capacity.knee_high_rps, color=PALETTE[2], alpha=0.25, label=label)
    for axis, scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
        scale("log")
        axis.set_major_formatter(_milliseconds())
        axis.set_minor_formatter(NullFormatter())
    rates = [one.rate_rps for one in capacity.levels]
    ax.set_xticks(_spaced(rates), [f"{rate:,.0f}" for rate in _spaced(rates)])
    ax.set_xlabel("arrival rate (requests/s)")
    ax.set_ylabel("p95 response time (ms)")


def _spaced(rates: Sequence[float], ratio: float = 1.6) -> list[float]:
    """Return the rates that can be labelled without crowding on a logarithmic axis."""
    kept: list[float] = []
    for rate in sorted(rates):
        if not kept or rate / kept[-1] >= ratio:
            kept.append(rate)
    return kept


def _law(ax: Axes, capacity: CapacityResult) -> None:
    points = [(one.concurrency, one.throughput_rps) for one in capacity.levels if one.steady]
    ax.plot([n for n, _ in points], [x for _, x in points], "o", color=PALETTE[0], markersize=6, label="_steady levels")
    law = capacity.usl
    if law is not None:
        n = np.geomspace(law.n_min, law.n_max, 200)
        a, b = law.alpha, law.beta
        ax.plot(n, law.throughput_rps(n), color=PALETTE[3], label="scalability law, within what was measured")
        text = f"contention {a.value:.3f} [{a.low:.3f}, {a.high:.3f}]\ncoherency {b.value:.2g} [{b.low:.2g}, {b.high:.2g}]"
        ax.annotate(text, (0.97, 0.05), xycoords="axes fraction", ha="right", fontsize=9, color="#333333")
    else:
        ax.annotate("no law fitted", (0.5, 0.5), xycoords="axes fraction", ha="center", color="#555555")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(_milliseconds())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(bottom=0)
    ax.set_xlabel("mean requests in flight (steady levels)")
    ax.set_ylabel("throughput (succeeded/s)")
