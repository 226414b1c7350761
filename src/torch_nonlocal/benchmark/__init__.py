"""Time and memory of one block, measured honestly: a fresh process a cell, medians, ratios within one run."""
