"""The version of seglab. A module of its own, so that what ``seglab`` is made of need not import ``seglab``."""

__version__ = "0.1.0"
