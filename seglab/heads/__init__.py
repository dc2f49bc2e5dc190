"""Heads that are trained beside the decoder and never deployed."""

from seglab.heads.base import Head
from seglab.heads.boundary import BoundaryHead
from seglab.heads.fcn import FCNHead
from seglab.heads.layers import LayerHeads

__all__ = ["BoundaryHead", "FCNHead", "Head", "LayerHeads"]
