"""Batches: many runs of notebooks, planned, done one after another or over a cluster, and noted in a ledger."""
