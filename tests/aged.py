"""A planted market-data API whose series have chosen ages, and a relay in front of a real one; each honest but for one lie."""

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from servers import Behaviour, Exchange

from tapecheck import config
from tapecheck.recovery.contradictions import read_plan
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.target.file import Target

HOUR = 3600.0
KEY = ("AAPL", "1d")
Body = dict[str, Any]
Lie = Callable[[str, int, Body], tuple[int, Body]]  # of what was asked (`status`, `scheduler`, `features`), and what is honest

PLAN = read_plan("config/rto_rpo.yaml")
SANDBOX = config.read(Target, "config/targets/sandbox.yaml")


def plan_of(*symbols: str) -> RecoveryPlan:
    """The shipped plan, whose critical tier names these symbols and whose standard tier none."""
    tiers = {name: tier.model_copy(update={"symbols": symbols if name == "critical" else ()}) for name, tier in PLAN.rpo.items()}
    return PLAN.model_copy(update={"rpo": tiers | {"low": PLAN.rpo["low"]}})


def target_at(url: str, **more: object) -> Target:
    """The sandbox's target file at another URL."""
    return Target.model_validate(SANDBOX.model_dump(by_alias=True) | {"name": "planted", "kind": "external", "base_url": url} | more)


def honest(asked: str, status: int, body: Body) -> tuple[int, Body]:
    return status, body


def what_is_asked(path: str) -> str:
    return {"status": "status", "scheduler-health": "scheduler"}.get(path.rsplit("/", 1)[-1], "features")


class Market:
    """Answers as the shipped plan demands for chosen ages (None: never there), without a clock; then lies as told."""

    def __init__(self, ages: Mapping[tuple[str, str], float | None], lie: Lie = honest) -> None:
        self.ages, self.lie = dict(ages), lie
        self.alerts: list[Body] = []
        self.now = dt.datetime.now(dt.UTC)

    async def __call__(self, exchange: Exchange) -> None:
        parts = urlsplit(exchange.target)
        asked = what_is_asked(parts.path)
        symbol, query = parts.path.rsplit("/", 1)[-1], parse_qs(parts.query)
        plain = {"status": self._status, "scheduler": self._scheduler, "features": lambda: self._features(symbol, query)}
        status, body = self.lie(asked, *plain[asked]())
        exchange.send(json.dumps(body).encode(), status=status)

    def _scheduler(self) -> tuple[int, Body]:
        return 200, {"last_success_at": (self.now - dt.timedelta(seconds=60)).isoformat(), "failed": {}, "uptime_s": 1.5}

    def _status(self) -> tuple[int, Body]:
        series = [self._series(*key, age_s) for key, age_s in self.ages.items()]
        return 200, {"generated_at": self.now.isoformat(), "series": series, "alerts": self.alerts, "jobs": len(series)}

    def _series(self, symbol: str, timeframe: str, age_s: float | None) -> Body:
        refreshed = None if age_s is None else (self.now - dt.timedelta(seconds=age_s)).isoformat()
        more = {"refreshed_at": refreshed, "newest": refreshed, "rows": 5, "state": "done", "error": None}
        return {"symbol": symbol, "timeframe": timeframe, "age_s": age_s, "freshness": PLAN.staleness.classify(age_s), **more}

    def _features(self, symbol: str, query: dict[str, list[str]]) -> tuple[int, Body]:
        timeframe, limit = query["timeframe"][0], int(query["limit"][0])
        age_s = self.ages.get((symbol, timeframe))
        state = PLAN.staleness.classify(age_s)
        if state == "missing":
            return 404, {"detail": {"message": "no data", "symbol": symbol, "timeframe": timeframe, "triggered": True}}
        if state == "stale":
            self.alerts.append({"symbol": symbol, "timeframe": timeframe, "message": "old", "at": self.now.isoformat()})
        said = {"symbol": symbol, "timeframe": timeframe, "count": limit, "age_s": age_s, "freshness": state}
        rows = [{"time": self.now.isoformat(), "close": 1.0, "rsi_14": 50.0}] * limit
        return 200, {**said, "warning": None if state == "fresh" else f"data is {state}", "rows": rows}


def relay(url: str, lie: Lie = honest) -> Behaviour:
    """Pass every question on to a real API, and its answer back with a lie in it."""

    async def behave(exchange: Exchange) -> None:
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60) as client:  # reads no certificates: 25 ms
            answer = await client.get(exchange.target)
        status, body = lie(what_is_asked(urlsplit(exchange.target).path), answer.status_code, answer.json())
        exchange.send(json.dumps(body).encode(), status=status)

    return behave


def in_series(key: tuple[str, str], change: Callable[[Body], Body]) -> Lie:
    """Lie in the status about one series."""

    def lie(asked: str, status: int, body: Body) -> tuple[int, Body]:
        if asked != "status":
            return status, body
        series = [one | change(one) if (one["symbol"], one["timeframe"]) == key else one for one in body["series"]]
        return status, body | {"series": series}

    return lie


def in_features(change: Callable[[int, Body], tuple[int, Body]]) -> Lie:
    """Lie in answers with data."""
    return lambda asked, status, body: change(status, body) if asked == "features" else (status, body)


def figures(text: str) -> list[int]:
    """The whole numbers in a text."""
    return [int(number) for number in re.findall(r"-?\d+", text)]
