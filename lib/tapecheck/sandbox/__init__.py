"""The embedded target: a real market-data service of real processes on loopback. No validation imports it."""
