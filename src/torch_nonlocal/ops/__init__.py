"""Algorithms for the non-local operation, one file each. All are exact; `dense` is the definition."""
