"""Objectives are parsed strictly and judged honestly."""

import pytest

from tapecheck.errors import ConfigError
from tapecheck.verdict import Measured, Objective, Verdict, each_once, exit_code, headline, judge, overall, parse, parse_all, written

METRICS = ("p95_ms", "p99_ms", "success_ratio", "throughput_rps")


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("p95_ms < 1000", Objective(metric="p95_ms", op="<", limit=1000)),
        ("  success_ratio>=0.99 ", Objective(metric="success_ratio", op=">=", limit=0.99)),
        ("steady.p99_ms <= 2e3", Objective(metric="p99_ms", op="<=", limit=2000, scope="steady")),
    ],
)
def test_parse(text: str, objective: Objective) -> None:
    """An objective is a metric with its unit, a comparison and a number, for all scenarios or one."""
    assert parse(text, METRICS, ["steady"]) == objective


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p95 < 1000", "no metric 'p95'; the metrics are p95_ms"),
        ("p95_s < 1", "no metric 'p95_s'"),
        ("p95_ms == 3", "is not an objective; write METRIC < NUMBER"),
        ("p95_ms < fast", "is not an objective"),
        ("p95_ms < 1-2", "is not an objective"),
        ("p95_ms < 1e400", "no value of p95_ms, which is 0 or more, can decide 'p95_ms < 1e400'"),
        ("success_ratio > 2", "no value of success_ratio, which is 0 to 1, can decide"),
        ("success_ratio > 1", "no value of success_ratio"),
        ("p99_ms < -5", "no value of p99_ms"),
        ("throughput_rps > -1", "no value of throughput_rps"),
        ("p95_ms < 0", "no value of p95_ms"),
        ("stedy.p95_ms < 1", "no scenario 'stedy'; the scenarios are steady"),
    ],
)
def test_parse_says_what_is_allowed(text: str, message: str) -> None:
    """A wrong objective names what was got and what exists."""
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        parse(text, METRICS, ["steady"])


def test_a_metric_has_one_limit_from_each_side() -> None:
    """Of two for one scenario only one can decide; an upper and a lower limit are no two of a kind."""
    assert len(each_once(("p95_ms < 5", "a.p95_ms < 5", "p95_ms > 1"))) == 3
    with pytest.raises(ValueError, match=r"'a\.p95_ms < 5' and 'a\.p95_ms <= 6' are two"):
        each_once(("p95_ms < 5", "a.p95_ms < 5", "a.p95_ms <= 6"))
    with pytest.raises(ValueError, match="are two"):
        each_once(("p95_ms < 5", "p95_ms < 5"))


def test_a_scope_where_there_is_none_is_told_so() -> None:
    """No list of nothing."""
    with pytest.raises(ValueError, match=r"no scenario 'steady'; write 'p95_ms < 1'$"):
        parse("steady.p95_ms < 1", METRICS)


def test_parse_all_lists_every_problem() -> None:
    """All wrong objectives are reported together, each with its place."""
    with pytest.raises(ConfigError) as caught:
        parse_all(["p95 < 1", "p95_ms < 1", "x"], METRICS, [], file="load.yaml")
    assert [p.key for p in caught.value.problems] == ["objectives.0", "objectives.2"]


LESS = Objective(metric="p95_ms", op="<", limit=100)
MORE = Objective(metric="success_ratio", op=">", limit=0.99)


@pytest.mark.parametrize(
    ("objective", "measured", "verdict", "reason"),
    [
        (LESS, Measured(value=50, bound=60, n=500), Verdict.PASS, "met, with 95 % confidence"),
        (LESS, Measured(value=50, bound=120, n=500), Verdict.NOT_PROVEN, "its 95 % confidence bound (120 ms) does not"),
        (LESS, Measured(value=50, bound=None, n=20, needed_n=59), Verdict.NOT_PROVEN, "too few samples (20); at least 59 needed"),
        (LESS, Measured(value=100, bound=90, n=500), Verdict.FAIL, "100 misses < 100"),
        (LESS, Measured(value=None, bound=None, n=0), Verdict.NO_DATA, "nothing was measured"),
        (LESS, Measured.exact(0.0, 0), Verdict.NO_DATA, "nothing was measured"),
        (MORE, Measured(value=1.0, bound=0.9705, n=100, needed_n=299), Verdict.NOT_PROVEN, "at least 299 without a failure needed"),
        (MORE, Measured(value=0.99, bound=0.97, n=100), Verdict.FAIL, "0.99 misses > 0.99"),
    ],
)
def test_judge(objective: Objective, measured: Measured, verdict: Verdict, reason: str) -> None:
    """A pass needs the bound, a miss needs only the value, and no data is never a pass."""
    check = judge(objective, measured, name="steady")
    assert check.verdict == verdict
    assert reason in check.reason


def test_an_invalid_measurement_gives_no_other_verdict() -> None:
    """Where the generator was the bottleneck, even a met objective is invalid."""
    check = judge(LESS, Measured(value=1, bound=1, n=500), name="steady", invalid="the generator was busy")
    assert (check.verdict, check.reason) == (Verdict.INVALID, "the generator was busy")


def test_a_headline_in_markdown_says_names_as_they_are() -> None:
    """What a target, a scenario or a finding is called formats nothing and is no HTML."""
    assert headline("<b>x</b>", [], "see [a](b) *c*") == r"**NO DATA** for \<b>x\</b>: 0 of 0 checks met. see \[a\](b) \*c\*"


@pytest.mark.parametrize(
    ("verdicts", "whole", "code"),
    [
        ([], Verdict.NO_DATA, 2),
        (["pass", "pass"], Verdict.PASS, 0),
        (["pass", "not_proven"], Verdict.NOT_PROVEN, 2),
        (["not_proven", "no_data"], Verdict.NO_DATA, 2),
        (["invalid", "pass"], Verdict.INVALID, 2),
        (["invalid", "fail", "pass"], Verdict.FAIL, 1),
    ],
)
def test_overall(verdicts: list[str], whole: Verdict, code: int) -> None:
    """The gravest check decides, and a run without checks has no data."""
    assert overall(map(Verdict, verdicts)) == whole
    assert exit_code(whole) == code


@pytest.mark.parametrize(
    ("value", "text"), [(10_060, "10,060"), (2_000_000.0, "2,000,000"), (999.94, "999.9"), (0.0012, "0.0012"), (0, "0")]
)
def test_figures_are_written_for_people(value: float, text: str) -> None:
    """No count has an exponent, in a reason or in the objective itself, which can be parsed again."""
    assert written(value) == text
    missed = judge(parse(f"failed <= {value!r}", ["failed"]), Measured(value=value + 10_000, bound=None, n=1), name="s")
    assert "e+" not in missed.reason + missed.objective
    assert parse(missed.objective, ["failed"]) == parse(f"failed <= {value!r}", ["failed"])
