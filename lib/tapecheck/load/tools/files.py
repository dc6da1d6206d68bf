"""Files as they are read: line by line or row by row, plain or compressed, never as a whole. What a line means is its reader's business."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

GZIP = b"\x1f\x8b"
HEAD_BYTES = 65_536  # by which a file is recognised
FIELD_BYTES = 2**26  # of one field: vegeta stores whole bodies
UNREADABLE = (OSError, EOFError, zlib.error, ValueError, OverflowError, csv.Error, msgspec.DecodeError)

T = TypeVar("T")


class Broken(ValueError):
    """A file that is not what it began as; `got` says what is wrong."""

    def __init__(self, got: str, line: int | None = None) -> None:
        self.got, self.line = got, line
        super().__init__(got)


def opened(path: Path) -> BinaryIO:
    """Open a file, and look into it if it is compressed."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP
    return io.BufferedReader(gzip.open(path, "rb")) if compressed else path.open("rb")


def head(path: Path) -> str:
    """Return how a file begins; what is no text becomes question marks."""
    with opened(path) as file:
        return file.read(HEAD_BYTES).decode("utf-8-sig", errors="replace").lstrip()


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield every line with its number.

    Raises:
        Broken: the last line has no end.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                raise Broken("half a line at its end: it is half-written", number)
            yield number, line


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield every row of a CSV file with the number of its last line, blank lines left out.

    Raises:
        Broken: the last line has no end.
    """
    csv.field_size_limit(FIELD_BYTES)
    reader = csv.reader(line.decode("utf-8-sig" if number == 1 else "utf-8") for number, line in lines(path))
    for row in reader:
        if row:
            yield reader.line_num, row


def text(path: Path) -> str:
    """Return a short report as a whole."""
    with opened(path) as file:
        return file.read(FIELD_BYTES).decode("utf-8-sig")


def document(path: Path, kind: type[T]) -> T:
    """Return a JSON file as a whole.

    Raises:
        Broken: it is no JSON, or says something else.
    """
    try:
        return msgspec.json.decode(text(path), type=kind)
    except msgspec.ValidationError as error:
        raise Broken(f"something else ({str(error)[:80]}): of another version") from None
    except msgspec.DecodeError as error:
        raise Broken(f"broken JSON ({str(error)[:80]}): it is half-written") from None


def table(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield every row of a CSV file with the number of its line, by the names in its first line.

    Raises:
        Broken: a column is missing, or a row is not as long as the first line.
    """
    found = rows(path)
    _, header = next(found, (1, []))
    if missing := [name for name in needed if name not in header]:
        raise Broken(f"no column {', '.join(missing)}: of another version", 1)
    for number, row in found:
        if len(row) != len(header):
            raise Broken(f"{len(row)} columns where the first line has {len(header)}", number)
        yield number, dict(zip(header, row, strict=True))


def as_read(number: int, read: Callable[[], T]) -> T:
    """Return what `read` makes of a line.

    Raises:
        Broken: it cannot, with the number of the line.
    """
    try:
        return read()
    except Broken:
        raise
    except (ValueError, OverflowError, IndexError, KeyError, msgspec.DecodeError) as error:
        raise Broken(f"a line that cannot be read ({str(error)[:80]})", number) from None
