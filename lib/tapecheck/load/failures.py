"""What failed in a load run, by kind: how often, when first and last, and one example of each. It judges nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.plan import LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.load.samples import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Requests of one scenario that failed alike, without its warm-up.

    `status` is None where no answer came or another tool does not say it, `request` the plan's name of what was asked, `ratio` of all
    requests of the scenario; `first_s` and `last_s` are intended starts since the first request of the run, None where they are unknown.
    """

    scenario: str
    kind: str
    status: int | None
    request: str
    count: int
    ratio: float
    first_s: float | None
    last_s: float | None
    example: str


def find(recording: Recording, summary: Mapping[str, ScenarioSummary], plan: LoadPlan) -> list[FailureGroup]:
    """Return the kinds of failure of every scenario and of every level of a sweep, the most frequent first."""
    asked = {name: scenario.request for name, scenario in plan.scenarios.items()}
    found = [*_measured(recording, asked), *_imported(recording, summary, asked)]
    return sorted(found, key=lambda one: -one.count)


def _measured(recording: Recording, asked: Mapping[str, str]) -> list[FailureGroup]:
    samples = recording.samples
    warm_up = samples.column("warm_up").combine_chunks()
    failed = samples.filter(pc.and_not(pa.array(Rows(samples).failed()), warm_up))
    if not failed.num_rows:
        return []
    zero_ns = pc.min(samples.column("intended_ns")).as_py()
    sent = dict(zip(*(samples.filter(pc.invert(warm_up)).column("scenario").value_counts().flatten()), strict=True))
    counts = {name.as_py(): n.as_py() for name, n in sent.items()}
    rows, keys = failed.select(["scenario", "error", "status", "intended_ns"]).to_pandas(), ["scenario", "error", "status"]
    parameters = Rows(samples).dimensions()
    found = []
    for (scenario, kind, status), at in rows.groupby(keys, observed=True).intended_ns:
        (first,) = failed.select(parameters).slice(int(at.idxmin()), 1).to_pylist()
        one = FailureGroup(
            scenario=str(scenario), kind=str(kind), status=int(status) or None, request=asked.get(str(scenario).partition(" at ")[0], ""),
            count=len(at), ratio=len(at) / counts[scenario], first_s=(at.min() - zero_ns) / 1e9, last_s=(at.max() - zero_ns) / 1e9,
            example=", ".join(f"{name} {value}" for name, value in first.items() if value is not None),
        )  # fmt: skip
        found.append(one)
    return found


def _imported(recording: Recording, summary: Mapping[str, ScenarioSummary], asked: Mapping[str, str]) -> list[FailureGroup]:
    """Return what another tool counts, of which it gives no single requests."""
    of = [(name, one) for name, one in summary.items() if name in recording.context.imported]
    rest = {"status": None, "first_s": None, "last_s": None, "example": ""}
    return [
        FailureGroup(scenario=name, kind=kind, request=asked.get(name, ""), count=n, ratio=n / max(one.requests, 1), **rest)  # type: ignore[arg-type]
        for name, one in of
        for kind, n in one.errors.items()
    ]
