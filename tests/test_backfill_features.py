"""Features against independent calculations: plain loops, pandas, and values known by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from tapecheck.backfill import features
from tapecheck.vendor.bars import periods_per_year

RNG = np.random.default_rng(7)
CLOSE = 100 * np.exp(np.cumsum(RNG.normal(0, 0.01, 900)))
VOLUME = RNG.integers(1, 10_000, 900).astype(float)
A_YEAR = 252.0
WILDER = np.array([44.34, 44.09, 44.15, 43.61, 44.33, 44.83, 45.10, 45.42, 45.84, 46.08, 45.89, 46.03, 45.61, 46.28, 46.28, 46.00, 46.03])


def _loop_rsi(close: list[float], window: int) -> list[float]:
    out = [math.nan] * len(close)
    changes = [b - a for a, b in itertools.pairwise(close)]
    gain = sum(max(x, 0) for x in changes[:window]) / window
    loss = sum(max(-x, 0) for x in changes[:window]) / window
    for i in range(window, len(close)):
        if i > window:
            gain = (gain * (window - 1) + max(changes[i - 1], 0)) / window
            loss = (loss * (window - 1) + max(-changes[i - 1], 0)) / window
        out[i] = 50.0 if gain + loss == 0 else 100 - 100 / (1 + gain / loss) if loss else 100.0
    return out


def _pandas(close: np.ndarray, volume: np.ndarray) -> dict[str, pd.Series]:
    c, v = pd.Series(close), pd.Series(volume)
    log = np.log(c).diff()
    return {
        "return_simple": c.pct_change(),
        "return_log": log,
        "volatility_20": np.sqrt((log**2).rolling(20).mean() * A_YEAR),
        "momentum_10": c.pct_change(10),
        "rsi_14": pd.Series(_loop_rsi(close.tolist(), 14)),
        "sma_20": c.rolling(20).mean(),
        "sma_50": c.rolling(50).mean(),
        "volume_z_20": (v - v.rolling(20).mean()) / v.rolling(20).std(ddof=0),
        "drawdown_100": c / c.rolling(100).max() - 1,
    }


@pytest.mark.parametrize("name", features.NAMES)
def test_agrees_with_pandas_and_loops(name: str) -> None:
    """Every feature equals an independent calculation to the stored decimals, warm-up included."""
    ours = features.compute(CLOSE, VOLUME, A_YEAR)[name]
    theirs = _pandas(CLOSE, VOLUME)[name].to_numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-8)


@pytest.mark.parametrize(
    ("ticker", "timeframe", "expected"),
    [
        ("AAPL", "1d", 252),
        ("AAPL", "1h", 252 * 16),
        ("EEM", "15m", 252 * 64),
        ("X:BTCUSD", "1d", 365),
        ("BTC", "1d", 252),
        ("X:ADAUSD", "4h", 365 * 6),
    ],
)
def test_a_year_has_the_bars_of_its_market(ticker: str, timeframe: str, expected: float) -> None:
    """252 days of 16 hours for stocks, 365 days around the clock for crypto."""
    assert periods_per_year(ticker, timeframe) == expected


@pytest.mark.parametrize(
    ("close", "last"),
    [(np.arange(1.0, 40.0), 100.0), (np.arange(40.0, 1.0, -1.0), 0.0), (np.full(40, 5.0), 50.0), (WILDER[:15], 70.46), (WILDER, 66.48)],
    ids=["only rises", "only falls", "never moves", "Wilder's first", "Wilder's third"],
)
def test_known_rsi(close: np.ndarray, last: float) -> None:
    """An index without falls is 100, without rises 0, without moves 50; the published example of Wilder's begins at 70.46."""
    found = features.rsi(close, 14)
    assert np.isnan(found[:14]).all() and found[-1].round(2) == last


def test_equal_volumes_score_zero() -> None:
    """A window without spread has no score to divide by, so it is 0, not NaN."""
    assert features.z_score(np.full(30, 3.0), 20)[-1] == 0.0


@pytest.mark.parametrize("begin", [1, 100, 250])
def test_lead_in_gives_the_same_as_the_whole_history(begin: int) -> None:
    """A refresh that begins LEAD_IN bars early stores exactly what the whole history would have."""
    whole = features.compute(CLOSE, VOLUME, A_YEAR)
    part = features.compute(CLOSE[begin:], VOLUME[begin:], A_YEAR)
    for name in features.NAMES:
        np.testing.assert_array_equal(part[name][features.LEAD_IN :], whole[name][begin + features.LEAD_IN :])


@pytest.mark.parametrize("length", [0, 1, 2, 14, 15, 20, 51, 100])
def test_short_series(length: int) -> None:
    """A series shorter than a window has NaN there, and every column is as long as the series."""
    found = features.compute(CLOSE[:length], VOLUME[:length], A_YEAR)
    assert {len(column) for column in found.values()} == {length}
    assert np.isnan(found["drawdown_100"][:99]).all()


@pytest.mark.parametrize(
    ("price", "volume", "said"),
    [
        (0.0, 1.0, "at row 30 of 50"),
        (-1.0, 1.0, "at row 30 of 50"),
        (math.nan, 1.0, "at row 30 of 50"),
        (math.inf, 1.0, "at row 30 of 50"),
        (1.0, math.nan, "a volume is not finite"),
        (1.0, math.inf, "a volume is not finite"),
    ],
)
def test_what_is_no_price_or_volume_is_refused(price: float, volume: float, said: str) -> None:
    """By name, never a silent NaN; a negative volume is for the audit to report, and scored like any other."""
    prices, volumes = CLOSE[:50].copy(), VOLUME[:50].copy()
    volumes[30] = -1000.0
    assert np.isfinite(features.compute(prices, volumes, A_YEAR)["volume_z_20"][19:]).all()
    prices[30], volumes[30] = price, volume
    with pytest.raises(ValueError, match=said):
        features.compute(prices, volumes, A_YEAR)


@pytest.mark.parametrize("skip", [0, 25, 40])
def test_a_bad_bar_can_be_left_out(skip: int) -> None:
    """It has no features, and those of the others are computed as if it were not there."""
    close, volume = CLOSE[:60].copy(), VOLUME[:60].copy()
    close[30], volume[35] = -5.0, math.nan
    is_good = ~np.isin(np.arange(60), [30, 35])
    found = features.leaving_out(features.compute)(close, volume, A_YEAR, skip)
    clean = features.compute(close[is_good], volume[is_good], A_YEAR)
    for name in features.NAMES:
        np.testing.assert_array_equal(found[name][is_good[skip:]], clean[name][is_good[:skip].sum() :])
        assert np.isnan(found[name][~is_good[skip:]]).all()


@pytest.mark.parametrize("skip", [1, 900])
def test_a_row_at_a_time_gives_the_same(skip: int) -> None:
    """The slow baseline computes the same values, beyond the lead-in too, and neither computes what is skipped."""
    slow, fast = (how(CLOSE, VOLUME, A_YEAR, skip=skip) for how in (features.compute_per_row, features.compute))
    whole = features.compute(CLOSE, VOLUME, A_YEAR)
    for name in features.NAMES:
        np.testing.assert_array_equal(fast[name], whole[name][skip:])
        np.testing.assert_allclose(slow[name], fast[name], atol=1.1e-8)


@pytest.mark.parametrize("seed", range(2))
def test_where_a_page_begins_shows_in_no_bit(seed: int) -> None:
    """Rounding would hide a difference in the last bits most times; in millions of values it would not, so there is none."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.001, 20_000)))
    whole = features.rsi(close, 14)
    for begin in rng.integers(features.LEAD_IN, 19_000, 20).tolist():
        part = features.rsi(close[begin - features.LEAD_IN :], 14)[features.LEAD_IN :]
        assert part.tobytes() == whole[begin:].tobytes()
