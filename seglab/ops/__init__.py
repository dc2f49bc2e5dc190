"""Tensor algebra that must be exact and fast; no module here knows a network."""
