"""Benchmarks: `pytest benchmarks`; the table of gains: `python -m benchmarks.gain`."""
