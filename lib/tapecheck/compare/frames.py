"""Tables of a comparison for the notebook, as pandas frames. Every figure in them comes from the summary."""

from collections.abc import Mapping

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
            "rounds": str(question.rounds or 1),
            "method check": "yes" if question.method_check else "",
            **({"target of the side after": question.after_target} if isinstance(question, Proof) and question.after_target else {}),
        }
        for name, question in questions.items()
        for metric in question.metrics
    ]
    return pd.DataFrame(rows).fillna("").set_index(["proof", "metric"])


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
    return pd.DataFrame(rows or [{"proof": "nothing was counted", "counter": ""}]).set_index(["proof", "counter"])


def differences(summary: Summary) -> pd.DataFrame:
    """Return one row a proof and metric: before, after, their ratio with its interval, and what that proves."""
    rows = [
        {
            "proof": name,
            "metric": one.metric,
            "before": number(one.before),
            "after": number(one.after),
            "ratio": number(one.ratio.value) if one.ratio else "",
            "95 % interval": interval(one.ratio),
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
    return pd.DataFrame(rows or [{"proof": "no proof of this kind", "metric": ""}]).set_index(["proof", "metric"])


def interval(ratio: Ratio | None) -> str:
    """Write the interval of a ratio."""
    return "" if ratio is None or ratio.low is None else f"{number(ratio.low)} to {number(ratio.high)}"


def controls(summary: Summary) -> pd.DataFrame:
    """Return one row a control, with the runs that were left out."""
    rows = [
        {
            "proof": name,
            "control": one.metric,
            "ratio": number(one.ratio.value) if one.ratio else "",
            "95 % interval": interval(one.ratio),
            "held still": one.state if one.state != "moved" else "MOVED",
        }
        for name, proof in summary.items()
        for one in proof.controls
    ]
    return pd.DataFrame(rows or [{"proof": "no proof has a control", "control": ""}]).set_index(["proof", "control"])


def savings(summary: Summary) -> pd.DataFrame:
    """Return one row a proof with a promise or prediction: promised, predicted and measured saving side by side."""
    rows = [
        {
            "proof": name,
            "promised": _range(proof.promised_low_ratio, proof.promised_high_ratio),
            "predicted": findings_of.predicted(proof),
            "predicted by": proof.predicted_by or "",
            "measured": "" if proof.saved_ratio is None else f"{proof.saved_ratio:.0%}",
            "95 % interval": _saved(proof.main.ratio),
            "promise": findings_of.promise_kept(proof),
        }
        for name, proof in summary.items()
        if proof.promised_low_ratio is not None or proof.predicted_ratio is not None
    ]
    return pd.DataFrame(rows or [{"proof": "nothing was promised or predicted"}]).set_index("proof")


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.0%} to {high:.0%}"


def _saved(ratio: Ratio | None) -> str:
    return "" if ratio is None or ratio.low is None or ratio.high is None else _range(1 - ratio.high, 1 - ratio.low)


def sides(recording: Recording) -> pd.DataFrame:
    """Return where each side comes from and what code measured it, what else than the change lies between them, and what does not count."""
    context = recording.context
    rows = [
        {"side": side, "run": one.run_id, "folder": one.folder, "target": one.target, "code": one.code}
        for side, one in (("before", context.before), ("after", context.after))
        if one
    ]
    session = [{"side": "both", "run": context.run_id, "folder": "measured in one session", "target": context.target.name}]
    between = [{"side": "between them", "run": text} for text in context.differs]
    return pd.DataFrame([*(rows or session), *between, *_left_out(recording)]).fillna("").set_index("side")


def _left_out(recording: Recording) -> list[dict[str, str]]:
    """Return one row for each reason for which runs of one side of a proof do not count."""
    counted = [one for one in recording.samples if one.round]
    said = dict.fromkeys(("does not count", f"{one.proof}, {one.side}: {one.problem}") for one in counted if one.problem)
    late = dict.fromkeys(("counts, but late", f"{one.proof}, {one.side}: {one.late}") for one in counted if one.late)
    return [{"side": side, "run": text} for side, text in (said | late)]
