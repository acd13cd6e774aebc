"""Benchmarks: ``annsoftmax bench search`` and ``annsoftmax bench step``. Ratios within one run, medians over rounds."""
