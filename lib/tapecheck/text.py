"""What every text passes before it leaves this process: secrets are blanked out, and foreign text stays text wherever it stands.

Nothing passes it before it is parsed or judged. A secret is known from the moment that a target file names its place.
"""

import base64
import functools
import html
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TextIO
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

MARK = "***"
ANYWHERE, APART = 12, 6  # characters of a secret: so many are found within words, so many as words; fewer only as a whole text
_SCHEMES = ("bearer", "basic", "token", "apikey", "digest")
NAMES = re.compile(
    r"(^|[^a-z])(api|access|private|client|auth)?[-_]?(key|token|secret|sig|signature|pass|passwd|password|pwd|jwt|code|sid|session"
    r"|jsessionid|hmac|access|auth|authorization|credentials?|cookie)($|[^a-z])",
    re.IGNORECASE,
)  # of a parameter or header that may hold a secret


_places: dict[Callable[[], str | None], None] = {}
_known: dict[str, None] = {}


def watch(place: Callable[[], str | None]) -> None:
    """Blank out from now on whatever secret a place returns when a text leaves."""
    _places[place] = None


def learn(secret: str) -> None:
    """Blank out a secret from now on, and the parts of it that are secrets themselves."""
    for part in filter(None, _parts(secret.strip())):
        _known[part] = None


def _parts(secret: str) -> Iterator[str]:
    """Yield what is secret of a secret: of a database's URL the password, of a header's value also the token after the scheme."""
    if re.match(r"postgres(ql)?://", secret):
        with suppress(ValueError):
            url = urlsplit(secret)
            found = [url.password or "", *(value for name, value in parse_qsl(url.query) if NAMES.search(name))]
            yield from (form for one in found for form in {one, unquote(one)} if form)
        return
    if found := re.findall(r"password\s*=\s*('(?:[^'\\]|\\.)*'|\S+)", secret):  # libpq's own way of writing it
        yield from (one.strip("'") for one in found)
        return
    yield secret
    scheme, _, rest = secret.partition(" ")
    if rest and scheme.lower() in _SCHEMES:
        yield rest.strip()
        with suppress(ValueError):
            yield from filter(None, [base64.b64decode(rest, validate=True).decode().partition(":")[2]])


def redact(text: str) -> str:
    """Return a text with every known secret blanked out, in whatever encoding it stands there; of too short a one only the whole text."""
    for place in _places:
        if found := place():
            learn(found)
    pattern, short = _pattern(tuple(_known))
    return MARK if text.strip() in short else pattern.sub(MARK, text) if pattern else text


def redact_bytes(data: bytes) -> bytes:
    """Return what is written to a file as `redact` does."""
    return redact(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


@functools.lru_cache(maxsize=1)
def _pattern(secrets: tuple[str, ...]) -> tuple[re.Pattern[str] | None, frozenset[str]]:
    """Return what finds each secret in a text, the longest form first, and those that are too short for it."""
    long = [one for one in secrets if len(one) >= ANYWHERE]
    words = [one for one in secrets if APART <= len(one) < ANYWHERE and not one.isdecimal()]
    forms = [(form, f"(?i:{re.escape(form)})") for one in long for form in _written(one)]
    forms += [(form, re.escape(form)) for one in (*long, *words) for form in _in_base64(one)]
    forms += [(form, rf'(?<![A-Za-z0-9]){re.escape(form)}(?![A-Za-z0-9])(?!"\s*:)') for one in words for form in _written(one)]
    ordered = dict.fromkeys(found for _, found in sorted(forms, key=lambda form: -len(form[0])))
    return re.compile("|".join(ordered)) if ordered else None, frozenset(secrets) - {*long, *words}


def _written(secret: str) -> set[str]:
    """Return how a secret is written in a URL, JSON, HTML and Python, and in one of them within another."""
    ways = (
        lambda one: json.dumps(one)[1:-1],
        lambda one: json.dumps(one, ensure_ascii=False)[1:-1],
        html.escape,
        lambda one: repr(one)[1:-1],
    )
    once = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), *(way(secret) for way in ways)}
    return once | {way(one) for one in once for way in ways}


def _in_base64(secret: str) -> Iterator[str]:
    """Yield the characters that a secret has in base64, wherever in the encoded text it begins."""
    data = secret.encode("utf-8", "surrogateescape")
    for before, begin in ((0, 0), (1, 2), (2, 3)):
        end = (before + len(data)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * before + data).decode()[begin:end]


# ---- foreign text stays text ----

_UNSEEN = re.compile(  # control characters, half of a pair, and what turns the direction of writing
    "[^\t\n\r\x20-\x7e\xa0-\u061b\u061d-\u200d\u2010-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]"
)
_SPECIAL = re.compile(r"[\\`*\[\]$~|#]|_(?![A-Za-z0-9])|(?<![A-Za-z0-9])_|<(?=\S)|&(?=[#\w]+;)")
_BEGINS_A_BLOCK = re.compile(r"^(\d*)([-+.)=>])")


def legal(text: str) -> str:
    """Replace what neither XML nor HTML can say and no terminal should get, however it is escaped."""
    return _UNSEEN.sub("\ufffd", text)


def line(text: str) -> str:
    """Return a text on one line, as `legal` does."""
    return " ".join(legal(text).split())


def markdown(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line, and an @ calls nobody."""
    escaped = _SPECIAL.sub(r"\\\g<0>", line(text))
    return _BEGINS_A_BLOCK.sub(r"\1\\\2", escaped).replace("@", "@&#8288;")


class Screen:
    """A stream of this process, which nothing passes but by this door: no secret, and no sequence that a terminal would obey."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; a carriage return, which progress begins with, takes back nothing that a text says."""
        self._stream.write(re.sub(r"(?<=[^\n])\r", " ", legal(redact(text))))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
