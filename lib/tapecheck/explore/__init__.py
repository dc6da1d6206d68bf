"""Recorded runs to look into: what explore.ipynb picks, filters, draws and writes. It measures nothing."""
