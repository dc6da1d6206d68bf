"""The figures of a comparison: what each change is worth, beside what was expected and predicted, and how steady the session was."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from tapecheck.charts import figure
from tapecheck.compare.analysis import ProofSummary
from tapecheck.compare.difference import Change, Difference
from tapecheck.compare.recording import Recording

Summary = Mapping[str, ProofSummary]
Row = tuple[str, ProofSummary, Difference]
LOOKS: Mapping[Change, Mapping[str, Any]] = {  # of a ratio; told apart by their shape too
    Change.IMPROVED: {"color": figure.PALETTE[2], "marker": "v", "label": "improved"},
    Change.NO_CHANGE: {"color": figure.PALETTE[0], "marker": "s", "label": "no change"},
    Change.WORSE: {"color": figure.BAD, "marker": "^", "label": "worse"},
    Change.NOT_PROVEN: {"color": figure.PALETTE[6], "marker": "o", "label": "not proven"},
}
SIDES: Mapping[str, Mapping[str, Any]] = {
    "before": {"color": figure.PALETTE[0], "linestyle": "--"},
    "after": {"color": figure.PALETTE[3], "linestyle": "-"},
}
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10, 20, 50, 100)
BEYOND = 3.0  # times the furthest ratio, beyond which an interval is cut off: few rounds can leave an end as good as open
NAME = 34  # characters of a row's name that are shown
MOST_ROWS, MOST_SAVINGS, MOST_ROUNDS, MOST_SPECTRA = 24, 16, 18, 10  # more would be higher than a screen
SEVERITY = (Change.WORSE, Change.NOT_PROVEN, Change.IMPROVED, Change.NO_CHANGE)  # what is drawn first, where not all can be


def _caption(title: str, recording: Recording, drawn: Sequence[Row] = (), every: Sequence[Row] = ()) -> figure.Caption:
    """Return a caption that counts the runs in the figures (no warm-ups, and none that does not count) and names what is not drawn."""
    counted = sum(bool(sample.round) and not sample.problem for sample in recording.samples)
    left_out = tuple(dict.fromkeys(name for name, _, one in every if not any(one is other for _, _, other in drawn)))
    return figure.Caption(title, recording.context, counted, "runs", left_out)


def _most(rows: Sequence[Row], most: int) -> list[Row]:
    """Return so many rows in their order, what is worse first, then what is not proven, and of these the largest ratios."""

    def key(row: Row) -> tuple[int, float]:
        return SEVERITY.index(row[2].change), -abs(math.log(row[2].ratio.value or 1e-9)) if row[2].ratio else 0.0

    chosen = [id(row) for row in sorted(rows, key=key)[:most]]
    return [row for row in rows if id(row) in chosen]


@contextmanager
def _panels(
    caption: figure.Caption, count: int, *, columns: int, height: float, label: str, **grid: Any
) -> Iterator[tuple[figure.Chart, list[Axes]]]:
    """Draw a chart with as many axes, in rows of at most so many columns, each row with a label and so high."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    with caption.drawing(rows, columns, height=1.0 + height * rows, **grid) as (chart, axes):
        for ax in axes[count:]:
            ax.axis("off")
        for ax in axes[:count:columns]:
            ax.set_ylabel(label)
        yield chart, axes[:count]


def _row_names(ax: Axes, names: Sequence[str]) -> None:
    """Name each row from top to bottom."""
    ax.set_yticks(range(len(names)), names, fontsize=9.5)
    ax.set_ylim(len(names) - 0.4, -0.6)


# ---- what each change is worth ----


def compare_ratios(*, recording: Recording, summary: Summary) -> figure.Chart:
    """Draw each metric's ratio with its interval, the smallest effect that matters, and how far identical variants got from 1."""
    every = [(name, proof, one) for name, proof in summary.items() for one in proof.differences if one.ratio]
    rows = _most(every, MOST_ROWS)
    caption = _caption("After / before, of every metric: left of 1 is better", recording, rows, every)
    if not rows:
        return caption.empty("no round of which both runs count")
    several, is_method = any(len(one.differences) > 1 for one in summary.values()), any(one.method_check for one in summary.values())
    with caption.drawing(height=1.4 + 0.5 * len(rows)) as (chart, (ax,)):
        for y, row in enumerate(rows):
            _ratio(ax, y, row)
        ax.axvline(1, color="black", linewidth=1)
        _row_names(ax, [_named(row, several=several) for row in rows])
        values = [one.ratio.value for _, _, one in rows if one.ratio]
        low, high = ax.get_xlim()
        ax.set_xlim(max(low, min(values) / BEYOND), min(high, max(values) * BEYOND))
        _ratio_axis(ax, ax.xaxis, most=9)
        ax.set_xlabel(f"after / before; where more is better, before / after{'; [ ] checks the method' if is_method else ''}")
    return chart


def _named(row: Row, *, several: bool) -> str:
    name, proof, one = row
    named = _marked(name, proof, NAME)
    return f"{named}\n{one.metric}" if several or len(named) + len(one.metric) < NAME else named


def _marked(name: str, proof: ProofSummary, characters: int) -> str:
    """Return the name of a proof; that of a method check in brackets."""
    return f"[{figure.shorten(name, characters - 2)}]" if proof.method_check else figure.shorten(name, characters)


def _ratio(ax: Axes, y: int, row: Row) -> None:
    _, proof, one = row
    assert one.ratio is not None
    measured, look = one.ratio, LOOKS[one.change]
    if proof.invalid:
        ax.axhspan(y - 0.45, y + 0.45, **figure.INVALID)
    if one.noise_floor is not None:
        low = 1 - min(one.noise_floor, 0.99)
        ax.barh(y, 1 / low - low, left=low, height=0.7, color="#d9d9d9", label="identical variants got so far (95 %)", zorder=1)
    edges: dict[str, Any] = {"color": figure.LIMIT, "linestyle": (0, (4, 2)), "linewidth": 1.6, "zorder": 3}
    ax.vlines([*one.limits], y - 0.4, y + 0.4, label="smallest effect that matters, either way", **edges)
    if measured.low is not None and measured.high is not None:
        ax.hlines(y, measured.low, measured.high, color=look["color"], linewidth=2.5, zorder=4)
    ax.plot(measured.value, y, linestyle="", markersize=9, markeredgecolor="white", zorder=5, **look)


def _ratio_axis(ax: Axes, axis: Axis, most: int) -> None:
    """Make an axis of ratios logarithmic, with 1, some room to either side of it, and about so many ticks in view."""
    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
    low, high = sorted(axis.get_view_interval())
    low, high = min(low, 0.7), max(high, 1.4)
    axis.set_view_interval(low, high, ignore=True)
    inside = [tick for tick in TICKS if low <= tick <= high]
    every = math.ceil(len(inside) / most)
    axis.set_major_locator(FixedLocator([t for i, t in enumerate(inside) if (i - inside.index(1)) % every == 0]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


# ---- expected, predicted, measured ----


def compare_savings(*, recording: Recording, summary: Summary) -> figure.Chart:
    """Draw of each proof the saving that was expected, the one that the baseline's replay predicts, and the measured one."""
    every = [
        (name, proof, proof.main)
        for name, proof in summary.items()
        if proof.expected_low_ratio is not None or proof.predicted_ratio is not None
    ]
    rows = _most(every, MOST_SAVINGS)
    caption = _caption("What each fix saves: expected, predicted, measured", recording, rows, every)
    if not rows:
        return caption.empty("nothing was expected or predicted")
    with caption.drawing(height=1.4 + 0.75 * len(rows)) as (chart, (ax,)):
        for y, (_, proof, _) in enumerate(rows):
            _saving(ax, y, proof)
        ax.axvline(0, color="black", linewidth=1)
        _row_names(ax, [f"{figure.shorten(name, NAME)}\n{main.metric}" for name, _, main in rows])
        low, high = ax.get_xlim()
        ax.set_xlim(max(min(low, -0.05), -1.0), min(max(high, 0.5), 1.0))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        ax.set_xlabel("part of the baseline that is saved (right is better)")
    return chart


def _saving(ax: Axes, y: int, proof: ProofSummary) -> None:
    low, high, measured = proof.expected_low_ratio, proof.expected_high_ratio, proof.main.ratio
    if low is not None and high is not None:
        ax.barh(y - 0.25, high - low, left=low, height=0.2, color=figure.PALETTE[1], hatch="//", edgecolor="white", label="expected")
    if proof.predicted_ratio is not None:
        is_ceiling = (proof.predicted_by or "").endswith("at no cost")
        label = "at most, were its stage for nothing" if is_ceiling else "predicted from the baseline's spans"
        ax.plot(proof.predicted_ratio, y, "<" if is_ceiling else "D", color=figure.PALETTE[5], markersize=8, linestyle="", label=label)
    if measured is None:
        return
    saved = 1 - measured.value
    look: dict[str, Any] = {"color": figure.PALETTE[0], "markersize": 8, "markeredgecolor": "white", "linestyle": ""}
    if measured.low is not None and measured.high is not None:
        ax.hlines(y + 0.25, max(1 - measured.high, -1), max(1 - measured.low, -1), color=figure.PALETTE[0], linewidth=2.5)
    if saved >= -1:
        ax.plot(saved, y + 0.25, "o", label="measured, with 95 % interval", **look)
    else:
        ax.plot(-1, y + 0.25, "<", label="measured: it costs more than twice as much", clip_on=False, **look)


# ---- what requests saw ----


def compare_spectra(*, recording: Recording, summary: Summary) -> figure.Chart:
    """Draw for each load proof the response times of both sides by percentile, with their intervals."""
    lines = dict(iter(recording.spectra.to_pandas().groupby(["proof", "side"])))
    every = [(name, proof, proof.main) for name, proof in summary.items() if any((name, side) in lines for side in SIDES)]
    rows = _most(every, MOST_SPECTRA)
    caption = _caption("What requests saw: response time by percentile, before and after", recording, rows, every)
    if not rows:
        return caption.empty("no load runs are compared here")
    with _panels(caption, len(rows), columns=2, height=2.6, label="response time (ms)") as (chart, axes):
        for ax, (name, proof, _) in zip(axes, rows, strict=True):
            own = {side: lines[name, side] for side in SIDES if (name, side) in lines}
            for side, line in own.items():
                nines = 1 / (1 - line.p)
                ax.plot(nines, line.value_ms, label=side, linewidth=2, **SIDES[side])
                ax.fill_between(nines, line.low_ms, line.high_ms, color=SIDES[side]["color"], alpha=0.15, linewidth=0)
            _percentile_axes(ax)
            counts = ", ".join(f"{line.n.iloc[0]:,} {side}" for side, line in own.items())
            ax.set_title(f"{_marked(name, proof, NAME - 10)} (n = {counts})", fontsize=10)
    return chart


def _percentile_axes(ax: Axes) -> None:
    ax.set_xscale("log")
    right = ax.get_xlim()[1]
    figure.log_axis(ax, "y")
    figure.log_axis(ax, "x")
    ax.set_xlim(1, right)
    ticks = [p for p in (0.5, 0.9, 0.99, 0.999, 0.9999) if 1 / (1 - p) <= right]
    ax.set_xticks([1 / (1 - p) for p in ticks], [f"p{p * 100:g}" for p in ticks], fontsize=10)


# ---- how steady it was ----


def compare_rounds(*, recording: Recording, summary: Summary) -> figure.Chart:
    """Draw the ratio of every round of each proof in the order in which they were measured: a drift or a lone round shows."""
    every = [(name, proof, proof.main) for name, proof in summary.items() if proof.rounds]
    rows = _most(every, MOST_ROUNDS)
    caption = _caption("The ratio of every round, in the order in which they were measured", recording, rows, every)
    if not rows:
        return caption.empty("no round of which both runs count")
    with _panels(caption, len(rows), columns=3, height=2.1, label="ratio of a round", sharey=True) as (chart, axes):
        for ax, (name, proof, _) in zip(axes, rows, strict=True):
            _rounds(ax, proof)
            ax.set_title(_marked(name, proof, 24), fontsize=10)
        _ratio_axis(axes[0], axes[0].yaxis, most=5)
    return chart


def _rounds(ax: Axes, proof: ProofSummary) -> None:
    numbers, values = [one.round for one in proof.rounds], [one.ratio for one in proof.rounds]
    ax.axhspan(*proof.main.limits, color="#e4e4e4", label="too small to matter")
    ax.axhline(1, color="black", linewidth=1)
    for first, side, colour, marker in ((1, "before", figure.PALETTE[0], "o"), (0, "after", figure.PALETTE[1], "s")):
        own = [one for one in proof.rounds if one.round % 2 == first]  # see `session.order`
        at = [one.round for one in own], [one.ratio for one in own]
        ax.plot(*at, marker, color=colour, markersize=6, label=f"{side} was run first", zorder=4)
    ax.plot(numbers, values, color="#aaaaaa", linewidth=1, zorder=3)
    if proof.main.ratio:
        ax.axhline(proof.main.ratio.value, color=figure.PALETTE[2], linestyle="--", linewidth=1.5, label="their geometric mean")
    ax.set_xlabel("round")
    ax.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
