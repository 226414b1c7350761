"""Ways to compute one form of the non-local operation. All are exact; `dense` is the definition."""
