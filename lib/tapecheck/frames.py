"""Tables that every notebook shows, as pandas frames: checks and findings. Every figure in them was computed elsewhere."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from tapecheck.results import Finding
from tapecheck.verdict import Check


def checks(checks: Iterable[Check]) -> pd.DataFrame:
    """Return one row an objective and scenario, with the bound that decided."""
    rows = [
        {
            "scenario": c.name,
            "objective": c.objective,
            "measured": number(c.value),
            "95 % bound": "" if c.bound is None or c.bound == c.value else number(c.bound),
            "n": f"{c.n:,}",
            "verdict": str(c.verdict),
            "why": c.reason,
        }
        for c in checks
    ]
    columns = ["scenario", "objective", "measured", "95 % bound", "n", "verdict", "why"]
    return pd.DataFrame(rows, columns=columns).set_index(["scenario", "objective"])


def findings(findings: Sequence[Finding]) -> pd.DataFrame:
    """Return one row a finding: what the figures say, the figures, and what to do."""
    rows = [
        {
            "finding": f.finding,
            "evidence": ", ".join(f"{k} = {v if isinstance(v, str) else number(v)}" for k, v in f.evidence.items()),
            "next step": f.action,
        }
        for f in findings
    ]
    return pd.DataFrame(rows or [{"finding": "no rule found anything", "evidence": "", "next step": ""}])


def number(value: float | None) -> str:
    """Write a number with three significant digits, or more before the point; nothing for one that is not known."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
