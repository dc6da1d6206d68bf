"""Files of other tools as they are read, whatever their compression and encoding, and the requests in them.

What a line means is its reader's business.
"""

import codecs
import csv
import functools
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec
import numpy as np
from numpy.typing import NDArray

from tapecheck.load.engine.recorder import SAMPLE, ErrorKind, Samples
from tapecheck.load.recording import SCHEDULE, ImportedSummary, Tool

GZIP = b"\x1f\x8b"
HEAD_CHARACTERS = 65_536  # by which most files are recognised
MOST_REQUESTS = 20_000_000  # of a file, as of a recording
MOST_CHARACTERS = 2**26  # of one line or field, since vegeta stores whole bodies, or of a document
UNREADABLE = (
    *(OSError, EOFError, zlib.error, csv.Error, msgspec.DecodeError),
    *(ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError),  # where a document has another shape
)

T = TypeVar("T")
U = TypeVar("U")


class BrokenFile(ValueError):
    """A file that is not what it began as; `got` says what is wrong."""

    def __init__(self, got: str, line: int | None = None) -> None:
        self.got, self.line = got, line
        super().__init__(got)


def opened(path: Path, errors: str = "strict") -> io.TextIOWrapper:
    """Open a file as text: plain or gzip, UTF-8 or, by its mark, UTF-16, with any line ends."""
    with path.open("rb") as file:
        is_compressed = file.read(2) == GZIP
    raw = io.BufferedReader(gzip.GzipFile(path)) if is_compressed else path.open("rb")
    is_wide = raw.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return io.TextIOWrapper(raw, encoding="utf-16" if is_wide else "utf-8-sig", errors=errors)


def head(path: Path, characters: int = HEAD_CHARACTERS) -> str:
    """Return how a file begins; what is no text becomes question marks."""
    with opened(path, errors="replace") as file:
        return file.read(characters).lstrip()


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every line with its number; a last one without an end is a broken file, as is one of more than `MOST_CHARACTERS`."""
    with opened(path) as file:
        for number, line in enumerate(iter(functools.partial(file.readline, MOST_CHARACTERS), ""), 1):
            if not line.endswith("\n"):
                raise BrokenFile("half a line at its end: it is half-written", number)
            yield number, line


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield every row of a CSV file with the number of its last line, blank lines left out."""
    csv.field_size_limit(MOST_CHARACTERS)
    reader = csv.reader(line for _, line in lines(path))
    yield from ((reader.line_num, row) for row in reader if row)


def text(path: Path) -> str:
    """Return a report as a whole."""
    with opened(path) as file:
        return file.read(MOST_CHARACTERS)


def document(path: Path, kind: type[T], found: str | None = None) -> T:
    """Return a JSON file, or a text that was found in it, as a whole."""
    try:
        return msgspec.json.decode(text(path) if found is None else found, type=kind)
    except msgspec.ValidationError as error:
        raise BrokenFile(f"something else ({str(error)[:80]}): of another version") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BrokenFile(f"broken JSON ({str(error)[:80]}): it is half-written") from None


def table(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield every row of a CSV file with the number of its line, by the names in its first line."""
    found = rows(path)
    _, header = next(found, (1, []))
    if missing := [name for name in needed if name not in header]:
        raise BrokenFile(f"no column {', '.join(missing)}: of another version", 1)
    for number, row in found:
        if len(row) != len(header):
            raise BrokenFile(f"{len(row)} columns where the first line has {len(header)}", number)
        yield number, dict(zip(header, row, strict=True))


def parsed(items: Iterable[tuple[int, T]], parse: Callable[[T], U]) -> Iterator[tuple[int, U]]:
    """Yield what `parse` makes of each line or row, with its number; a broken file where it cannot."""
    for number, item in items:
        try:
            value = parse(item)
        except BrokenFile:
            raise
        except UNREADABLE as error:
            raise BrokenFile(f"a line that cannot be read ({str(error)[:80]})", number) from None
        yield number, value


# ---- failures ----

_URL = re.compile(r'"[a-z]+://[^"]*"|[a-z]+://\S+|\burl: \S+|\bhost=\S+|\blookup \S+', re.IGNORECASE)  # says nothing of a failure
_MESSAGES = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"^CatchResponseError", ErrorKind.content),
        (r"connection ?refused", ErrorKind.connect_refused),
        (r"too many open files|cannot assign requested address", ErrorKind.local),
        (r"no such host|no route to host|network is unreachable|gaierror|name or service not known|UnknownHost", ErrorKind.unreachable),
        (r"\btls: |\bx509: |certificate verify failed|SSLError|SSLCert|SSLHandshake", ErrorKind.tls),
        (r"dial.*(i/o timeout|deadline exceeded)|ConnectTimeout", ErrorKind.connect_timeout),
        (r"BadStatusCode|HTTPError|^\d{3} [A-Z]", ErrorKind.status),
        (r"timeout|timed out|deadline exceeded", ErrorKind.timeout),
        (r"connection ?reset|broken ?pipe", ErrorKind.reset),
        (r"EOF|server closed|RemoteDisconnected|ConnectionClosed|IncompleteRead|NoHttpResponse", ErrorKind.closed_early),
        (r"malformed HTTP|HTTPParseError", ErrorKind.protocol),
    )
)  # as Go's net/http says it, on which k6, vegeta and hey are built, and as Python's clients do; the first that fits


def kind_of(message: str, status: int = 0) -> ErrorKind:
    """Return the kind of a failure from its message and, where an answer came, its status; none where both are well."""
    if status and (is_failure(status) or not message):
        return ErrorKind.status if is_failure(status) else ErrorKind.none
    said = _URL.sub("", message)
    return next((kind for pattern, kind in _MESSAGES if pattern.search(said)), ErrorKind.other)


def is_failure(status: int) -> bool:
    """Tell whether an answer is a failure, where the tool leaves that to its reader: anything but 200 to 399."""
    return not 200 <= status < 400


# ---- names ----

REMEMBERED = 10_000  # names that need not be read again; with a token in each URL there may be millions
_ORIGIN = re.compile(r"([A-Za-z][\w+.-]*://)([^/?#]*)")
_PARAMETER = re.compile(r"([?&;])([^=&;#?\s]+)=([^&;#?\s]*)")  # of a query, or of a path as in ;jsessionid=
_SECRET = re.compile(
    r"key|token|secret|signature|passw|pwd|auth|credential|session|sessid|jwt|hmac|access|bearer"
    r"|(?<![a-z])(sig|pass|pw|otp|pin)(?![a-z])|^(code|sid|state|ticket)$"
)


@functools.lru_cache(REMEMBERED)
def label(method: str, name: str) -> str:
    """Name a kind of request on one line: its method, path and query, without the values that look like secrets."""
    origin = _ORIGIN.match(name)
    rest = (name[origin.end() :] or "/") if origin else name
    rest = rest.partition("#")[0] if rest.startswith(("/", "?")) else rest

    def shown(found: re.Match[str]) -> str:
        split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", unquote(found[2])).lower()  # apiKey
        return f"{found[1]}{found[2]}={'…' if _SECRET.search(split) else found[3]}"

    return " ".join(f"{method} {_PARAMETER.sub(shown, rest)}".split())


@functools.lru_cache(REMEMBERED)
def origin_of(url: str) -> str:
    """Return where a URL leads, without who goes there; empty for what is no URL."""
    found = _ORIGIN.match(url)
    return found[1] + found[2].rpartition("@")[2] if found and found[2] else ""


# ---- requests ----

NAMES = 100  # told apart; more are no parameter that anyone would compare
MOST_BYTES = 2**32 - 1  # that a sample can hold
LONGEST_NS = 10**15  # of one request: 11 days
STEP_BACK_MS = 120_000.0  # beyond what a distributed JMeter writes late
DIMENSION = "name"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SINCE_1970_NS = 10**17  # a clock that shows less, three years, counts from elsewhere


OF_SAMPLE = ("sent_ns", "first_byte_ns", "done_ns", "bytes", "request", "status", "error")
ROW = np.dtype([*((name, SAMPLE[name]) for name in OF_SAMPLE), ("scenario", np.uint16)])


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
    """Single requests, of which each takes some 40 bytes; none at all, or one that ends before it begins, is a broken file.

    So are requests twice, where the clock is `exact` enough to tell.
    """

    def __init__(self, found: Iterable[tuple[int, Request]], *, exact: bool = True) -> None:
        self.origins: dict[str, None] = {}
        self._scenarios: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        self.rows = np.fromiter(itertools.islice((row for _, row in parsed(found, self._row)), MOST_REQUESTS + 1), ROW)
        if not 0 < len(self.rows) <= MOST_REQUESTS:
            raise BrokenFile(f"more than {MOST_REQUESTS:,} requests" if len(self.rows) else "no request")
        self.clock_back_ms = float((np.maximum.accumulate(self.rows["done_ns"]) - self.rows["done_ns"]).max() / 1e6)
        self.is_exact = exact
        self.check_once()

    def spans(self, kept: slice | NDArray[np.bool_] = slice(None)) -> NDArray[np.int64]:
        """Return a number for the times of each request, sorted: whatever overflows, equal ones stay equal."""
        found: NDArray[np.int64] = np.sort((self.rows["sent_ns"] * 1_000_003 + self.rows["done_ns"])[kept])
        return found

    def check_once(self) -> None:
        """Refuse requests twice, where the clock is exact enough to tell."""
        twice = np.count_nonzero(np.diff(self.spans(self.rows["done_ns"] > self.rows["sent_ns"])) == 0) if self.is_exact else 0
        if twice > len(self.rows) // 10_000:
            raise BrokenFile(f"{twice:,} requests twice, to the nanosecond: parts of it are repeated")

    def _row(self, one: Request) -> tuple[int, ...]:
        if not 0 <= one.done_ns - one.sent_ns <= LONGEST_NS:
            raise ValueError(f"a request that took {(one.done_ns - one.sent_ns) / 1e6:g} ms")
        number = self._number(label(one.method, one.name), origin_of(one.url or one.name)) if one.name else self._number("")
        scenario = self._scenarios.setdefault(one.scenario, len(self._scenarios))
        if scenario > REMEMBERED:
            raise ValueError(f"more than {REMEMBERED:,} scenarios")
        return one.sent_ns, one.first_byte_ns, one.done_ns, min(one.bytes, MOST_BYTES), number, one.status, one.error, scenario

    def _number(self, text: str, origin: str = "") -> int:
        """Return the number of a kind of request; beyond `NAMES` they are all one."""
        if origin and len(self.origins) < NAMES:
            self.origins.setdefault(origin)
        if len(self._labels) > NAMES:
            return self._labels.get(text, 0)
        return self._labels.setdefault(text, len(self._labels))

    def pool(self, other: "Requests") -> None:
        """Take the requests of another file of the same run."""
        self.origins |= other.origins
        scenarios = np.array([self._scenarios.setdefault(name, len(self._scenarios)) for name in other._scenarios])
        labels = np.array([self._number(text) for text in other._labels] or [0])
        rows = other.rows.copy()
        rows["scenario"], rows["request"] = scenarios[rows["scenario"]], labels[rows["request"]]
        self.rows = np.concatenate([self.rows, rows])

    def leave_out(self, scenario: str) -> int:
        """Leave a scenario out where there are others; return how many requests that takes."""
        aside = self.rows["scenario"] == self._scenarios.get(scenario, len(self._scenarios))
        if aside.all():
            return 0
        self.rows = self.rows[~aside]
        return int(np.count_nonzero(aside))

    @property
    def values(self) -> list[dict[str, str]]:
        """Return the parameters of each kind of request, by its number."""
        return [{DIMENSION: text} for text in self._labels] if any(self._labels) and len(self._labels) <= NAMES else [{}] * (NAMES + 1)

    def samples(self) -> dict[str, Samples]:
        """Return the samples of each scenario, by the time at which they were sent."""
        found = {}
        for name, code in self._scenarios.items():
            own = self.rows[self.rows["scenario"] == code]
            own = own[np.argsort(own["sent_ns"], kind="stable")]
            samples = np.zeros(len(own), SAMPLE)
            for column in OF_SAMPLE:
                samples[column] = own[column]
            samples["intended_ns"], samples["connection_reused"] = own["sent_ns"], True
            samples["server_ms"] = samples["db_ms"] = np.nan
            if len(own):
                found[name] = samples
        return found

    @property
    def span_ns(self) -> tuple[int, int]:
        """Return when the first was sent and the last had ended, on the tool's clock."""
        return int(self.rows["sent_ns"].min()), int(self.rows["done_ns"].max())

    def pause_s(self) -> float:
        """Return the longest time in which nothing was in flight."""
        order = np.argsort(self.rows["sent_ns"])
        idle_ns = self.rows["sent_ns"][order][1:] - np.maximum.accumulate(self.rows["done_ns"][order])[:-1]
        return float(idle_ns.max(initial=0) / 1e9)

    @property
    def started_at(self) -> datetime | None:
        """Return when the first was sent; None where the clock counts from the start of the run, and not from 1970."""
        first_ns, _ = self.span_ns
        return EPOCH + timedelta(microseconds=first_ns // 1000) if first_ns >= SINCE_1970_NS else None


def nanoseconds(at: datetime) -> int:
    """Return an instant in ns since 1970, exact to the microsecond; a ValueError without a time zone."""
    if at.tzinfo is None:
        raise ValueError(f"a time without its zone: {at}")
    return (at - EPOCH) // timedelta(microseconds=1) * 1000


# ---- measurement ----

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


def tool(name: str, output: str, *notes: str, answers_only: bool = False) -> Tool:
    """Name the tool behind a file, which does not say when its requests were due."""
    return Tool(name=name, output=output, notes=(SCHEDULE, *notes), answers_only=answers_only)
