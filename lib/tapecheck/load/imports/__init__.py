"""Readers of what other load generators write."""
