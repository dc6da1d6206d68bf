"""The audit of ages: an honest target is accused of nothing, and every planted lie and wrong answer is found, with its figures."""

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from aged import HOUR, KEY, PLAN, Body, Lie, Market, figures, honest, in_features, in_series, plan_of, relay, target_at
from pydantic import TypeAdapter
from servers import Exchange, Server, free_port

from tapecheck.backfill import checkpoints
from tapecheck.errors import ConfigError, TargetError
from tapecheck.recovery import ages as judged
from tapecheck.recovery import freshness
from tapecheck.recovery.ages import SeriesAge
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Audit
from tapecheck.target import mapping
from tapecheck.target.file import Target
from tapecheck.target.opening import SandboxState

NAMED = ("AAPL", "MSFT", "GOOGL", "SPY", "BTC", "ETH")
AGES = {"fresh": 60.0, "aging": 2 * HOUR, "stale": 7 * HOUR, "missing": 30 * HOUR}


@dataclass(frozen=True)
class Found:
    """An audit, and what the plan makes of it."""

    audit: Audit
    series: list[SeriesAge]

    def of(self, key: tuple[str, str] = KEY) -> SeriesAge:
        return next(one for one in self.series if (one.symbol, one.timeframe) == key)

    def accused(self) -> list[SeriesAge]:
        return [one for one in self.series if one.false_age or one.wrong_answer]

    @property
    def without_features(self) -> set[str]:
        return judged.without_features(self.audit, self.series)


def audit(plan: RecoveryPlan, target: Target, database_url: str | None = None) -> Found:
    """Audit, store what was found, and judge that by the plan."""
    found = freshness.audit(plan, target, database_url)
    kept: TypeAdapter[Audit] = TypeAdapter(Audit)
    again = kept.validate_json(kept.dump_json(found))
    assert judged.judged(found, plan) == judged.judged(again, plan)
    return Found(again, judged.judged(again, plan))


def audited(age_s: float | None, lie: Lie = honest) -> SeriesAge:
    """Audit an API of one series of this age, without a database."""
    with Server(Market({KEY: age_s}, lie)) as server:
        (one,) = audit(plan_of("AAPL"), target_at(server.url)).series
    return one


# ---- the real thing ----


def test_the_sandbox_is_accused_of_nothing(sandbox: SandboxState, database_url: str) -> None:
    """Every series has the same age by API and database, and is answered as its class demands."""
    ages = audit(plan_of(*NAMED), target_at(sandbox.base_url), database_url)
    assert {one.symbol for one in ages.series} >= set(NAMED) and len(ages.series) >= 30
    assert ages.accused() == []
    assert ages.audit.looks[0].stored and ages.audit.last_success_s is not None and 0 <= ages.audit.last_success_s < 2 * HOUR
    fresh = [one for one in ages.series if one.symbol in NAMED]
    assert {(one.reported, one.state, one.expected, one.seen) for one in fresh} == {("fresh", "fresh", "plain", "plain")}
    assert all(one.reported_s == pytest.approx(one.database_s, abs=1) for one in fresh)
    assert not {*ages.without_features, *judged.failed_symbols(ages.audit)} & set(NAMED)


def test_a_symbol_that_is_not_there_is_missing(sandbox: SandboxState, database_url: str) -> None:
    """A symbol that the plan names and the API does not list has no age, and asking for it must have it fetched."""
    ages = audit(plan_of("AAPL", "NOTHERE"), target_at(sandbox.base_url), database_url)
    one = ages.of(("NOTHERE", "1h"))
    assert (one.reported_s, one.reported, one.state, one.tier) == (None, "unlisted", "missing", "critical")
    assert one.expected == "not_found_and_trigger"
    assert one.seen in ("not_found_and_trigger", "not_found")  # the second when upstream is known not to have it
    assert {other.timeframe for other in ages.series if other.symbol == "NOTHERE"} == {"5m", "15m", "1h", "4h", "1d"}
    assert "NOTHERE" in ages.without_features


def test_only_the_mapping_knows_how_a_target_names_its_tables() -> None:
    """Those are the ones that a backfill fills; nothing of recovery names one, or a column of it."""
    assert mapping.SCHEMA == checkpoints.LIVE
    room = "".join(file.read_text(encoding="utf-8") for file in Path(freshness.__file__).parent.glob("*.py"))
    assert [name for name in ("tapecheck.bars", "checkpoints", "watermark", "make_interval") if name in room] == []


# ---- an API that lies to its database ----

OLD = ("GOOGL", "1h")  # made two hours old in the database
Change = Callable[[Body], Body | None]


def _moved(text: str, **by: float) -> str:
    return (dt.datetime.fromisoformat(text) + dt.timedelta(**by)).isoformat()


def _refreshed_now(one: Body) -> Body:
    return {"age_s": 5.0, "freshness": "fresh", "refreshed_at": (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=5)).isoformat()}


LIES: list[tuple[Change, str]] = [  # in what the status says of a series (None: it lists no such), and what is said of that
    (_refreshed_now, "reports an age of 5 s, while its database has 7"),
    (lambda one: {"age_s": one["age_s"] - 60, "refreshed_at": None}, "while its database has 7"),
    (lambda one: {"age_s": one["age_s"] + 60, "refreshed_at": None}, "while its database has 7"),
    (lambda one: {"age_s": None, "freshness": "missing"}, "reports no age, while its database has 7"),
    (lambda one: {"freshness": "fresh"}, "reports 'fresh' at an age of 7"),
    (lambda one: {"newest": _moved(one["newest"], hours=1)}, "reports that its newest bar is"),
    (lambda one: {"newest": _moved(one["newest"], hours=-1)}, "while its database has 20"),
    (lambda one: {"newest": None}, "reports that its newest bar is none, while its database has 20"),
    (lambda one: None, "not listed, while its database has it with an age of 7"),
]
TRUTHS: list[Change] = [lambda one: {}, lambda one: {"age_s": float(int(one["age_s"]))}, lambda one: {"age_s": one["age_s"] - 2}]


def test_every_lie_to_the_database_is_found_and_what_is_near_enough_is_none(sandbox: SandboxState, database_url: str) -> None:
    """What the API says otherwise is told with both figures, and of no other series; rounding, and an answer kept a moment, are true."""
    keys = [(symbol, frame) for symbol in ("GOOGL", "MSFT", "AAPL") for frame in ("5m", "15m", "1h", "4h")]
    changes = dict(zip(keys, [*(change for change, _ in LIES), *TRUTHS], strict=True))

    def lie(asked: str, status: int, body: Body) -> tuple[int, Body]:
        if asked != "status":
            return status, body
        said = [(one, changes.get((one["symbol"], one["timeframe"]), TRUTHS[0])(one)) for one in body["series"]]
        return status, body | {"series": [one | change for one, change in said if change is not None]}

    with contextlib.ExitStack() as put_back, Server(relay(sandbox.base_url, lie)) as server:
        for key in keys:
            put_back.enter_context(freshness.restored(database_url, key))
            freshness.plant(database_url, key, 2 * HOUR)
        ages = audit(plan_of("GOOGL"), target_at(server.url), database_url)
    found = [ages.of(key) for key in keys]
    for one, (_, expected) in zip(found, LIES, strict=False):
        assert expected in one.false_age
    assert {one.false_age for one in ages.series if one not in found[: len(LIES)]} == {""}
    assert {(one.state, one.expected, one.seen, one.wrong_answer) for one in found} == {("aging", "warning", "warning", "")}
    assert [one.database_s for one in found] == [pytest.approx(2 * HOUR, abs=99)] * len(keys)


@pytest.mark.parametrize("moment", ["/status", "/GOOGL?timeframe=1h"])
def test_a_refresh_between_two_reads_accuses_nobody(sandbox: SandboxState, database_url: str, moment: str) -> None:
    """A series that becomes fresh just before the status, or just before its answer, was aging and is fresh: both are true."""
    passed_on = relay(sandbox.base_url)
    with freshness.restored(database_url, OLD), psycopg.connect(database_url, autocommit=True) as connection:
        freshness.plant(database_url, OLD, 2 * HOUR)

        async def refreshed_first(exchange: Exchange) -> None:
            if moment in exchange.target:
                connection.execute("UPDATE tapecheck.checkpoints SET refreshed_at = now() WHERE symbol = %s AND timeframe = %s", OLD)
            await passed_on(exchange)

        with Server(refreshed_first) as server:
            one = audit(plan_of("GOOGL"), target_at(server.url), database_url).of(OLD)
    assert (one.false_age, one.wrong_answer, one.seen, one.expected, one.state) == ("", "", "plain", "plain", "fresh")


# ---- an API that contradicts itself or the plan ----


@pytest.mark.parametrize(("name", "age_s"), [*AGES.items(), ("missing", None)])
def test_every_class_answered_as_it_must_be_is_right(name: str, age_s: float | None) -> None:
    """Plain, warning, warning and alert, 404 that triggers: each for its class, and nothing to say about it."""
    one = audited(age_s)
    assert (one.state, one.reported, one.seen, one.expected) == (name, name, PLAN.staleness.action(one.state), one.seen)  # type: ignore[arg-type]
    assert (one.false_age, one.wrong_answer, one.database_s, one.reported_s) == ("", "", None, age_s)


@pytest.mark.parametrize("age_s", [HOUR - 3, HOUR, 6 * HOUR + 0.4, 24 * HOUR - 0.4, 24 * HOUR + 3])
def test_on_an_edge_nobody_is_accused(age_s: float) -> None:
    """Within seconds of where two classes meet, the answer of either is right."""
    one = audited(age_s)
    assert (one.false_age, one.wrong_answer) == ("", "")


@pytest.mark.parametrize(("said_s", "accused"), [(HOUR + 2, False), (HOUR + 60, True)])
def test_an_answer_of_the_class_before_is_right_within_seconds_of_the_edge(said_s: float, accused: bool) -> None:
    """Data that were fresh when they were read may be aging when the answer comes; a minute later they may not."""
    younger = in_features(lambda status, body: (status, body | {"warning": None, "freshness": "fresh", "age_s": HOUR - 1}))
    assert bool(audited(said_s, younger).wrong_answer) is accused


@pytest.mark.parametrize(
    ("age_s", "change", "expected"),
    [
        (2 * HOUR, {"freshness": "fresh"}, "reports 'fresh' at an age of 7200 s, which is aging"),
        (60.0, {"freshness": "stale"}, "reports 'stale' at an age of 60 s, which is fresh"),
        (None, {"freshness": "fresh"}, "reports 'fresh' without an age, which is missing"),
        (2 * HOUR, {"age_s": 30.0, "freshness": "fresh"}, "reports an age of 30 s, while its own time of refresh makes it 7200 s"),
        (60.0, {"age_s": -600.0, "refreshed_at": None}, "reports an age of -600 s: data from the future, or a clock that is ahead"),
    ],
)
def test_an_api_that_contradicts_itself_is_found_without_a_database(age_s: float | None, change: Body, expected: str) -> None:
    """The class must be that of its age, and the age that of its time of refresh."""
    assert audited(age_s, in_series(KEY, lambda _: change)).false_age == expected


@pytest.mark.parametrize("age_s", [-5.0, -6.0, -1e9])
def test_data_from_the_future_are_told_as_such_and_judged_by_what_they_are(age_s: float) -> None:
    """Clocks of two machines differ by seconds; by more it is said as it is, and an answer that says the same is no other lie."""
    one, told = audited(age_s), f"reports an age of {age_s:.0f} s: data from the future, or a clock that is ahead"
    assert one.false_age == (told if age_s < -5 else "")
    assert (one.reported_s, one.state, one.wrong_answer) == (age_s, "fresh", "")


@pytest.mark.parametrize("said", ["old", [3600], float("nan"), float("-inf")])
def test_an_age_that_is_no_number_is_no_status(said: object) -> None:
    """The message names the place and what was got."""
    with pytest.raises(TargetError, match=r"series.*age_s"):
        audited(60.0, in_series(KEY, lambda _: {"age_s": said}))


def test_an_age_beyond_all_measure_is_missing_and_said_in_a_few_digits() -> None:
    """Whatever the number, the message stays one that a person reads."""
    one = audited(60.0, in_series(KEY, lambda _: {"age_s": 1e300, "freshness": "missing", "refreshed_at": None}))
    assert (one.state, one.false_age) == ("missing", "")
    assert "1e+300 s is missing" in one.wrong_answer


def said(**more: object) -> Lie:
    """Lie in keys of answers with data, whatever they are."""
    return in_features(lambda status, body: (status, body | more))


def answered(status: int, body: Body) -> Lie:
    """Answer with this in place of data."""
    return in_features(lambda *_: (status, body))


def raising(alerts: list[Body]) -> Lie:
    """List these alerts in the status, and no others."""
    return lambda asked, status, body: (status, body | {"alerts": alerts} if asked == "status" else body)


NOT_TRIGGERED, OLD_DATA = {"detail": {"triggered": False}}, {"symbol": "AAPL", "timeframe": "1d", "count": 3, "warning": "old"}
STALE = "while an age of 25200 s is stale and demands data with a warning, and an alert"
# the class, the lie, what was seen, and what is said
WRONG: dict[str, tuple[str, Lie, str, str]] = {
    "aging without a warning": (
        "aging", said(warning=None), "plain",
        "answered with data without a warning, while an age of 7200 s is aging and demands data with a warning",
    ),
    "stale without an alert": ("stale", raising([]), "warning", f"answered with data with a warning, {STALE}"),
    "an alert of another series": ("stale", raising([{"symbol": "AAPL", "timeframe": "5m"}] * 3), "warning", STALE),
    "a needless warning": (
        "fresh", said(warning="hm"), "warning",
        "answered with data with a warning, while an age of 60 s is fresh and demands data without a warning",
    ),
    "another label": ("aging", said(freshness="fresh"), "warning", "its data are labelled 'fresh', while they are aging"),
    "another age": ("aging", said(age_s=3.0), "warning", "its data are reported to be 3 s old, while they are 7200 s old"),
    "missing but served": (
        "missing", answered(200, OLD_DATA), "warning",
        "answered with data with a warning, while an age of 108000 s is missing and demands 404 that triggers enrichment",
    ),
    "missing without a trigger": ("missing", answered(404, NOT_TRIGGERED), "not_found", "answered with 404 that triggers nothing"),
    "fresh but not found": (
        "fresh", answered(404, {"detail": {"triggered": True}}), "not_found_and_trigger",
        "answered with 404 that triggers enrichment, while an age of 60 s is fresh",
    ),
    "another symbol": ("fresh", said(symbol="ZZZZ"), "plain", "'symbol' is 'ZZZZ', expected 'AAPL'"),
    "no row": ("fresh", said(count=0, rows=[]), "plain", "it has no row"),
    "broken": ("fresh", answered(500, {}), "status_500", "answered with status 500"),
    "something else": ("fresh", answered(200, {"warning": 5}), "unreadable", "200 with another body than data"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_found(name: str) -> None:
    """Whatever an answer does otherwise than its age demands is told in words, and what was seen is kept."""
    state, lie, seen, expected = WRONG[name]
    one = audited(AGES[state], lie)
    assert (one.state, one.seen) == (state, seen)
    assert expected in one.wrong_answer and one.false_age == ""


def test_an_alert_that_is_over_is_no_mistake() -> None:
    """Services list alerts of before: an aging series whose old alert is still there is right; a new one is not."""
    old = {"symbol": "AAPL", "timeframe": "1d", "message": "of yesterday"}
    assert audited(2 * HOUR, raising([old])).wrong_answer == ""
    count = iter(range(10))
    growing: Lie = lambda asked, status, body: raising([old] * next(count) if asked == "status" else [])(asked, status, body)  # noqa: E731
    assert "answered with data with a warning, and an alert" in audited(2 * HOUR, growing).wrong_answer


def test_every_series_is_asked_a_bounded_number_at_once() -> None:
    """All of 20 series, each once, with one limit that nobody uses, and eight at a time: none is answered before eight are asked."""
    market, eight, waiting = Market({(f"S{number:02}", "1d"): 60.0 for number in range(20)}), asyncio.Event(), []

    async def together(exchange: Exchange) -> None:
        if "features" in exchange.target:
            waiting.append(exchange)
            if len(waiting) == 8:
                eight.set()
            await eight.wait()
        await market(exchange)

    with Server(together) as server:
        first, second = (audit(plan_of(), target_at(server.url)) for _ in range(2))
    asked = [path for path in server.seen.paths if "features" in path]
    assert len(first.series) == len(second.series) == 20
    assert len(set(asked)) == len(asked) == 40  # another limit the second time
    limits = {figures(path.rsplit("=", 1)[-1])[0] for path in asked}
    assert len(limits) == 2 and all(limit % 10 for limit in limits)
    assert server.seen.peak == 8


def test_without_a_template_for_data_no_answer_is_judged() -> None:
    """A target that names no `features` has its ages audited, and no more."""
    with Server(Market({KEY: 7 * HOUR})) as server:
        target = target_at(server.url, requests={"status": "GET /api/v1/status"})
        ages = audit(plan_of("AAPL"), target)
    assert (ages.of().state, ages.of().seen, ages.of().wrong_answer) == ("stale", None, "")
    assert judged.last_success_s(ages.audit, ages.series) == 7 * HOUR and not ages.without_features


# ---- what the alert rules need ----


def inputs(lie: Lie) -> Found:
    with Server(Market({KEY: 120.0, ("MSFT", "1d"): 600.0, ("MSFT", "1h"): 600.0}, lie)) as server:
        return audit(plan_of(), target_at(server.url))


def test_the_last_success_is_the_schedulers() -> None:
    """As the scheduler says; where it does not answer, or never had one, as the youngest series shows."""
    assert inputs(honest).audit.last_success_s == pytest.approx(60, abs=5)
    down = inputs(lambda asked, status, body: (503, {"detail": "down"}) if asked == "scheduler" else (status, body))
    never = inputs(lambda asked, status, body: (200, {"last_success_at": None}) if asked == "scheduler" else (status, body))
    assert [judged.last_success_s(one.audit, one.series) for one in (down, never)] == [120.0, 120.0]


def test_failed_symbols_are_those_of_status_and_scheduler() -> None:
    """A symbol with any failed series counts once, whoever says it."""
    failed = {"failed": {"AAPL 1d": "x", "MSFT 1h": "y"}}
    by_status = inputs(in_series(("MSFT", "1h"), lambda _: {"state": "failed", "error": "poisoned"}))
    by_scheduler = inputs(lambda asked, status, body: (status, body | failed if asked == "scheduler" else body))
    assert [judged.failed_symbols(one.audit) for one in (by_status, by_scheduler)] == [{"MSFT"}, {"AAPL", "MSFT"}]


def test_symbols_without_features_are_seen_in_the_answers() -> None:
    """Without a database: rows whose features are all null, no rows, and 404 are none."""

    def bare(status: int, body: Body) -> tuple[int, Body]:
        rows = [row | {"rsi_14": None} for row in body.get("rows", [])]
        return status, body | {"rows": rows} if (body["symbol"], body["timeframe"]) == ("MSFT", "1h") else body

    assert inputs(honest).without_features == set()
    assert inputs(in_features(bare)).without_features == {"MSFT"}
    assert inputs(in_features(lambda status, body: (404, {"detail": "none"}))).without_features == {"AAPL", "MSFT"}


def test_symbols_without_features_are_seen_in_the_database(sandbox: SandboxState, database_url: str) -> None:
    """A symbol that has a series without any row of features is one, whatever the API says."""
    where = "WHERE symbol = 'MSFT' AND timeframe = '1d'"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE tapecheck_kept AS SELECT * FROM tapecheck.features {where}")
        try:
            connection.execute(f"DELETE FROM tapecheck.features {where}")
            ages = audit(plan_of(*NAMED), target_at(sandbox.base_url), database_url)
        finally:
            connection.execute("INSERT INTO tapecheck.features SELECT * FROM tapecheck_kept ON CONFLICT DO NOTHING")
            connection.execute("DROP TABLE tapecheck_kept")
    assert ages.without_features & {*NAMED} == {"MSFT"}


# ---- what cannot be audited ----


def test_a_database_that_is_away_is_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    """The audit goes on without it, says so in its record, and says why in the log."""
    url = f"postgresql://u@127.0.0.1:{free_port()}/d"
    with caplog.at_level(logging.WARNING), Server(Market({KEY: 60.0})) as server:
        ages = audit(plan_of("AAPL"), target_at(server.url), url)
    assert (ages.audit.looks[0].stored, ages.of().database_s, ages.of().false_age) == ([], None, "")
    assert "ages are not checked against the database: " in caplog.text and "refused" in caplog.text


def test_a_database_without_the_tables_is_not_asked(sandbox: SandboxState, database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Another database than the target's is no proof of a lie."""
    with caplog.at_level(logging.WARNING), Server(Market({KEY: 60.0})) as server:
        ages = audit(plan_of("AAPL"), target_at(server.url), database_url.replace("/postgres?", "/template1?"))
    assert not ages.audit.looks[0].stored and "does not exist" in caplog.text


@pytest.mark.parametrize(
    ("url", "expected"),
    [("postgresql://u@db.example.com/d", "its database may be on another machine"), ("postgresql://k3y:pw@[", "a URL that cannot be read")],
)
def test_a_database_elsewhere_is_refused_before_anything_is_sent(url: str, expected: str) -> None:
    """Without `allow_remote` nothing leaves this machine, and no message holds the URL."""
    with Server(Market({KEY: 60.0})) as server, pytest.raises(ConfigError) as caught:
        audit(PLAN, target_at(server.url), url)
    assert expected in str(caught.value) and "k3y" not in str(caught.value) and server.seen.requests == 0


@pytest.mark.parametrize("name", ["scheduler", "features"])
def test_a_request_that_cannot_be_made_is_refused_before_anything_is_sent(name: str) -> None:
    """A template that needs a name which no audit knows is a problem of the target file."""
    with Server(Market({KEY: 60.0})) as server, pytest.raises(ConfigError, match=f"requests.{name}: got {{user}}; allowed: no other names"):
        audit(PLAN, target_at(server.url, requests={"status": "GET /api/v1/status", name: "GET /{user}"}))
    assert server.seen.requests == 0


def test_a_series_that_is_listed_twice_is_an_error() -> None:
    """Which of two ages counts nobody knows."""
    twice: Lie = lambda asked, status, body: (status, body | {"series": body["series"] * 2} if asked == "status" else body)  # noqa: E731
    with pytest.raises(TargetError, match="lists 2 series, of which only 1 are distinct"):
        audited(60.0, twice)


def test_an_empty_status_has_every_named_symbol_missing() -> None:
    """What the plan names is missed even where nothing at all is listed."""
    with Server(Market({})) as server:
        ages = audit(plan_of("AAPL", "BTC"), target_at(server.url))
    assert [(one.symbol, one.state) for one in ages.series] == [("AAPL", "missing")] * 5 + [("BTC", "missing")] * 5
