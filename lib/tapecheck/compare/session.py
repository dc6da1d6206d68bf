"""A fixed piece of work that no plan changes: when its time moves, the machine did. It measures no target."""

import datetime as dt
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from tapecheck import progress
from tapecheck.backfill import validation as backfill
from tapecheck.backfill.analysis import BackfillSummary
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.compare import analysis, answers
from tapecheck.compare import samples as spectra
from tapecheck.compare.plan import AFTER, BEFORE, COUNTERS, LATENCIES, MACHINE, WHERE, ComparePlan, Proof, Side, Variant, variants
from tapecheck.compare.recorded import Part
from tapecheck.compare.recording import Baseline, Context, Recording
from tapecheck.compare.samples import Sample, Times
from tapecheck.errors import ConfigError, MeasurementError, Problem
from tapecheck.load import samples
from tapecheck.load import validation as load
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.plan import LoadPlan
from tapecheck.load.requests import prepare_all
from tapecheck.runs import folders, results
from tapecheck.runs.results import TargetInfo
from tapecheck.statistics.intervals import Distribution
from tapecheck.target.file import Target
from tapecheck.target.opening import at_distance, open_target

BLOCK = bytes(1 << 20)
BLOCKS = 24  # 10 to 50 ms: long enough to be told from the clock's own noise, short beside a run


def work_s() -> float:
    """Return how long this machine takes just now to hash 24 MiB, the median of three times."""
    return sorted(_once_s() for _ in range(3))[1]


def _once_s() -> float:
    began_ns = time.monotonic_ns()
    digest = hashlib.sha256()
    for _ in range(BLOCKS):
        digest.update(BLOCK)
    digest.digest()
    return (time.monotonic_ns() - began_ns) / 1e9


# ---- measuring ----

HIDING_MS = 20.0  # of lag of the event loop, p99, from which on a plan without a limit of its own proves no equality


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures(Part):
    """What one run of one variant gave; `baseline` is what the backfill's own analysis says of it, the others are of a load run."""

    late: str = ""
    baseline: Baseline = field(default_factory=Baseline)
    response_ms: Times | None = None


class Bench:
    """Measures variants against an opened target, and those that name another file against that one."""

    def __init__(self, target: Target) -> None:
        self._targets: dict[str | None, Target] = {None: target}

    def check(self, variant: Variant) -> None:
        """Find out whether a variant can be asked of its target, without asking it.

        Raises:
            ConfigError: the target lacks a request or a parameter of the plan, or does not say where history comes from and goes to.
        """
        target = self._opened(variant.target)
        if isinstance(variant.plan, BackfillPlan):
            backfill.endpoints(target)
        else:
            prepare_all(variant.plan, target)

    def __call__(self, variant: Variant) -> Figures:
        """Run a variant once, a fixed piece of work just before it.

        Raises:
            TapecheckError: as the validation's own run does.
        """
        target = self._opened(variant.target)
        machine_s = work_s()
        with progress.silent():
            if isinstance(variant.plan, BackfillPlan):
                figures = self._backfill(variant.plan, at_distance(target, variant.distance_ms))
            else:
                figures = self._load(variant.plan, target)
        return replace(figures, clocks={**figures.clocks, MACHINE: machine_s})

    def _opened(self, file: str | None) -> Target:
        if file not in self._targets:
            self._targets[file] = open_target(file or "")
        return self._targets[file]

    def _backfill(self, plan: BackfillPlan, target: Target) -> Figures:
        recording = backfill.run(plan, backfill.endpoints(target))
        summary = backfill.summarize(recording)
        what_if = backfill.predict(recording)
        found = tuple(one for one in backfill.find(recording, summary, what_if) if one.name.startswith(WHERE))
        return Figures(
            clocks=backfill_clocks(summary),
            counters=backfill_counters(summary),
            checksum=summary.integrity.checksum if summary.integrity else "",
            problem=summary.invalid or "",
            baseline=Baseline(found=found, what_if={one.change: one.saving_ratio for one in what_if}),
        )

    def _load(self, plan: LoadPlan, target: Target) -> Figures:
        recording = load.run(plan, target)
        ((name, summary),) = load.summarize(recording, _limited(plan, lag_p99_ms=None, dispatch_lag_p99_ms=None)).items()
        late = load.summarize(recording, _limited(plan, lag_p99_ms=plan.generator.lag_p99_ms or HIDING_MS))[name].invalid
        measured, answered = samples.counted(recording.samples, name), answers.of(recording, name)
        return Figures(
            clocks={**load_clocks(summary), **answered.clocks},
            counters={**load_counters(summary), "bytes": int(measured.numbers("bytes").sum()), **answered.counters},
            answers=answered.kinds,
            problem=summary.invalid or "",
            late="" if summary.invalid else late or "",
            response_ms=measured.response_ms(),
        )


def _limited(plan: LoadPlan, **limits_ms: float | None) -> LoadPlan:
    """Return a plan that minds how late its generator is by other limits, or not at all.

    The lag of a busy machine is mostly added to the times of both sides. So it makes noise, which rounds are there for, and differences
    smaller; `analysis` lets it prove no equality, and no difference that rests on rounds in which it is added to one side alone.
    """
    return plan.model_copy(update={"generator": plan.generator.model_copy(update=limits_ms)})


def backfill_clocks(summary: BackfillSummary) -> dict[str, float]:
    """Return the clocks of a backfill; a stage that did not run has none."""
    totals = summary.totals
    speed = {"records_per_s": totals.records_per_s} if totals.records_per_s else {}
    busy = {f"{name}_s": stage.busy_s for name, stage in summary.stages.items() if stage.busy_s}
    return {"duration_s": totals.duration_s, **speed, **busy}


def backfill_counters(summary: BackfillSummary) -> dict[str, int]:
    """Return what a backfill counted."""
    return {name: count for name in COUNTERS["backfill"] if (count := getattr(summary.totals, name)) is not None}


def load_clocks(summary: ScenarioSummary) -> dict[str, float]:
    """Return the clocks of a scenario."""
    kinds = (("", summary.response_time_ms), ("service_", summary.service_time_ms), ("server_", summary.server_time_ms))
    times = {f"{kind}{name}": value for kind, times in kinds if times for name, value in _latencies(times).items()}
    return times if summary.throughput_rps is None else {**times, "throughput_rps": summary.throughput_rps}


def _latencies(times: Distribution) -> dict[str, float]:
    percentiles = {f"{name}_ms": getattr(times, name).value for name in ("p50", "p90", "p95", "p99")}
    found = {"mean_ms": times.mean, **percentiles}
    return {name: found[name] for name in LATENCIES}


def load_counters(summary: ScenarioSummary) -> dict[str, int]:
    """Return what a scenario counted."""
    return {"requests": summary.requests, "failed": summary.failed, "connections_opened": summary.connections_opened or 0}


# ---- session ----

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
        run_id=folders.new_id(started_at),
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
