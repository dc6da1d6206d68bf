"""Measures every proof in one session: rounds of before and after by turns, first one of them, then the other. It judges nothing."""

import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from tapecheck import progress, results, runs
from tapecheck.compare import spectra
from tapecheck.compare.measuring import Bench, Figures
from tapecheck.compare.plan import ComparePlan
from tapecheck.compare.recording import Baseline, Context, Recording
from tapecheck.compare.samples import Sample
from tapecheck.compare.spectra import Times
from tapecheck.compare.variants import AFTER, BEFORE, Side, Variant, variants
from tapecheck.errors import ConfigError, MeasurementError, Problem
from tapecheck.results import TargetInfo
from tapecheck.target_file import Target

Measure = Callable[[Variant], Figures]
Clock = Callable[[], int]


def order(rounds: int, warm_up: int = 0) -> Iterator[tuple[int, Side]]:
    """Yield round and side of each run of a proof: A B, B A, A B, B A, …, so that a steady drift favours neither.

    Warm-ups come first and have the round 0.
    """
    for _ in range(warm_up):
        yield from ((0, BEFORE), (0, AFTER))
    for number in range(1, rounds + 1):
        sides = (BEFORE, AFTER) if number % 2 else (AFTER, BEFORE)
        yield from ((number, side) for side in sides)


def run(plan: ComparePlan, target: Target) -> Recording:
    """Measure every proof of a plan against an opened target.

    Raises:
        ConfigError: a variant is wrong, or the target lacks what it needs.
        TargetError: the target does not answer, or not as configured.
    """
    info, bench = TargetInfo(name=target.name, kind=target.kind, base_url=target.base_url or ""), Bench(target)
    _check(plan, bench)
    return measure(plan, info, bench)


def _check(plan: ComparePlan, bench: Bench) -> None:
    """Find out whether every variant can be measured, before the first one is.

    Raises:
        ConfigError: every problem of all of them at once, each with its proof and side.
    """
    problems: list[Problem] = []
    for name, proof in plan.proofs.items():
        for variant in variants(name, proof).values():
            try:
                bench.check(variant)
            except ConfigError as error:
                problems += [replace(one, key=f"proofs.{name}, {variant.side}: {one.key}") for one in error.problems]
    if problems:
        raise ConfigError(problems)


def measure(plan: ComparePlan, target: TargetInfo, measuring: Measure, clock: Clock = time.monotonic_ns) -> Recording:
    """Measure every proof of a plan, one after another.

    Args:
        measuring: runs a variant once; a `MeasurementError` makes that run one that does not count, any other error ends the session.
        clock: monotonic, in ns.
    """
    started_at = dt.datetime.now(dt.UTC)
    both = {name: variants(name, proof) for name, proof in plan.proofs.items()}
    orders = {name: order(plan.rounds_of(proof), plan.warm_up) for name, proof in plan.proofs.items()}
    todo = [(both[name][side], number) for name, ordered in orders.items() for number, side in ordered]
    samples: list[Sample] = []
    baselines: dict[str, Baseline] = {}
    response_ms: dict[tuple[str, Side], list[Times]] = {}
    with progress.show("compare", "runs") as report:
        for at, (variant, number) in enumerate(todo):
            report(at, len(todo), variant.proof)
            sample, figures = _one(variant, number, measuring, clock)
            samples.append(sample)
            if figures is None or sample.problem or not number:
                continue
            if variant.side == BEFORE:
                baselines.setdefault(variant.proof, figures.baseline)
            if figures.response_ms is not None:
                response_ms.setdefault((variant.proof, variant.side), []).append(figures.response_ms)
        report(len(todo), len(todo))
    context = _context(plan, target, started_at, baselines)
    return Recording(samples=samples, context=context, spectra=spectra.of_rounds(response_ms))


def _context(plan: ComparePlan, target: TargetInfo, started_at: dt.datetime, baselines: Mapping[str, Baseline]) -> Context:
    return Context(
        run_id=runs.new_id(started_at),
        started_at=started_at,
        target=target,
        environment=results.environment(),
        questions=dict(plan.proofs),
        seed=plan.seed,
        baselines=baselines,
    )


def _one(variant: Variant, number: int, measuring: Measure, clock: Clock) -> tuple[Sample, Figures | None]:
    began_ns, figures, problem = clock(), None, ""
    try:
        figures = measuring(variant)
    except MeasurementError as error:
        problem = str(error)
    sample = Sample(
        proof=variant.proof,
        side=variant.side,
        round=number,
        began_ns=began_ns,
        ended_ns=clock(),
        clocks=figures.clocks if figures else {},
        counters=figures.counters if figures else {},
        checksum=figures.checksum if figures else "",
        problem=figures.problem if figures else problem,
    )
    return sample, figures
