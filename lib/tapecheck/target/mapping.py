"""How a target says things: the answers and tables that a service of ours has, as far as they are read. Nothing else knows their names.

It judges nothing and asks nobody.
"""
# ruff: noqa: S608 - what is put into statements is the names of tables, constants of ours

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

Key = tuple[str, str]  # symbol and timeframe

# ---- answers ----

BAR = frozenset({"time", "symbol", "timeframe", "open", "high", "low", "close", "volume", "vwap", "trades"})  # no features, these


def _utc(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def _named(failed: Any) -> Any:
    return dict.fromkeys(failed, "") if isinstance(failed, list) else failed


Moment = Annotated[dt.datetime, AfterValidator(_utc)]  # UTC where no offset is given


class Reported(BaseModel):
    """Something that a service reports; whatever else it reports is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class ReportedSeries(Reported):
    """What the status answer reports of one symbol and timeframe; `age_s` is null for what never was there."""

    symbol: str
    timeframe: str
    age_s: FiniteFloat | None
    freshness: str
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
    """The status answer."""

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
