"""Benchmarks of the workbook: `make bench`. Not tests: they say how fast, beside others, on this machine."""
