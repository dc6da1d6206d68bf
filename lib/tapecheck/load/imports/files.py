"""Files as they are read: line by line or row by row, plain or compressed, never as a whole. What a line means is its reader's business."""

import csv
import gzip
import io
import re
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from tapecheck.load.engine.recorder import SAMPLE, ErrorKind, Samples
from tapecheck.load.recording import ImportedFigures, ImportedSummary, Tool

GZIP = b"\x1f\x8b"
HEAD_BYTES = 65_536  # by which a file is recognised
FIELD_BYTES = 2**26  # of one field: vegeta stores whole bodies
UNREADABLE = (OSError, EOFError, zlib.error, ValueError, OverflowError, csv.Error, msgspec.DecodeError)

T = TypeVar("T")
U = TypeVar("U")


class BrokenFile(ValueError):
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
        BrokenFile: the last line has no end.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                raise BrokenFile("half a line at its end: it is half-written", number)
            yield number, line


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield every row of a CSV file with the number of its last line, blank lines left out.

    Raises:
        BrokenFile: the last line has no end.
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
        BrokenFile: it is no JSON, or says something else.
    """
    try:
        return msgspec.json.decode(text(path), type=kind)
    except msgspec.ValidationError as error:
        raise BrokenFile(f"something else ({str(error)[:80]}): of another version") from None
    except msgspec.DecodeError as error:
        raise BrokenFile(f"broken JSON ({str(error)[:80]}): it is half-written") from None


def table(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield every row of a CSV file with the number of its line, by the names in its first line.

    Raises:
        BrokenFile: a column is missing, or a row is not as long as the first line.
    """
    found = rows(path)
    _, header = next(found, (1, []))
    if missing := [name for name in needed if name not in header]:
        raise BrokenFile(f"no column {', '.join(missing)}: of another version", 1)
    for number, row in found:
        if len(row) != len(header):
            raise BrokenFile(f"{len(row)} columns where the first line has {len(header)}", number)
        yield number, dict(zip(header, row, strict=True))


def parsed(items: Iterable[tuple[int, T]], parse: Callable[[T], U]) -> Iterator[tuple[int, U]]:
    """Yield what `parse` makes of each line or row, with its number.

    Raises:
        BrokenFile: it cannot, with the number of the line.
    """
    for number, item in items:
        try:
            value = parse(item)
        except BrokenFile:
            raise
        except (ValueError, OverflowError, IndexError, KeyError, msgspec.DecodeError) as error:
            raise BrokenFile(f"a line that cannot be read ({str(error)[:80]})", number) from None
        yield number, value


# ---- failures ----

_MESSAGES = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"connection ?refused", ErrorKind.connect_refused),
        (r"too many open files|cannot assign requested address", ErrorKind.local),
        (r"no such host|no route to host|network is unreachable|gaierror|name or service not known", ErrorKind.unreachable),
        (r"tls:|x509:|certificate|SSLError", ErrorKind.tls),
        (r"dial.*(i/o timeout|deadline exceeded)|ConnectTimeout", ErrorKind.connect_timeout),
        (r"BadStatusCode|HTTPError|^\d{3} [A-Z]", ErrorKind.status),
        (r"CatchResponseError", ErrorKind.content),
        (r"timeout|timed out|deadline exceeded", ErrorKind.timeout),
        (r"connection ?reset|broken ?pipe", ErrorKind.reset),
        (r"EOF|server closed|RemoteDisconnected|ConnectionClosed|IncompleteRead", ErrorKind.closed_early),
        (r"malformed HTTP|HTTPParseError", ErrorKind.protocol),
    )
)  # as Go's net/http says it, on which k6, vegeta and hey are built, and as Python's clients do; the first that fits


def kind_of(message: str, status: int = 0) -> ErrorKind:
    """Return the kind of a failure from its message and, where an answer came, its status; none where both are well."""
    if status and (is_failure(status) or not message):
        return ErrorKind.status if is_failure(status) else ErrorKind.none
    return next((kind for pattern, kind in _MESSAGES if pattern.search(message)), ErrorKind.other)


def is_failure(status: int) -> bool:
    """Tell whether an answer is a failure, where the tool leaves that to its reader: anything but 200 to 399."""
    return not 200 <= status < 400


# ---- requests ----

NAMES = 100  # told apart; more are no parameter that anyone would compare
REMEMBERED = 10_000  # names whose number need not be found again; with a token in each URL there may be millions
MOST_BYTES = 2**32 - 1  # that a sample can hold
DIMENSION = "name"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SINCE_1970_NS = 10**17  # a clock that shows less, three years, counts from elsewhere
_SECRET = re.compile(r"key|token|secret|signature|passw|auth|credential|session", re.IGNORECASE)


class Request(NamedTuple):
    """One request as a tool reports it, by its method and its name, which may be its URL."""

    scenario: str
    sent_ns: int
    done_ns: int
    status: int = 0
    error: ErrorKind = ErrorKind.none
    first_byte_ns: int = 0
    bytes: int = 0
    method: str = ""
    name: str = ""
    url: str = ""


class Requests:
    """Single requests, of which each takes some 40 bytes.

    Raises:
        BrokenFile: there is none, or one ends before it begins.
    """

    _CODES: ClassVar[dict[str, str]] = {
        "sent_ns": "q", "first_byte_ns": "q", "done_ns": "q", "bytes": "I", "request": "I", "status": "H", "error": "B",
    }  # fmt: skip

    def __init__(self, found: Iterable[tuple[int, Request]]) -> None:
        self.origins: dict[str, None] = {}
        self._columns = {name: array(code) for name, code in self._CODES.items()}
        self._scenario = array("H")
        self._scenarios: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        for _ in parsed(found, self._add):
            pass
        if not self._scenario:
            raise BrokenFile("no request")

    def _add(self, one: Request) -> None:
        if one.done_ns < one.sent_ns:
            raise ValueError(f"a request that took {(one.done_ns - one.sent_ns) / 1e6:g} ms")
        self._scenario.append(self._scenarios.setdefault(one.scenario, len(self._scenarios)))
        number = self._numbers.get((one.method, one.name))
        if number is None:
            number = self._number(label(one.method, one.name), origin_of(one.url or one.name)) if one.name else 0
            if len(self._numbers) < REMEMBERED:
                self._numbers[one.method, one.name] = number
        values = (one.sent_ns, one.first_byte_ns, one.done_ns, min(one.bytes, MOST_BYTES), number, one.status, one.error)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def _number(self, text: str, origin: str) -> int:
        """Return the number of a kind of request; beyond `NAMES` they are all one."""
        if origin and len(self.origins) < NAMES:
            self.origins.setdefault(origin)
        if len(self._labels) > NAMES:
            return self._labels.get(text, 0)
        return self._labels.setdefault(text, len(self._labels))

    def leave_out(self, scenario: str) -> int:
        """Leave a scenario out where there are others; return how many requests that takes."""
        if len(self._scenarios) < 2 or scenario not in self._scenarios:
            return 0
        return self._scenario.count(self._scenarios.pop(scenario))

    @property
    def values(self) -> list[dict[str, str]]:
        """Return the parameters of each kind of request, by its number."""
        return [{DIMENSION: text} for text in self._labels] if 0 < len(self._labels) <= NAMES else [{}] * (NAMES + 1)

    def samples(self) -> dict[str, Samples]:
        """Return the samples of each scenario, by the time at which they were sent."""
        columns = {name: np.frombuffer(column, column.typecode) for name, column in self._columns.items()}
        scenario = np.frombuffer(self._scenario, self._scenario.typecode)
        return {name: _sorted(columns, np.flatnonzero(scenario == code)) for name, code in self._scenarios.items()}

    @property
    def started_at(self) -> datetime | None:
        """Return when the first was sent; None where the clock counts from the start of the run, and not from 1970."""
        first_ns = min(self._columns["sent_ns"])
        return EPOCH + timedelta(microseconds=first_ns // 1000) if first_ns >= SINCE_1970_NS else None


def _sorted(columns: dict[str, NDArray[np.integer]], chosen: NDArray[np.int64]) -> Samples:
    order = chosen[np.argsort(columns["sent_ns"][chosen], kind="stable")]
    rows = np.zeros(len(order), SAMPLE)
    for name, column in columns.items():
        rows[name] = column[order]
    rows["intended_ns"] = rows["sent_ns"]
    rows["server_ms"] = rows["db_ms"] = np.nan
    rows["connection_reused"] = True
    return rows


def nanoseconds(at: datetime) -> int:
    """Return an instant in ns since 1970, exact to the microsecond.

    Raises:
        ValueError: it has no time zone.
    """
    if at.tzinfo is None:
        raise ValueError(f"a time without its zone: {at}")
    return (at - EPOCH) // timedelta(microseconds=1) * 1000


def label(method: str, name: str) -> str:
    """Name a kind of request: its method, path and query, without the values that look like secrets."""
    if "?" not in name and "://" not in name:
        return f"{method} {name}".strip()
    parts = urlsplit(name)
    query = "&".join(f"{key}={'…' if _SECRET.search(key) else value}" for key, value in parse_qsl(parts.query, keep_blank_values=True))
    return f"{method} {parts.path or '/'}{'?' if query else ''}{query}".strip()


def origin_of(url: str) -> str:
    """Return where a URL leads, without who goes there; empty for what is no URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.scheme and parts.netloc else ""


# ---- measurement ----

SCHEDULE = "it does not say when requests were due: response time is service time, and coordinated omission cannot be excluded"
CLOSED = "who sends waits for the answer first (a closed model), so it asks a target that stalls less, and finds it too fast"
CUT_OFF = "what was in flight when it stopped is missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRun:
    """Single requests, or figures by scenario, and what else the file says.

    `achieved_ratio` is of what the tool was to send; `clock_error_ms` how far off its duration may be.
    """

    tool: Tool
    requests: Requests | None = None
    summaries: Mapping[str, ImportedSummary] = field(default_factory=dict)
    url: str = ""
    started_at: datetime | None = None
    achieved_ratio: Mapping[str, float] = field(default_factory=dict)
    clock_error_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One kind of file: what it is called, how its text begins, and what reads it."""

    name: str
    begins: Callable[[str], bool]
    read: Callable[[Path], ImportedRun]


def summary(
    total: ImportedFigures, *, duration_s: float, errors: Mapping[str, int], by: Mapping[str, ImportedFigures] | None = None
) -> ImportedSummary:
    """Put together what a tool reports of all requests, and of those of each name."""
    every = {name: getattr(total, name) for name in ImportedFigures.__dataclass_fields__}
    kinds = {kind: count for kind, count in errors.items() if count}
    return ImportedSummary(**every, duration_s=duration_s, errors=kinds, by={DIMENSION: dict(by)} if by else {})


def tool(name: str, output: str, *notes: str, answers_only: bool = False) -> Tool:
    """Name the tool behind a file; none of them says when its requests were due."""
    return Tool(name=name, output=output, notes=(SCHEDULE, *notes), answers_only=answers_only)
