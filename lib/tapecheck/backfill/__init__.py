"""Refills market history: source (vendor) -> features -> sink (PostgreSQL). It never measures the load of an API."""
