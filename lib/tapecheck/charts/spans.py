"""Stretches of a run on its clock, shaded and named above the axes so that no name covers another. It knows no validation."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from tapecheck.charts.figure import INVALID, Chart, shorten, width_pt

SIZE_PT = 9
LANE_PT = 13
AXES_PT = 620  # about how wide a single column of axes is; a name has this and its gap to err
GAP_PT = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What ran from `first_s` to `last_s`, and the stretches of it, if any, that say nothing about the target."""

    name: str
    first_s: float
    last_s: float
    invalid_s: tuple[tuple[float, float], ...] = ()

    @property
    def title(self) -> str:
        """Name it, and say what of it is invalid."""
        how = "" if not self.invalid_s else " (INVALID)" if self.invalid_s == ((self.first_s, self.last_s),) else " (INVALID in part)"
        return shorten(self.name, 40) + how


def mark(chart: Chart, axes: Sequence[Axes], spans: Sequence[Span]) -> None:
    """Shade every other span, hatch what of them is invalid, and name them all above the first axes."""
    end_s = max((span.last_s for span in spans), default=0.0) or 1.0
    for i, span in enumerate(spans):
        for ax in axes:
            ax.axvspan(span.first_s, span.last_s, zorder=0, facecolor="#e6e6e6" if i % 2 == 0 else "#f6f6f6", linewidth=0)
            for first_s, last_s in span.invalid_s:
                ax.axvspan(first_s, last_s, zorder=0, **INVALID)
            ax.set_xlim(-0.01 * end_s, 1.01 * end_s)
    named = sorted(spans, key=lambda span: span.first_s)
    names = [span.title for span in named]
    reaches_pt = [(span.first_s / end_s * AXES_PT, span.last_s / end_s * AXES_PT) for span in named]
    placed = lanes(reaches_pt, [width_pt(name, SIZE_PT) for name in names])
    for name, span, (lane, to_left) in zip(names, named, placed, strict=True):
        _name(axes[0], name, span.last_s if to_left else span.first_s, lane, to_left)
    chart.set_figheight(chart.get_figheight() + LANE_PT / 72 * max((lane for lane, _ in placed), default=0))


def lanes(reaches_pt: Sequence[tuple[float, float]], widths_pt: Sequence[float]) -> list[tuple[int, bool]]:
    """Return for the name of each span, in the order of their starts, its lane (0 lowest) and whether it ends with the span.

    A name starts with its span, unless it would leave the axes. From right to left, each takes the lowest lane that is free,
    so that the line from a name down to its span passes left of the names below.
    """
    taken: list[list[tuple[float, float]]] = []
    placed = []
    for (first, last), width in zip(reversed(reaches_pt), reversed(widths_pt), strict=True):
        to_left = first + width > AXES_PT
        left, right = (last - width, last) if to_left else (first, first + width)
        lane = next((i for i, others in enumerate(taken) if all(right + GAP_PT <= a or b + GAP_PT <= left for a, b in others)), len(taken))
        taken += [[] for _ in range(lane + 1 - len(taken))]
        taken[lane].append((left, right))
        placed.append((lane, to_left))
    return placed[::-1]


def _name(ax: Axes, name: str, at_s: float, lane: int, to_left: bool) -> None:
    above = ("data", "axes fraction")
    if lane:
        line = {"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0}
        ax.annotate(
            "", (at_s, 1), xycoords=above, xytext=(0, LANE_PT * lane + 6), textcoords="offset points", arrowprops=line,
            annotation_clip=False, zorder=4,
        )  # fmt: skip
    ax.annotate(
        name, (at_s, 1), xycoords=above, xytext=(-2 if to_left else 2, LANE_PT * lane + 2), textcoords="offset points",
        ha="right" if to_left else "left", va="bottom", fontsize=SIZE_PT, annotation_clip=False, zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip
