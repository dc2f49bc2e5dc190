"""Pixel classifiers: feature map in, typed output out. One method per module."""

from seglab.classifiers.cac import CAC
from seglab.classifiers.cosine import Cosine
from seglab.classifiers.linear import Linear
from seglab.classifiers.located import Located
from seglab.classifiers.mlp import MLP
from seglab.classifiers.ssa import SSA

__all__ = ["CAC", "MLP", "SSA", "Cosine", "Linear", "Located"]
