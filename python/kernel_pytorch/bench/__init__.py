"""The benchmark harness: every operator's declared rows against PyTorch, in one process.

What makes the numbers hold: the two sides run interleaved, the figure is the median of paired
ratios with its confidence interval, inputs do not stay in the caches unless a row says so, and the
machine's limits are measured next to each row.
"""
