"""The scheduler's choice of the next job."""

from pathlib import Path

from tapecheck.sandbox.profile import Home, Profile
from tapecheck.sandbox.scheduler import Refresher


def test_jobs_are_taken_critical_first(tmp_path: Path) -> None:
    """Critical symbols come before standard ones and those before all others, whatever order they were added in; none comes twice."""
    home = Home(tmp_path)
    home.profile.write_text(Profile(timeframes=("1d", "5m")).model_dump_json())
    scheduler = Refresher(home)
    scheduler.add(["ADA", "AAPL", "NEW", "SPY", "TSLA", "BTC"])
    taken = []
    while key := scheduler.take():
        taken.append(key)
    assert taken == [(symbol, frame) for symbol in ("BTC", "SPY", "AAPL", "TSLA", "ADA", "NEW") for frame in ("5m", "1d")]
