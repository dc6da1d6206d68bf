"""Made-up rounds of a comparison, of which everything is known."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from backfills import ENVIRONMENT

from tapecheck.compare import analysis
from tapecheck.compare.analysis import ProofSummary
from tapecheck.compare.plan import AFTER, ComparePlan, Metric, Proof, Question, Side
from tapecheck.compare.recording import Baseline, Context, Recording, Sample
from tapecheck.compare.session import order
from tapecheck.runs.results import Finding, TargetInfo
from tapecheck.target.file import Target
from tapecheck.verdict import Check

S = 1_000_000_000
METRIC = Metric(name="duration_s", better="lower", smallest_effect=0.1)
TARGET = TargetInfo(name="sandbox", kind="sandbox", base_url="http://127.0.0.1:1")
OPENED = Target.model_validate({"name": "sandbox", "kind": "sandbox", "requests": {"ask": "GET /"}})
EXPECTED = {"promised_saving_low_ratio": 0.25, "promised_saving_high_ratio": 0.35}  # what the backfill expects of a fix
INSERT_LIMITS = Finding(
    name="bottleneck_insert", finding="insert takes 80 % of busy time", evidence={"busy_s": 8.0, **EXPECTED}, action="store in bulk"
)


def proof(**more: Any) -> Proof:
    """Return a proof of a backfill, with one metric."""
    base = {"validation": "backfill", "says": "store in bulk", "metrics": [METRIC.model_dump()], "fix": {"insert": "copy"}}
    return Proof.model_validate(base | more)


def expecting(expect: str) -> list[dict[str, Any]]:
    """Return the one metric, of which something is expected."""
    return [METRIC.model_dump() | {"expect": expect}]


def plan(rounds: Any = 4, **proofs: Proof) -> ComparePlan:
    """Return a plan of some proofs, without warm-up."""
    return ComparePlan(proofs=proofs or {"bulk_copy": proof()}, rounds=rounds, warm_up=0)


def times(
    rounds: int, ratio: float, *, noise: float = 0.04, seed: int = 0, drift: float = 0.0, skewed: bool = False
) -> list[tuple[int, Side, float]]:
    """Return round, side and seconds of each run in the order of a session.

    Args:
        noise: standard deviation of the logarithm of each run.
        drift: by how much each run takes longer than the one before, as a part of 1.
        skewed: by noise that is exponential, and of the side after alone, as of a machine that is now and then disturbed.
    """
    rng = np.random.default_rng(seed)

    def log(side: Side) -> float:
        if skewed:
            return float(rng.exponential(noise) - noise) if side == AFTER else 0.0
        return float(rng.normal(0, noise))

    return [
        (number, side, float((ratio if side == AFTER else 1.0) * np.exp(log(side)) * (1 + drift) ** at))
        for at, (number, side) in enumerate(order(rounds))
    ]


def samples(
    runs: Sequence[tuple[int, Side, float]],
    *,
    name: str = "bulk_copy",
    metric: str = "duration_s",
    counters: Mapping[Side, Mapping[str, int]] | None = None,
    checksums: Mapping[Side, str] | None = None,
    clocks: Mapping[Side, Mapping[str, float]] | None = None,
    problems: Mapping[tuple[int, Side], str] | None = None,
) -> list[Sample]:
    """Return a sample a run, one second after the other."""
    return [
        Sample(
            proof=name,
            side=side,
            round=number,
            began_ns=at * S,
            ended_ns=at * S + S // 2,
            clocks={metric: value, "machine_s": 0.02, **(clocks or {}).get(side, {})},
            counters={"records": 1000, "failed": 0, **(counters or {}).get(side, {})},
            checksum=(checksums or {}).get(side, "1000-00"),
            problem=(problems or {}).get((number, side), ""),
        )
        for at, (number, side, value) in enumerate(runs)
    ]


def recording(
    found: Sequence[Sample], asked: ComparePlan | None = None, *, baselines: Mapping[str, Baseline] | None = None, **context: Any
) -> Recording:
    """Return samples as a session of a plan would leave them."""
    return Recording.of(
        samples=found,
        context=Context(
            run_id="20260101T000000Z-0000",
            started_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            target=TARGET,
            environment=ENVIRONMENT,
            variants={name: one.variants for name, one in (asked or plan()).proofs.items()},
            baselines=baselines or {},
            **context,
        ),
    )


def summary(
    found: Sequence[Sample], questions: Mapping[str, Question] | None = None, baselines: Mapping[str, Baseline] | None = None
) -> dict[str, ProofSummary]:
    """Return what samples say of each proof, all rounds looked at once."""
    return {
        name: analysis.of_proof(question, [s for s in found if s.proof == name], baseline=(baselines or {}).get(name, Baseline()))
        for name, question in (questions or {"bulk_copy": proof()}).items()
    }


def checked(found: Sequence[Sample], *, differs: int = 0, **question: Any) -> Check:
    """Return the check of the one metric of a proof."""
    asked = proof(**question)
    (check,) = analysis.check({"bulk_copy": analysis.of_proof(asked, found, differs=differs)}, {"bulk_copy": asked})
    return check
