"""Predictions from schedules whose outcome can be computed by hand."""

from dataclasses import replace

import pytest
from backfills import recording, span

from tapecheck.backfill import prediction
from tapecheck.backfill.prediction import Machine, Process, Workload, faster, predict_all, schedule_of, wall_s, works_s
from tapecheck.vendor.trace import Span


def job(name: str, began_s: float, fetch_s: float, insert_s: float, pages: int, worker: int = 0) -> list[Span]:
    """Return the spans of a job that fetches one page ahead of the one that it stores, on an idle machine."""
    spans, fetch_at_s, stored_s = [], began_s, began_s
    for page in range(pages):
        fetched_s = fetch_at_s + fetch_s
        spans.append(span("fetch", fetch_at_s, fetched_s, job=name, page=page, worker=worker, requests=1))
        store_at_s = max(fetched_s, stored_s)
        stored_s = store_at_s + insert_s
        spans.append(span("insert", store_at_s, stored_s, job=name, page=page, worker=worker, rows=1))
        fetch_at_s = store_at_s
    return spans


def schedule(spans: list[Span], *, cores: int = 8, jobs: int = 1, requests: int = 1, **plan: object) -> Workload:
    return schedule_of(recording(spans, concurrency={"jobs": jobs, "requests": requests}, **plan), cores)


# fetch and insert of each page in s; pages; wall as recorded; with insert twice as fast, at no cost; with fetch twice as fast, at no cost
PIPELINES = [
    (1, 2, 1, 3, 2, 1, 2.5, 2),
    (1, 2, 3, 7, 4, 3, 6.5, 6),  # insert is the bottleneck: only the first fetch shows
    (2, 1, 3, 7, 6.5, 6, 4, 3),  # and the other way round
    (1, 1, 4, 5, 4.5, 4, 4.5, 4),
]


@pytest.mark.parametrize("case", PIPELINES, ids=[f"{c[0]}+{c[1]} x {c[2]}" for c in PIPELINES])
def test_a_pipeline_of_known_times(case: tuple[float, ...]) -> None:
    """Stages of different pages overlap, so a stage twice as fast seldom saves half of its time."""
    fetch_s, insert_s, pages, *expected = case
    found = schedule(job("AAPL 1d", 0, fetch_s, insert_s, int(pages)))
    changed = [found, *(faster(found, stage, factor) for stage in ("insert", "fetch") for factor in (0.5, 0.0))]
    assert [wall_s(one) for one in changed] == pytest.approx(expected)


def test_workers_take_the_next_job_when_they_are_free() -> None:
    """Jobs of 3, 1, 1 and 1 s take 3 s with two workers, 6 s with one, and 3 s with many."""
    spans = [*job("AAPL 1d", 0, 0, 3, 1), *job("BTC 1d", 0, 0, 1, 1, 1), *job("SPY 1d", 1, 0, 1, 1, 1), *job("QQQ 1d", 2, 0, 1, 1, 1)]
    found = schedule(spans, jobs=2)
    assert [wall_s(replace(found, workers=n)) for n in (2, 1, 9)] == pytest.approx([3, 6, 3])


def test_requests_wait_for_a_slot() -> None:
    """Three jobs that only fetch, 2 s each: one request at a time takes 6 s however many workers ask."""
    spans = [one for i, name in enumerate(("AAPL 1d", "BTC 1d", "SPY 1d")) for one in job(name, 0, 2, 0, 1, i)]
    found = schedule(spans, jobs=3, requests=3)
    assert [wall_s(replace(found, requests=n)) for n in (3, 2, 1)] == pytest.approx([2, 4, 6])


def test_stages_share_the_cores() -> None:
    """Two inserts at once on one core took 2 s each; one after another they take 1 s each, which saves and costs nothing."""
    spans = [*job("AAPL 1d", 0, 0, 2, 1, 0), *job("BTC 1d", 0, 0, 2, 1, 1)]
    crowded = schedule(spans, cores=1, jobs=2)
    assert [step.work_s for group in crowded.groups for page in group.pages for step in page.store] == pytest.approx([1, 1])
    assert [wall_s(replace(crowded, workers=n)) for n in (2, 1)] == pytest.approx([2, 2])
    roomy = schedule(spans, cores=2, jobs=2)
    assert [wall_s(replace(roomy, workers=n)) for n in (2, 1)] == pytest.approx([2, 4])


def test_a_remote_stage_does_not_use_our_cores() -> None:
    """Fetches from another machine last as long beside others as alone."""
    spans = [*job("AAPL 1d", 0, 2, 0, 1, 0), *job("BTC 1d", 0, 2, 0, 1, 1)]
    near, far = (schedule_of(recording(spans, remote=remote, concurrency={"jobs": 2, "requests": 2}), 1) for remote in ((), ("fetch",)))
    assert [wall_s(replace(one, workers=1)) for one in (near, far)] == pytest.approx([2, 4])


def test_work_alone_is_the_integral_over_who_ran_beside() -> None:
    """A span of 4 s, half of it beside one other on one core, is 3 s of work."""
    one, other = span("insert", 0, 4), span("insert", 2, 4, job="BTC 1d", worker=1)
    found = works_s([one, other], 1)
    assert [found[id(one)], found[id(other)]] == pytest.approx([3, 1])
    assert works_s([one, other], 2)[id(one)] == pytest.approx(4)


@pytest.mark.parametrize(("cores", "at_once"), [(1, 1), (2, 2 / 1.5), (8, 8 / 1.5)])
def test_a_machine_runs_fewer_spans_at_once_than_it_has_cores(cores: int, at_once: float) -> None:
    """Both this process and the server that it talks to work during a span; a single core still does one."""
    assert schedule_of(recording([], cores=cores)).cores == pytest.approx(at_once)


def limited() -> list[Span]:
    """Four requests at one a second and burst 1, as five workers would leave them."""
    spans = [span("fetch", 0, 0.1, job="S0 1d", requests=1)]
    for i in range(1, 4):
        spans += [span("wait", 0, i, job=f"S{i} 1d", worker=i), span("fetch", i, i + 0.1, job=f"S{i} 1d", worker=i, requests=1)]
    return spans


def test_waits_for_tokens_come_about_anew() -> None:
    """The rate sets the wall time: 3 s at one a second, 1.5 s at two, and without a limit only the fetch remains."""
    found = schedule(limited(), jobs=4, requests=4, source={"requests_per_minute": 60, "burst": 1})
    rates = [found, replace(found, rate_per_s=2.0), replace(found, rate_per_s=None)]
    assert [wall_s(one) for one in rates] == pytest.approx([3.1, 1.6, 0.1])
    assert wall_s(faster(found, "fetch", 0.0)) == pytest.approx(3.0)


def test_backoff_is_replayed_where_there_is_no_limit() -> None:
    """Without a rate limit a wait is between two attempts, and no faster stage makes it shorter."""
    spans = [span("fetch", 0, 1), span("wait", 1, 4), span("fetch", 4, 5), span("insert", 5, 6)]
    found = schedule(spans)
    assert [wall_s(found), wall_s(faster(found, "fetch", 0.0))] == pytest.approx([6, 4])


def test_derived_timeframes_are_fetched_no_more() -> None:
    """The 5-minute series is fetched, 2 pages of 1 s, and each of its pages stores its half of the daily series too."""
    spans = [*job("AAPL 5m", 0, 1, 1, 2), *job("AAPL 1d", 3, 4, 2, 1)]
    found = schedule(spans)
    derived = prediction.derive(found)
    assert derived and [wall_s(found), wall_s(derived)] == pytest.approx([9, 5])
    assert prediction.derive(schedule(job("AAPL 1d", 0, 1, 1, 1))) is None


def test_what_lies_between_stages_stays() -> None:
    """Opening a connection, hand-overs and the end are as long as they were recorded, whatever becomes of the stages."""
    spans = [
        span("other", 0.5, 1, page=-1), span("fetch", 1, 2), span("decode", 2.25, 2.5), span("insert", 3, 4),
    ]  # fmt: skip
    found = schedule_of(recording(spans, cores=8, wall_s=5))
    assert (found.open_s, found.close_s) == (0.5, 1)
    assert [wall_s(found), wall_s(faster(found, "insert", 0.0))] == pytest.approx([5, 4])


def test_the_usual_changes_begin_with_none() -> None:
    """The first prediction tells the replay's own error; the others are about what this run has, and are true to the wall time."""
    found = predict_all(recording(job("AAPL 5m", 0, 1, 2, 3), cores=8, concurrency={"jobs": 1, "requests": 1}))
    by_name = {one.change: (round(one.wall_s, 3), round(one.saving_ratio, 3)) for one in found}
    assert by_name == {
        "as recorded": (7, 0), "fetch twice as fast": (6.5, 0.071), "fetch at no cost": (6, 0.143), "insert twice as fast": (4, 0.429),
        "insert at no cost": (3, 0.571), "one job and request at a time": (7, 0), "2 jobs and 2 requests at a time": (7, 0),
        "timeframes derived": (7, 0),
    }  # fmt: skip
    assert next(iter(by_name)) == "as recorded"
    names = {one.change for one in predict_all(recording(limited(), source={"requests_per_minute": 60, "burst": 1}, derive=True))}
    assert {"twice the rate limit", "no rate limit"} < names and "timeframes derived" not in names
    assert predict_all(recording([], wall_s=1)) == []


def test_the_machine_shares_its_cores_equally() -> None:
    """On one core 1 s and 3 s of work at once end after 2 s and 4 s; a sleep beside them is not slowed down."""
    machine, ends = Machine(1), {}

    def process(name: str, wait: Process) -> Process:
        yield from wait
        ends[name] = machine.now_s

    machine.start(process("short", machine.work(1)))
    machine.start(process("long", machine.work(3)))
    machine.start(process("sleep", machine.sleep(1.5)))
    assert machine.run() == pytest.approx(4)
    assert ends == pytest.approx({"sleep": 1.5, "short": 2, "long": 4})


@pytest.mark.parametrize(
    "plan",
    [{}, {"concurrency": {"jobs": 3, "requests": 2}}, {"source": {"requests_per_minute": 300}}, {"derive": True}, {"timeframes": ["1d"]}],
    ids=str,
)
def test_every_prediction_has_a_name_that_a_plan_may_ask_for(plan: dict[str, object]) -> None:
    """What is predicted of a run is known from its plan before it runs."""
    job = f"AAPL {'1d' if 'timeframes' in plan else '5m'}"
    stages = [span(stage, i, i + 1, job=job, rows=1) for i, stage in enumerate(("fetch", "decode", "features", "insert"))]
    found = recording(stages, **plan)
    predicted = [one.change for one in predict_all(found, 4)]
    assert len(predicted) > 8
    assert set(predicted) <= set(prediction.names(found.context.plan))
    assert any("rate limit" in name for name in prediction.names(found.context.plan)) == ("source" in plan)
