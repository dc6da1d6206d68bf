"""Tables of a comparison for the notebook, as pandas frames. Every figure in them comes from the summary."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tapecheck.compare import findings as findings_of
from tapecheck.compare.analysis import ProofSummary, objective
from tapecheck.compare.plan import Proof, Question
from tapecheck.compare.recording import Recording
from tapecheck.statistics.paired import Ratio
from tapecheck.validation import checks, findings
from tapecheck.verdict import number

__all__ = ["checks", "controls", "counters", "differences", "findings", "plan", "savings", "sides"]

Summary = Mapping[str, ProofSummary]
Row = Mapping[str, Any]


def _frame(rows: Sequence[Row], nothing: str, *index: str) -> pd.DataFrame:
    """Return rows, or one that says that there is nothing."""
    return pd.DataFrame(rows or [{index[0]: nothing, **dict.fromkeys(index[1:], "")}]).fillna("").set_index([*index])


def plan(questions: Mapping[str, Question]) -> pd.DataFrame:
    """Return one row a metric: what was registered before anything is measured."""
    rows = [
        {
            "proof": name,
            "metric": metric.name,
            "what is changed": question.says,
            "good": "down" if metric.better == "lower" else "up",
            "smallest effect": f"{metric.smallest_effect:.0%}",
            "expected": objective(metric),
            "controls": ", ".join(question.controls),
            "rounds": str(question.rounds or "as recorded"),
            "method check": "yes" if question.method_check else "",
            **({"target of the side after": question.after_target} if isinstance(question, Proof) and question.after_target else {}),
        }
        for name, question in questions.items()
        for metric in question.metrics
    ]
    return _frame(rows, "", "proof", "metric")


def counters(summary: Summary) -> pd.DataFrame:
    """Return one row a proof and counter: what was counted on both sides, exactly."""
    rows = [
        {
            "proof": name,
            "counter": one.name,
            "before": one.before,
            "after": one.after,
            "after / before": number(one.ratio),
            "the same every round": "yes" if one.steady else "",
            "checksums": {True: "equal", False: "DIFFERENT", None: ""}[proof.checksums_equal],
        }
        for name, proof in summary.items()
        for one in proof.counters
    ]
    return _frame(rows, "nothing was counted", "proof", "counter")


def differences(summary: Summary) -> pd.DataFrame:
    """Return one row a proof and metric: before, after, their ratio with its interval, and what that proves."""
    rows = [
        {
            "proof": name,
            "metric": one.metric,
            "before": number(one.before),
            "after": number(one.after),
            **_ratio(one.ratio),
            "noise floor": "" if one.noise_floor is None else f"{one.noise_floor:.1%}",
            "p, in its family": "" if one.p_family is None else f"{one.p_family:.2g}",
            "rounds": f"{one.ratio.n if one.ratio else 0} of {proof.planned_rounds}",
            "proven": one.change.replace("_", " "),
            "why": one.reason,
            "rounds needed": f"about {one.needed_rounds}" if one.needed_rounds else "",
            "left out": "; ".join(proof.left_out),
        }
        for name, proof in summary.items()
        for one in proof.differences
    ]
    return _frame(rows, "no proof of this kind", "proof", "metric")


def _ratio(ratio: Ratio | None) -> dict[str, str]:
    between = "" if ratio is None or ratio.low is None else f"{number(ratio.low)} to {number(ratio.high)}"
    return {"ratio": number(ratio.value) if ratio else "", "95 % interval": between}


def controls(summary: Summary) -> pd.DataFrame:
    """Return one row a control: whether it held still."""
    rows = [
        {"proof": name, "control": one.metric, **_ratio(one.ratio), "held still": one.state if one.state != "moved" else "MOVED"}
        for name, proof in summary.items()
        for one in proof.controls
    ]
    return _frame(rows, "no proof has a control", "proof", "control")


def savings(summary: Summary) -> pd.DataFrame:
    """Return one row a proof with an expected or predicted saving: expected, predicted and measured side by side."""
    rows = [
        {
            "proof": name,
            "expected": _range(proof.expected_low_ratio, proof.expected_high_ratio),
            "predicted": findings_of.predicted(proof),
            "predicted by": proof.predicted_by or "",
            "measured": "" if proof.main.ratio is None else f"{1 - proof.main.ratio.value:.0%}",
            "95 % interval": _range(1 - (r.high or 0), 1 - (r.low or 0)) if (r := proof.main.ratio) and r.low is not None else "",
            "expected saving": findings_of.outcome(proof),
        }
        for name, proof in summary.items()
        if proof.expected_low_ratio is not None or proof.predicted_ratio is not None
    ]
    return _frame(rows, "nothing was expected or predicted", "proof")


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.0%} to {high:.0%}"


def sides(recording: Recording) -> pd.DataFrame:
    """Return where each side comes from and what code measured it, what else differs between them, and what does not count."""
    context = recording.context
    runs = [(side, one) for side, runs in (("before", context.before), ("after", context.after)) for one in runs]
    rows = [{"side": side, "run": one.run_id, "folder": one.folder, "target": one.target, "code": one.code} for side, one in runs]
    session = [{"side": "both", "run": context.run_id, "folder": "measured in one session", "target": context.target.name}]
    between = [{"side": "between them", "run": text} for text in context.differs]
    counted = [one for one in recording.samples if one.round]
    left_out = dict.fromkeys(("does not count", f"{one.proof}, {one.side}: {one.problem}") for one in counted if one.problem)
    late = dict.fromkeys(("counts, but late", f"{one.proof}, {one.side}: {one.late}") for one in counted if one.late)
    return _frame([*(rows or session), *between, *({"side": side, "run": text} for side, text in (left_out | late))], "", "side")
