"""How the reports write figures, moments and verdicts, and texts that came from elsewhere. It knows no format's own escapes."""

import math
import re
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


def legal(text: str) -> str:
    """Replace what neither XML 1.0 nor HTML can say, however it is escaped: control characters, and half of a pair."""
    return _ILLEGAL.sub("�", text)
