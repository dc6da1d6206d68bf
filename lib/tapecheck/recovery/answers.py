"""What is read of a target's answers; whatever else it says is left alone. It asks nobody."""

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

BAR = frozenset({"time", "symbol", "timeframe", "open", "high", "low", "close", "volume", "vwap", "trades"})  # no features, these


def _utc(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


Moment = Annotated[dt.datetime, AfterValidator(_utc)]  # UTC where no offset is given


class Said(BaseModel):
    """Something that a service says; it may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Series(Said):
    """What the status answer says of one symbol and timeframe; `age_s` is null for what never was there."""

    symbol: str
    timeframe: str
    age_s: FiniteFloat | None
    freshness: str
    refreshed_at: Moment | None = None
    newest: Moment | None = None
    rows: int | None = None
    state: str = ""
    error: str | None = None


class Raised(Said):
    """An alert that a service has raised about a series."""

    symbol: str
    timeframe: str
    at: Moment | None = None
    message: str = ""


class Status(Said):
    """The status answer."""

    series: tuple[Series, ...]
    alerts: tuple[Raised, ...] = ()
    generated_at: Moment | None = None


def _named(failed: Any) -> Any:
    return dict.fromkeys(failed, "") if isinstance(failed, list) else failed


class SchedulerHealth(Said):
    """What the scheduler says of itself; `failed` maps a job, `SYMBOL timeframe`, to its error."""

    last_success_at: Moment | None = None
    failed: Annotated[dict[str, str | None], BeforeValidator(_named)] = {}
    resumed: int | None = None
    skipped: int | None = None


class Served(Said):
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


class _Detail(Said):
    triggered: bool = False


class NotFound(Said):
    """The body of a 404."""

    detail: _Detail = Field(default_factory=_Detail)
