"""The api's cache: an answer counts as current for five minutes, while its data is fresh, and is never lost to its age."""

import time

import pytest

from tapecheck.sandbox.store import NEWEST_FEATURES, CachedRows, Query, Store

HOUR_S = 3600
QUERY = Query(sql=NEWEST_FEATURES, symbol="AAPL", timeframe="1d", limit=5)


@pytest.mark.parametrize(
    ("read_ago_s", "data_age_s", "is_current"),
    [(0, 60, True), (290, 300, True), (310, 320, False), (0, HOUR_S + 10, False), (0, None, False)],
    ids=["just read", "within five minutes", "after five minutes", "aging data", "no data"],
)
def test_an_answer_is_current_for_five_minutes(read_ago_s: float, data_age_s: float | None, is_current: bool) -> None:
    """Older answers and those of older data are asked for again, but kept for the time when the database is gone."""
    store = Store(lambda: "")
    refreshed_at = None if data_age_s is None else time.time() - data_age_s
    entry = store._cache[QUERY] = CachedRows(
        rows=b"[]", count=0, refreshed_at=refreshed_at, read_s=time.monotonic() - read_ago_s, db_ms=1.0
    )
    assert (store.current(QUERY) is entry) == is_current
    assert store.cached(QUERY) is entry
