"""Experiments with heads: tasks, runs, comparisons, tables, and the records that they end in."""
