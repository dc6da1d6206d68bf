"""Measures interleaved rounds of both variants of each proof, and beside each run a fixed piece of work that no change can touch."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace

from tapecheck import progress
from tapecheck.backfill.observe.plan import ObservePlan, observed
from tapecheck.backfill.observe.validation import observe
from tapecheck.backfill.plan import BackfillPlan, endpoints
from tapecheck.backfill.validation import backfill
from tapecheck.compare import analysis, answers, recorded
from tapecheck.compare.answers import Key, SentRequests
from tapecheck.compare.plan import AFTER, BEFORE, MACHINE, WHERE, ComparePlan, Proof, Side, Variant, variants
from tapecheck.compare.recording import Baseline, Context, Recording, Sample
from tapecheck.errors import ConfigError, MeasurementError, Problem
from tapecheck.load import samples as load_samples
from tapecheck.load.plan import LoadPlan
from tapecheck.load.requests import prepare_all
from tapecheck.load.validation import load
from tapecheck.target.file import Target
from tapecheck.target.opening import at_distance, open_target

BLOCK = bytes(1 << 20)
BLOCKS = 24  # 10 to 50 ms: long enough to be told from the clock's own noise, short beside a run
HIDING_MS = 20.0  # of lag of the event loop, p99, from which on a plan without a limit of its own proves no equality


def work_s() -> float:
    """Return how long this machine takes just now to hash 24 MiB, the median of three times: when it moves, the machine did."""
    times = []
    for _ in range(3):
        began_ns, digest = time.monotonic_ns(), hashlib.sha256()
        for _ in range(BLOCKS):
            digest.update(BLOCK)
        digest.digest()
        times.append((time.monotonic_ns() - began_ns) / 1e9)
    return sorted(times)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """What one run of one variant gave; `baseline` is what the backfill's own analysis says of it, `requests` are of a load run."""

    sample: Sample
    baseline: Baseline = field(default_factory=Baseline)
    requests: SentRequests | None = None


class Bench:
    """Measures variants against an opened target, and those that name another file against that one."""

    def __init__(self, target: Target) -> None:
        self._targets: dict[str | None, Target] = {None: target}

    def check(self, variant: Variant) -> None:
        """Refuse a variant that its target lacks a request, a parameter or a source of history for, without asking it."""
        target = self._opened(variant.target)
        if isinstance(variant.plan, BackfillPlan):
            endpoints(target)
        elif isinstance(variant.plan, ObservePlan):
            observed(target, variant.plan)
            endpoints(target)
        else:
            prepare_all(variant.plan, target)

    def __call__(self, variant: Variant) -> RunFigures:
        """Run a variant once, a fixed piece of work just before it; raises as the validation's own run does."""
        target, clocks = self._opened(variant.target), {MACHINE: work_s()}
        with progress.silent():
            if isinstance(variant.plan, BackfillPlan):
                found = _refill(variant.plan, at_distance(target, variant.distance_ms))
            elif isinstance(variant.plan, ObservePlan):
                summary = observe.summarize(observe.run(variant.plan, target), variant.plan)
                found = RunFigures(sample=recorded.of("observe", asdict(summary), summary.invalid or ""))
            else:
                found = _load(variant.plan, target)
        return replace(found, sample=found.sample.plus(Sample(clocks=clocks)))

    def _opened(self, file: str | None) -> Target:
        if file not in self._targets:
            opened, given = open_target(file or ""), self._targets[None]
            if more := [key for key in ("allow_remote", "allow_drills") if getattr(opened, key) and not getattr(given, key)]:
                got = f"{', '.join(more)}: true, which target {given.name} does not say"
                raise ConfigError([Problem(file=file or "", key="after_target", got=got, allowed="what the target of the run allows")])
            self._targets[file] = opened
        return self._targets[file]


def _refill(plan: BackfillPlan, target: Target) -> RunFigures:
    recording = backfill.run(plan, target)
    summary = backfill.summarize(recording, plan)
    found = tuple(one for one in backfill.rules(recording, summary, plan) if one.name.startswith(WHERE))
    return RunFigures(
        sample=recorded.of("backfill", asdict(summary), summary.invalid or ""),  # jobs that failed are counted
        baseline=Baseline(found=found, what_if={one.change: one.saving_ratio for one in summary.what_if}),
    )


def _load(plan: LoadPlan, target: Target) -> RunFigures:
    recording = load.run(plan, target)
    ((name, summary),) = load.summarize(recording, _limited(plan, lag_p99_ms=None, dispatch_lag_p99_ms=None)).items()
    late = load.summarize(recording, _limited(plan, lag_p99_ms=plan.generator.lag_p99_ms or HIDING_MS))[name].invalid
    own_bytes = int(load_samples.counted(recording.samples, name).numbers("bytes").sum())
    sample = (
        recorded.of("load", asdict(summary), summary.invalid or "")
        .plus(Sample(counters={"bytes": own_bytes}))
        .plus(answers.read(recording, name))
    )
    return RunFigures(sample=replace(sample, late="" if summary.invalid else late or ""), requests=answers.requests(recording, name))


def _limited(plan: LoadPlan, **limits_ms: float | None) -> LoadPlan:
    """Return a plan that minds how late its generator is by other limits, or not at all.

    The lag of a busy machine is mostly added to the times of both sides. So it makes noise, which rounds are there for, and differences
    smaller; `analysis` lets it prove no equality, and no difference that rests on rounds in which it is added to one side alone.
    """
    return plan.model_copy(update={"generator": plan.generator.model_copy(update=limits_ms)})


# ---- session ----

Measure = Callable[[Variant], RunFigures]
Clock = Callable[[], int]


def order(rounds: int, warm_up: int = 0) -> Iterator[tuple[int, Side]]:
    """Yield round and side of each run of a proof: A B, B A, A B, B A, …, so that a steady drift favours neither.

    Warm-ups come first and have the round 0.
    """
    for _ in range(warm_up):
        yield from ((0, BEFORE), (0, AFTER))
    for number in range(1, rounds + 1):
        yield from ((number, side) for side in ((BEFORE, AFTER) if number % 2 else (AFTER, BEFORE)))


def run(plan: ComparePlan, target: Target) -> Recording:
    """Measure every proof of a plan against an opened target; what a variant lacks there is refused before the first is measured."""
    bench, problems = Bench(target), list[Problem]()
    for name, proof in plan.proofs.items():
        for variant in variants(name, proof).values():
            try:
                bench.check(variant)
            except ConfigError as error:
                problems += [replace(one, key=f"proofs.{name}, {variant.side}: {one.key}") for one in error.problems]
    if problems:
        raise ConfigError(problems)
    return measure(plan, target, bench)


def measure(plan: ComparePlan, target: Target, measuring: Measure, clock: Clock = time.monotonic_ns) -> Recording:
    """Measure every proof of a plan, one after another, by what runs a variant once and a monotonic clock, in ns.

    A `MeasurementError` makes a run one that does not count, any other error ends the session.
    """
    asked, runs = plan.asked(), list[RunFigures]()
    context = Context.of(target, variants={name: proof.variants for name, proof in asked.items()})
    left = {name: 2 * (plan.warm_up + proof.rounds.most) for name, proof in asked.items() if proof.rounds}
    with progress.show("compare", "runs") as report:
        for name, proof in asked.items():
            for found in _until_decided(name, proof, plan, measuring, clock):
                runs.append(found)
                left[name] -= 1
                report(len(runs), len(runs) + sum(left.values()), name)
            left[name] = 0
        report(len(runs), len(runs))
    baselines: dict[str, Baseline] = {}
    requests: dict[Key, list[SentRequests]] = {}
    for found, sample in ((found, found.sample) for found in runs if found.sample.counts):
        if sample.side == BEFORE:
            baselines.setdefault(sample.proof, found.baseline)
        if found.requests is not None:
            requests.setdefault((sample.proof, sample.side), []).append(found.requests)
    samples = [found.sample for found in runs]
    return Recording.of(samples=samples, context=replace(context, baselines=baselines), spectra=answers.spectra(requests))


def _until_decided(name: str, proof: Proof, plan: ComparePlan, measuring: Measure, clock: Clock) -> Iterator[RunFigures]:
    """Yield each run of one proof, until a look finds it decided or it has all its rounds."""
    assert proof.rounds is not None
    both, own = variants(name, proof), list[Sample]()
    for number, side in order(proof.rounds.most, plan.warm_up):
        began_ns = clock()
        try:
            found = measuring(both[side])
        except MeasurementError as error:
            found = RunFigures(sample=Sample(problem=str(error)))
        own.append(replace(found.sample, proof=name, side=side, round=number, began_ns=began_ns, ended_ns=clock()))
        yield replace(found, sample=own[-1])
        is_look = number in proof.rounds.looks and len(own) % 2 == 0
        if is_look and analysis.is_decided(analysis.of_proof(proof, own, seed=plan.seed)):
            return
