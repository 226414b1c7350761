"""What is written down while training: lines, curves, a progress bar, the blocks' attention."""
