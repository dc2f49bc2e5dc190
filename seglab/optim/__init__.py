"""Optimisation: parameter groups, learning-rate schedules, and the object that makes both for a network."""

from seglab.optim.groups import parameter_groups
from seglab.optim.optimisation import Optimisation
from seglab.optim.schedules import constant, cosine, poly

__all__ = ["Optimisation", "constant", "cosine", "parameter_groups", "poly"]
