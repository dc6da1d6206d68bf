"""How any system says how old its data is: answers by JMESPath, tables by SQL, times in every usual form, and nothing guessed."""

import contextlib
import datetime as dt
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import servers
from aged import PLAN, plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from servers import Exchange, Server

from tapecheck.__main__ import main
from tapecheck.errors import TargetError
from tapecheck.recovery import ages, freshness
from tapecheck.recovery.ages import UNMAPPED, judged
from tapecheck.recovery.experiment import View, chosen
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.recovery.prober import Prober
from tapecheck.recovery.recording import Audit
from tapecheck.recovery.validation import recovery
from tapecheck.target import mapping
from tapecheck.target.file import Target
from tapecheck.target.mapping import AnswerMapping

NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
AT = dt.datetime(2026, 11, 30, 11, 30, tzinfo=dt.UTC)
SECONDS = 1_796_038_200  # of AT
NAMES = {"symbol": "symbol", "timeframe": "'1d'"}
WORDS = {"healthy": "fresh", "warning": "aging"}


@pytest.mark.parametrize(
    "form",
    [
        "2026-11-30T11:30:00Z", "2026-11-30T11:30:00", "2026-11-30 11:30:00+00:00", "2026-11-30T06:30:00-05:00", "20261130T113000Z",
        "2026-11-30T11:30:00.000000+00:00", "Mon, 30 Nov 2026 11:30:00 GMT", SECONDS, SECONDS * 1000, SECONDS * 10**6, SECONDS * 10**9,
        float(SECONDS), str(SECONDS), f"{SECONDS}000", AT, AT.replace(tzinfo=None),
    ],
)  # fmt: skip
def test_a_time_in_every_usual_form(form: Any) -> None:
    """ISO 8601 with a zone or without, an HTTP date, and a number since 1970, told by its size."""
    assert mapping.moment(form) == AT


BEYOND = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "Mon, 32 Jan 99999999999999 00:00:00 GMT")


@pytest.mark.parametrize("form", ["yesterday", "11:30", -5, True, [], {}, 1e30, "1e400", "NaN", float("inf"), 0, 12, 10**400, *BEYOND])
def test_what_is_no_time_is_refused(form: Any) -> None:
    """And what is none at all is no time, but no error."""
    with pytest.raises(ValueError, match="is no "):
        mapping.moment(form)
    assert mapping.moment(None) is mapping.moment("") is None


def mapped(document: Any, known: dict[str, str] | None = None, **given: Any) -> list[Any]:
    given.setdefault("fields", {"symbol": "symbol", "timeframe": "'1d'", "newest": "latest"})
    found = mapping.status(document, AnswerMapping.model_validate({"request": "status"} | given), NOW, known)
    return [(one.symbol, one.timeframe, one.age_s, one.freshness, one.dated_by) for one in found.series]


@pytest.mark.parametrize(
    ("document", "given", "expected"),
    [
        ({"symbols": [{"symbol": "AAPL", "latest": SECONDS}]}, {"series": "symbols[]"}, [("AAPL", "1d", 1800.0, None, "bar")]),
        (
            [{"symbol": "A", "latest": SECONDS, "done": SECONDS + 900}],
            {"series": "@", "fields": NAMES | {"newest": "latest", "refreshed_at": "done"}},
            [("A", "1d", 900.0, None, "refresh")],
        ),
        ([{"symbol": "AAPL", "latest": None}], {"series": "@"}, [("AAPL", "1d", None, None, "bar")]),
        (
            {"AAPL": {"1d": {"ageMin": "30", "st": "healthy"}, "5m": {"ageMin": 60, "st": "warning"}}, "X:BTCUSD": {}},
            {"keyed_by": ["symbol", "timeframe"], "fields": {"age_min": "ageMin", "state": "st"}, "states": WORDS},
            [("AAPL", "1d", 1800.0, "fresh", "refresh"), ("AAPL", "5m", 3600.0, "aging", "refresh")],
        ),
        (
            {"data": {"BRK.B": {"updated": "2026-11-30T11:30:00"}}},
            {"series": "data", "keyed_by": ["symbol"], "fields": {"timeframe": "'5m'", "refreshed_at": "updated"}},
            [("BRK.B", "5m", 1800.0, None, "refresh")],
        ),
        (
            {"symbol": "A", "made": SECONDS + 60, "latest": SECONDS},
            {"generated_at": "made"},
            [("A", "1d", 60.0, None, "bar")],
        ),
    ],
    ids=["list", "refresh before bar", "top list", "two levels", "one level", "one series by its own clock"],
)  # fmt: skip
def test_answers_of_every_shape(document: Any, given: dict[str, Any], expected: list[Any]) -> None:
    """Lists, objects by symbol, objects in objects; an age counts from the refresh, else from the newest bar; the rest is unknown."""
    assert mapped(document, **given) == expected


def test_one_answer_a_series_is_told_by_its_request() -> None:
    """Symbol and timeframe are those that were asked for."""
    assert mapped({"latest": SECONDS}, {"symbol": "SPY", "timeframe": "1h"}, fields={"newest": "latest"}) == [
        ("SPY", "1h", 1800.0, None, "bar")
    ]


@pytest.mark.parametrize(
    ("document", "given", "said"),
    [
        ({"symbols": []}, {"series": "symbols[]"}, r"freshness.api.series: symbols\[\] matches nothing in '{\"symbols\": \[\]}'"),
        ({"other": 1}, {"series": "symbols"}, "symbols matches nothing"),
        ({"symbols": {"A": 1}}, {"series": "symbols"}, "symbols gives an object; a list is wanted, or an object with keyed_by"),
        ([1], {"keyed_by": ["symbol"]}, "got a list where an object keyed by symbol is wanted"),
        ([{"latest": 1}], {"series": "@"}, "no symbol in .*a constant is written in quotes"),
        ([{"symbol": "A", "latest": "soon"}], {"series": "@"}, "'soon' is no time"),
        (
            [{"symbol": "A", "age": "old"}],
            {"series": "@", "fields": {"symbol": "symbol", "timeframe": "'1d'", "age_s": "age"}},
            "'old' is no number",
        ),
        (
            [{"symbol": "A", "s": "ok"}],
            {"series": "@", "fields": {"symbol": "symbol", "timeframe": "'1d'", "state": "s"}, "states": {"healthy": "fresh"}},
            "the state 'ok' of A 1d is not among freshness.api.states: healthy",
        ),
    ],
)
def test_what_does_not_fit_is_said_with_what_was_got(document: Any, given: dict[str, Any], said: str) -> None:
    """Never a guess."""
    with pytest.raises(TargetError, match=said):
        mapped(document, **given)


@settings(max_examples=30)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_read_or_refused(document: Any) -> None:
    """No answer, however odd, is more than that."""
    for given_ in ({"series": "@"}, {"keyed_by": ["symbol"]}, {}):
        with contextlib.suppress(TargetError):
            mapped(document, **given_)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "api, sql or both"),
        ({"api": {"request": "s", "fields": {"newest": "a[["}}}, "a JMESPath expression"),
        ({"api": {"request": "s", "fields": {"colour": "a"}}}, "Input should be 'symbol'"),
        ({"api": {"request": "s", "fields": {"state": "a"}, "states": {"ok": "good"}}}, "Input should be 'fresh'"),
    ],
)
def test_a_wrong_section_is_refused(section: Any, said: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValidationError, match=said):
        mapping.Freshness.model_validate(section)


# ---- an audit of a foreign system ----


class Foreign:
    """An API of other words: objects by symbol, camelCase, epoch ms; it may lie about one symbol."""

    def __init__(self, newest: dict[str, dt.datetime], lie_s: float = 0) -> None:
        self.newest, self.lie_s = newest, lie_s

    async def __call__(self, request: Exchange) -> None:
        shown = {
            symbol: {"lastBar": int((at.timestamp() - (self.lie_s if symbol == "AAPL" else 0)) * 1000), "health": "ok", "done": time.time()}
            for symbol, at in self.newest.items()
        }
        request.send(json.dumps({"data": shown}).encode())


API = {"request": "coverage", "series": "data", "keyed_by": ["symbol"], "fields": {"timeframe": "'1d'", "newest": "lastBar"}}
SQL = "SELECT ticker AS symbol, '1d' AS timeframe, max(at) AS newest, count(*) AS rows FROM foreign_prices GROUP BY ticker"


REQUESTS = {"coverage": "GET /coverage", "one": "GET /bars/{symbol}", "features": "GET /features/{symbol}?limit={limit}"}


def target_of(url: str, database_url: str | None, **section: Any) -> Target:
    backfill = {"backfill": {"source_url": "http://127.0.0.1:9", "database_url": database_url}} if database_url else {}
    base = {"name": "foreign", "kind": "external", "base_url": url, "requests": REQUESTS}
    return Target.model_validate(base | backfill | {"freshness": section})


@pytest.fixture
def prices(database_url: str) -> Iterator[dict[str, dt.datetime]]:
    """Rows of a table of its own, in naive timestamps; the newest bar of each symbol."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    newest = {"AAPL": now - dt.timedelta(minutes=20), "MSFT": now - dt.timedelta(hours=3)}
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE foreign_prices (ticker text, at timestamp, cents int)")
        for symbol, at in newest.items():
            for day in range(3):
                row = (symbol, (at - dt.timedelta(days=day)).replace(tzinfo=None), 100)
                connection.execute("INSERT INTO foreign_prices VALUES (%s, %s, %s)", row)
        yield newest
        connection.execute("DROP TABLE foreign_prices")


def audited(newest: dict[str, dt.datetime], database_url: str | None, lie_s: float = 0, **section: Any) -> tuple[Audit, Any]:
    plan = plan_of("AAPL", "MSFT")
    with Server(Foreign(newest, lie_s)) as api:
        audit = freshness.audit(plan, target_of(api.url, database_url, **section), database_url)
    return audit, {str(one): one for one in judged(audit, plan)}


def test_an_api_and_a_database_that_agree_are_believed(prices: dict[str, dt.datetime], database_url: str) -> None:
    """Both are mapped: classes by our plan, nothing accused, and what is not mapped is no finding."""
    audit, found = audited(prices, database_url, api=API, sql=SQL)
    assert {name: (one.state, one.reported, one.false_age, one.seen) for name, one in found.items()} == {
        "AAPL 1d": ("fresh", UNMAPPED, "", None), "MSFT 1d": ("aging", UNMAPPED, "", None),
    }  # fmt: skip
    assert [one.rule for one in ages.alerts(plan_of("AAPL", "MSFT"), audit, list(found.values()))] == []
    assert not audit.replies  # how it serves data is not mapped


def test_ages_that_count_from_different_moments_are_not_compared(prices: dict[str, dt.datetime], database_url: str) -> None:
    """The API tells when it refreshed, a moment ago, the database its newest bar, of hours ago: neither accuses the other."""
    api = API | {"fields": {"timeframe": "'1d'", "refreshed_at": "done"}}
    _, found = audited(prices, database_url, api=api, sql=SQL)
    assert {name: one.false_age for name, one in found.items()} == {"AAPL 1d": "", "MSFT 1d": ""}


def test_a_lie_about_the_newest_bar_is_found(prices: dict[str, dt.datetime], database_url: str) -> None:
    """The API says an hour less than its table has."""
    _, found = audited(prices, database_url, -3600, api=API, sql=SQL)
    assert "while its database has" in found["AAPL 1d"].false_age and not found["MSFT 1d"].false_age


def test_either_alone_is_enough(prices: dict[str, dt.datetime], database_url: str) -> None:
    """An API without its database, and a database without its API, of which nothing is said to be false."""
    _, by_api = audited(prices, None, api=API)
    assert {name: one.state for name, one in by_api.items()} == {"AAPL 1d": "fresh", "MSFT 1d": "aging"}
    audit, by_sql = audited(prices, database_url, sql=SQL)
    assert {name: (one.state, one.reported) for name, one in by_sql.items()} == {
        "AAPL 1d": ("fresh", UNMAPPED),
        "MSFT 1d": ("aging", UNMAPPED),
    }
    assert not audit.looks[0].status.is_asked and not any(one.false_age for one in by_sql.values())


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT no_column FROM foreign_prices", 'freshness.sql: column "no_column" does not exist'),
        ("DELETE FROM foreign_prices RETURNING ticker AS symbol", "freshness.sql: cannot execute DELETE in a read-only transaction"),
        ("SELECT 1; DELETE FROM foreign_prices", "freshness.sql: cannot insert multiple commands into a prepared statement"),
        ("SELECT ticker AS symbol FROM foreign_prices", "freshness.sql gives symbol: no timeframe"),
        ("SELECT 'A' AS symbol, '1d' AS timeframe, 'soon' AS newest", "freshness.sql gives symbol, timeframe, newest: 'soon' is no time"),
        ("SELECT generate_series(1, 1e9)::text AS symbol, '1d' AS timeframe", "freshness.sql gives more than 1,000 rows"),
        ("SELECT 'A' AS symbol, '1d' AS timeframe, pg_sleep(60)", "freshness.sql: canceling statement due to statement timeout"),
    ],
    ids=["column", "writes", "two statements", "no timeframe", "no time", "without end", "for ever"],
)
def test_a_statement_that_does_not_fit_is_refused(
    prices: dict[str, dt.datetime], database_url: str, monkeypatch: pytest.MonkeyPatch, sql: str, said: str
) -> None:
    """And it changes nothing."""
    monkeypatch.setattr(freshness, "STATEMENT_S", 1)
    monkeypatch.setattr(freshness, "MOST_SERIES", 1000)
    with pytest.raises(TargetError, match=said):
        audited(prices, database_url, sql=sql)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM foreign_prices").fetchone() == (6,)


def test_a_drills_statement_is_one_and_only_reads(prices: dict[str, dt.datetime], database_url: str) -> None:
    """A probe asks it again and again, and changes nothing."""
    views = {one: View(request=one, serves=True) for one in ("SELECT 1", "SELECT 1; DELETE FROM foreign_prices", "SELECT 1 INTO made")}
    schedule = ProbeSchedule(period_s=0.05, timeout_s=10, slow_s=10, settle_s=0.1)
    with Server(servers.fast) as server, Prober(server.url, views, schedule, database_url=database_url) as prober:
        while {probe.view for probe in prober.probes.copy()} != set(views):
            time.sleep(0.02)
    errors = dict(zip(views, ("", "SyntaxError", "ReadOnlySqlTransaction"), strict=True))
    assert {probe.view: probe.error for probe in prober.probes} == errors
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM foreign_prices").fetchone() == (6,)


def test_a_symbol_that_is_asked_by_itself_and_not_found_is_missing() -> None:
    """A request with {symbol} is sent for each symbol of the plan; 404 means that there is no data."""

    async def one(request: Exchange) -> None:
        is_there = request.target.endswith("/AAPL")
        request.send(json.dumps({"t": dt.datetime.now(dt.UTC).isoformat()}).encode(), status=200 if is_there else 404)

    section = {"api": {"request": "one", "fields": {"timeframe": "'1d'", "newest": "t"}}}
    plan = plan_of("AAPL", "ZZZZ")
    with Server(one) as api:
        audit = freshness.audit(plan, target_of(api.url, None, **section))
    assert {str(one): one.state for one in judged(audit, plan)} == {"AAPL 1d": "fresh", "ZZZZ 1d": "missing"}


def test_the_whole_validation_runs_on_it(prices: dict[str, dt.datetime], database_url: str) -> None:
    """From the audit to the verdicts."""
    with Server(Foreign(prices)) as api:
        target = target_of(api.url, database_url, api=API, sql=SQL)
        found = recovery.analyse(recovery.measure(PLAN, target, drills=chosen("freshness")), PLAN)
    verdicts = {one.objective.split()[0]: str(one.verdict) for one in found.checks}
    assert (verdicts["false_ages"], verdicts["wrong_answers"]) == ("pass", "no_data")


def test_each_part_of_a_target_file_is_tried(
    prices: dict[str, dt.datetime], database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line each with what came of it; what may change something is not asked, and one that fails is exit code 2."""
    with Server(Foreign(prices)) as api:
        target = target_of(api.url, database_url, api=API, sql=SQL).model_dump(mode="json", by_alias=True, exclude_none=True)
        target["requests"] |= {"begin": "POST /begin", "deep": "GET /bars/{exchange}"}
        target["processes"] = {"worker": {"command": "no-such-worker"}}
        target["backfill"]["source_url"] = api.url
        file = tmp_path / "foreign.yaml"
        file.write_text(json.dumps(target))
        assert main(["check", "--ask", str(file)]) == 2
        said = capsys.readouterr().out.splitlines()
        target["processes"], target["freshness"]["sql"] = {}, "DELETE FROM foreign_prices"
        file.write_text(json.dumps(target))
        assert main(["check", "--ask", str(file)]) == 2
        refused = capsys.readouterr().out
        target["freshness"]["sql"] = SQL
        file.write_text(json.dumps(target))
        assert main(["check", "--ask", str(file)]) == 0
    assert [line.partition(":")[0].split() for line in said[said.index("1 file, 0 problems") + 1 :]] == [
        ["works", "requests.coverage"], ["works", "requests.one"], ["works", "requests.features"],
        ["not", "asked", "requests.begin"], ["not", "asked", "requests.deep"],
        ["FAILS", "processes.worker"], ["works", "freshness.api"], ["works", "freshness.sql"],
        ["works", "backfill.source_url"], ["works", "backfill.database_url"],
    ]  # fmt: skip
    assert "2 series, such as AAPL 1d, 0.33 h old" in "\n".join(said)
    assert "FAILS      freshness.sql: freshness.sql: cannot execute DELETE in a read-only transaction" in refused
