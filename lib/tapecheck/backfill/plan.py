"""What to backfill and how, as the YAML says it. It fetches nothing."""

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from tapecheck import config
from tapecheck.backfill.calendar import EASTERN, FIRST_DAY
from tapecheck.config import Model
from tapecheck.errors import ConfigError, Problem
from tapecheck.runs.results import TargetInfo
from tapecheck.target.file import BackfillTarget, Secret, Target
from tapecheck.target.mapping import StoredBars
from tapecheck.vendor.bars import TICKERS, TIMEFRAMES, is_crypto
from tapecheck.vendor.rate_limit import Retry, TokenBucket
from tapecheck.vendor.wire import Unauthorized
from tapecheck.verdict import Objective, each_once, parse
from tapecheck.workers.dask import checked_workers

METRICS = (
    "duration_s", "records_per_s", "job_success_ratio", "failed", "floor_ratio", "lost", "empty", "duplicates",
    "repeated", "upstream_gaps", "wrong_bars", "not_asked_for", "contradicted", "coverage", "longest_gap_days", "bars_per_day",
    "late_start_days", "early_end_days",
)  # fmt: skip
MAX_DAYS = 3650
STRETCH, SATURDAY = dt.timedelta(weeks=13), 5
SLACK_S = 0.1  # by which the way of one request may be longer than that of another

Symbol = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9.]{0,11}$")]
Ticker = Annotated[str, Field(pattern=r"^([A-Z]:)?[A-Za-z0-9.]{1,24}$")]


def _known(timeframe: str) -> str:
    if timeframe not in TIMEFRAMES:
        raise ValueError("one of " + ", ".join(TIMEFRAMES))
    return timeframe


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"each once; more than once: {', '.join(twice)}")
    return values


def _objective(text: str) -> str:
    if "upstream_holes" in text:
        raise ValueError("metric 'upstream_holes' is named upstream_gaps now")
    parse(text, METRICS)
    return text


def _not_future(day: dt.date) -> dt.date:
    if day > today():
        raise ValueError(f"not after today, {today()} in New York")
    return day


def today() -> dt.date:
    """Return the date in New York; the last day that is over everywhere is the one before it."""
    return dt.datetime.now(EASTERN).date()


Past = Annotated[dt.date, AfterValidator(_not_future)]


class HistoryRange(Model):
    """Which days: the last `days` before `end`, or from `start` on; `end` itself is not included, and is today by default."""

    days: int | None = Field(default=None, ge=1, le=MAX_DAYS)
    start: Past | None = None
    end: Past | None = None

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if (self.days is None) == (self.start is None):
            raise ValueError("exactly one of days and start")
        first, last = self.bounds()
        if not 1 <= (last - first).days <= MAX_DAYS:
            raise ValueError(f"a start that is 1 to {MAX_DAYS} days before end; these are {first} to {last}")
        if first < FIRST_DAY:
            raise ValueError(f"a first day from {FIRST_DAY} on, where the calendar of sessions begins; this one is {first}")
        return self

    def bounds(self) -> tuple[dt.date, dt.date]:
        """Return the first day, and the day after the last."""
        last = self.end or today()
        return self.start or last - dt.timedelta(days=min(self.days or 0, (last - dt.date.min).days)), last

    def range(self, ticker: str) -> tuple[dt.datetime, dt.datetime]:
        """Return the first and last moment of the history, by the days of the ticker's market, so that no bar of any length is cut."""
        zone = dt.UTC if is_crypto(ticker) else EASTERN
        first, last = (dt.datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(dt.UTC) for day in self.bounds())
        return first, last - dt.timedelta(milliseconds=1)

    def stretches(self) -> "list[HistoryRange]":
        """Return it cut into stretches of about a quarter, so that one after another takes as little memory however long it is.

        A stretch ends with a Friday: no day of 23 hours does, in which a bar of a day would end beyond it.
        """
        day, last = self.bounds()
        found = []
        while day < last:
            end = day + STRETCH
            end = min(last, end - dt.timedelta(days=(end.weekday() - SATURDAY) % 7))
            found.append(HistoryRange(start=day, end=end))
            day = end
        return found


class SourcePlan(Model):
    """How the source may be asked: without `requests_per_minute` as fast as it answers; `adjusted`: prices as splits have changed them."""

    requests_per_minute: float | None = Field(default=None, ge=0.01, le=1e6)
    burst: int = Field(default=10, ge=1, le=10_000)
    timeout_s: float = Field(default=15.0, ge=0.01, le=300)
    retry: Retry = Retry()
    adjusted: bool = True

    @property
    def rate_per_s(self) -> float | None:
        """Return the rate of the token bucket."""
        return self.requests_per_minute / 60 if self.requests_per_minute else None

    def bucket(self) -> TokenBucket | None:
        """Return a full bucket that all jobs share, or None without a limit."""
        return TokenBucket(self.rate_per_s, self.burst, slack_s=SLACK_S) if self.rate_per_s else None


class Concurrency(Model):
    """How many jobs run at once in a process, each with a connection to the database, and how many requests it has in flight."""

    jobs: int = Field(default=5, ge=1, le=32)
    requests: int = Field(default=3, ge=1, le=100)


class BackfillPlan(Model):
    """Jobs, how they are done, and their objectives.

    `begin`: fresh empties this backfill's own tables first; resume finishes what an earlier run has left, and only_failed
    redoes of that what failed; audit fetches nothing, and holds what is stored against the calendar: the bars of the target's
    `bars.sql`, or those of `database_schema`. `database_schema` holds those tables, beside the live ones. `workers` are processes of this
    machine, 1 being this one itself, or those of a Dask cluster; the rate limit is one for all of them. The audit expects bars in
    `sessions` and leaves out the newest `settle_minutes`, which the vendor may still revise. `tickers` are the
    vendor's of symbols that are not called so there.
    """

    symbols: Annotated[tuple[Symbol, ...], AfterValidator(_each_once)] = Field(min_length=1)
    timeframes: Annotated[tuple[Annotated[str, AfterValidator(_known)], ...], AfterValidator(_each_once)] = Field(min_length=1)
    history: HistoryRange
    tickers: dict[Symbol, Ticker] = TICKERS
    source: SourcePlan = SourcePlan()
    concurrency: Concurrency = Concurrency()
    workers: Annotated[Any, BeforeValidator(checked_workers)] = 1
    insert: Literal["copy", "executemany", "row_by_row"] = "copy"
    derive: bool = False
    features: Literal["vectorized", "per_row", "off"] = "vectorized"
    sessions: Literal["regular", "extended", "overnight"] = "extended"
    settle_minutes: int = Field(default=15, ge=0, le=1440)
    begin: Literal["fresh", "resume", "only_failed", "audit"] = "fresh"
    database_schema: str = Field(default="tapecheck_backfill", pattern=r"^tapecheck_[a-z0-9_]{1,40}$")
    objectives: Annotated[tuple[Annotated[str, AfterValidator(_objective)], ...], AfterValidator(each_once)] = ()

    @field_validator("tickers")
    @classmethod
    def _with_coins(cls, given: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        known = TICKERS | given
        _each_once(tuple(known.get(symbol, symbol) for symbol in info.data.get("symbols", ())))
        return known

    def ticker(self, symbol: str) -> str:
        """Return the vendor's ticker of a symbol: a stock's is its name."""
        return self.tickers.get(symbol, symbol)

    @property
    def parsed(self) -> tuple[Objective, ...]:
        """Return its objectives, parsed."""
        return tuple(parse(text, METRICS) for text in self.objectives)

    @property
    def coins(self) -> list[str]:
        """Return the symbols that trade around the clock."""
        return [symbol for symbol in self.symbols if is_crypto(self.ticker(symbol))]

    @property
    def jobs(self) -> list[tuple[str, str]]:
        """Return every job, a symbol and timeframe."""
        return [(symbol, timeframe) for symbol in self.symbols for timeframe in self.timeframes]


def read_plan(path: str | Path, *, profile: str = "full", symbols: str = "all", timeframes: str = "all", days: int = 0) -> BackfillPlan:
    """Read a backfill plan with a profile's changes, and keep the named symbols and timeframes (comma-separated) and days (0: as planned).

    Raises:
        ConfigError: the file, any of its profiles, an objective, or a name is wrong.
    """
    plan: BackfillPlan = config.chosen(BackfillPlan, path, profile)
    problems: list[Problem] = []
    kept: dict[str, Any] = {}
    for key, asked in (("symbols", symbols), ("timeframes", timeframes)):
        known: tuple[str, ...] = getattr(plan, key)
        names = known if asked == "all" else tuple(name.strip() for name in asked.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            allowed = f"all, or some of {', '.join(known)}"
            problems.append(Problem(file="parameters", key=key, got=", ".join(unknown), allowed=allowed))
        kept[key] = tuple(name for name in known if name in names)
    if not 0 <= days <= MAX_DAYS:
        problems.append(Problem(file="parameters", key="days", got=str(days), allowed=f"0 for what is planned, or up to {MAX_DAYS}"))
    elif days:
        try:
            kept["history"] = HistoryRange(days=days, end=plan.history.end)
        except ValidationError as error:
            allowed = error.errors()[0]["msg"].removeprefix("Value error, ")
            problems.append(Problem(file="parameters", key="days", got=f"{days} before {plan.history.bounds()[1]}", allowed=allowed))
    if problems:
        raise ConfigError(problems)
    return plan.model_copy(update=kept)


# ---- endpoints ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where bars come from and go to; key and database URL are in no representation of it.

    Without a key nothing can be asked for: it is empty then, and `no_key` says what to do.
    """

    source_url: str
    key: str = field(repr=False)
    database_url: str = field(repr=False)
    target: TargetInfo
    no_key: str = "name it in the target's backfill.api_key"
    bars: StoredBars | None = None
    allow_remote: bool = False

    @property
    def remote(self) -> tuple[str, ...]:
        """Return the stages that do not use this machine's cores."""
        from tapecheck.target.loopback import is_local_database, is_loopback

        far = {"fetch": not is_loopback(urlsplit(self.source_url).hostname or ""), "insert": not is_local_database(self.database_url)}
        return tuple(stage for stage, is_far in far.items() if is_far)

    def check_key(self) -> None:
        """Refuse to go on without a key.

        Raises:
            Unauthorized: there is none.
        """
        if not self.key:
            raise Unauthorized(f"no API key: {self.no_key}")


def endpoints(target: Target) -> Endpoints:
    """Return the endpoints of a target that is opened, with its secrets revealed; a key that is not set fails each job by itself.

    Raises:
        ConfigError: the target names none, the key's file or the database's URL is not there or cannot be read, or one of them
            lies beyond this machine without `allow_remote`; nothing was sent.
    """
    ends = target.backfill
    if ends is None:
        allowed = "backfill: {source_url: https://…}, and maybe api_key and database_url; see config/targets/example.yaml"
        raise ConfigError([Problem(file=f"target {target.name}", key="backfill", got="nothing", allowed=allowed)])
    problems: list[Problem] = []
    key = _revealed(ends.api_key, problems) if ends.api_key.is_set else ""
    database_url = _revealed(ends.database_url, problems)
    if not (key.isascii() and key.isprintable()) or " " in key:
        got, allowed = "a key that no header can carry", "printable ASCII without spaces"
        problems.append(Problem(file=f"target {target.name}", key=ends.api_key.place, got=got, allowed=allowed))
    if not problems:
        problems = _remote(target, ends, database_url)
    if problems:
        raise ConfigError(problems)
    info = TargetInfo(name=target.name, kind=target.kind, base_url=ends.source_url)
    return Endpoints(
        source_url=ends.source_url,
        key=key,
        database_url=database_url,
        target=info,
        no_key=ends.api_key.remedy,
        bars=target.bars,
        allow_remote=target.allow_remote,
    )


def _revealed(value: Secret | str, problems: list[Problem]) -> str:
    try:
        return value.reveal() if isinstance(value, Secret) else value
    except ConfigError as error:
        problems += error.problems
        return ""


def _remote(target: Target, ends: BackfillTarget, database_url: str) -> list[Problem]:
    """Return what lies beyond this machine although it may not; no message holds the database's URL."""
    import psycopg  # with httpx a seventh of a second: paid by who measures

    from tapecheck.target.loopback import beyond, is_local_database, is_loopback

    found = []
    place = ends.database_url.place if isinstance(ends.database_url, Secret) else "database_url"
    try:
        if not target.allow_remote and not is_local_database(database_url):
            found.append(beyond(target, f"the database of {place} may be on another machine"))
    except psycopg.ProgrammingError:
        allowed = "postgresql://user@host:5432/database"
        found.append(Problem(file=f"target {target.name}", key=place, got="a URL that cannot be read", allowed=allowed))
    host = urlsplit(ends.source_url).hostname or ""
    if not target.allow_remote and not is_loopback(host):
        found.append(beyond(target, f"backfill.source_url leads to {host}, beyond this machine"))
    return found
