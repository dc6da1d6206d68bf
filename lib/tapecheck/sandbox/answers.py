"""The shape of the sandbox's answers, what the age of data means, and who may ask for what only its owner may."""

import datetime as dt
import secrets
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field, create_model

from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.features import NAMES
from tapecheck.sandbox.profile import Home, tier_of

FRESH_S, AGING_S, STALE_S = 3600, 6 * 3600, 24 * 3600  # half-open: an age of exactly 1 h is aging
Freshness = Literal["fresh", "aging", "stale", "missing"]
Row = TypeVar("Row")


def freshness_of(age_s: float | None) -> Freshness:
    """Return the class of an age in seconds; None is the age of what never was there."""
    if age_s is None or age_s >= STALE_S:
        return "missing"
    return "fresh" if age_s < FRESH_S else "aging" if age_s < AGING_S else "stale"


class Bar(BaseModel):
    """One bar; `time` is its start, prices are in dollars, `volume` in shares or coins."""

    time: dt.datetime
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float | None
    trades: int | None


FeatureBar = create_model("FeatureBar", __base__=Bar, **dict.fromkeys(NAMES, (float | None, ...)))  # type: ignore[call-overload]
FeatureBar.__doc__ = "A bar with its features; null in the warm-up of each (formulas: tapecheck.backfill.features)."


class Envelope(BaseModel, Generic[Row]):
    """Rows of a series, oldest first; `age_s` is the time since upstream confirmed that nothing is missing."""

    symbol: str
    timeframe: str
    count: int
    age_s: float
    freshness: Freshness
    warning: str | None
    source: Literal["database", "cache"]
    rows: list[Row]


class Missing(BaseModel):
    """Why there is no data yet, and whether the scheduler was told to get it."""

    message: str
    symbol: str
    timeframe: str
    triggered: bool


class NoData(BaseModel):
    """The body of a 404."""

    detail: Missing


class Unavailable(BaseModel):
    """The body of a 503; `Retry-After` says when to come back."""

    detail: str


class SeriesStatus(BaseModel):
    """How far one symbol and timeframe is."""

    symbol: str
    timeframe: str
    tier: int
    freshness: Freshness
    age_s: float | None
    refreshed_at: dt.datetime | None
    newest: dt.datetime | None
    rows: int
    state: str
    error: str | None

    @classmethod
    def of(cls, symbol: str, timeframe: str, checkpoint: Checkpoint | None, now: dt.datetime) -> Self:
        """Return what a checkpoint says of a series; without one there is none yet."""
        held = checkpoint or Checkpoint(symbol=symbol, timeframe=timeframe, state="missing")
        age_s = (now - held.refreshed_at).total_seconds() if held.refreshed_at else None
        return cls(
            symbol=symbol,
            timeframe=timeframe,
            tier=tier_of(symbol),
            freshness=freshness_of(age_s),
            age_s=age_s,
            refreshed_at=held.refreshed_at,
            newest=held.watermark,
            rows=held.rows,
            state=held.state,
            error=held.error,
        )


class RaisedAlert(BaseModel):
    """Something a person should know."""

    at: dt.datetime
    symbol: str
    timeframe: str
    message: str


class StatusAnswer(BaseModel):
    """Freshness of everything the sandbox holds or should hold."""

    generated_at: dt.datetime
    database: Literal["up", "down"]
    warning: str | None
    series: list[SeriesStatus]
    alerts: list[RaisedAlert]


class Refusal(BaseModel):
    """The body of a 400 and of a 401."""

    detail: str


class Health(BaseModel):
    """Whether the api serves; `degraded` without its database."""

    status: Literal["ok", "degraded"]
    database: Literal["up", "down"]


class Trigger(BaseModel):
    """Which symbols to refresh now; none for all."""

    symbols: list[Annotated[str, Field(pattern=r"^[A-Z][A-Z.]{0,9}$")]] = Field(default=[], max_length=100)


class Triggered(BaseModel):
    """What a trigger did with each symbol."""

    accepted: list[str]
    unknown: list[str]


class SchedulerAnswer(BaseModel):
    """The scheduler's own view; `resumed` and `skipped` tell how it came back after its last start.

    `runs` counts jobs since then, `redone` those of them that were done before it and that nobody asked for again;
    `due` counts jobs whose time has come; `pending` those and the ones in flight, without new attempts at what failed.
    `held`: it holds nothing yet, and lets a measured backfill go first.
    """

    status: Literal["ok", "degraded"]
    database: Literal["up", "down"]
    jobs: int
    done: int
    failed: dict[str, str]
    in_flight: list[str]
    due: int
    pending: int
    resumed: int
    skipped: int
    rate_limited: int
    runs: int
    redone: int
    last_success_at: dt.datetime | None
    held: bool


# ---- requests of the owner alone ----

KEY = HTTPBearer(auto_error=False, description="the key in the sandbox's home, upstream.key, which only its owner can read")
REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The body cannot be read"},
    401: {"model": Refusal, "description": "The key is missing or wrong"},
}


def knows_key(request: Request, key: str) -> bool:
    """Tell whether a request carries a key as its bearer."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(given.encode(), key.encode())


class Admin:
    """Lets in who knows the key of the sandbox's home; a dependency of an endpoint."""

    def __init__(self, home: Home) -> None:
        self._key = home.secret()

    def __call__(self, request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(KEY)]) -> None:
        """Refuse everybody else."""
        if not knows_key(request, self._key):
            raise HTTPException(401, "the key of the sandbox is missing or wrong", {"WWW-Authenticate": "Bearer"})
