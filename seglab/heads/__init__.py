"""Heads that are trained beside the decoder and never deployed."""

from seglab.heads.base import Head
from seglab.heads.fcn import FCNHead

__all__ = ["FCNHead", "Head"]
