"""The made-up market: deterministic, on the exchange's calendar, exactly aggregated, paged as the vendor pages."""

import datetime as dt

import numpy as np
import pytest

from tapecheck.backfill.calendar import EASTERN, sessions
from tapecheck.sandbox import market
from tapecheck.vendor.bars import COLUMNS, Bars, to_ms

LATER_MS = int(dt.datetime(2026, 11, 20, 22, tzinfo=dt.UTC).timestamp() * 1000)
WIDTHS = {"5m": 300, "15m": 900, "1h": 3600, "4h": 14400, "1d": 86400}


def _ms(*when: int, zone: dt.tzinfo = EASTERN) -> int:
    return int(dt.datetime(*when, tzinfo=zone).timestamp() * 1000)  # type: ignore[arg-type,misc]


def _all(symbol: str, width: int | str, start: int, end: int, now: int = LATER_MS, limit: int = 10**9) -> Bars:
    return market.page(symbol, width, start, end, now, limit)[0]


def _pages(symbol: str, width: int, start: int, end: int, limit: int) -> list[Bars]:
    pages, more = [], True
    while more:
        bars, more = market.page(symbol, width, start, end, LATER_MS, limit)
        pages.append(bars)
        start = int(bars.t[-1]) + 1
    return pages


def test_a_history_of_every_symbol_is_made_up_once() -> None:
    """Job after job of another timeframe asks for the same two years of every symbol; no later one pays for them again."""
    market.year_of_slots.cache_clear()
    for width in (300, 3600):
        for symbol in ("AAPL", "BTC"):
            market.page(symbol, width, LATER_MS - 365 * 86_400_000, LATER_MS, LATER_MS, 10)
    made = market.year_of_slots.cache_info()
    assert (made.misses, made.hits) == (4, 4) and (made.maxsize is None or made.maxsize >= 2 * len(market.LISTED))


def test_bars_are_a_pure_function() -> None:
    """The same symbol and time give the same bar, in whatever range and page it is asked for."""
    day = _all("AAPL", 300, _ms(2026, 3, 9), _ms(2026, 3, 10))
    market.year_of_slots.cache_clear()
    week = _all("AAPL", 300, _ms(2026, 3, 2), _ms(2026, 3, 14))
    rows = np.isin(week.t, day.t)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(week, name)[rows], getattr(day, name))
    assert week.o[0] != _all("MSFT", 300, _ms(2026, 3, 2), _ms(2026, 3, 14)).o[0]


@pytest.mark.parametrize("symbol", ["EEM", "ADA"])
def test_prices_are_consistent(symbol: str) -> None:
    """High and low enclose open and close, everything is positive, and a slot opens where the one before closed."""
    bars = _all(symbol, 300, _ms(2026, 1, 5), _ms(2026, 2, 5))
    assert (bars.h >= np.maximum(bars.o, bars.c)).all() and (bars.l <= np.minimum(bars.o, bars.c)).all()
    assert (bars.l > 0).all() and (bars.v > 0).all() and (bars.n > 0).all()
    follows = np.diff(bars.t) == 300_000
    np.testing.assert_array_equal(bars.o[1:][follows], bars.c[:-1][follows])


@pytest.mark.parametrize(("symbol", "frame"), [("AAPL", "15m"), ("BTC", "1h"), ("AAPL", "4h"), ("AAPL", "1d"), ("BTC", "1d")])
def test_larger_bars_are_exact_aggregates(symbol: str, frame: str) -> None:
    """A bar of any width is first open, highest high, lowest low, last close and summed volume of its slots."""
    width, start, end = WIDTHS[frame], _ms(2026, 3, 2, 5), _ms(2026, 3, 13, 23)
    slots, large = _all(symbol, 300, start - 86400_000, end + 86400_000), _all(symbol, width, start, end)
    assert len(large) > 5
    for i in range(len(large)):
        own = slots[(slots.t >= large.t[i]) & (slots.t < large.t[i] + width * 1000)]
        assert (large.o[i], large.c[i], large.h[i], large.l[i]) == (own.o[0], own.c[-1], own.h.max(), own.l.min())
        assert (large.v[i], large.n[i]) == (own.v.sum(), own.n.sum())
        assert large.vw[i] == pytest.approx((own.vw * own.v).sum() / own.v.sum(), abs=6e-5)


@pytest.mark.parametrize(
    ("day", "offset", "first", "last"),
    [((2025, 11, 28), -5, 4, 17), ((2025, 11, 3), -5, 4, 20), ((2026, 3, 6), -5, 4, 20), ((2026, 3, 9), -4, 4, 20)],
    ids=["half day", "after winter time", "before summer time", "after summer time"],
)
def test_stock_days(day: tuple[int, int, int], offset: int, first: int, last: int) -> None:
    """A stock's day begins at 00:00 Eastern, trades from 04:00 to 20:00, and to 17:00 on a half day."""
    bars = _all("NVDA", 300, _ms(*day), _ms(*day, 23, 59))
    daily = _all("NVDA", 86400, _ms(*day), _ms(*day))
    times = [dt.datetime.fromtimestamp(t / 1000, EASTERN) for t in (bars.t[0], bars.t[-1])]
    assert times[0].utcoffset() == dt.timedelta(hours=offset)
    assert (times[0].hour, times[-1].hour + 1) == (first, last)
    assert daily.t.tolist() == [_ms(*day)] and daily.v[0] == bars.v.sum()


@pytest.mark.parametrize("day", [(2025, 11, 27), (2025, 12, 25), (2026, 1, 3)], ids=["Thanksgiving", "Christmas", "Saturday"])
def test_no_stock_trades_on_holidays(day: tuple[int, int, int]) -> None:
    """There are no bars on days without a session, and crypto trades on them."""
    assert len(_all("AAPL", 300, _ms(*day), _ms(*day, 23, 59))) == 0
    assert len(_all("ETH", 300, _ms(*day), _ms(*day, 23, 59))) > 250


def test_calendar_has_half_days() -> None:
    """The year 2025 has 250 sessions, three of them half days."""
    year = sessions(2025)
    assert (len(year.first), int((year.last - year.first < 16 * 3600).sum())) == (250, 3)


@pytest.mark.parametrize(("symbol", "pages"), [("ASML", 5), ("BTC", 11)])
def test_a_year_has_as_many_pages_as_the_vendors(symbol: str, pages: int) -> None:
    """A year of 5-minute bars at the highest limit is 5 pages for a stock and 11 for crypto, without gap or overlap."""
    start = LATER_MS - 365 * 86400_000
    found = _pages(symbol, 300, start, LATER_MS, 50_000)
    assert len(found) == pages
    np.testing.assert_array_equal(np.concatenate([page.t for page in found]), _all(symbol, 300, start, LATER_MS).t)


@pytest.mark.parametrize(("width", "limit"), [(60, 70), (14400, 300), (86400, 3), ("week", 6)])
def test_pages_never_cut_a_bar(width: int | str, limit: int) -> None:
    """Small pages of large bars give the same bars as one large page, and newest first the same backwards."""
    start = LATER_MS - 20 * 86400_000
    pages, whole = _pages("SPY", width, start, LATER_MS, limit), _all("SPY", width, start, LATER_MS)
    np.testing.assert_array_equal(np.concatenate([page.t for page in pages]), whole.t)
    np.testing.assert_array_equal(np.concatenate([page.v for page in pages]), whole.v)
    backwards, more, end = [], True, LATER_MS
    while more:
        bars, more = market.page("SPY", width, start, end, LATER_MS, limit, newest_first=True)
        backwards += bars.t.tolist()
        end = int(bars.t[-1]) - 1
    assert backwards == whole.t[::-1].tolist()


def test_newest_bar_holds_only_what_is_over() -> None:
    """At 12:07 the hour's bar holds the slot of 12:00 alone, and the slot of 12:05 does not exist yet."""
    now = _ms(2026, 11, 20, 12, 7)
    hour, slots = (_all("SPY", width, _ms(2026, 11, 20, 12), now, now) for width in (3600, 300))
    assert slots.t.tolist() == [_ms(2026, 11, 20, 12)] and hour.v.tolist() == slots.v.tolist()


def test_some_slots_do_not_trade() -> None:
    """Holes are legal: rare in the regular session, common outside it, more so for what trades little."""
    counts = {symbol: len(_all(symbol, 300, _ms(2026, 3, 2), _ms(2026, 3, 7))) for symbol in ("AAPL", "ASML")}
    assert 5 * 192 * 0.85 < counts["ASML"] < counts["AAPL"] < 5 * 192


def test_bars_of_5_minutes_are_sent_as_they_were_made() -> None:
    """A weighted mean of one price would be off by its last bit now and then."""
    end_ms = to_ms(dt.datetime(2026, 3, 2, tzinfo=dt.UTC))
    bars = market.page("BTC", 300, end_ms - 30 * 86_400_000, end_ms, end_ms, 10**7)[0]
    assert len(bars) > 8000 and np.array_equal(bars.vw, np.round(bars.vw, 4))
