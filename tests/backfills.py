"""Plans of small backfills against the sandbox, and recordings of some that never ran, for the tests of what is pure."""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

from tapecheck.backfill.analysis import BackfillSummary
from tapecheck.backfill.plan import BackfillPlan, today
from tapecheck.backfill.recording import COMPLETED, FAILED, SKIPPED, Context, Job, Recording
from tapecheck.backfill.validation import backfill
from tapecheck.runs.results import Environment, TargetInfo
from tapecheck.validation import Analysis
from tapecheck.vendor.trace import Span

ENVIRONMENT = Environment(
    host="h", system="s", cores=2, memory_mb=1, python="3", versions={"tapecheck": "0"}, git_commit=None, git_dirty=None
)

SCHEMA = "tapecheck_test"
BASE: dict[str, Any] = {
    "symbols": ["TSLA", "SOL"],  # not in the fixture's profile, so that the scheduler does not take these faults
    "timeframes": ["5m", "15m", "1h", "4h", "1d"],
    "history": {"days": 20, "end": today()},  # the same days after midnight, too
    "database_schema": SCHEMA,
    "source": {"timeout_s": 30, "retry": {"first_s": 0.02, "cap_s": 0.1, "budget_s": 3}},
}


def plan(**changes: Any) -> BackfillPlan:
    return BackfillPlan.model_validate(BASE | changes)


def states(recording: Recording) -> dict[str, list[str]]:
    return {
        state: [f"{job.symbol} {job.timeframe}" for job in recording.jobs if job.state == state]
        for state in ("completed", "failed", "skipped")
    }


def span(stage: str, began_s: float, ended_s: float, job: str = "AAPL 1d", page: int = 0, **more: Any) -> Span:
    symbol, timeframe = job.split()
    return Span(
        stage=stage, began_ns=round(began_s * 1e9), ended_ns=round(ended_s * 1e9), symbol=symbol, timeframe=timeframe, page=page, **more
    )


def recording(
    spans: Sequence[Span],
    *,
    wall_s: float | None = None,
    jobs: Iterable[Job] | None = None,
    cores: int = 2,
    remote: tuple[str, ...] = (),
    **plan: Any,
) -> Recording:
    """Return a recording of spans; jobs are those of the spans, all completed, unless they are given."""
    names = list(dict.fromkeys((s.symbol, s.timeframe) for s in spans))
    found = list(jobs) if jobs is not None else [Job(symbol=symbol, timeframe=frame, state=COMPLETED) for symbol, frame in names]
    base = {
        "symbols": list(dict.fromkeys(job.symbol for job in found)) or ["AAPL"],
        "timeframes": list(dict.fromkeys(job.timeframe for job in found)) or ["1d"],
        "history": {"start": dt.date(2026, 1, 1), "end": dt.date(2026, 2, 1)},
    }
    last_ns = max((s.ended_ns for s in spans), default=0)
    return Recording.of(
        spans=sorted(spans, key=lambda s: s.began_ns),
        jobs=found,
        context=Context(
            run_id="20260101T000000Z-0000",
            started_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            began_ns=0,
            ended_ns=last_ns if wall_s is None else round(wall_s * 1e9),
            target=TargetInfo(name="sandbox", kind="sandbox", base_url="http://127.0.0.1:1"),
            environment=Environment(**{name: getattr(ENVIRONMENT, name) for name in Environment.__slots__} | {"cores": cores}),
            plan=BackfillPlan.model_validate(base | plan),
            remote=remote,
        ),
    )


def analysed(found: Recording) -> Analysis[BackfillPlan, Recording, BackfillSummary]:
    """Return what a recording says under the plan that it was measured by."""
    return backfill.analyse(found, found.context.plan)


SYMBOLS = (
    "AAPL", "MSFT", "GOOGL", "AMZN", "TSLA", "NVDA", "META", "NFLX", "AVGO", "ASML", "BRK.B", "JPM", "V", "WMT", "JNJ",
    "BTC", "ETH", "XRP", "SOL", "ADA", "SPY", "QQQ", "DIA", "IWM", "EEM",
)  # fmt: skip
FRAMES_S = {"5m": 2.0, "15m": 0.8, "1h": 0.5, "4h": 0.4, "1d": 0.1}  # how long a job of each takes


def refill(
    symbols: Sequence[str] = SYMBOLS, *, workers: int = 5, failed: Sequence[str] = (), skipped: Sequence[str] = (), **plan: Any
) -> Recording:
    """Return a recording of every symbol and timeframe; each job waits, and fetches two pages, one of them while the other is stored."""
    spans: list[Span] = []
    free_s = [0.3] * workers
    jobs = [f"{symbol} {frame}" for frame in FRAMES_S for symbol in symbols]
    for name in (job for job in jobs if job not in skipped):
        worker = free_s.index(min(free_s))
        at_s, step_s = free_s[worker], FRAMES_S[name.split()[1]] / 10
        ends = [("other", 0, 0.2), ("wait", 0.2, 1), ("fetch", 1, 3), ("decode", 3, 4), ("features", 4, 5), ("insert", 5, 8)]
        ahead = [("fetch", 4, 6), ("decode", 6, 7), ("insert", 8, 10)]
        for page, stages in enumerate((ends[:3], ()) if name in failed else (ends, ahead)):
            for stage, began, ended in stages:
                cost = {"requests": 1} if stage == "fetch" else {"rows": 5000} if stage == "insert" else {}
                spans.append(span(stage, at_s + began * step_s, at_s + ended * step_s, name, page, worker=worker, **cost))
        free_s[worker] += 10 * step_s
    states = dict.fromkeys(failed, FAILED) | dict.fromkeys(skipped, SKIPPED)
    found = [(*name.split(), states.get(name, COMPLETED)) for name in jobs]
    errors = {FAILED: "AAPL: HTTP 404: Ticker not found."}
    return recording(spans, jobs=[Job(symbol=s, timeframe=f, state=state, error=errors.get(state, "")) for s, f, state in found], **plan)
