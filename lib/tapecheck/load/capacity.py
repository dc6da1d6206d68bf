"""Finds the highest arrival rate that meets every objective: which rate to try next, and what the tried ones say.

It sends nothing. Rates grow by a factor until a level misses an objective, then the gap between the highest rate that
held and the lowest that did not is halved, geometrically, until it is narrow or the levels are used up. The knee's
interval is that gap: nothing between was measured.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tapecheck.load.analysis import ScenarioSummary, check, mark, summarize
from tapecheck.load.plan import Capacity, LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.statistics import scalability
from tapecheck.statistics.intervals import Percentile
from tapecheck.statistics.scalability import Usl
from tapecheck.verdict import Check, Objective, Verdict, number, overall


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One measured rate.

    `concurrency` is the mean number of requests in flight, by Little's law: throughput times response time. That holds only
    for a `steady` level, whose queue does not grow, so only those are fitted. `checks` are of every objective that the sweep has,
    `generator_share` is as of any scenario.
    """

    scenario: str
    rate_rps: float
    throughput_rps: float
    sustained_ratio: float
    concurrency: float
    p95_ms: Percentile | None
    success_ratio: float
    verdict: Verdict
    reason: str
    steady: bool
    checks: tuple[Check, ...] = ()
    generator_share: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityResult:
    """What a sweep found; of a rate that was measured again, because the generator was the limit, `levels` has the last attempt.

    At `knee_rps` every objective was met by its value, at `proven_rps` by its 95 % confidence bound too. The knee lies in
    [`knee_low_rps`, `knee_high_rps`), and the notes say what was not found.
    """

    levels: list[Level]
    knee_rps: float | None
    proven_rps: float | None
    knee_low_rps: float | None
    knee_high_rps: float | None
    usl: Usl | None
    knee_note: str
    law_note: str

    @property
    def in_words(self) -> str:
        """The capacity in a few words."""
        if self.knee_rps is None:
            return f"capacity: {self.knee_note}"
        proven = f"proven to {number(self.proven_rps)}/s" if self.proven_rps else "not proven"
        missed = f", missed at {number(self.knee_high_rps)}/s" if self.knee_high_rps else ""
        knee = next(one for one in self.levels if one.rate_rps == self.knee_rps)
        late = mark(knee.generator_share, *knee.generator_share)
        return f"capacity {number(self.knee_rps)}/s ({proven}{missed}{late})"


def next_rate(plan: Capacity, tried: Mapping[float, bool]) -> float | None:
    """Return the rate to try after those in `tried` (rate -> whether every objective was met), or None to stop."""
    if not tried:
        return plan.start_rate_rps
    wanted = _wanted(plan, tried) if len(tried) < plan.levels_max else None
    return None if wanted is None or wanted in tried or wanted < plan.lowest_rps else wanted


def _wanted(plan: Capacity, tried: Mapping[float, bool]) -> float | None:
    bad = min((rate for rate, met in tried.items() if not met), default=math.inf)
    held = sorted(rate for rate, met in tried.items() if met and rate < bad)
    if not held:
        return bad / plan.factor if len(tried) < plan.levels_min else None
    if bad == math.inf and held[-1] < plan.max_rate_rps:
        return min(held[-1] * plan.factor, plan.max_rate_rps)
    if bad < math.inf and bad / held[-1] - 1 > plan.precision_ratio:
        return math.sqrt(held[-1] * bad)
    if len(held) >= plan.levels_min:
        return None
    # the knee is narrow: fill the widest gap between those that held, until there are enough for a fit
    if len(held) == 1:
        return held[0] / plan.factor
    low, high = max(itertools.pairwise(held), key=lambda pair: pair[1] / pair[0])
    return math.sqrt(low * high)


def level(
    name: str, rate_rps: float, summary: ScenarioSummary, objectives: Sequence[Objective], sustained_ratio: float, sweep: str = ""
) -> Level:
    """Describe and judge one measured rate.

    It holds when every objective of the `sweep` but a throughput is met and the target answered at the rate at which it was asked: below
    `sustained_ratio` of it a queue grows, and only the shortness of the level keeps the response times within bounds.
    """
    times, throughput = summary.response_time_ms, summary.throughput_rps or 0.0
    checks = [(o, check({sweep: summary}, [o])[0]) for o in objectives if o.scope in (None, sweep)]
    deciding = [c for o, c in checks if o.metric != "throughput_rps"]
    verdict = Verdict.INVALID if summary.invalid else overall(c.verdict for c in deciding)
    reason = next((f"{c.objective}: {c.reason}" for c in deciding if c.verdict == verdict != Verdict.PASS), summary.invalid or "")
    sustained, is_valid = throughput / rate_rps, verdict != Verdict.INVALID
    if is_valid and sustained < sustained_ratio:
        verdict, reason = Verdict.FAIL, f"answered {sustained:.0%} of the rate asked (at least {sustained_ratio:.0%}): a queue grows"
    return Level(
        scenario=name,
        rate_rps=rate_rps,
        throughput_rps=throughput,
        sustained_ratio=sustained,
        concurrency=throughput * times.mean / 1000 if times else 0.0,
        p95_ms=times.p95 if times else None,
        success_ratio=summary.success_ratio or 0.0,
        verdict=verdict,
        reason=reason,
        steady=is_valid and sustained >= sustained_ratio,
        checks=tuple(c for _, c in checks),
        generator_share=summary.generator_share,
    )


def levels(recording: Recording, plan: LoadPlan, objectives: Sequence[Objective]) -> list[Level]:
    """Judge each level of a recording's sweep, in the order in which they ran."""
    name, scenario = next(iter(plan.sweeps.items()), ("", None))
    sustained_ratio = scenario.sustained_ratio if scenario else Capacity.model_fields["sustained_ratio"].default
    summaries = summarize(recording, plan.generator)
    rates = recording.context.rates_rps.items()
    return [level(label, rate, summaries[label], objectives, sustained_ratio, name) for label, rate in rates]


def judge(found: CapacityResult, objective: Objective) -> Check | None:
    """Judge a sweep by the highest rate at which an objective is proven, else by the knee, and where none held by the lowest rate.

    A throughput that no level reached is missed only where a higher rate was too much: else there may be more. None: no level has it.
    """
    held = [one for one in found.levels if found.knee_rps is not None and one.rate_rps <= found.knee_rps and one.verdict != Verdict.FAIL]
    counted = [one for one in found.levels if one.verdict != Verdict.INVALID] or found.levels
    at = [(one, c) for one in held or counted[:1] for c in one.checks if c.objective == str(objective)]
    if not at:
        return None
    best, judged = next(((one, c) for one, c in reversed(at) if c.verdict == Verdict.PASS), at[-1])
    is_open_ended = found.knee_rps is not None and found.knee_high_rps is None
    if judged.verdict == Verdict.FAIL and objective.metric == "throughput_rps" and is_open_ended:
        judged = replace(judged, verdict=Verdict.INVALID, reason="no higher rate that counts was measured, so that there may be more")
    return replace(judged, reason=f"at {number(best.rate_rps)}/s: {judged.reason}")


def conclude(levels: Sequence[Level]) -> CapacityResult:
    """Say what the levels prove: the knee with its interval, and the scalability law where it can be fitted.

    A level whose measurement was invalid, because the generator was the limit, bounds nothing. A level is short, so what it
    measured may meet an objective without proving it; the note says so of the knee.
    """
    ordered = sorted({one.rate_rps: one for one in levels}.values(), key=lambda one: one.rate_rps)
    bad = next((one.rate_rps for one in ordered if one.verdict == Verdict.FAIL), None)
    held = [one for one in ordered if one.verdict in (Verdict.PASS, Verdict.NOT_PROVEN) and (bad is None or one.rate_rps < bad)]
    knee = held[-1].rate_rps if held else None
    proven = max((one.rate_rps for one in held if one.verdict == Verdict.PASS), default=None)
    sure = "" if proven == knee else " (none of them proven)" if proven is None else f" (proven up to {number(proven)}/s)"
    beyond = f", and one missed at {number(bad)}/s" if bad else ", and no higher rate that counts missed one: the knee lies beyond"
    fitted = [one for one in ordered if one.steady and one.throughput_rps > 0 and one.concurrency > 0]
    law, law_note = None, ""
    try:
        law = scalability.fit(np.array([one.concurrency for one in fitted]), np.array([one.throughput_rps for one in fitted]))
    except ValueError as error:
        law_note = f"no scalability law: {error}"
    return CapacityResult(
        levels=ordered,
        knee_rps=knee,
        proven_rps=proven,
        knee_low_rps=knee,
        knee_high_rps=bad,
        usl=law,
        knee_note=f"every objective is met up to {number(knee)}/s{sure}{beyond}"
        if knee
        else "no rate that was tried meets every objective",
        law_note=law.peak_note if law else law_note,
    )
