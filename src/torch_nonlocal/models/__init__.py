"""Networks and what they are fed with."""
