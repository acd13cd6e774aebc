"""Benchmarks, a file for each ``annsoftmax bench``: search, predict, step, growth, upkeep, soak and kernels.

(``compile`` measures nothing: it is ``kernels_inline.cuda.nvcc``.) Ratios within one run, medians over rounds.
"""
