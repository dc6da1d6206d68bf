"""Checks what answers contain, after the timed part: a fast wrong answer is a failure. It receives nothing itself."""

import json
import zlib
from collections.abc import Mapping, Sequence

from httptools import HttpParserError, HttpResponseParser

from tapecheck.errors import shown

BODIES_LIMIT = 64  # answers kept in one scenario
BYTES_LIMIT = 64 * 2**20  # of all of them, and of one when decompressed
FIRST_STRIDE = 50  # every 50th answer is kept, until there are too many; then every 100th, 200th, …


class ParsedAnswer:
    """An answer taken apart once more, with its headers and body this time."""

    def __init__(self, raw: Sequence[bytes]) -> None:
        self.headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        parser = HttpResponseParser(self)
        for part in raw:
            parser.feed_data(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header from the parser."""
        self.headers[name.lower()] = value

    def on_body(self, part: bytes) -> None:
        """Take a part of the body from the parser."""
        self._body.append(part)

    @property
    def body(self) -> bytes:
        """Return the decoded body, of at most `BYTES_LIMIT`.

        Raises:
            ValueError: the declared compression does not fit the body, or is not one that we know.
        """
        return decoded(b"".join(self._body), self.headers.get(b"content-encoding", b"").strip().lower().decode("latin-1"))

    @property
    def is_json(self) -> bool:
        """Tell whether the answer calls itself JSON."""
        return is_json(self.headers.get(b"content-type", b"").decode("latin-1"))


def is_json(content_type: str) -> bool:
    """Tell whether a Content-Type names JSON: application/json, application/problem+json."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.endswith(("/json", "+json"))


def decoded(body: bytes, encoding: str) -> bytes:
    """Undo a Content-Encoding, as `ParsedAnswer.body` says."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"the body is compressed with {encoding!r}, which was not asked for")
    inflate = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
    try:
        out = inflate.decompress(body, BYTES_LIMIT)
    except zlib.error as error:
        raise ValueError(f"the body is not {encoding}: {error}") from None
    if not inflate.eof:
        raise ValueError(f"the {encoding} body is cut off, or larger than {BYTES_LIMIT} bytes")
    return out


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
            return f"{key!r} is {_short(repr(data[key]))}, expected {value!r}"
    return None


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def is_wrong(raw: Sequence[bytes], expected: Mapping[str, object], *, bodiless: bool) -> bool:
    """Tell whether a kept answer, as it came over the wire, is not what was expected."""
    if bodiless:
        return False
    try:
        answer = ParsedAnswer(raw)
        return wrong(answer.body, expected, says_json=answer.is_json) is not None
    except (HttpParserError, ValueError):
        return True


class Kept:
    """A deterministic sample of answers: the first of every combination in a round, and every so-many-th.

    When it is full, every second one is let go and the stride doubles, so that the sample goes on to the end.
    """

    def __init__(self, combinations: int) -> None:
        self._combinations = combinations
        self._stride = FIRST_STRIDE
        self._answers: list[tuple[int, int, list[bytes], int]] = []
        self._bytes = 0
        self._origin = 0
        self.next = 0

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
        size = sum(map(len, raw))
        if self._bytes + size > BYTES_LIMIT:
            return
        if len(self._answers) == BODIES_LIMIT:
            self._answers = self._answers[::2]
            self._bytes = sum(answer[3] for answer in self._answers)
            self._stride *= 2
        self._answers.append((number, combination, raw, size))
        self._bytes += size

    def take(self) -> list[tuple[int, int, list[bytes]]]:
        """Return (request, combination, raw answer) of all that were kept, and forget them."""
        answers, self._answers = self._answers, []
        return [(number, combination, raw) for number, combination, raw, _ in answers]
