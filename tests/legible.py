"""What a person can read in a figure: its words, whether any covers another, and its objective lines."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.lines import Line2D
from matplotlib.text import Text

from tapecheck.charts.figure import Chart, style


def promises(ax: Axes) -> dict[str, Line2D]:
    """Return the objective lines of an axes by what their legend says."""
    return {str(line.get_label()).removeprefix("objective "): line for line in ax.lines if str(line.get_label()).startswith("objective")}


def drawn(figure: Chart) -> tuple[RendererAgg, list[Text]]:
    """Draw a figure as its picture is drawn; return each text that can be seen in it."""
    with style():
        figure.set_dpi(110)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for ax in figure.axes:
        found += [ax.title, ax._left_title, *ax.texts]
        for axis, low, high in ((ax.xaxis, *sorted(ax.get_xlim())), (ax.yaxis, *sorted(ax.get_ylim()))):
            if ax.axison:
                ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                found += [axis.label, *(tick.label1 for tick in ticks if tick.label1.get_visible())]
    return canvas.get_renderer(), [text for text in found if text.get_visible() and text.get_text().strip()]


def ink(renderer: RendererAgg, text: Text) -> np.ndarray:
    renderer.clear()
    text.draw(renderer)
    return np.asarray(renderer.buffer_rgba())[..., 3] > 0


def illegible(figure: Chart) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the texts that leave the picture, and the pairs of which one covers the other."""
    renderer, texts = drawn(figure)
    width, height = figure.bbox.size
    boxes = {text: text.get_window_extent(renderer) for text in texts}
    outside = [text.get_text() for text, box in boxes.items() if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    near = [(a, b) for a, b in itertools.combinations(texts, 2) if boxes[a].overlaps(boxes[b])]
    return outside, [(a.get_text(), b.get_text()) for a, b in near if (ink(renderer, a) & ink(renderer, b)).any()]
