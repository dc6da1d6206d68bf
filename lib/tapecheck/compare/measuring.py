"""Runs one variant through its validation's own `run`, and reads from that recording the figures that are compared."""

from dataclasses import dataclass, field, replace

from tapecheck import progress
from tapecheck.backfill import validation as backfill
from tapecheck.backfill.analysis import BackfillSummary
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.compare import answers, machine
from tapecheck.compare.metrics import COUNTERS, LATENCIES, MACHINE, WHERE
from tapecheck.compare.parts import Part
from tapecheck.compare.recording import Baseline
from tapecheck.compare.spectra import Times
from tapecheck.compare.variants import Variant
from tapecheck.load import rows
from tapecheck.load import validation as load
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.plan import LoadPlan
from tapecheck.load.requests import prepare_all
from tapecheck.stats import Distribution
from tapecheck.target_file import Target
from tapecheck.targets import at_distance, open_target

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
        machine_s = machine.work_s()
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
        measured, answered = rows.counted(recording.samples, name), answers.of(recording, name)
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
