"""Recordings that are awkward to draw, each with a name that says why; what a chart shows of them is judged elsewhere."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import samples

from tapecheck import charts
from tapecheck.load import analysis, capacity
from tapecheck.load.engine.recorder import ErrorKind, Samples
from tapecheck.load.plan import METRICS, GeneratorLimits, LoadPlan
from tapecheck.load.recording import GeneratorStats, Recording
from tapecheck.verdict import Objective, parse

LIMITS = GeneratorLimits(lag_p99_ms=20)
BUSY = dataclasses.replace(samples.GENERATOR, cpu_ratio=0.99)
SYMBOLS = [
    "AAPL", "MSFT", "GOOGL", "AMZN", "TSLA", "NVDA", "META", "NFLX", "AVGO", "ASML", "BRK.B", "JPM", "V", "WMT", "JNJ",
    "BTC", "ETH", "XRP", "SOL", "ADA", "SPY", "QQQ", "DIA", "IWM", "EEM",
]  # fmt: skip
OBJECTIVES = ("p95_ms < 1000", "p99_ms < 2000", "throughput_rps > 20")
LONG = tuple(f"every_timeframe_of_the_quantitative_features_{i:02d}" for i in range(8))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """All that the charts of one run are drawn from."""

    recording: Recording
    objectives: tuple[Objective, ...]

    @functools.cached_property
    def everything(self) -> dict[str, analysis.ScenarioSummary]:
        """Every scenario, the levels of a sweep among them."""
        return analysis.summarize(self.recording, LIMITS)

    def figures(self) -> dict[str, Callable[[], Any]]:
        """Return what draws each chart of the load notebook, by its name."""
        recording = self.recording
        rates = recording.context.rates_rps
        summary = {name: one for name, one in self.everything.items() if name not in rates}
        plan = LoadPlan.model_construct(scenarios={}, generator=LoadPlan.model_fields["generator"].get_default(call_default_factory=True))
        found = capacity.conclude(capacity.levels(recording, plan, self.objectives)) if rates else None
        both = {"recording": recording, "summary": summary}
        return {
            "percentiles": lambda: charts.load_percentiles(**both, objectives=self.objectives),
            "timeline": lambda: charts.load_timeline(**both, objectives=self.objectives),
            "dimensions": lambda: charts.load_dimensions(**both),
            "throughput": lambda: charts.load_throughput(**both, capacity=found, objectives=self.objectives),
            "resources": lambda: charts.load_resources(**both, capacity=found),
            "capacity": lambda: charts.load_capacity(recording=recording, capacity=found, objectives=self.objectives),
        }


def times_ms(n: int, median_ms: float = 40, seed: int = 0) -> np.ndarray:
    """Return plausible response times: skewed, with a tail."""
    return median_ms * np.random.default_rng(seed).lognormal(0, 0.5, n)


def case(
    parts: Mapping[str, Samples],
    prepared: Mapping[str, Any] | None = None,
    *,
    objectives: tuple[str, ...] = OBJECTIVES,
    generators: Mapping[str, GeneratorStats] | None = None,
    rates: Mapping[str, float] | None = None,
    watched: bool = True,
) -> Case:
    """Put the scenarios one after the other, 0.3 s apart, with two processes watched all the while."""
    at_ns = 0
    for rows in parts.values():
        for column in ("intended_ns", "sent_ns", "first_byte_ns", "done_ns"):
            rows[column] += at_ns
        at_ns = int(rows["done_ns"].max(initial=samples.START_NS)) - samples.START_NS + 300_000_000
    beats = np.arange(0, at_ns / 1e9, 0.2)
    table = samples.watched(
        *((s, name, 0.5 + 0.4 * np.sin(s + i), 90 + 40 * i) for s in beats for i, name in enumerate(("api", "database")))
    )
    recording = samples.recording(parts, prepared, watched=table if watched else None)
    context = dataclasses.replace(
        recording.context, rates_rps=dict(rates or {}), generator={**recording.context.generator, **(generators or {})}
    )
    return Case(
        recording=dataclasses.replace(recording, context=context), objectives=tuple(parse(text, METRICS, parts) for text in objectives)
    )


def open_model(rate_rps: float, seconds: float, median_ms: float, seed: int = 0) -> Samples:
    """Make the samples of a constant arrival rate."""
    n = max(int(rate_rps * seconds), 1)
    rows = samples.burst(times_ms(n, median_ms, seed))
    late_ns = (np.arange(n) / rate_rps * 1e9).astype(np.int64)
    for column in ("intended_ns", "sent_ns", "first_byte_ns", "done_ns"):
        rows[column] += late_ns
    return rows


def sweep(*, busy_from_rps: float = np.inf, again_rps: float = 0) -> Case:
    """Make a capacity sweep that ends in a knee near 3,000/s.

    From `busy_from_rps` on the generator was the limit; `again_rps` was measured again, because it was the limit there once.
    """
    rates = {f"capacity at {rate}/s": rate for rate in (100, 200, 400, 800, 1600, 2263, 2691, 2934, 3200, 3805)}
    busy = {name: BUSY for name, rate in rates.items() if rate >= busy_from_rps or rate == again_rps}
    attempts = [[name, f"{name}, again (2)"] if rate == again_rps else [name] for name, rate in rates.items()]
    rates = {attempt: rates[names[0]] for names in attempts for attempt in names}
    parts = {name: open_model(rate, 1, 5 + 4000 * (rate > 3000) + rate / 400, rate) for name, rate in rates.items()}
    parts["cached_symbol"] = samples.burst(times_ms(100))
    return case(
        parts,
        rates={name: float(rate) for name, rate in rates.items()},
        generators=busy,
        objectives=(*OBJECTIVES, "cached_symbol.p95_ms < 500"),
    )


def dimension(values: list[str], per_value: int = 12) -> Case:
    """Make a scenario that varies one parameter over these values."""
    rows = samples.burst(times_ms(per_value * len(values)), per_round=100)
    rows["request"] = np.arange(len(rows)) % len(values)
    return case({"mixed_symbols": rows}, {"mixed_symbols": samples.requests(*({"symbol": value} for value in values))})


def all_failed() -> Samples:
    """Make a burst of which every request was refused within a millisecond."""
    rows = samples.burst(times_ms(100, 0.4), failed=dict.fromkeys(range(100), ErrorKind.connect_refused))
    rows["server_ms"] = np.nan
    return rows


def bursts(names: tuple[str, ...], rounds: int = 3) -> dict[str, Samples]:
    """Make one burst a name."""
    return {name: samples.burst(times_ms(100 * rounds, 40 + 10 * i, i), per_round=100) for i, name in enumerate(names)}


KINDS = [ErrorKind.status, ErrorKind.timeout, ErrorKind.reset, ErrorKind.connect_refused, ErrorKind.content, ErrorKind.censored]


def crowd() -> Case:
    """Make forty scenarios with long names, one of 200 symbols, failures of six kinds, and three that are invalid."""
    parts = bursts(tuple(f"{LONG[i % 8]}_of_the_{i:02d}_th_kind" for i in range(39)), rounds=1)
    for i, rows in enumerate(parts.values()):
        rows["error"][: i % 7] = KINDS[i % 6]
    many = samples.burst(times_ms(2400), per_round=100)
    many["request"] = np.arange(2400) % 200
    names = [f"SYMBOL{i:03d}" for i in range(200)]
    asked = {"mixed_symbols": samples.requests(*({"symbol": name} for name in names))}
    return case({**parts, "mixed_symbols": many}, asked, generators=dict.fromkeys(list(parts)[:3], BUSY))


CASES: Mapping[str, Callable[[], Case]] = {
    "forty scenarios and 200 symbols": crowd,
    "one scenario": lambda: case(bursts(("cached_symbol",))),
    "one that failed whole": lambda: case({**bursts(("cached_symbol",)), "broken": all_failed()}),
    "nothing but failures": lambda: case({"broken": all_failed()}),
    "an invalid scenario": lambda: case(bursts(("cached_symbol", "mixed_symbols", "steady_rate")), generators={"mixed_symbols": BUSY}),
    "eight long names": lambda: case(bursts(LONG)),
    "short bursts beside a long rate": lambda: case(
        {**bursts(("cached_symbol", "mixed_symbols", "variable_limits", "variable_timeframes"), 1), "steady_rate": open_model(50, 60, 20)}
    ),
    "25 symbols": lambda: dimension(SYMBOLS),
    "nothing watched": lambda: case(bursts(("cached_symbol", "mixed_symbols")), watched=False),
    "objectives of one scenario": lambda: case(
        bursts(("cached_symbol", "steady")), objectives=("steady.p95_ms < 1000", "steady.throughput_rps > 20", "cached_symbol.p50_ms < 50")
    ),
    "a sweep whose generator gave up": lambda: sweep(busy_from_rps=1600),
    "a sweep that was never valid": lambda: sweep(busy_from_rps=0),
    "a sweep of which a level was measured again": lambda: sweep(again_rps=400),
    "no requests": lambda: case({"cached_symbol": samples.burst([])}),
}
