"""Which symbols are crypto, and what the vendor calls each symbol. It asks nobody."""

CRYPTO = ("BTC", "ETH", "XRP", "SOL", "ADA")


def ticker_of(symbol: str) -> str:
    """Return the vendor's ticker of our symbol: `AAPL` -> `AAPL`, `BTC` -> `X:BTCUSD`."""
    return f"X:{symbol}USD" if symbol in CRYPTO else symbol


def symbol_of(ticker: str) -> str:
    """Return our symbol of a vendor's ticker, the inverse of `ticker_of`."""
    base = ticker.removeprefix("X:").removesuffix("USD")
    return base if ticker == f"X:{base}USD" and base in CRYPTO else ticker
