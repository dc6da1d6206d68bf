"""Draws docs/images/rooms.png: the rooms of the package, each above those that it imports, from the imports as they are (`make docs`)."""

from pathlib import Path

import grimp
import matplotlib as mpl
from matplotlib.figure import Figure

PACKAGE = "tapecheck"
FOLDERS = Path(__file__).parents[1] / "lib" / PACKAGE
EDGE, FILE, FOLDER = "#8a8f98", "#f2f3f5", "#d6e6f2"


def imports() -> dict[str, set[str]]:
    """Return for each room, a folder or file directly in the package, which others it imports."""
    graph = grimp.build_graph(PACKAGE)
    rooms = {module.split(".")[1] for module in graph.modules if module != PACKAGE}
    found: dict[str, set[str]] = {room: set() for room in sorted(rooms)}
    for module in graph.modules - {PACKAGE}:
        here = module.split(".")[1]
        found[here] |= {other.split(".")[1] for other in graph.find_modules_directly_imported_by(module) if other != PACKAGE} - {here}
    return found


def direct(found: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out each line to a room that is reached by way of another one."""

    def reached(room: str, seen: frozenset[str] = frozenset()) -> set[str]:
        return {room}.union(*(reached(other, seen | {room}) for other in found[room] - seen))

    return {room: {one for one in others if not any(one in reached(way) for way in others - {one})} for room, others in found.items()}


def heights(found: dict[str, set[str]]) -> dict[str, int]:
    """Return for each room how many rooms lie below it, one on the other."""
    height: dict[str, int] = {}

    def of(room: str) -> int:
        if room not in height:
            height[room] = 1 + max((of(other) for other in found[room]), default=-1)
        return height[room]

    for room in found:
        of(room)
    return height


def places(found: dict[str, set[str]], height: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Return where each room stands: a row for each height, in it each near the middle of what it imports."""
    at: dict[str, tuple[float, float]] = {}
    for row in range(max(height.values()) + 1):
        here = sorted(room for room in found if height[room] == row)
        here.sort(key=lambda room: sum(at[other][0] for other in found[room]) / max(1, len(found[room])))
        at |= {room: (k - (len(here) - 1) / 2, float(row)) for k, room in enumerate(here)}
    return at


def draw(path: Path) -> None:
    """Write the picture."""
    found = direct(imports())
    at = places(found, heights(found))
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        rows = 1 + max(y for _, y in at.values())
        figure = Figure(figsize=(11, 0.85 * rows), dpi=110)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for room, others in found.items():
            for other in sorted(others):
                axes.plot(*zip(at[room], at[other], strict=True), color=EDGE, lw=0.8, zorder=1)
        for room, (x, y) in at.items():
            is_folder = (FOLDERS / room).is_dir()
            box = {"boxstyle": "round,pad=0.45", "facecolor": FOLDER if is_folder else FILE, "edgecolor": EDGE}
            axes.text(x, y, room + ("/" if is_folder else ".py"), ha="center", va="center", bbox=box, zorder=2)
        width = max(abs(x) for x, _ in at.values()) + 0.7
        axes.set(xlim=(-width, width), ylim=(-0.7, rows - 0.3))
        figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    draw(Path(__file__).parent / "images" / "rooms.png")
