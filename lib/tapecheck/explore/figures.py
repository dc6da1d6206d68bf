"""The figures of explore.ipynb, which hover and zoom without a kernel. They are thinned before they are drawn, and lose no spike."""

import html
import itertools
import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from tapecheck import text
from tapecheck.charts import figure
from tapecheck.charts.backfill import COLOURS
from tapecheck.charts.recovery import LOOKS
from tapecheck.explore.events import Events, Floats
from tapecheck.load.samples import BLOCKS, Mask
from tapecheck.recovery.recording import FULL
from tapecheck.recovery.recording import Recording as RecoveryRecording
from tapecheck.recovery.timeline import seen, states
from tapecheck.statistics import intervals
from tapecheck.verdict import Objective, counted, number

MIME = "application/vnd.plotly.v1+json"
MOST_GROUPS = 10  # with a colour of their own; the others are one
MOST_POINTS, FEWEST_POINTS = 4_000, 200  # of a figure, and of each group in it
MOST_BARS, MOST_LINES = 2_000, 60  # of a timeline, and lines of it
STEPS = 240  # of a rate over time
TICKS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999)
SYMBOLS = ("circle", "diamond-open")  # of the first run, and of the one laid over it
CAPTION_CHARACTERS = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A figure with its title and what it shows in words."""

    title: str
    caption: str
    figure: go.Figure

    def plain(self, *, titled: bool) -> dict[str, Any]:
        """Return it as plain data; without its title and caption where a page says them."""
        if titled:
            said = "<br>".join(map(safe, textwrap.wrap(self.caption, CAPTION_CHARACTERS)))
            self.figure.update_layout(title={"text": safe(self.title), "subtitle": {"text": said, "font": {"size": 11}}, "x": 0.01})
            self.figure.update_layout(margin_t=80 + 14 * said.count("<br>"))
        data: dict[str, Any] = json.loads(self.figure.to_json())
        return data

    def bundle(self) -> dict[str, Any]:
        """Return it as a notebook shows it."""
        return {MIME: self.plain(titled=True), "text/plain": f"Figure: {self.title}. {self.caption}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The chosen rows of one run, what it is called, and the column by whose values they are told apart."""

    name: str
    events: Events
    chosen: Mask
    by: str

    @property
    def n(self) -> int:
        """How many rows are chosen."""
        return int(np.count_nonzero(self.chosen))

    def groups(self) -> Iterator[tuple[str, Mask]]:
        """Yield the rows of each value, of the values with most rows by name, then those of all others as one."""
        words, codes = self.events.columns[self.by]
        found = self.events.counts(self.by, self.chosen)
        ranked = sorted(found, key=lambda word: -found[word])
        named = [word for word in found if word in ranked[:MOST_GROUPS]]
        for word in named:
            yield word, self.chosen & (codes == words.index(word))
        if rest := ranked[MOST_GROUPS:]:
            yield counted(len(rest), "others"), self.chosen & np.isin(codes, [words.index(word) for word in rest])


def safe(said: object) -> str:
    """Return a text as plotly shows it: no tag of it, no formula, no sign that turns the direction of writing."""
    return html.escape(text.line(str(said)), quote=False).replace("$", "&#36;").replace("%{", "%&#123;")


def _begin(height: int = 460, **axes: Any) -> go.Figure:
    """Begin a figure in the workbook's look."""
    found = go.Figure()
    found.update_layout(
        template="plotly_white", height=height, autosize=True, hovermode="closest", margin={"l": 60, "r": 15, "t": 20, "b": 50},
        font={"size": 12}, uirevision="kept", dragmode="zoom",
        legend={"orientation": "h", "yanchor": "top", "y": -55 / (height - 70), "x": 0, "itemsizing": "constant"}, **axes,
    )  # fmt: skip
    return found


def _nothing(title: str, layers: Sequence[Layer]) -> Drawn:
    things = layers[0].events.source.things
    return _empty(title, f"no {things} are chosen" if len(layers[0].events) else f"no single {things} were recorded")


def _empty(title: str, why: str) -> Drawn:
    found = _begin(height=200, xaxis={"visible": False}, yaxis={"visible": False})
    found.add_annotation(text=safe(why), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return Drawn(title=title, caption=why, figure=found)


def _looks(layers: Sequence[Layer]) -> Iterator[tuple[str, Layer, Mask, str, str]]:
    """Yield each line of a figure: its name, layer, rows, colour and symbol; one run by its groups, two runs as a whole."""
    for i, layer in enumerate(layers):
        if len(layers) > 1:
            yield layer.name, layer, layer.chosen, figure.PALETTE[i], SYMBOLS[i]
            continue
        for k, (name, chosen) in enumerate(layer.groups()):
            yield name, layer, chosen, (*figure.PALETTE, "#8c564b", "#17becf", "#7f7f7f", "#bcbd22")[k], SYMBOLS[0]


# ---- over time, and by percentile ----


def latency(layers: Sequence[Layer]) -> Drawn:
    """Draw how long each row took at the moment when it began; of many, the extremes of every stretch of time."""
    title, n = "How long each took, over time", sum(layer.n for layer in layers)
    if not n:
        return _nothing(title, layers)
    found = _begin(yaxis={"title": "ms", "type": "log"}, xaxis={"title": "time since the first (s)"})
    lines, drawn = list(_looks(layers)), 0
    room = max(FEWEST_POINTS, MOST_POINTS // len(lines))
    for name, layer, chosen, colour, symbol in lines:
        for failed in (False, True):
            at = np.flatnonzero(chosen & (layer.events.failed == failed))
            at = at[figure.thinned(layer.events.at_s[at], layer.events.took_ms[at], room)]
            drawn += len(at)
            if len(at):
                look: dict[str, Any] = {"color": colour, "size": 4, "symbol": symbol, "opacity": 0.6}
                if failed:
                    look |= {"size": 9, "symbol": "x", "opacity": 1, "line": {"color": "black", "width": 1}}
                said = f"{safe(name)}, failed" if failed else safe(name)
                took_ms = np.maximum(layer.events.took_ms[at], 0.001)  # a logarithmic axis has no zero
                found.add_scatter(
                    x=layer.events.at_s[at].round(4), y=took_ms.round(3), mode="markers", marker=look, name=said,
                    text=_told(layer.events, at), hovertemplate=f"{said}<br>%{{y}} ms at %{{x}} s<br>%{{text}}<extra></extra>",
                )  # fmt: skip
    thinned = "" if drawn == n else f"; {drawn:,} are drawn: of every stretch of time its smallest and largest, so that no spike is lost"
    return Drawn(title=title, caption=f"{_whose(layers)}{thinned}. A cross is a failure; its colour says of what.", figure=found)


def _told(events: Events, at: NDArray[np.int64]) -> list[str]:
    """Return what the hover says of some rows: their row in the table, and their value of every column."""
    told = [f"row {row:,}" for row in events.positions[at].tolist()]
    for name, (words, codes) in events.columns.items():
        said = [f", {safe(name)} {safe(figure.shorten(word, 40))}" if word and word != "none" else "" for word in words]
        told = [one + said[code] for one, code in zip(told, codes[at].tolist(), strict=True)]
    return told


def _whose(layers: Sequence[Layer]) -> str:
    n = counted(sum(layer.n for layer in layers), layers[0].events.source.things)
    return f"{' and '.join(layer.name for layer in layers)}, n = {n}"


def spectrum(layers: Sequence[Layer], objectives: Sequence[Objective] = ()) -> Drawn:
    """Draw the percentile spectrum; each step to the right is ten times rarer, and the hover has the 95 % interval."""
    title, n = "How slow the slow ones are, by percentile", sum(layer.n for layer in layers)
    if not n:
        return _nothing(title, layers)
    longest = max(layer.n for layer in layers)
    ticks = [p for p in TICKS if 1 / (1 - p) <= 1.5 * max(longest, 20)]
    axis = {"title": "share that took at most so long", "type": "log", "tickvals": [1 / (1 - p) for p in ticks]}
    axis["ticktext"] = ["min" if p == 0 else f"p{p * 100:g}" for p in ticks]
    found = _begin(yaxis={"title": "ms", "type": "log"}, xaxis=axis)
    for name, layer, chosen, colour, _ in _looks(layers):
        took_ms = layer.events.took_ms[chosen]
        if len(took_ms):
            _line(found, f"{safe(name)} (n = {len(took_ms):,})", took_ms, colour)
    for one in objectives:
        if one.metric in ("p50_ms", "p90_ms", "p95_ms", "p99_ms"):
            x = 1 / (1 - int(one.metric[1:3]) / 100)
            said = f"objective {safe(one)} (good: {'above' if one.upward else 'below'})"
            look = {"line": {"color": figure.LIMIT, "dash": "dash"}, "name": said, "hovertemplate": f"{said}<extra></extra>"}
            found.add_scatter(x=[x / 1.3, x * 1.3], y=[one.limit] * 2, mode="lines", **look)
    return Drawn(title=title, caption=f"{_whose(layers)}, failed ones included.", figure=found)


def _line(found: go.Figure, name: str, took_ms: Floats, colour: str) -> None:
    edges = np.unique(np.linspace(0, len(took_ms), BLOCKS + 1).astype(np.int64))
    line = intervals.spectrum(took_ms, edges[1:] - edges[:-1])
    ends = (("?" if np.isnan(end) else number(float(end)) for end in line[which]) for which in ("low", "high"))
    told = [f"p{100 * p:.6g}, 95 % interval {low} to {high} ms" for p, low, high in zip(line["p"], *ends, strict=True)]
    found.add_scatter(
        x=(1 / (1 - line["p"])).round(4), y=np.maximum(line["value"], 0.001).round(3), mode="lines", line={"color": colour}, name=name,
        text=told, hovertemplate=f"{name}<br>%{{y}} ms at %{{text}}<extra></extra>",
    )  # fmt: skip


# ---- what happened when ----


def rates(layers: Sequence[Layer]) -> Drawn:
    """Draw how many ended a second, and how many of them failed; a target that answers nothing is a gap."""
    title, n = "How many ended, second by second", sum(layer.n for layer in layers)
    if not n:
        return _nothing(title, layers)
    found = _begin(yaxis={"title": "ended (1/s)", "rangemode": "tozero"}, xaxis={"title": "time since the first (s)"})
    done_s = [layer.events.at_s[layer.chosen] + layer.events.took_ms[layer.chosen] / 1e3 for layer in layers]
    first_s, last_s = min(one.min(initial=np.inf) for one in done_s), max(one.max(initial=0) for one in done_s)
    width_s = figure.Steps(last_s - first_s, STEPS).width_s
    steps_s = np.arange(int(first_s / width_s), int(last_s / width_s) + 2) * width_s
    for i, (layer, ended_s) in enumerate(zip(layers, done_s, strict=True)):
        failed = layer.events.failed[layer.chosen]
        for which, colour, said in ((~failed, figure.PALETTE[i], "succeeded"), (failed, figure.BAD, "failed")):
            if which.any():
                counts, _ = np.histogram(ended_s[which], steps_s)
                name = said if len(layers) == 1 else f"{safe(layer.name)}: {said}"
                line = {"color": colour, "shape": "hv", "dash": "dot" if i else "solid"}
                found.add_scatter(
                    x=steps_s[:-1].round(3), y=(counts / width_s).round(3), mode="lines", line=line, name=name,
                    hovertemplate=f"{name}<br>%{{y}} a second from %{{x}} s<extra></extra>",
                )  # fmt: skip
    caption = f"{_whose(layers)}, counted in steps of {width_s:g} s."
    return Drawn(title=title, caption=caption, figure=found)


def stages(layer: Layer) -> Drawn:
    """Draw a backfill's spans on the clock, a worker a line, a stage a colour; of too many, the longest."""
    title, events = "What each worker of the backfill did", layer.events
    at = np.flatnonzero(layer.chosen)
    if not len(at):
        return _nothing(title, [layer])
    shown = np.sort(at[np.argsort(-events.took_ms[at], kind="stable")[:MOST_BARS]])
    workers, of_worker = events.columns["worker"]
    lines = sorted(events.counts("worker", layer.chosen), key=float)
    found = _clock(len(lines), "time since the first span (s)")
    names, of_stage = events.columns["stage"]
    for stage, colour in COLOURS.items():
        own = shown[of_stage[shown] == names.index(stage)] if stage in names else shown[:0]
        if len(own):
            rows = [f"worker {workers[code]}" for code in of_worker[own].tolist()]
            _bars(found, rows, events.at_s[own], events.took_ms[own] / 1e3, colour, stage, _told(events, own))
    found.update_yaxes(categoryorder="array", categoryarray=[f"worker {name}" for name in reversed(lines)])
    left = f"; the longest {len(shown):,} are drawn" if len(shown) < len(at) else ""
    return Drawn(title=title, caption=f"{_whose([layer])}{left}.", figure=found)


def _clock(lines: int, said: str) -> go.Figure:
    found = _begin(height=min(1600, 180 + 26 * lines), barmode="overlay", xaxis={"title": said}, bargap=0.15)
    found.update_yaxes(automargin=True, fixedrange=True)
    return found


def _bars(found: go.Figure, rows: Sequence[str], at_s: Floats, took_s: Floats, colour: str, name: str, told: Sequence[str]) -> None:
    whole = [f"{took:.4g} s, from {at:.4g} s on<br>{one}" for took, at, one in zip(took_s.tolist(), at_s.tolist(), told, strict=True)]
    found.add_bar(
        y=rows, x=took_s.round(6), base=at_s.round(6), orientation="h", marker={"color": colour, "line": {"width": 0}}, name=name,
        text=whole, textposition="none", hovertemplate=f"{name}: %{{text}}<extra></extra>",
    )  # fmt: skip


def drills(layer: Layer, recording: RecoveryRecording, slow_s: float) -> Drawn:
    """Draw what each view saw of the target in each drill, on the clock since its fault began."""
    title, wanted = "What could be seen of the target in each drill", layer.events.counts("drill", layer.chosen)
    views = set(layer.events.counts("view", layer.chosen))
    trials = [one for one in recording.context.trials if one.drill in wanted and one.injected_ns is not None]
    bars: list[tuple[str, int, float, float]] = []
    lines: list[str] = []
    left_out = 0
    for one in trials:
        for view, probes in seen(recording.probes(one)).items():
            if view in views and len(lines) == MOST_LINES:
                left_out += 1
            elif view in views:
                state = states(probes, int(slow_s * 1e9))
                sent_s, done_s = ((ns - (one.injected_ns or 0)) / 1e9 for ns in (probes.sent_ns, probes.done_ns))
                sent_s = np.where((sent_s < 0) & (done_s > 0) & (state < FULL), 0, sent_s)  # it met the fault while it waited
                changes = [0, *(np.flatnonzero(np.diff(state)) + 1).tolist()]
                edges_s = [*sent_s[changes].tolist(), float(done_s.max())]
                lines.append(safe(f"{one.drill}{f' #{one.trial}' if one.trial > 1 else ''}: {view}{' (invalid)' if one.reason else ''}"))
                bars += [(lines[-1], int(state[i]), *ends) for i, ends in zip(changes, itertools.pairwise(edges_s), strict=True)]
    if not bars:
        return _empty(title, "no drill is chosen, or none had a fault")
    found = _clock(len(lines), "time since the fault began (s)")
    for seen_as, look in LOOKS.items():
        if own := [bar for bar in bars if bar[1] == seen_as]:
            first_s, last_s = np.array([bar[2] for bar in own]), np.array([bar[3] for bar in own])
            _bars(found, [bar[0] for bar in own], first_s, last_s - first_s, look["facecolor"], look["label"], [bar[0] for bar in own])
    found.add_vline(x=0, line={"color": "black", "width": 1})
    found.update_yaxes(categoryorder="array", categoryarray=lines[::-1])
    left = f"; {counted(left_out, 'lines')} more are not drawn: choose a drill" if left_out else ""
    caption = f"{layer.name}, {counted(len(trials), 'trials')}, {counted(len(lines), 'lines')}{left}. The fault begins at 0."
    return Drawn(title=title, caption=caption, figure=found)
