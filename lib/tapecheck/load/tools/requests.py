"""Single requests of another tool as they are read, a few bytes each; in the end they are samples. It reads no file."""

import re
from array import array
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from tapecheck.load.samples import SAMPLE, ErrorKind, Samples

NAMES = 100  # told apart; more are no parameter that anyone would compare
REMEMBERED = 10_000  # names whose number need not be found again; with a token in each URL there may be millions
MOST_BYTES = 2**32 - 1  # that a sample can hold
DIMENSION = "name"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECRET = re.compile(r"key|token|secret|signature|passw|auth|credential|session", re.IGNORECASE)


class Requests:
    """A list of requests that takes some 40 bytes for each."""

    _CODES: ClassVar[dict[str, str]] = {
        "sent_ns": "q", "first_byte_ns": "q", "done_ns": "q", "bytes": "I", "request": "I", "status": "H", "error": "B",
    }  # fmt: skip

    def __init__(self) -> None:
        self.origins: dict[str, None] = {}
        self._columns = {name: array(code) for name, code in self._CODES.items()}
        self._scenario = array("H")
        self._scenarios: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        self._numbers: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._scenario)

    def add(
        self,
        scenario: str,
        *,
        sent_ns: int,
        done_ns: int,
        first_byte_ns: int = 0,
        status: int = 0,
        error: ErrorKind = ErrorKind.none,
        size: int = 0,
        request: int = 0,
    ) -> None:
        """Add one; `request` is what `named` says of it.

        Raises:
            ValueError: it ends before it begins.
        """
        if done_ns < sent_ns:
            raise ValueError(f"a request that took {(done_ns - sent_ns) / 1e6:g} ms")
        self._scenario.append(self._scenarios.setdefault(scenario, len(self._scenarios)))
        for column, value in zip(
            self._columns.values(), (sent_ns, first_byte_ns, done_ns, min(size, MOST_BYTES), request, status, error), strict=True
        ):
            column.append(value)

    def named(self, method: str, name: str, url: str = "") -> int:
        """Return the number of a kind of request, by its method and its name, which may be its URL; beyond `NAMES` they are all one."""
        number = self._numbers.get((method, name))
        if number is None:
            number = self._number(label(method, name), origin_of(url or name))
            if len(self._numbers) < REMEMBERED:
                self._numbers[method, name] = number
        return number

    def _number(self, text: str, origin: str) -> int:
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

    def started_at(self) -> datetime:
        """Return when the first was sent, of a tool whose clock counts from 1970."""
        return EPOCH + timedelta(microseconds=min(self._columns["sent_ns"]) // 1000)


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
