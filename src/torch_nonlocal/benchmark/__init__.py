"""Time and memory of non-local operations and blocks, side by side with other implementations.

Times are medians of interleaved runs in one process; peak memory is measured in a fresh process.
"""
