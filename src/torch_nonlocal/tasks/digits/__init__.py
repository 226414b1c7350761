"""Moving digits: train a small 3D network with and without a block, and measure where the block attends."""
