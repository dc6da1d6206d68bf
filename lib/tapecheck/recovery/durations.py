"""Writes lengths of time as a person reads them. It measures none."""

_UNITS = ((86_400, "days", 2), (3_600, "h", 1), (60, "min", 1), (1, "s", 1))  # unit, name, from how many of it on


def spelled(seconds: float) -> str:
    """Write seconds in the largest unit that needs no fraction: 1 h, 90 min, 36 s, 50 ms."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g} ms"
    unit, name, _ = next((u for u in _UNITS if seconds >= u[0] * u[2] and seconds % u[0] == 0), _UNITS[-1])
    return f"{seconds / unit:,.10g} {name}"


def whole(seconds: float) -> str:
    """Write seconds without a fraction; what is too long for an age in a few digits."""
    return f"{seconds:.0f}" if abs(seconds) < 1e12 else f"{seconds:.3g}"
