"""The house stays small: lines, modules, the length of functions, names of classes, circles of imports."""

import ast
from collections import Counter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "lib" / "tapecheck").rglob("*.py"))
LINES, MODULES, TEST_LINES = 34_400, 182, 31_000  # on the way to 19,000, 120 and 18,000: lower them with every cut
LONGEST_FUNCTION, LONGEST_MODULE = 40, 420
ONE_OF_EACH_VALIDATION = {"Context", "Settings", "Recording"}  # the shape of validation.py gives each of them these


def lines(files: list[Path]) -> int:
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def functions(file: Path) -> list[tuple[str, int]]:
    """Return the name and length of each function, without its docstring."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            text = node.body[0] if ast.get_docstring(node) else None
            docstring = text.end_lineno - text.lineno + 1 if text and text.end_lineno else 0
            found.append((f"{file.name}: {node.name}", node.end_lineno - node.lineno + 1 - docstring))
    return found


def test_the_library_is_small() -> None:
    """Docstrings, comments and blank lines count."""
    found = lines(LIBRARY), len(LIBRARY)
    print(f"\nlib: {found[0]:,} lines in {found[1]} modules")
    assert found[0] <= LINES and found[1] <= MODULES


def test_the_tests_are_small() -> None:
    """What is tested twice is tested once."""
    found = lines(sorted((ROOT / "tests").rglob("*.py")))
    print(f"\ntests: {found:,} lines")
    assert found <= TEST_LINES


def test_no_module_is_two() -> None:
    """A module that is longer than a reader holds in mind wants to be two."""
    assert not [f"{file.name}: {lines([file])}" for file in LIBRARY if lines([file]) > LONGEST_MODULE]


def test_functions_are_short() -> None:
    """None has more lines than fit on a screen."""
    found = [one for file in LIBRARY for one in functions(file)]
    print(f"\nmedian function: {sorted(length for _, length in found)[len(found) // 2]} lines")
    assert not [one for one in found if one[1] > LONGEST_FUNCTION]


def test_no_two_classes_share_a_name() -> None:
    """One name, one meaning; but each validation has its own of what the shape asks of it."""
    classes = Counter(
        node.name for file in LIBRARY for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)
    )
    print(f"\nclasses: {len(classes)}")
    assert not [name for name, count in classes.items() if count > 1 and not name.startswith("_") and name not in ONE_OF_EACH_VALIDATION]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("tapecheck")


def test_no_circle_of_imports(graph: grimp.ImportGraph) -> None:
    """No module imports another that needs it, not even late in a function."""
    waiting = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while free := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting


def test_no_circle_of_rooms(graph: grimp.ImportGraph) -> None:
    """Nor does a room, a folder or file directly in the package, need another that needs it."""
    waiting: dict[str, set[str]] = {}
    for module in graph.modules - {"tapecheck"}:
        room = module.split(".")[1]
        others = {other.split(".")[1] for other in graph.find_modules_directly_imported_by(module) if other != "tapecheck"}
        waiting.setdefault(room, set()).update(others - {room})
    while free := [room for room, needs in waiting.items() if not needs & waiting.keys()]:
        for room in free:
            del waiting[room]
    assert not waiting
