"""A token bucket on a clock that is given to it. It never sleeps: it says how long to wait."""

import time
from collections.abc import Callable
from typing import Protocol


class Bucket(Protocol):
    """Whom a source asks before each request."""

    async def ask(self) -> float:
        """Take a token and return 0, or take none and return the seconds until there will be one."""


def most_tokens(rate_per_s: float, burst: int, slack_s: float) -> float:
    """Return how many tokens a bucket holds at most.

    Requests that were sent apart may arrive closer together, by up to `slack_s`, at a server that counts them by the same rule.
    So the tokens of that time are kept back from the burst, as long as it has one: it costs `slack_s` once, and no refusal.
    """
    if rate_per_s <= 0 or burst < 1:
        raise ValueError(f"rate {rate_per_s}/s with burst {burst}; allowed: a positive rate, a burst of at least 1")
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
