"""How a target says things: the answers and tables that a service of ours has, as far as they are read. Nothing else knows their names.

It judges nothing and asks nobody.
"""
# ruff: noqa: S608 - what is put into statements is the names of tables, constants of ours

import datetime as dt
import email.utils
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import jmespath
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, field_validator, model_validator

from tapecheck.config import Model
from tapecheck.errors import TargetError, first_line, shown

Key = tuple[str, str]  # symbol and timeframe
DatedBy = Literal["refresh", "bar"]
CLASSES = ("fresh", "aging", "stale", "missing")

# ---- answers ----

BAR = frozenset({"time", "symbol", "timeframe", "open", "high", "low", "close", "volume", "vwap", "trades"})  # no features, these


def _utc(moment: dt.datetime) -> dt.datetime:
    try:
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except OverflowError:
        raise ValueError(f"{moment} is no time in UTC") from None


def _named(failed: Any) -> Any:
    return dict.fromkeys(failed, "") if isinstance(failed, list) else failed


Moment = Annotated[dt.datetime, AfterValidator(_utc)]  # UTC where no offset is given


class Reported(BaseModel):
    """Something that a service reports; whatever else it reports is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class ReportedSeries(Reported):
    """What the status answer reports of one symbol and timeframe; `age_s` is null for what never was there.

    `dated_by` is what the age counts from: the last refresh or the newest bar. `freshness` is None where nothing is said of it.
    """

    symbol: str
    timeframe: str
    age_s: FiniteFloat | None
    dated_by: DatedBy = "refresh"
    freshness: str | None
    refreshed_at: Moment | None = None
    newest: Moment | None = None
    state: str = ""

    @property
    def key(self) -> Key:
        """The series."""
        return self.symbol, self.timeframe


class Raised(Reported):
    """An alert that a service has raised about a series."""

    symbol: str
    timeframe: str
    at: Moment | None = None
    message: str = ""


class Status(Reported):
    """The status answer; `is_asked` is false where the target file maps no answer, so that nothing is reported."""

    is_asked: bool = True
    series: tuple[ReportedSeries, ...]
    alerts: tuple[Raised, ...] = ()
    generated_at: Moment | None = None


class SchedulerHealth(Reported):
    """What the scheduler reports of itself; `failed` maps a job, `SYMBOL timeframe`, to its error."""

    last_success_at: Moment | None = None
    failed: Annotated[dict[str, str | None], BeforeValidator(_named)] = {}


class Served(Reported):
    """An answer with data."""

    warning: str | None = None
    freshness: str | None = None
    age_s: FiniteFloat | None = None
    count: int | None = None
    rows: tuple[Mapping[str, Any], ...] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it says, or shows, that there is no data in it."""
        return self.count == 0 if self.count is not None else self.rows == ()

    @property
    def has_features(self) -> bool:
        """Whether any row holds a value that is not of the bar itself; without rows to look at, whether there is data."""
        if self.rows is None:
            return not self.is_empty
        return any(value is not None for row in self.rows for name, value in row.items() if name not in BAR)


class _Detail(Reported):
    triggered: bool = False


class NotFound(Reported):
    """The body of a 404."""

    detail: _Detail = Field(default_factory=_Detail)


# ---- any system's answers and tables, as a target file maps them ----

AGES_S = {"age_s": 1.0, "age_ms": 1e-3, "age_min": 60.0, "age_h": 3600.0}
MOMENTS = ("newest", "refreshed_at")
FIELDS = ("symbol", "timeframe", "state", *MOMENTS, *AGES_S)
EPOCHS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (0.0, 1.0))  # a number from this size on has so many a second
EARLIEST, LATEST = dt.datetime(1970, 1, 2, tzinfo=dt.UTC), dt.datetime(2200, 1, 1, tzinfo=dt.UTC)
SEARCHED = "freshness.api"


def expression(text: str) -> str:
    """Refuse what is no JMESPath expression."""
    try:
        jmespath.compile(text)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(f"a JMESPath expression, such as: symbols[].latest_bar ({first_line(error)})") from None
    return text


Expression = Annotated[str, AfterValidator(expression)]
FieldName = Literal["symbol", "timeframe", "state", "newest", "refreshed_at", "age_s", "age_ms", "age_min", "age_h"]


class AnswerMapping(Model):
    """Where an answer of the target has its series, and each field of one.

    Args:
        request: a name under `requests`; one with {symbol} or {timeframe} in it is asked once for each series of the plan.
        series: a JMESPath expression that gives a list, or an object by `keyed_by`; without it the answer itself is one series.
        keyed_by: what the keys of that object, and of the objects in it, are.
        fields: a JMESPath expression for each field, in terms of one series; a text in quotes is a constant, as in "'1d'".
        generated_at: when the answer was made, in terms of the whole answer.
        states: the target's words for our classes (fresh, aging, stale, missing) and for a series that `failed`.
    """

    request: str
    series: Expression | None = None
    keyed_by: tuple[Literal["symbol", "timeframe"], ...] = Field(default=(), max_length=2)
    fields: dict[FieldName, Expression] = Field(min_length=1)
    generated_at: Expression | None = None
    states: dict[str, Literal["fresh", "aging", "stale", "missing", "failed"]] = Field(default={})


class Freshness(Model):
    """How old a system says that its data is: by its API, by its database, or both, which are then held against each other.

    `sql` gives a row a series: `symbol`, `timeframe`, and `newest`, `refreshed_at`, one of the ages, or `state`.
    """

    api: AnswerMapping | None = None
    sql: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _any(self) -> Self:
        if self.api is None and self.sql is None:
            raise ValueError("api, sql or both")
        return self


class StoredBars(Model):
    """Where a system has its bars: a statement that gives `time`, `open`, `high`, `low`, `close`, `volume`, and maybe `vwap` and `trades`.

    It gets `%(symbol)s`, `%(timeframe)s`, `%(start)s` and `%(end)s`. `price_scale` is what prices are multiplied by: 0.01 for cents.
    """

    sql: str = Field(min_length=1)
    price_scale: float = Field(default=1.0, gt=0)

    @field_validator("sql")
    @classmethod
    def _with_names(cls, text: str) -> str:
        if absent := [name for name in ("symbol", "start", "end") if f"%({name})s" not in text]:
            raise ValueError(f"a statement with %({absent[0]})s in it")
        return text


def moment(value: Any) -> dt.datetime | None:
    """Return a time as UTC: ISO 8601 with or without a zone (then UTC), an HTTP date, or s, ms, us or ns since 1970, told by size.

    Raises:
        ValueError: it is none of them, or lies before 1970-01-02 or after 2199.
    """
    if value is None or value == "":
        return None
    if isinstance(value, dt.datetime):
        found = _utc(value)
    elif isinstance(value, dt.date):
        found = dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
    elif isinstance(value, str) and not re.fullmatch(r"\s*\d{9,19}(\.\d+)?\s*", value):
        found = _of_text(value.strip())
    else:
        seconds = number(value)
        per_s = next((each for least, each in EPOCHS if seconds >= least), math.inf)
        found = dt.datetime.fromtimestamp(min(seconds / per_s, LATEST.timestamp()), dt.UTC)
    if not EARLIEST <= found < LATEST:
        raise ValueError(f"{value!r} is no time between 1970 and 2200")
    return found


def _of_text(text: str) -> dt.datetime:
    for parse in (dt.datetime.fromisoformat, email.utils.parsedate_to_datetime):
        try:
            return _utc(parse(text))
        except (ValueError, ArithmeticError, LookupError, TypeError):  # the parser of HTTP dates may stumble over anything
            continue
    raise ValueError(f"{text[:40]!r} is no time: ISO 8601 is, or a number since 1970")


def number(value: Any) -> float:
    """Return a number, which may stand as text. Raises ValueError: it is none, or not finite."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return found


def status(document: Any, mapping: AnswerMapping, at: dt.datetime, known: Mapping[str, str] | None = None) -> Status:
    """Return what an answer says, as far as its mapping goes.

    Args:
        document: the answer, parsed.
        at: when it came, UTC; ages are counted to then, or to `generated_at`.
        known: symbol and timeframe of the request, where it was asked for one series.

    Raises:
        TargetError: the mapping matches nothing, or what is there has another shape; with what was got.
    """
    try:
        made = moment(jmespath.search(mapping.generated_at, document)) if mapping.generated_at else None
        rows = list(_rows(document, mapping))
        compiled = {name: jmespath.compile(text) for name, text in mapping.fields.items()}
        found = [
            series({**(known or {}), **keys, **{name: each.search(row) for name, each in compiled.items()}}, mapping.states, made or at)
            for keys, row in rows
        ]
    except ValueError as error:
        raise TargetError(f"{SEARCHED} does not fit the answer to {mapping.request}: {error}") from None
    if not found:
        raise TargetError(f"{SEARCHED}.series: {mapping.series} matches nothing in {shown(json.dumps(document).encode(), 200)}")
    return Status(series=tuple(found), generated_at=made)


def _rows(document: Any, mapping: AnswerMapping) -> Iterator[tuple[Mapping[str, str], Any]]:
    """Yield each series as it stands, with what its keys say."""
    found = jmespath.search(mapping.series, document) if mapping.series else document
    if mapping.keyed_by:
        yield from _keyed(found, mapping.keyed_by, {})
    elif mapping.series is None:
        yield {}, found
    elif isinstance(found, list):
        yield from (({}, row) for row in found)
    elif found is not None:
        raise ValueError(f"{mapping.series} gives {kind(found)}; a list is wanted, or an object with keyed_by")


def _keyed(found: Any, names: Sequence[str], keys: Mapping[str, str]) -> Iterator[tuple[Mapping[str, str], Any]]:
    if not names:
        yield keys, found
    elif isinstance(found, dict):
        for key, inner in found.items():
            yield from _keyed(inner, names[1:], {**keys, names[0]: str(key)})
    elif found is not None:
        raise ValueError(f"got {kind(found)} where an object keyed by {names[0]} is wanted (keyed_by)")


def series(given: Mapping[str, Any], states: Mapping[str, str], now: dt.datetime) -> ReportedSeries:
    """Return one series from its fields, by their names in a mapping or as columns of `freshness.sql`.

    An age that is not given is counted from the time of refresh, else from the newest bar.

    Raises:
        ValueError: a field is of another kind than its name says, or a word has no meaning; symbol or timeframe is missing.
    """
    key = {name: str(given.get(name) or "") for name in ("symbol", "timeframe")}
    for name, text in key.items():
        if not text:
            raise ValueError(f"no {name} in {str(dict(given))[:120]}; a constant is written in quotes: {name}: \"'1d'\"")
    word = given.get("state")
    ours = states.get(str(word), str(word)) if word is not None else ""
    if states and word is not None and ours not in states.values():
        raise ValueError(f"the state {word!r} of {' '.join(key.values())} is not among {SEARCHED}.states: {', '.join(states)}")
    newest, refreshed_at = (moment(given.get(name)) for name in MOMENTS)
    ages = [number(given[name]) * scale for name, scale in AGES_S.items() if given.get(name) is not None]
    dated = refreshed_at or newest
    return ReportedSeries(
        **key,
        age_s=ages[0] if ages else (now - dated).total_seconds() if dated else None,
        dated_by="refresh" if ages or refreshed_at else "bar",
        freshness=ours if ours in CLASSES else None,
        refreshed_at=refreshed_at,
        **({"newest": newest} if "newest" in given else {}),
        state=ours,
    )


def kind(value: Any) -> str:
    """Say what a piece of JSON is."""
    return {dict: "an object", list: "a list", str: "a text", type(None): "nothing"}.get(type(value), f"a {type(value).__name__}")


# ---- tables: the state of each series, its bars and its features; `%s` are symbol and timeframe, after what is said else ----

SCHEMA = "tapecheck"
BARS = f"{SCHEMA}.bars"
TIME_MS = "(extract(epoch FROM time) * 1000)::int8"
SYMBOLS = f"SELECT symbol FROM {SCHEMA}.checkpoints WHERE timeframe = %s AND rows > 0 ORDER BY symbol"
NEWEST = f"SELECT {TIME_MS} FROM {BARS} WHERE symbol = %s AND timeframe = %s ORDER BY time DESC LIMIT %s"
BAR_AT = f"SELECT * FROM {BARS} WHERE symbol = %s AND timeframe = %s AND time = to_timestamp(%s / 1000.0)"
AGES = f"""
SELECT c.symbol, c.timeframe, c.state, extract(epoch FROM clock_timestamp() - c.refreshed_at)::float8,
    (SELECT max(b.time) FROM {SCHEMA}.bars b WHERE b.symbol = c.symbol AND b.timeframe = c.timeframe),
    EXISTS (SELECT FROM {SCHEMA}.features f WHERE f.symbol = c.symbol AND f.timeframe = c.timeframe)
FROM {SCHEMA}.checkpoints c
"""

_WHERE = "WHERE symbol = %s AND timeframe = %s"
REFRESHED_AT = f"SELECT refreshed_at FROM {SCHEMA}.checkpoints {_WHERE}"
MAKE_OLD = f"UPDATE {SCHEMA}.checkpoints SET refreshed_at = clock_timestamp() - make_interval(secs => %s) {_WHERE}"
PUT_BACK = f"UPDATE {SCHEMA}.checkpoints SET refreshed_at = GREATEST(refreshed_at, %s) {_WHERE}"

DAYS = 30
_MS = "(extract(epoch FROM {}) * 1000)::int8"
COUNTS = f"""
SELECT job.symbol, job.timeframe, job.rows, whole.found, {_MS.format(f"job.watermark - interval '{DAYS} days'")}, newest.times
FROM {{schema}}.checkpoints job,
LATERAL (SELECT count(*) AS found FROM {{schema}}.bars bar
         WHERE bar.symbol = job.symbol AND bar.timeframe = job.timeframe AND bar.time <= job.watermark) whole,
LATERAL (SELECT coalesce(array_agg({_MS.format("bar.time")}), '{{{{}}}}') AS times FROM {{schema}}.bars bar
         WHERE bar.symbol = job.symbol AND bar.timeframe = job.timeframe AND bar.time <= job.watermark
           AND bar.time >= job.watermark - interval '{DAYS} days') newest
WHERE job.watermark IS NOT NULL"""
