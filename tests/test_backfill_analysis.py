"""Where the time goes, from spans whose answer is known."""

import pytest
from backfills import plan, recording, span

from tapecheck.backfill import analysis, findings, frames
from tapecheck.backfill.analysis import critical_path, rate_limit_floor_s, summarize
from tapecheck.backfill.prediction import WhatIf
from tapecheck.backfill.recording import COMPLETED, FAILED, SKIPPED, Job
from tapecheck.backfill.validation import backfill
from tapecheck.vendor.trace import STAGES, Span
from tapecheck.verdict import Verdict

SECOND = 1_000_000_000


def shares(spans: list[Span], **more: float) -> dict[str, tuple[float, float]]:
    found = summarize(recording(spans, **more)).stages
    return {name: (round(s.busy_share, 6), round(s.wall_share, 6)) for name, s in found.items() if s.busy_s or s.wall_share}


def test_shares_are_of_every_stage() -> None:
    """Waiting and features are in the total: over API and database alone, fetch would pass for a bottleneck of 67 %."""
    one = [span("wait", 0, 2), span("fetch", 2, 4), span("decode", 4, 4.5), span("features", 4.5, 8.5), span("insert", 8.5, 9.5)]
    summary = summarize(recording(one, wall_s=10))
    assert sum(stage.busy_share for stage in summary.stages.values()) == pytest.approx(1)
    assert summary.stages["fetch"].busy_share == pytest.approx(2 / 9.5)
    assert (summary.bottleneck, summary.leading) == (None, ["features", "wait", "fetch"])
    assert list(summary.stages) == list(STAGES)


@pytest.mark.parametrize(("insert_s", "bottleneck"), [(6.01, "insert"), (5.99, None), (6.0, None)])
def test_a_stage_above_60_percent_is_the_bottleneck(insert_s: float, bottleneck: str | None) -> None:
    """At 60 % exactly nothing is, and what leads is named."""
    summary = summarize(recording([span("fetch", 0, 10 - insert_s), span("insert", 10 - insert_s, 10)]))
    assert (summary.bottleneck, summary.leading) == (bottleneck, ["insert", "fetch"])


OVERLAPPED = [
    span("fetch", 0, 1),
    span("insert", 1, 4),
    span("fetch", 1, 2, page=1),  # hidden behind the insert
    span("insert", 4, 7, page=1),
]


def test_wall_shares_follow_the_critical_path() -> None:
    """A fetch that runs while another page is stored costs busy time but no wall time."""
    assert shares(OVERLAPPED) == {"fetch": (0.25, round(1 / 7, 6)), "insert": (0.75, round(6 / 7, 6))}


PATHS = [
    ("gaps are other", [span("fetch", 1, 2), span("insert", 3, 4)], 5.0, {"fetch": 1, "insert": 1, "other": 3}),
    ("a gap before a fetch waits for a slot", [span("insert", 0, 1), span("fetch", 3, 4, job="AAPL 1h")], 4.0, {"insert": 1, "fetch": 3}),
    ("the path is of the worker that ends last", [span("fetch", 0, 9, worker=1), span("insert", 0, 10)], 10.0, {"insert": 10}),
    ("spans of no length end", [span("fetch", 0, 0), span("decode", 0, 0), span("insert", 0, 0)], 0.0, {}),
    ("nothing ran", [], 3.0, {"other": 3}),
]


@pytest.mark.parametrize(("spans", "wall_s", "expected"), [case[1:] for case in PATHS], ids=[case[0] for case in PATHS])
def test_the_critical_path_is_the_wall_time(spans: list[Span], wall_s: float, expected: dict[str, float]) -> None:
    """Each moment is one stage's, and all of them are the wall time."""
    path_ns = critical_path(spans, 0, round(wall_s * SECOND))
    assert {name: ns / SECOND for name, ns in path_ns.items() if ns} == expected
    assert sum(path_ns.values()) == wall_s * SECOND


def test_the_slowest_timeframe_is_by_its_mean() -> None:
    """One job of 10 s does not make its timeframe the slowest: the other's jobs take 7 s each, it takes 5.5 s on average."""
    spans = [
        span("fetch", 0, 10, job="AAPL 1h"), span("fetch", 0, 1, job="BTC 1h", worker=1),
        span("fetch", 0, 7, job="AAPL 5m", worker=2), span("fetch", 0, 7, job="BTC 5m", worker=3),
    ]  # fmt: skip
    summary = summarize(recording(spans))
    found = [summary.slowest_job, summary.slowest_timeframe, summary.slowest_symbol]
    assert [(slowest.name, slowest.mean_s, slowest.jobs) for slowest in found if slowest] == [
        ("AAPL 1h", 10, 1), ("5m", 7, 2), ("AAPL", 8.5, 2),
    ]  # fmt: skip


def test_what_failed_is_in_no_mean() -> None:
    """A job that failed at once does not make its symbol or timeframe look fast, nor its bars a high rate."""
    spans = [span("fetch", 0, 6, job="AAPL 5m"), span("fetch", 0, 5, job="BTC 1h", worker=1)]
    jobs = [
        Job(symbol="AAPL", timeframe="5m", state=COMPLETED, inserted=12),
        Job(symbol="BTC", timeframe="5m", state=FAILED, error="gone", inserted=600),
        Job(symbol="BTC", timeframe="1h", state=COMPLETED, unchanged=6),
        Job(symbol="AAPL", timeframe="1h", state=FAILED, error="HTTP 404"),
    ]
    summary = summarize(recording(spans, jobs=jobs))
    assert [(found.name, found.mean_s, found.jobs) for found in (summary.slowest_timeframe, summary.slowest_symbol) if found] == [
        ("5m", 6, 1), ("AAPL", 6, 1),
    ]  # fmt: skip
    assert (summary.totals.records, summary.totals.records_per_s) == (618, 3)


def test_bars_that_upstream_repeats_can_be_an_objective() -> None:
    """They are counted over all jobs, as each job counts its own; where nothing ran there is nothing to count."""
    jobs = [Job(symbol="AAPL", timeframe="1d", state=COMPLETED, repeated=2), Job(symbol="AAPL", timeframe="1h", state=FAILED, repeated=3)]
    value = analysis.measured(summarize(recording([span("fetch", 0, 1)], jobs=jobs)), "repeated").value
    skipped = [Job(symbol="AAPL", timeframe="1d", state=SKIPPED)]
    assert (value, analysis.measured(summarize(recording([], jobs=skipped)), "repeated").value) == (5, None)


def test_a_job_lasts_while_any_of_its_stages_runs() -> None:
    """Stages at once count once, and pauses in which other jobs had their turn do not count."""
    job = summarize(recording(OVERLAPPED)).jobs["AAPL"]["1d"]
    assert (job.duration_s, job.busy_s) == (7, {"fetch": 2, "insert": 6})
    assert summarize(recording([span("fetch", 0, 1), span("insert", 8, 9)])).jobs["AAPL"]["1d"].duration_s == 2


def test_totals_count_every_job() -> None:
    """Failed and skipped jobs are counted apart; records are what is in the tables, whether it was new or not."""
    jobs = [
        Job(symbol="AAPL", timeframe="1d", state=COMPLETED, inserted=5, changed=2, unchanged=3),
        Job(symbol="AAPL", timeframe="1h", state=FAILED, error="HTTP 404", inserted=1),
        Job(symbol="AAPL", timeframe="5m", state=SKIPPED),
    ]
    spans = [span("fetch", 0, 1, requests=1, bytes=10), span("fetch", 1, 2, job="AAPL 1h", requests=1, bytes=20)]
    totals = summarize(recording(spans, jobs=jobs, wall_s=4)).totals
    assert (totals.jobs, totals.completed, totals.failed, totals.skipped) == (3, 1, 1, 1)
    assert (totals.records, totals.records_per_s, totals.requests, totals.bytes, totals.duration_s) == (11, 2.5, 2, 30, 4)


def test_nothing_done_divides_by_nothing() -> None:
    """A run in which every job was skipped, or none is planned to take time, has no speed and no bottleneck, and passes nothing."""
    summary = summarize(recording([], jobs=[Job(symbol="AAPL", timeframe="1d", state=SKIPPED)], wall_s=0))
    assert (summary.totals.records_per_s, summary.bottleneck, summary.leading, summary.slowest_job) == (None, None, [], None)
    checks = analysis.check(summary, plan(objectives=["duration_s < 9", "records_per_s < 9", "failed < 9"]))
    assert {check.verdict for check in checks} == {Verdict.NO_DATA}


def test_a_run_in_which_all_fails_never_passes() -> None:
    """However fast it fails."""
    summary = summarize(recording([span("fetch", 0, 0.1)], jobs=[Job(symbol="AAPL", timeframe="1d", state=FAILED, error="x")]))
    checks = analysis.check(summary, plan(objectives=["duration_s < 90", "job_success_ratio >= 1", "failed < 1", "records_per_s >= 0"]))
    assert [check.verdict for check in checks] == [Verdict.NO_DATA, Verdict.FAIL, Verdict.FAIL, Verdict.NO_DATA]


@pytest.mark.parametrize(
    ("requests", "rate_per_s", "burst", "floor_s"),
    [(125, 5 / 60, 10, 1380), (10, 5 / 60, 10, 0), (3, 5 / 60, 10, 0), (645, None, 10, 0), (12, 2.0, 2, 5)],
)
def test_the_rate_limit_floor(requests: int, rate_per_s: float | None, burst: int, floor_s: float) -> None:
    """125 jobs at 5 requests a minute take 23 minutes whatever the code does."""
    assert rate_limit_floor_s(requests, rate_per_s, burst) == pytest.approx(floor_s)


PLANTED = [
    ("fetch", {}, "bottleneck_fetch", "concurrency.requests"),
    ("fetch", {"derive": True}, "bottleneck_fetch", "concurrency.requests"),
    ("wait", {"derive": True, "source": {"requests_per_minute": 60}}, "bottleneck_wait", "get a higher limit"),
    ("wait", {}, "bottleneck_wait", "pauses before retries"),
    ("insert", {"insert": "row_by_row"}, "bottleneck_insert", "insert: copy"),
    ("insert", {}, "bottleneck_insert", "already use COPY"),
    ("features", {"features": "per_row"}, "bottleneck_features", "features: vectorized"),
    ("decode", {}, "bottleneck_decode", "profile"),
]


@pytest.mark.parametrize(("stage", "plan", "name", "action"), PLANTED, ids=[f"{stage} {plan}" for stage, plan, _, _ in PLANTED])
def test_a_planted_slow_stage_is_named_with_what_helps(stage: str, plan: dict[str, object], name: str, action: str) -> None:
    """The advice is for what this plan does not do yet."""
    found = recording([span(stage, 0, 9), span("other", 9, 10)], **plan)
    limit = backfill.bottleneck(findings.find(summarize(found), found.context.plan))
    assert limit and limit.name == name and action in limit.action
    assert limit.evidence["ceiling_ratio"] == pytest.approx(10)


LIMITED = {"source": {"requests_per_minute": 60}}
PAGES = [  # pages of each timeframe, and whether fetching 5-minute bars alone asks less
    ({"5m": 2, "1h": 2, "1d": 1}, True),
    ({"5m": 2}, False),
    ({"1d": 2}, False),
    ({"1h": 2, "1d": 2}, False),
    ({"5m": 0, "1h": 2}, False),  # its 5-minute bars were there already, or failed
]


@pytest.mark.parametrize(("pages", "offered"), PAGES, ids=[str(case[0]) for case in PAGES])
@pytest.mark.parametrize("stage", ["fetch", "wait"])
def test_deriving_is_offered_only_where_it_asks_less(pages: dict[str, int], offered: bool, stage: str) -> None:
    """For days alone it would ask more, for 5-minute bars alone the same."""
    spans = [span(stage, 0, 9, job=f"AAPL {next(iter(pages))}")]
    spans += [span("decode", 9, 10, job=f"AAPL {frame}", page=page) for frame, count in pages.items() for page in range(count)]
    jobs = [Job(symbol="AAPL", timeframe=frame, state=COMPLETED) for frame in pages]
    found = recording(spans, jobs=jobs, **LIMITED)
    limit = next(one for one in findings.find(summarize(found), found.context.plan) if one.name.endswith(stage))
    assert ("derive: true" in limit.action) == offered


def test_the_replay_may_know_of_more_than_the_path() -> None:
    """A stage off the path slows down those that share its cores: the larger of both savings is told, for the promise too."""
    hidden = [span("insert", i, i + 1, page=i) for i in range(10)] + [span("fetch", 0.5, 9.5, page=p) for p in range(3)]
    found = recording(hidden)
    for saving, ceiling, promise in [(0.5, 2.0, "possible"), (-0.1, 1.0, "not possible: at no cost it saves about 0%")]:
        predicted = [WhatIf(change="fetch at no cost", wall_s=1, saving_ratio=saving), WhatIf(change="x", wall_s=1, saving_ratio=0.9)]
        limit = backfill.bottleneck(findings.find(summarize(found), found.context.plan, predicted))
        assert limit and (limit.evidence["ceiling_ratio"], limit.evidence["promise"]) == (ceiling, promise)
        assert frames.stages(summarize(found), predicted).loc["fetch", "at no cost, about"] == f"{ceiling:.2f} x as fast"


def test_balanced_names_what_leads_and_not_features() -> None:
    """Where nothing passes the rule, features are not the culprit by elimination: they lead only if they take the time."""
    found = recording([span("fetch", 0, 4), span("features", 4, 5), span("insert", 5, 10)])
    said = findings.find(summarize(found), found.context.plan)
    assert [f.name for f in said] == ["balanced", "leading_insert", "leading_fetch"]
    assert (said[1].evidence["promised_saving_low_ratio"], said[1].evidence["promised_saving_high_ratio"]) == (0.20, 0.30)


def test_failed_jobs_are_named_first() -> None:
    """Five by name, and how many more, with the first one's error."""
    jobs = [Job(symbol=f"S{i}", timeframe="1d", state=FAILED, error="x") for i in range(7)]
    found = recording([span("fetch", 0, 1, job="S0 1d")], jobs=jobs)
    said = findings.find(summarize(found), found.context.plan)
    assert said[0].finding == "7 of 7 jobs failed: S0 1d, S1 1d, S2 1d, S3 1d, S4 1d and 2 more; first error: x"
