"""The backfill's YAML: what it means, and that every mistake in it is named before anything is fetched."""

import datetime as dt
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapecheck import check, config
from tapecheck.backfill import calendar
from tapecheck.backfill.calendar import FIRST_DAY
from tapecheck.backfill.plan import BackfillPlan, HistoryRange, endpoints, read_plan, today
from tapecheck.errors import ConfigError
from tapecheck.target.file import Target
from tapecheck.vendor.wire import Unauthorized

GOOD: dict[str, Any] = {"symbols": ["AAPL", "BTC"], "timeframes": ["5m", "1d"], "history": {"days": 30}}


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump(GOOD | changes))
    return file


def test_the_shipped_plan_is_the_objectives_one() -> None:
    """25 symbols by 5 timeframes by 365 days are 125 jobs; every profile is valid and smaller."""
    plans = config.read_profile(BackfillPlan, "config/backfill.yaml")
    assert list(plans) == ["full", "small", "rate_limited", "free_plan", "stored"]
    assert len(plans["full"].jobs) == 125 and plans["full"].history.days == 365
    assert all(len(plan.jobs) < 125 for name, plan in plans.items() if name not in ("full", "stored"))
    assert [plan.source.rate_per_s for plan in plans.values()] == [None, None, 2.0, 5 / 60, None]
    assert (plans["rate_limited"].source.timeout_s, plans["rate_limited"].source.bucket() is None) == (15, False)


def test_the_calendar_begins_with_the_first_day_of_any_history() -> None:
    """Whatever is today: the first session of 2007, after New Year and a day of mourning, is its first one."""
    assert HistoryRange(start=FIRST_DAY, end=dt.date(2008, 1, 1)).bounds()[0] == FIRST_DAY
    assert calendar._calendar().schedule.index[0].date() == dt.date(2007, 1, 3)


@pytest.mark.parametrize("days", [1, 5, 90, 91, 92, 365, 1500, 3650])
@pytest.mark.parametrize("end", [dt.date(2026, 3, 9), dt.date(2026, 10, 31)], ids=["a Monday", "a Saturday"])
def test_stretches_are_the_history_cut_on_saturdays(days: int, end: dt.date) -> None:
    """No day is in two of them or in none, and none is longer than a quarter or empty."""
    history = HistoryRange(start=end - dt.timedelta(days=days), end=end)
    bounds = [stretch.bounds() for stretch in history.stretches()]
    assert (bounds[0][0], bounds[-1][1]) == history.bounds()
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    assert all(1 <= (last - first).days <= 91 for first, last in bounds)
    assert {last.weekday() for _, last in bounds[:-1]} <= {5}


WRONG = [
    ({"symbols": []}, "symbols", "at least 1 item"),
    ({"symbols": ["aapl"]}, "symbols.0", "pattern"),
    ({"symbols": ["AAPL", "AAPL"]}, "symbols", "each once; more than once: AAPL"),
    ({"timeframes": ["5m", "2h"]}, "timeframes.1", "one of 5m, 15m, 1h, 4h, 1d"),
    ({"history": {"days": 3, "start": "2026-01-01"}}, "history", "exactly one of days and start"),
    ({"history": {"start": dt.date(2026, 3, 1), "end": dt.date(2026, 2, 1)}}, "history", "before end; these are 2026-03-01 to 2026-02-01"),
    ({"history": {"start": dt.date(2026, 3, 1), "end": dt.date(2026, 3, 1)}}, "history", "1 to 3650 days before end"),
    (
        {"history": {"start": dt.date(2006, 12, 31), "end": dt.date(2008, 1, 1)}},
        "history",
        "2007-01-01 on, where the calendar of sessions begins; this one is 2006-12-31",
    ),
    ({"history": {"start": dt.date(2999, 1, 1)}}, "history.start", "not after today"),
    ({"history": {"days": 3650, "end": dt.date(1, 1, 5)}}, "history", "where the calendar of sessions begins; this one is 0001-01-01"),
    ({"tickers": {"DOGE": "X: DOGE"}}, "tickers.DOGE", "pattern"),
    ({"tickers": ["X:DOGEUSD"]}, "tickers", "a mapping"),
    ({"tickers": {"AAPL": "X:BTCUSD"}}, "tickers", "each once; more than once: X:BTCUSD"),
    ({"insert": "fast"}, "insert", "'copy', 'executemany' or 'row_by_row'"),
    ({"source": {"requests_per_minute": 1e-300}}, "source.requests_per_minute", "greater than or equal to 0.01"),
    ({"source": {"retry": {"first_s": 5, "cap_s": 1}}}, "source.retry", "a first_s of at most cap_s; these are 5 and 1"),
    ({"objectives": ["failed < 1", "failed <= 0"]}, "objectives", "one limit for each metric"),
    ({"concurrencies": {}}, "concurrencies", "available: symbols"),
    ({"database_schema": "tapecheck"}, "database_schema", "pattern"),
    ({"objectives": ["p95_ms < 5"]}, "objectives.0", "no metric 'p95_ms'"),
    ({"objectives": ["upstream_holes < 5"]}, "objectives.0", "is named upstream_gaps now"),
    ({"profiles": {"small": {"timeframes": ["9m"]}}}, "timeframes.0", "one of 5m"),
]


@pytest.mark.parametrize(("changes", "key", "allowed"), WRONG, ids=[f"{key}: {changes}"[:60] for changes, key, _ in WRONG])
def test_a_mistake_is_named(tmp_path: Path, changes: dict[str, Any], key: str, allowed: str) -> None:
    """The key and what is allowed there are said, whichever profile is asked for."""
    with pytest.raises(ConfigError) as caught:
        read_plan(write(tmp_path, **changes))
    (problem,) = caught.value.problems
    assert problem.key == key and allowed in str(problem)


def test_a_profile_changes_what_it_names(tmp_path: Path) -> None:
    """Nested keys one by one, a history as a whole; everything else stands as it is."""
    profiles = {"slow": {"source": {"requests_per_minute": 5}, "history": {"start": dt.date(2026, 1, 1)}, "derive": True}}
    file = write(tmp_path, profiles=profiles, source={"timeout_s": 3, "burst": 2})
    plan = read_plan(file, profile="slow")
    assert (plan.source.requests_per_minute, plan.source.timeout_s, plan.source.burst) == (5, 3, 2)
    assert (plan.history.days, plan.history.start, plan.derive) == (None, dt.date(2026, 1, 1), True)
    assert read_plan(file).source.requests_per_minute is None


def test_a_symbol_has_the_ticker_that_the_plan_says(tmp_path: Path) -> None:
    """Five coins are known, and may be stocks instead; any other symbol is a stock unless it is named."""
    plan = read_plan(
        write(tmp_path, symbols=["BTC", "ETH", "DOGE", "SPX", "BACpA"], tickers={"DOGE": "X:DOGEUSD", "SPX": "I:SPX", "ETH": "ETH"})
    )
    assert [plan.ticker(symbol) for symbol in plan.symbols] == ["X:BTCUSD", "ETH", "X:DOGEUSD", "I:SPX", "BACpA"]


def test_parameters_choose_from_the_plan(tmp_path: Path) -> None:
    """In the plan's order; unknown names, profiles and days are refused together."""
    file = write(tmp_path)
    plan = read_plan(file, symbols="BTC, AAPL", timeframes="1d", days=7)
    assert (plan.jobs, plan.history.days) == ([("AAPL", "1d"), ("BTC", "1d")], 7)
    with pytest.raises(ConfigError) as caught:
        read_plan(file, symbols="AAPL,NOSUCH", timeframes="3h", days=-1)
    assert [problem.key for problem in caught.value.problems] == ["symbols", "timeframes", "days"]
    with pytest.raises(ConfigError, match="profile: got huge; allowed: one of full"):
        read_plan(file, profile="huge")


@pytest.mark.parametrize(
    ("ticker", "first", "last"),
    [
        ("X:BTCUSD", "2026-03-01T00:00:00+00:00", "2026-03-31T23:59:59.999000+00:00"),
        ("AAPL", "2026-03-01T05:00:00+00:00", "2026-04-01T03:59:59.999000+00:00"),  # daylight saving begins in between
    ],
)
def test_a_history_is_whole_days_of_the_market(ticker: str, first: str, last: str) -> None:
    """Days begin at midnight in New York for stocks and in UTC for crypto, so that no bar of any length is cut."""
    history = HistoryRange(start=dt.date(2026, 3, 1), end=dt.date(2026, 4, 1))
    assert [moment.isoformat() for moment in history.range(ticker)] == [first, last]


def test_days_count_back_from_today() -> None:
    """The last day is over, so that a run on the next morning has the same bars."""
    first, end = HistoryRange(days=30).bounds()
    assert (end, end - first) == (today(), dt.timedelta(days=30))
    assert BackfillPlan.model_validate(GOOD).history.range("X:BTCUSD")[1] <= dt.datetime.now(dt.UTC)


@pytest.mark.parametrize(
    ("history", "days", "allowed"),
    [
        ("{start: 2007-01-01, end: 2007-03-01}", 60, "a first day from 2007-01-01 on, where the calendar of sessions begins"),
        ("{days: 30, end: 2016-01-01}", 3651, "0 for what is planned, or up to 3650"),
        ("{days: 30}", 10**9, "0 for what is planned, or up to 3650"),
    ],
)
def test_days_that_a_fixed_end_leaves_no_room_for_are_refused(tmp_path: Path, history: str, days: int, allowed: str) -> None:
    """With the limit, as every other mistake of the configuration."""
    file = tmp_path / "plan.yaml"
    file.write_text(f"symbols: [AAPL]\ntimeframes: [1d]\nhistory: {history}\n")
    with pytest.raises(ConfigError) as caught:
        read_plan(file, days=days)
    (problem,) = caught.value.problems
    assert (problem.key, allowed in str(problem), str(days) in problem.got) == ("days", True, True)


# ---- where history comes from and goes to: no secret is ever shown ----

KEY, PASSWORD = "k3y-Zx81", "hunter2-Zx81"
LOCAL = {"source_url": "http://127.0.0.1:8080"}
VENDOR = {"source_url": "https://api.massive.com"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key and a database, both here, and nothing else that a machine may have set."""
    monkeypatch.delenv("MASSIVE_API_KEY", raising=False)
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{PASSWORD}@127.0.0.1/market")


def target(backfill: dict[str, Any] | None, **more: Any) -> Target:
    data = {"name": "mine", "kind": "external", "base_url": "http://127.0.0.1:1", "requests": {"h": "GET /"}, "backfill": backfill}
    return config.validate(Target, data | more, file="t.yaml")


def test_key_and_database_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the variables that is set; neither value is in a representation of what holds it."""
    found = endpoints(target(LOCAL))
    assert (found.source_url, found.key, found.target.base_url) == (LOCAL["source_url"], KEY, LOCAL["source_url"])
    assert found.database_url.endswith("@127.0.0.1/market")
    assert KEY not in repr(found) and PASSWORD not in repr(found)
    monkeypatch.setenv("MASSIVE_API_KEY", "other")
    assert endpoints(target(LOCAL)).key == "other"
    assert endpoints(target(LOCAL | {"api_key": {"env": "POLYGON_API_KEY"}})).key == KEY
    assert endpoints(target(LOCAL | {"database_url": "postgresql://me@127.0.0.1/d"})).database_url == "postgresql://me@127.0.0.1/d"


REFUSED = [
    (None, {}, ["mine: backfill: got nothing; allowed: backfill: {source_url: https://"]),
    (LOCAL, {"POLYGON_API_KEY": "", "DATABASE_URL": ""}, ["DATABASE_URL: got nothing", "export DATABASE_URL=..."]),
    (LOCAL | {"api_key": {"file": "/no/such"}}, {}, ["/no/such: (file): got No such file or directory"]),
    (VENDOR, {}, ["allow_remote: got false, while backfill.source_url leads to api.massive.com, beyond this machine"]),
    (LOCAL, {"DATABASE_URL": f"postgresql://me:{PASSWORD}@db.example.com/d"}, ["the database of DATABASE_URL may be on another machine"]),
    (LOCAL, {"POLYGON_API_KEY": "schlüssel"}, ["MASSIVE_API_KEY or POLYGON_API_KEY: got a key that no header can carry"]),
    (LOCAL, {"POLYGON_API_KEY": "two words"}, ["got a key that no header can carry; allowed: printable ASCII without spaces"]),
    (LOCAL, {"DATABASE_URL": f"postgresql://me:{PASSWORD}@["}, ["DATABASE_URL: got a URL that cannot be read"]),
]


@pytest.mark.parametrize(("backfill", "variables", "said"), REFUSED, ids=[said[0][:40] for _, _, said in REFUSED])
def test_what_cannot_be_used_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, backfill: dict[str, Any] | None, variables: dict[str, str], said: list[str]
) -> None:
    """Everything at once, as an error of the configuration, before anything is sent, and without a secret."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        endpoints(target(backfill))
    assert all(text in str(caught.value) for text in said)
    assert KEY not in str(caught.value) and PASSWORD not in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(("api_key", "remedy"), [({"env": ["A_KEY", "B_KEY"]}, "export A_KEY=... or B_KEY=...")])
def test_a_key_that_is_not_there_is_no_fault_of_the_configuration(tmp_path: Path, api_key: dict[str, Any] | None, remedy: str) -> None:
    """An unset variable fails each job, which says what to do; the rest of the target is good."""
    (tmp_path / "key").touch()
    found = endpoints(target(LOCAL | {"api_key": api_key or {"file": str(tmp_path / "key")}}))
    with pytest.raises(Unauthorized) as caught:
        found.check_key()
    assert (found.key, str(caught.value)) == ("", f"no API key: {remedy.format(tmp_path / 'key')}")


def test_another_machine_is_used_where_the_target_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`allow_remote: true` is for source and database alike."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example.com/d")
    found = endpoints(target(VENDOR, allow_remote=True))
    assert (found.source_url, found.database_url) == ("https://api.massive.com", "postgresql://me@db.example.com/d")


def test_an_external_target_is_refused_before_a_notebook_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing database is found with the other problems of the configuration; to analyse a recorded run none is needed."""
    monkeypatch.delenv("DATABASE_URL")
    file = tmp_path / "t.yaml"
    file.write_text(
        "name: mine\nkind: external\nbase_url: http://127.0.0.1:1\nrequests: {h: GET /}\nbackfill: {source_url: http://127.0.0.1:1}\n"
    )
    with pytest.raises(ConfigError) as caught:
        check.before_traffic({"backfill": {"target": str(file), "profile": "huge"}})
    assert {problem.key for problem in caught.value.problems} == {"DATABASE_URL", "profile"}
    assert check.before_traffic({"backfill": {"target": str(file), "run": "tests/data/backfill"}}).name == "mine"
