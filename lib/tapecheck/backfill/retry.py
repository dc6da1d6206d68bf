"""How long failed requests are tried again, and with which pauses. It sends nothing and never sleeps."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How long to go on: exponential backoff with jitter, within a budget of time.

    A job, which is one call of `Source.pages`, spends it on attempts that failed and the pauses after them, all its pages together.
    """

    first_s: float = 0.5
    cap_s: float = 30.0
    budget_s: float = 120.0

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
