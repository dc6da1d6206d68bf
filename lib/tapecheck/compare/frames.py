"""Tables of a comparison for the notebook, as pandas frames. Every figure in them comes from the summary."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from tapecheck.compare import findings as findings_of
from tapecheck.compare.analysis import ProofSummary, objective
from tapecheck.compare.difference import State
from tapecheck.compare.plan import Question
from tapecheck.compare.recording import Recording
from tapecheck.statistics.paired import Ratio
from tapecheck.validation import checks, findings
from tapecheck.verdict import number

__all__ = ["checks", "controls", "counters", "differences", "findings", "plan", "savings", "sides"]

Summary = Mapping[str, ProofSummary]


def _frame(columns: Sequence[str], rows: Iterable[Sequence[object]], nothing: str = "", index: int = 2) -> pd.DataFrame:
    """Return rows, or one that says that there is nothing; the first columns are the index."""
    return pd.DataFrame([*rows] or [(nothing, *[""] * (len(columns) - 1))], columns=columns).set_index([*columns[:index]])


def plan(questions: Mapping[str, Question]) -> pd.DataFrame:
    """Return one row a metric: what was known before anything is measured."""
    columns = ["proof", "metric", "what is changed", "good", "smallest effect", "expected", "controls", "rounds", "method check"]
    rows = [
        (name, metric.name, question.says, {"lower": "down", "higher": "up"}[metric.better], f"{metric.smallest_effect:.0%}",
         objective(metric), ", ".join(question.controls), str(question.rounds or "as recorded"), "yes" if question.method_check else "")
        for name, question in questions.items()
        for metric in question.metrics
    ]  # fmt: skip
    builds = [getattr(question, "after_target", None) or "" for question in questions.values() for _ in question.metrics]
    found = _frame(columns, rows)
    return found.assign(**{"target of the side after": builds}) if any(builds) else found


def counters(summary: Summary) -> pd.DataFrame:
    """Return one row a proof and counter: what was counted on both sides, exactly."""
    same = {True: "equal", False: "DIFFERENT", None: ""}
    columns = ["proof", "counter", "before", "after", "after / before", "the same every round", "checksums"]
    rows = (
        (name, one.name, one.before, one.after, number(one.ratio), "yes" if one.steady else "", same[proof.checksums_equal])
        for name, proof in summary.items()
        for one in proof.counters
    )
    return _frame(columns, rows, "nothing was counted")


RATIO = ("ratio", "95 % interval")


def _ratio(ratio: Ratio | None) -> tuple[str, str]:
    if ratio is None or ratio.low is None or ratio.high is None:
        return number(ratio.value) if ratio else "", ""
    return number(ratio.value), f"{number(ratio.low)} to {number(ratio.high) if ratio.is_bound(ratio.high) else 'no bound'}"


def differences(summary: Summary) -> pd.DataFrame:
    """Return one row a proof and metric: before, after, their ratio with its interval, and what that proves."""
    columns = ["proof", "metric", "before", "after", *RATIO, "noise floor", "p, in its family", "rounds"]
    columns += ["proven", "why", "rounds needed", "left out"]
    rows = [
        (name, one.metric, number(one.before), number(one.after), *_ratio(one.ratio),
         "" if one.noise_floor is None else f"{one.noise_floor:.1%}", "" if one.p_family is None else f"{one.p_family:.2g}",
         f"{one.ratio.n if one.ratio else 0} of {proof.planned_rounds}", one.change.replace("_", " "), one.reason,
         f"about {one.needed_rounds}" if one.needed_rounds else "", "; ".join(proof.left_out))
        for name, proof in summary.items()
        for one in proof.differences
    ]  # fmt: skip
    return _frame(columns, rows, "no proof of this kind")


def controls(summary: Summary) -> pd.DataFrame:
    """Return one row a control: whether it held still."""
    held = {State.HELD: "held", State.MOVED: "MOVED", State.UNKNOWN: "unknown"}
    rows = ((name, one.metric, *_ratio(one.ratio), held[one.state]) for name, proof in summary.items() for one in proof.controls)
    return _frame(["proof", "control", *RATIO, "held still"], rows, "no proof has a control")


def savings(summary: Summary) -> pd.DataFrame:
    """Return one row a proof with an expected or predicted saving: expected, predicted and measured side by side."""
    rows = []
    for name, proof in summary.items():
        low, high, ratio = proof.expected_low_ratio, proof.expected_high_ratio, proof.main.ratio
        if low is not None or proof.predicted_ratio is not None:
            measured = "" if ratio is None else f"{1 - ratio.value:.0%}"
            between = "" if ratio is None or ratio.low is None or ratio.high is None else _range(1 - ratio.high, 1 - ratio.low)
            expected, by = _range(low, high), proof.predicted_by or ""
            rows.append((name, expected, findings_of.predicted(proof), by, measured, between, findings_of.outcome(proof)))
    columns = ["proof", "expected", "predicted", "predicted by", "measured", "95 % interval", "expected saving"]
    return _frame(columns, rows, "nothing was expected or predicted", 1)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.0%} to {high:.0%}"


def sides(recording: Recording) -> pd.DataFrame:
    """Return where each side comes from and what code measured it, what else differs between them, and what does not count."""
    context, counted = recording.context, [one for one in recording.samples if one.round]
    runs = [(side, one) for side, runs in (("before", context.before), ("after", context.after)) for one in runs]
    rows = [(side, one.run_id, one.folder, one.target, one.code) for side, one in runs]
    rows = rows or [("both", context.run_id, "measured in one session", context.target.name, "")]
    said = [("between them", text) for text in context.differs]
    said += dict.fromkeys(("does not count", f"{one.proof}, {one.side}: {one.problem}") for one in counted if one.problem)
    said += dict.fromkeys(("counts, but late", f"{one.proof}, {one.side}: {one.late}") for one in counted if one.late)
    return _frame(["side", "run", "folder", "target", "code"], [*rows, *((*each, "", "", "") for each in said)], index=1)
