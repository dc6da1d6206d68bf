"""What all charts share: the figure itself, its look, title, legend and footer, axes, and when on a clock each part ran.

It knows no validation.
"""

import functools
import io
import itertools
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from tapecheck.recording import Context
from tapecheck.verdict import Objective, counted, cut, number

PartT = TypeVar("PartT")
Numbers = NDArray[np.float64] | NDArray[np.int64]

# Okabe and Ito's colour-blind-safe palette, in an order whose neighbours also differ in grey.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
BAD = "#D55E00"
LIMIT = "#555555"
HATCHED: dict[str, Any] = {"facecolor": "#f3e6e0", "edgecolor": "#c9a999", "hatch": "//", "linewidth": 0}
INVALID: dict[str, Any] = {**HATCHED, "label": "invalid: says nothing about the target"}
STYLE: dict[Any, Any] = {
    **{name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")},  # and none of the user's own
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # names are whatever somebody chose, dollars too
    "svg.hashsalt": "tapecheck",
}
WIDTH_PT = 720  # of a figure
CHARACTER = 0.55  # about how wide one is, in sizes of its font
LEGEND_PT = 9
TITLE_IN = 0.24  # how much of a figure's height its title takes
MOST_SAID = 150  # characters about one axes for who cannot see it, twice
MAX_POINTS = 4_000  # a scatter chart shows at most so many that succeeded, extremes always among them


class Chart(Figure):
    """A figure that no global state holds on to, and that Jupyter shows as a PNG because it is a cell's value."""

    _pictures: Mapping[str, bytes] = {}

    @property
    def alt(self) -> str:
        """Say what it shows to who cannot see it: its title, and of each axes the units and what is drawn, from which to which value."""
        parts = [clean(repr(self).removeprefix("Chart: ")), *(said for ax in self.axes for said in _said(ax)), clean(self.get_supxlabel())]
        return ". ".join(filter(None, parts))

    def png(self) -> bytes:
        """Return the picture, drawn once, 1,100 pixels wide; it carries the text of what it shows."""
        return self._drawn("png", dpi=110, metadata={"Description": self.alt})

    def svg(self) -> bytes:
        """Return it as vectors, for who prints it."""
        self.png()
        self.set_layout_engine("none")  # it stays as it was laid out
        return self._drawn("svg", metadata={"Date": None, "Description": self.alt})

    def _drawn(self, kind: str, **how: Any) -> bytes:
        if kind not in self._pictures:
            buffer = io.BytesIO()
            with style():  # some of it counts when a picture is drawn
                self.savefig(buffer, format=kind, **how)
            self._pictures = {**self._pictures, kind: buffer.getvalue()}
        return self._pictures[kind]

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        try:
            return {"image/png": self.png(), "text/plain": repr(self)}
        except Exception as error:
            return {"text/plain": repr(Failed(name=repr(self), error=error))}

    def _ipython_display_(self) -> None:
        from IPython.display import display

        metadata = {"image/png": {"alt": self.alt}}
        display(self._repr_mimebundle_(), raw=True, metadata=metadata)  # type: ignore[no-untyped-call]  # past what the user has registered

    def __repr__(self) -> str:
        titles = [ax.get_title(loc="left") for ax in self.axes]
        return f"Chart: {self.get_suptitle() or titles[0]}"


def _said(ax: Axes) -> tuple[str, str]:
    """Say in words what is written and what is drawn in an axes; where its rows have names, values go across."""
    is_fixed = isinstance(ax.yaxis.get_major_locator(), FixedLocator) and ax.axison
    rows = [text for tick in ax.get_yticklabels() if any(map(str.isalpha, text := tick.get_text()))] if is_fixed else []
    units = [f"{way}: {label}" for way, label in (("across", ax.get_xlabel()), ("up", ax.get_ylabel())) if label]
    drawn = []
    for label, one in {str(one.get_label()): one for one in ax.get_legend_handles_labels()[0]}.items():
        found = np.asarray(one.get_xdata() if rows else one.get_ydata(), np.float64) if isinstance(one, Line2D) else np.array([])
        found = found[np.isfinite(found)]
        drawn.append(label + (f" ({number(found.min())} to {number(found.max())})" if len(found) else ""))
    named = [f"rows: {', '.join(rows)}"] if rows else []
    texts = [ax.get_title(loc="left"), *units, *named, *(text.get_text() for text in ax.texts)]
    first, second = (", ".join(filter(None, map(clean, said))) for said in (texts, drawn))
    return cut(first, 2 * MOST_SAID), cut(second, 2 * MOST_SAID)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Failed:
    """What stands where a chart could not be drawn, so that the rest of a notebook is shown and recorded."""

    name: str
    error: Exception

    def png(self) -> bytes:
        """Raise what went wrong."""
        raise self.error

    def __repr__(self) -> str:
        return f"{self.name} could not be drawn.\n{''.join(traceback.format_exception(self.error))}"


@functools.cache
def guarded(draw: Callable[..., Chart]) -> Callable[..., Chart | Failed]:
    """Return what draws a chart, or returns in its place what went wrong."""

    @functools.wraps(draw)
    def drawn(**given: Any) -> Chart | Failed:
        try:
            return draw(**given)
        except Exception as error:
            return Failed(name=draw.__name__, error=error)

    return drawn


@contextmanager
def style() -> Iterator[None]:
    """Draw in the workbook's look."""
    with mpl.rc_context(STYLE):
        yield


def begin(title: str, rows: int = 1, columns: int = 1, *, height: float = 4.6, **grid: Any) -> tuple[Chart, list[Axes]]:
    """Begin a chart with a title and a grid of axes; `height` in inches, without what the legend will take."""
    chart = Chart(figsize=(WIDTH_PT / 72, height), dpi=100, layout="constrained")
    chart.suptitle(title, x=0.01, ha="left", fontsize=13)
    return chart, list(chart.subplots(rows, columns, squeeze=False, **grid).flat)


def foot(chart: Chart, text: str) -> None:
    """Write a text below, in the look of a footer."""
    chart.supxlabel(text, x=0.99, ha="right", fontsize=8.5, color="#555555")


def nth(i: int) -> dict[str, Any]:
    """Return the look of one line of several, told apart by its dashes too."""
    return {"color": PALETTE[i % len(PALETTE)], "linestyle": LINES[i % len(LINES)], "linewidth": 2}


def legend(chart: Chart) -> None:
    """Explain every label of the axes once, between title and axes, for which the figure grows; called last."""
    handles = [handle for ax in chart.axes for handle in ax.get_legend_handles_labels()[0]]
    found: dict[str, Artist] = {}
    for handle in handles:
        found.setdefault(str(handle.get_label()), handle)
    if not found:
        return
    columns = max(1, min(4, int(WIDTH_PT // (max(width_pt(label, LEGEND_PT) for label in found) + 5 * LEGEND_PT))))
    taken_in = 0.08 + 0.2 * math.ceil(len(found) / columns)
    height_in = chart.get_figheight() + taken_in
    chart.set_figheight(height_in)
    chart.set_layout_engine("constrained", rect=(0, 0, 1, 1 - taken_in / height_in))
    corner = (0.002, 1 - TITLE_IN / height_in)
    chart.legend(list(found.values()), list(found), loc="upper left", ncols=columns, fontsize=LEGEND_PT, bbox_to_anchor=corner)


def applying(objectives: Sequence[Objective], metrics: Sequence[str], scenario: str) -> list[Objective]:
    """Return the objectives about these metrics that this scenario must meet."""
    return [one for one in objectives if one.metric in metrics and one.scope in (None, scenario)]


def limit_line(ax: Axes, objective: Objective, first: float, last: float, *, colour: str = LIMIT, upright: bool = False) -> None:
    """Draw an objective from `first` to `last`, with a triangle in the middle that points to where values are good.

    `upright`: its metric is on the x axis.
    """
    along, good = (ax.get_yscale(), "left right") if upright else (ax.get_xscale(), "below above")
    middle = math.sqrt(first * last) if along == "log" else (first + last) / 2
    line: dict[str, Any] = {"color": colour, "linestyle": (0, (4, 2)), "linewidth": 1.4, "zorder": 3, "clip_on": False}
    marker = ("<>" if upright else "v^")[objective.upward]
    look: dict[str, Any] = {"marker": marker, "markevery": [1], "markersize": 9, "markeredgecolor": "white"}
    label = f"objective {objective} (good: {good.split()[objective.upward]})"
    ends = [first, middle, last], [objective.limit] * 3
    ax.plot(*(ends[::-1] if upright else ends), label=label, **line, **look)


@dataclass(frozen=True, slots=True)
class Steps:
    """Equal steps of a clock, about so many of them, in which events are counted."""

    longest_s: float
    about: int = 120

    @property
    def width_s(self) -> float:
        """How long a step is, a round number."""
        return max(0.1, float(f"{self.longest_s / self.about:.1g}"))

    def draw(self, ax: Axes, at_s: NDArray[np.floating[Any]], weights: Numbers | None = None, **look: Any) -> None:
        """Draw how many events there were a second, or the sum of their weights."""
        steps = int(self.longest_s / self.width_s) + 1
        step = (at_s / self.width_s).astype(np.int32)
        np.clip(step, 0, steps - 1, out=step)  # the clocks of other machines may be off by a little
        counts = np.bincount(step, weights, minlength=steps)
        ax.stairs(counts / self.width_s, np.arange(steps + 1) * self.width_s, fill=True, **look)
        ax.yaxis.set_major_formatter(plain())


def note(ax: Axes, text: str) -> None:
    """Say in the middle of an axes why it is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=LIMIT, backgroundcolor="white")


class _Judged(Protocol):
    """A part of a run whose figures may not be, or not only be, the target's."""

    @property
    def invalid(self) -> str | None:
        """Why they say nothing about the target."""

    @property
    def generator_share(self) -> Mapping[str, float]:
        """How much of each figure may be the load generator's own."""


def marked(part: _Judged) -> str:
    """Return what every chart says of figures that are not, or not only, the target's."""
    return "INVALID" if part.invalid else "generator late" if part.generator_share else ""


def shade_invalid(ax: Axes) -> None:
    """Shade all of an axes: what it shows is no result."""
    ax.patch.set(**INVALID)
    ax.fill_between([], [], **INVALID)  # for the legend


def plain() -> FuncFormatter:
    """Format a tick without exponents, with thousands separated."""
    return FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.2g}")


def log_axis(ax: Axes, which: str) -> None:
    """Make the x or y axis logarithmic; after plotting, so that it spans a decade and has three labels or more; not of zeros."""
    if not math.isfinite(ax.dataLim.minposx if which == "x" else ax.dataLim.minposy):
        return  # nothing that is drawn is above zero
    axis: Axis = getattr(ax, f"{which}axis")
    getattr(ax, f"set_{which}scale")("log")
    low, high = getattr(ax, f"get_{which}lim")()
    if (wider := math.sqrt(10 * low / high)) > 1:
        low, high = low / wider, high * wider
        getattr(ax, f"set_{which}lim")(low, high)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axis.set_major_formatter(plain())
    axis.set_minor_locator(NullLocator())  # hundreds of ticks without a label take most of the time of drawing


def width_pt(text: str, size: float) -> float:
    """Return about how wide a text is, in points."""
    return CHARACTER * size * len(text)


def clean(text: str) -> str:
    """Return a text on one line, without signs that cannot be seen: names are whatever somebody chose."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def shorten(text: str, characters: int) -> str:
    """Leave out the middle of a text that is too long; names often differ in their ends."""
    text = clean(text)
    if len(text) <= characters:
        return text
    tail = (characters - 1) // 3
    return f"{text[: characters - 1 - tail]}…{text[-tail:]}"


def shorten_list(names: Sequence[str], characters: int = 110) -> str:
    """Return how many names there are and as many of them, shortened, as there is room for."""
    short = [shorten(name, 24) for name in names]
    shown = [name for i, name in enumerate(short) if len(", ".join(short[: i + 1])) <= characters]
    return f"{len(names)} ({', '.join(shown)}{', …' if len(shown) < len(names) else ''})"


def choose(found: Mapping[str, PartT], most: int, weight: Callable[[PartT], Any]) -> tuple[dict[str, PartT], list[str]]:
    """Return the parts of most weight that there is room for, in their order, and the names of the others."""
    heaviest = set(sorted(found, key=lambda name: weight(found[name]), reverse=True)[:most])
    return {name: part for name, part in found.items() if name in heaviest}, [name for name in found if name not in heaviest]


def thin(x: Numbers, y: Numbers, points: int = MAX_POINTS) -> tuple[Numbers, Numbers]:
    """Return at most `points` samples, in the order of x; see `thinned`."""
    chosen = thinned(x, y, points)
    return x[chosen], y[chosen]


def thinned(x: Numbers, y: Numbers, points: int) -> NDArray[np.int64]:
    """Return where at most `points` samples are in which every stretch of x keeps its smallest and largest y, in the order of x.

    The stretches hold equally many samples. So no spike can vanish, however many samples surround it. Few samples are all kept as they are.
    """
    if len(x) <= points:
        return np.arange(len(x))
    order = np.argsort(x, kind="stable") if (x[1:] < x[:-1]).any() else None
    values = y if order is None else y[order]
    edges = np.linspace(0, len(x), points // 2 + 1).astype(np.int64).tolist()
    keep = [(a + int(values[a:b].argmin()), a + int(values[a:b].argmax())) for a, b in itertools.pairwise(edges)]
    chosen = np.unique(np.array(keep))
    return chosen if order is None else order[chosen]


# ---- spans ----

SPAN_IN = 0.2  # height of one row


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSpan:
    """What ran from `first_s` to `last_s`, and the stretches of it, if any, that say nothing about the target."""

    name: str
    first_s: float
    last_s: float
    invalid_s: tuple[tuple[float, float], ...] = ()

    @property
    def title(self) -> str:
        """Name it, and say what of it is invalid."""
        how = "" if not self.invalid_s else " (INVALID)" if self.invalid_s == ((self.first_s, self.last_s),) else " (INVALID in part)"
        return shorten(self.name, 30 if how else 40) + how


@dataclass(frozen=True, slots=True)
class Caption:
    """The title of a chart and what its footer says: of which run and of how many requests, or whatever else there were, it is drawn.

    `left_out` are the names of what there is no room for.
    """

    title: str
    context: Context
    n: int
    of: str = "requests"
    left_out: Sequence[str] = ()

    @contextmanager
    def drawing(self, rows: int = 1, columns: int = 1, *, height: float = 4.6, **grid: Any) -> Iterator[tuple[Chart, list[Axes]]]:
        """Draw a chart in the workbook's look: give its axes, and add legend and footer in the end; see `begin`."""
        with style():
            chart, axes = begin(self.title, rows, columns, height=height, **grid)
            yield chart, axes
            legend(chart)
            context = self.context
            said = f"target {shorten(context.target.name, 50)}"
            said += f" ({shorten(context.target.base_url, 50)})" if context.target.base_url else ""
            said += f", run {shorten(context.run_id, 40)}{f', measured by {context.measured_by}' if context.measured_by else ''}"
            more = f"not drawn, but in the table: {shorten_list(self.left_out)}\n" if self.left_out else ""
            foot(chart, f"{more}{said}, n = {counted(self.n, self.of)}")

    @contextmanager
    def on_clock(self, spans: Sequence[TimeSpan], heights_in: Sequence[float]) -> Iterator[tuple[Chart, list[Axes]]]:
        """Draw a chart of axes on one clock, above them a row for each span; what of a span is invalid is hatched in all of them."""
        heights = (SPAN_IN * max(len(spans), 1), *heights_in)
        with self.drawing(len(heights), height=0.9 + sum(heights), sharex=True, height_ratios=heights) as (chart, (strip, *axes)):
            _mark(strip, axes, spans)
            yield chart, axes

    def empty(self, why: str) -> Chart:
        """Return a chart that says why there is nothing to draw."""
        with self.drawing(height=2) as (chart, (ax,)):
            ax.axis("off")
            note(ax, why)
        return chart


def _mark(strip: Axes, axes: Sequence[Axes], spans: Sequence[TimeSpan]) -> None:
    for row, span in enumerate(spans):
        strip.broken_barh([(span.first_s, span.last_s - span.first_s)], (row - 0.35, 0.7), facecolor=LIMIT, linewidth=0)
        for first_s, last_s in span.invalid_s:
            strip.broken_barh([(first_s, last_s - first_s)], (row - 0.35, 0.7), **INVALID)
        for ax in axes:
            ax.axvspan(span.first_s, span.last_s, zorder=0, facecolor="#e6e6e6" if row % 2 == 0 else "#f6f6f6", linewidth=0)
            for first_s, last_s in span.invalid_s:
                ax.axvspan(first_s, last_s, zorder=0, **INVALID)
    strip.set_yticks(range(len(spans)), [span.title for span in spans], fontsize=9)
    strip.set_ylim(len(spans) - 0.4, -0.6)
    strip.tick_params(axis="both", length=0, labelbottom=False)
    strip.grid(visible=False, axis="y")
    strip.spines[:].set_visible(False)
    end_s = max((span.last_s for span in spans), default=0.0) or 1.0
    strip.set_xlim(-0.01 * end_s, 1.01 * end_s)
