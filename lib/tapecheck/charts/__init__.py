"""Every figure of the workbook, one function each. They draw what they are given and compute nothing that is reported.

A notebook says `from tapecheck import charts` and `charts.load_percentiles(...)`; only the module of that figure is imported.
So called, a chart that cannot be drawn is shown and recorded as such, and stops nothing.
"""

import contextlib
import logging
import os
from importlib import import_module
from typing import Any

__all__ = [
    "backfill_coverage", "backfill_jobs", "backfill_stages", "backfill_throughput", "backfill_timeline", "backfill_what_if",
    "compare_ratios", "compare_rounds", "compare_savings", "compare_spectra",
    "history_trend",
    "load_capacity", "load_dimensions", "load_percentiles", "load_resources", "load_throughput", "load_timeline",
    "observe_parts", "observe_series", "observe_timeline",
    "recovery_ages", "recovery_loss", "recovery_rto", "recovery_timeline", "recovery_trend",
]  # fmt: skip

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a home that cannot be written, or a user's unknown setting: neither counts here


def _import_matplotlib() -> None:
    """Import it without `MPLBACKEND`, an unknown name in which it refuses; set a known one, for the user's own figures."""
    backend = os.environ.pop("MPLBACKEND", "")
    import matplotlib as mpl

    if backend:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            mpl.rcParams["backend"] = backend


_import_matplotlib()
_ELSEWHERE = dict.fromkeys(("load_resources", "load_throughput", "load_timeline"), "clock")  # others: by their first word


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, name.partition('_')[0])}"), name)
    return import_module(f"{__name__}.figure").guarded(found)
