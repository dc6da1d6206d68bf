"""When the next request may be sent: a token bucket on a clock that is given to it, and pauses after failures. It never sleeps."""

import time
from collections.abc import Callable
from typing import Protocol, Self

from pydantic import Field, model_validator

from tapecheck.config import Model


class Bucket(Protocol):
    """Whom a source asks before each request."""

    async def ask(self) -> float:
        """Take a token and return 0, or take none and return the seconds until there will be one."""


def most_tokens(rate_per_s: float, burst: int, slack_s: float) -> float:
    """Return how many tokens a bucket holds at most.

    Requests that were sent apart may arrive closer together, by up to `slack_s`, at a server that counts them by the same rule.
    So the tokens of that time are kept back from the burst, as long as it has one: it costs `slack_s` once, and no refusal.
    """
    return max(1.0, burst - rate_per_s * slack_s)


class TokenBucket:
    """Lets `rate_per_s` requests through on average, and `burst` at once after a pause; see `most_tokens` for `slack_s`."""

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float] = time.monotonic, *, slack_s: float = 0.0) -> None:
        self._most = most_tokens(rate_per_s, burst, slack_s)
        self.rate_per_s, self._clock = rate_per_s, clock
        self._tokens, self._at_s = self._most, clock()

    def take(self) -> float:
        """Take a token and return 0, or take none and return the seconds until there will be one."""
        now_s = self._clock()
        self._tokens = min(self._most, self._tokens + (now_s - self._at_s) * self.rate_per_s)
        self._at_s = now_s
        if self._tokens >= 1 - 1e-9:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate_per_s

    async def ask(self) -> float:
        """Do the same, as sources ask for it."""
        return self.take()


# ---- retry ----


class Retry(Model):
    """How long to go on when requests fail: exponential backoff with jitter, within a budget of time.

    A job, which is one call of `Source.pages`, spends it on attempts that failed and the pauses after them, all its pages together.
    """

    first_s: float = Field(default=0.5, ge=0.001, le=60)
    cap_s: float = Field(default=30.0, ge=0.001, le=300)
    budget_s: float = Field(default=120.0, gt=0, le=3600)

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.first_s > self.cap_s:
            raise ValueError(f"a first_s of at most cap_s; these are {self.first_s:g} and {self.cap_s:g}")
        return self

    def delay_s(self, attempt: int, asked_s: float | None, jitter: float) -> float:
        """Return the pause after the attempt-th failure (from 1); a server's own wish goes first; jitter is in [0, 1)."""
        if asked_s is not None:
            return asked_s + 0.1 * jitter
        return min(self.cap_s, self.first_s * 2.0 ** min(attempt - 1, 30)) * (0.5 + 0.5 * jitter)


class Budget:
    """What one job may still spend on attempts that fail, and the pauses after them."""

    def __init__(self, retry: Retry) -> None:
        self._retry, self._left_s = retry, retry.budget_s

    def pause_s(self, attempt: int, took_s: float, asked_s: float | None, jitter: float) -> float | None:
        """Book the attempt-th failure of a page and return the pause before the next attempt, None when there is no time for it."""
        self._left_s -= took_s
        if asked_s is not None and asked_s > self._left_s:
            asked_s = None  # more than there is time for: our own pauses find out whether it is meant
        delay_s = self._retry.delay_s(attempt, asked_s, jitter)
        self._left_s -= delay_s
        return delay_s if self._left_s >= 0 else None
