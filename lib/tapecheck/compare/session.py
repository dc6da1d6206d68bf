"""Measures every proof in one session: interleaved rounds (ABBA) of before and after, until it is decided. What they say is `analysis`."""

import datetime as dt
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from tapecheck import progress, results, runs
from tapecheck.compare import analysis, spectra
from tapecheck.compare.measuring import Bench, Figures
from tapecheck.compare.plan import ComparePlan, Proof
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
    started_at, kept = dt.datetime.now(dt.UTC), _Kept()
    left = {name: 2 * (plan.warm_up + plan.rounds_of(proof).most) for name, proof in plan.proofs.items()}
    with progress.show("compare", "runs") as report:
        for name, proof in plan.proofs.items():
            for _ in _until_decided(name, proof, plan, kept, measuring, clock):
                left[name] -= 1
                report(len(kept.samples), len(kept.samples) + sum(left.values()), name)
            left[name] = 0
        report(len(kept.samples), len(kept.samples))
    return Recording(samples=kept.samples, context=_context(plan, target, started_at, kept), spectra=spectra.of_rounds(kept.response_ms))


@dataclass(slots=True, kw_only=True)
class _Kept:
    """What is kept of the runs of a session."""

    samples: list[Sample] = field(default_factory=list)
    baselines: dict[str, Baseline] = field(default_factory=dict)
    response_ms: dict[tuple[str, Side], list[Times]] = field(default_factory=dict)

    def add(self, sample: Sample, figures: Figures | None) -> None:
        self.samples.append(sample)
        if figures is None or sample.problem or not sample.round:
            return
        if sample.side == BEFORE:
            self.baselines.setdefault(sample.proof, figures.baseline)
        if figures.response_ms is not None:
            self.response_ms.setdefault((sample.proof, sample.side), []).append(figures.response_ms)


def _until_decided(name: str, proof: Proof, plan: ComparePlan, kept: _Kept, measuring: Measure, clock: Clock) -> Iterator[None]:
    """Measure one proof, yielding after each run, until a look finds it decided or it has all its rounds."""
    rounds, both = plan.rounds_of(proof), variants(name, proof)
    asked = proof.model_copy(update={"rounds": rounds})
    own: list[Sample] = []
    for number, side in order(rounds.most, plan.warm_up):
        sample, figures = _one(both[side], number, measuring, clock)
        own.append(sample)
        kept.add(sample, figures)
        yield
        is_look = number in rounds.looks and len(own) % 2 == 0
        if is_look and analysis.is_decided(analysis.of_proof(asked, own, seed=plan.seed)):
            return


def _context(plan: ComparePlan, target: TargetInfo, started_at: dt.datetime, kept: _Kept) -> Context:
    return Context(
        run_id=runs.new_id(started_at),
        started_at=started_at,
        target=target,
        environment=results.environment(),
        questions={name: proof.model_copy(update={"rounds": plan.rounds_of(proof)}) for name, proof in plan.proofs.items()},
        seed=plan.seed,
        baselines=kept.baselines,
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
        late=figures.late if figures else "",
        answers=figures.answers if figures else {},
    )
    return sample, figures
