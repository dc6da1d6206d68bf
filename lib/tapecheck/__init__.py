"""Measures what is actually broken in a market-data API; see README.md."""
