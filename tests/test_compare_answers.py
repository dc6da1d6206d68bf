"""A build that gives other answers is no faster one: status, size and check of the answers are held against each other."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples
import servers
from servers import Server

from tapecheck import config
from tapecheck.compare import analysis, answers, recorded
from tapecheck.compare.difference import Pair
from tapecheck.compare.plan import AFTER, BEFORE, Question, Side
from tapecheck.compare.recording import Sample
from tapecheck.compare.validation import compare
from tapecheck.errors import ConfigError
from tapecheck.load.engine.recorder import ErrorKind

REQUESTS = 200
METRIC = {"name": "p95_ms", "better": "lower", "smallest_effect": 0.1}
Draw = Callable[[np.random.Generator], Sequence[int]]
LOAD = config.PROJECT / "tests" / "data" / "load"
PLANNED = compare.read_plan("config/compare.yaml")


def run(side: Side, number: int, sizes: Sequence[int], *, status: Sequence[int] | int = 200, checked: int = 10, failed: int = 0) -> Sample:
    """Return one run whose right answers have these sizes; `failed` requests more got nothing."""
    rows = samples.burst([1.0] * (len(sizes) + failed), failed={len(sizes) + i: ErrorKind.timeout for i in range(failed)})
    rows["bytes"][: len(sizes)], rows["status"][: len(sizes)] = sizes, status
    rows["bytes"][len(sizes) :] = 0
    found = samples.recording({"month": rows}, generator=replace(samples.GENERATOR, content_checked=checked))
    return replace(answers.read(found, "month"), proof="x", side=side, round=number)


def said(before: Draw, after: Draw, *, rounds: int) -> str | None:
    rng = np.random.default_rng(7)
    return answers.differ([Pair(before=run(BEFORE, n, before(rng)), after=run(AFTER, n, after(rng))) for n in range(1, rounds + 1)])


def always(size: int) -> Draw:
    return lambda rng: [size] * REQUESTS


def stamped(size: int) -> Draw:
    return lambda rng: size + rng.integers(0, 6, REQUESTS)


def mixed(rng: np.random.Generator) -> Sequence[int]:
    """As of symbols and timeframes, whose histories are some bars or a whole decade."""
    return rng.choice([600, 2_000, 9_000, 60_000, 250_000], REQUESTS, p=[0.2, 0.2, 0.2, 0.2, 0.2])


def short_mix(rng: np.random.Generator) -> Sequence[int]:
    return rng.choice([70, 130, 250], 12)


def few(size: int, part: float, other: Draw) -> Draw:
    return lambda rng: np.where(rng.random(REQUESTS) < part, size, other(rng))


OTHER: dict[str, tuple[Draw, Draw, str]] = {
    "an error body with 200": (stamped(48_000), stamped(160), "bytes an answer before, 16"),
    "an empty body": (always(900), always(130), "900 bytes an answer before, 130 after"),
    "an error body with 200 in place of a short answer": (stamped(98), stamped(85), "bytes an answer before, 8"),
    "a short answer of one size": (always(100), always(87), "100 bytes an answer before, 87 after"),
    "cut off after four fifths": (stamped(5_000), stamped(4_000), "bytes an answer before, 4,00"),
    "a fifth more": (always(5_000), always(6_000), "5,000 bytes an answer before, 6,000 after"),
    "errors in place of some": (stamped(5_000), few(160, 0.04, stamped(5_000)), "of them after have 128 to 256 bytes"),
    "some as large as never before": (stamped(5_000), few(64_000, 0.02, stamped(5_000)), "bytes"),
    "errors in place of the large ones of a mix": (mixed, lambda rng: np.where((m := np.asarray(mixed(rng))) > 50_000, 160, m), "bytes"),
}


@pytest.mark.parametrize("case", OTHER)
def test_answers_of_another_size_are_found(case: str) -> None:
    """In two recorded runs, which are one round, so that a session finds them at once."""
    before, after, expected = OTHER[case]
    assert expected in (said(before, after, rounds=1) or "nothing")


ALIKE: dict[str, tuple[Draw, Draw]] = {
    "a time stamp": (stamped(5_000), stamped(5_003)),
    "a few bytes more on a short answer": (always(300), always(325)),
    "few answers of a short mix": (short_mix, short_mix),
    "a few bars more": (always(50_000), always(50_900)),
    "both sides of a power of two": (always(2_047), always(2_049)),
    "a mix drawn anew": (mixed, mixed),
    "one odd answer of many": (stamped(5_000), lambda rng: [160, *[5_000] * (2 * REQUESTS)]),
    "sizes that nobody told": (always(5_000), always(0)),
}


@pytest.mark.parametrize("case", ALIKE)
def test_what_varies_by_itself_is_no_difference(case: str) -> None:
    """Nor does noise of the mix of requests make one."""
    assert said(*ALIKE[case], rounds=4) is None


def pair(before: Sample, after: Sample) -> list[Pair]:
    return [Pair(before=before, after=after)]


def test_answers_of_another_status_are_found() -> None:
    """Another 2xx on all answers, and on one in twenty; chance alone is none."""
    same = run(BEFORE, 1, [900] * REQUESTS)
    some = [206 if i % 20 == 0 else 200 for i in range(REQUESTS)]
    assert answers.differ(pair(same, run(AFTER, 1, [900] * REQUESTS, status=204))) == "status 200 on 100% of them before, on 0% after"
    assert answers.differ(pair(run(BEFORE, 1, [900] * 2000), run(AFTER, 1, [900] * 2000, status=some * 10))) is not None
    assert answers.differ(pair(same, run(AFTER, 1, [900] * REQUESTS, status=[206, *[200] * (REQUESTS - 1)]))) is None


@pytest.mark.parametrize(
    ("before", "after", "is_found"),
    [
        ((9, 9), (9, 0), True),  # answers of a side, and how many of them were checked
        ((20_000, 10_000), (20_000, 1), True),
        ((20_000, 10_000), (200, 1), True),
        ((2_000, 1_000), (20_000, 99), True),
        ((2_000, 1_000), (20_000, 600), False),  # a sample that is full
        ((2_000, 200), (100, 10), False),  # a side that is slow
        ((2_000, 0), (2_000, 0), False),  # no answer is expected to be anything
        ((2_000, 0), (2_000, 200), False),
    ],
)
def test_answers_of_which_far_fewer_were_checked_are_found(before: tuple[int, int], after: tuple[int, int], is_found: bool) -> None:
    """Of a side whose content hardly anybody looked at, a size says too little."""
    found = answers.differ(pair(*(run(side, 1, [900] * n, checked=k) for side, (n, k) in ((BEFORE, before), (AFTER, after)))))
    text = f"the content of {before[1]:,} of {before[0]:,} of them was checked before, of {after[1]:,} of {after[0]:,} after"
    assert found == (text if is_found else None)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ([], "the answers are not compared: no right one is known after"),
        ([0] * 9, "the sizes of answers are not compared: unknown after"),
        ([900] * 9, None),
    ],
)
def test_answers_that_cannot_be_compared_are_said_to_be_not(after: list[int], said: str | None) -> None:
    """In the summary and with every check of the proof; nothing that is not known is alike. A proof that does not ask says nothing."""
    question = Question.model_validate({"validation": "load", "says": "x", "metrics": [METRIC]})
    own = [one for n in range(1, 5) for one in (run(BEFORE, n, [900] * 9), run(AFTER, n, after))]
    timed = [replace(one, clocks={**one.clocks, "p95_ms": (1.0 if one.side == BEFORE else 0.5) + one.round / 100}) for one in own]
    one = analysis.of_proof(question, timed)
    (check,) = analysis.check({"x": one}, {"x": question})
    assert (one.not_compared, one.invalid, check.verdict) == (said, None, "pass")
    assert (said or "nothing") in check.reason or (said is None and "compared" not in check.reason)
    assert analysis.of_proof(question.model_copy(update={"same": ()}), timed).not_compared is None


def test_failed_requests_have_no_answer() -> None:
    """Their bytes are in no mean; how many failed is judged elsewhere. Nothing is said where a side has no right answer."""
    assert answers.differ(pair(run(BEFORE, 1, [900] * 100), run(AFTER, 1, [900] * 100, failed=90))) is None
    assert answers.differ(pair(run(BEFORE, 1, [900] * 9), run(AFTER, 1, [], failed=9))) is None
    assert answers.differ([]) is None


def test_a_change_that_is_meant_to_alter_answers_says_so() -> None:
    """`same: []` of a load proof: compression, or fewer fields."""
    metric = {"name": "answer_bytes", "better": "lower", "smallest_effect": 0.1}
    own = [one for n in range(1, 5) for one in (run(BEFORE, n, [9_000 + n] * 9), run(AFTER, n, [2_000 + 2 * n] * 9))]
    strict = Question.model_validate({"validation": "load", "says": "gzip", "metrics": [metric]})
    meant = strict.model_copy(update={"same": ()})
    assert (analysis.of_proof(strict, own).invalid or "").startswith("the answers differ: 9,002 bytes an answer before, 2,005 after")
    assert analysis.of_proof(meant, own).main.change == "improved"


# ---- two recorded runs ----


@pytest.mark.parametrize(("size", "expected"), [(160, "bytes an answer before, 160 after"), (None, "None")])
def test_two_recorded_runs_with_other_answers_are_invalid(tmp_path: Path, size: int | None, expected: str) -> None:
    """Every request of both is there, and so is every size; a time stamp makes no difference."""
    shutil.copytree(LOAD, tmp_path / "b")
    table = pq.read_table(LOAD / "samples.parquet")
    at, sizes = table.column_names.index("bytes"), table.column("bytes").to_numpy()
    other = np.full_like(sizes, size) if size else sizes + np.arange(len(sizes)) % 9
    pq.write_table(table.set_column(at, table.field(at), pa.array(other, pa.uint32())), tmp_path / "b" / "samples.parquet")
    found = recorded.read(str(LOAD), str(tmp_path / "b"))
    invalid = {name: proof.invalid for name, proof in compare.summarize(found, PLANNED).items()}
    assert len(invalid) > 1 and all(expected in str(one) for one in invalid.values()), invalid


# ---- two builds that are asked ----

PLAN = """
rounds: 4
warm_up: 0
proofs:
  index: {validation: load, plan: FOLDER/load.yaml, scenario: month, says: an index, after_target: FOLDER/after.yaml,
          metrics: [{name: answer_bytes, better: lower, smallest_effect: 0.1}]}
"""
USERS = """
scenarios: {month: {executor: closed, concurrency: 2, duration_s: 0.1, request: ask, parameters: {symbol: [A]}}}
generator: {lag_p99_ms: 2000, cpu_ratio: 1}
"""
BARS = b'{"symbol": "A", "bars": [' + b", ".join(b"%d" % n for n in range(1000)) + b"]}"


def test_a_build_that_answers_with_something_else_is_no_improvement(tmp_path: Path) -> None:
    """However few bytes that takes, it is invalid; each side asks its own target."""
    with Server(servers.body(BARS)) as old, Server(servers.body(b'{"error":"internal","data":[]}')) as broken:
        (tmp_path / "plan.yaml").write_text(PLAN.replace("FOLDER", str(tmp_path)))
        (tmp_path / "load.yaml").write_text(USERS)
        for name, server in (("before", old), ("after", broken)):
            text = f"name: {name}\nkind: external\nbase_url: {server.url}\nrequests: {{ask: 'GET /?symbol={{symbol}}'}}\n"
            (tmp_path / f"{name}.yaml").write_text(text)
        given = {"target": str(tmp_path / "before.yaml"), "plan": str(tmp_path / "plan.yaml"), "profile": "full", "proofs": "all"}
        settings = compare.settings(**given, rounds=0, run="new", out="")
        plan = compare.plan(settings)
        found = compare.analyse(compare.recording(plan, settings), plan)
    (check,), main = found.checks, found.summary["index"].main
    assert check.verdict == "invalid" and check.reason.startswith("the answers differ: ")
    assert main.before and main.after and main.before > len(BARS) > 300 > main.after
    assert {row["side"] for row in found.recording.spectra.to_pylist()} == {BEFORE, AFTER}, "what requests saw is kept of both"
    for side, server in ((BEFORE, old), (AFTER, broken)):
        assert server.seen.requests >= sum(one.counters["requests"] for one in found.recording.samples if one.side == side) > 0
    (tmp_path / "after.yaml").write_text("name: x\nkind: external\n")
    with pytest.raises(ConfigError, match=r"after\.yaml"):
        compare.read_plan(tmp_path / "plan.yaml")
