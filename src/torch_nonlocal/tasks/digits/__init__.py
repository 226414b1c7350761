"""Moving digits: a small 3D network that one block completes."""
