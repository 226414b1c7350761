"""Denoise files."""
