"""Galleries: vectors of tracklets in files, searched by similarity. It knows no network."""
