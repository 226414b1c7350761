"""Tracklets: frames of one person or animal seen by one camera. Layouts of public sets, checks, generated persons."""
