"""Checks what answers contain, after the timed part: a fast wrong answer is a failure. It receives nothing itself."""

import json
import zlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from httptools import HttpParserError, HttpResponseParser

from tapecheck import text
from tapecheck.errors import shown

BODIES_LIMIT = 64  # answers kept in one scenario
BYTES_LIMIT = 64 * 2**20  # of all of them, and of one when decompressed
FIRST_STRIDE = 50  # every 50th answer is kept, until there are too many; then every 100th, 200th, …
MOST_SHOWN = 60  # characters of a wrong value


def is_json(content_type: str) -> bool:
    """Tell whether a Content-Type names JSON: application/json, application/problem+json."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.endswith(("/json", "+json"))


def wrong(body: bytes, expected: Mapping[str, object], *, says_json: bool) -> str | None:
    """Say what is wrong with a decoded body, or None.

    A body that calls itself JSON must be JSON; each expected key must have its value at the top level, where
    a number matches its text.
    """
    if not says_json and not expected:
        return None
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return f"the body is not JSON: {shown(body)}"
    if expected and not isinstance(data, dict):
        return f"the body is a JSON {type(data).__name__}, not an object"
    for key, value in expected.items():
        if key not in data:
            return f"the body has no {key!r}"
        if data[key] != value and str(data[key]) != str(value):
            got = text.redact(repr(data[key]))
            return f"{key!r} is {got if len(got) <= MOST_SHOWN else got[: MOST_SHOWN - 3] + '...'}, expected {value!r}"
    return None


def is_wrong(raw: Sequence[bytes], expected: Mapping[str, object], *, bodiless: bool) -> bool:
    """Tell whether a kept answer, as it came over the wire, is not what was expected."""
    if bodiless:
        return False
    headers: dict[str, str] = {}
    parts: list[bytes] = []

    def on_header(name: bytes, value: bytes) -> None:
        headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    parser = HttpResponseParser(SimpleNamespace(on_header=on_header, on_body=parts.append))
    try:
        for part in raw:
            parser.feed_data(part)
        body = _decoded(b"".join(parts), headers.get("content-encoding", "").strip().lower())
        return wrong(body, expected, says_json=is_json(headers.get("content-type", ""))) is not None
    except (HttpParserError, ValueError, zlib.error):
        return True


def _decoded(body: bytes, encoding: str) -> bytes:
    """Undo a Content-Encoding; a ValueError where it is none that was asked for, or the body is cut off or too large."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(encoding)
    inflate = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
    out = inflate.decompress(body, BYTES_LIMIT)
    if not inflate.eof:
        raise ValueError(len(out))
    return out


class Kept:
    """A deterministic sample of answers: the first of every combination in a round, and every so-many-th.

    When it is full, every second one is let go and the stride doubles, so that the sample goes on to the end.
    """

    def __init__(self, combinations: int) -> None:
        self.answers: list[tuple[int, int, list[bytes]]] = []  # (request, combination, raw answer)
        self.next = 0
        self._combinations, self._stride, self._origin = combinations, FIRST_STRIDE, 0

    def start_round(self, number: int) -> None:
        """Begin a round whose first request is `number`."""
        self._origin = self.next = number

    def advance(self, number: int) -> list[bytes]:
        """Return where the answer of request `number` is to be kept, and find the next one to keep."""
        offset = number - self._origin + 1
        if offset >= self._combinations:
            offset = max(offset, -(-offset // self._stride) * self._stride)
        self.next = self._origin + offset
        return []

    def add(self, number: int, combination: int, raw: list[bytes]) -> None:
        """Keep the answer to request `number`, if memory allows."""
        if sum(len(part) for *_, one in [*self.answers, (0, 0, raw)] for part in one) > BYTES_LIMIT:
            return
        if len(self.answers) == BODIES_LIMIT:
            self.answers = self.answers[::2]
            self._stride *= 2
        self.answers.append((number, combination, raw))
