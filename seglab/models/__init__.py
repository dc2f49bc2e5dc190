"""Whole networks, and what they do to an image first."""
