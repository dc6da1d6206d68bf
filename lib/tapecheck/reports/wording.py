"""How the reports write figures, moments and verdicts, and texts that came from elsewhere. It knows no format's own escapes."""

import math
import re
from collections.abc import Iterator
from datetime import datetime

_ILLEGAL = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")


def number(value: float | str | None) -> str:
    """Write a figure as a person reads it: three digits that count, or all of a whole number; — for none."""
    if value is None:
        return "—"
    if isinstance(value, str) or not math.isfinite(value):
        return str(value)
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def moment(at: datetime) -> str:
    """Write a time."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def words(verdict: str) -> str:
    """Write a verdict as words."""
    return verdict.replace("_", " ")


def cut(text: str, longest: int) -> str:
    """Return a text on one line, of too many characters its beginning, up to the end of a sentence or clause and no open parenthesis."""
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    room = longest - len(" …")
    words_end = [at for at in _spaces(line) if at <= room] or [at for at in range(room + 1) if line[at] == " "]
    clauses_end = [at for at in words_end if line[at - 1] in ".;," and at >= room / 3]
    return f"{line[: max(clauses_end or words_end, default=room)].rstrip(',;')} …"


def _spaces(line: str) -> Iterator[int]:
    """Yield where the spaces outside parentheses are."""
    depth = 0
    for at, sign in enumerate(line):
        depth = max(0, depth + (sign == "(") - (sign == ")"))
        if sign == " " and depth == 0:
            yield at


def legal(text: str) -> str:
    """Replace what neither XML 1.0 nor HTML can say, however it is escaped: control characters, and half of a pair."""
    return _ILLEGAL.sub("�", text)
