"""Tasks: data, network, training and measure brought together."""
