"""Backbones: an image in, a tuple of maps out, finest first; each publishes ``channels`` and ``strides``."""

from seglab.backbones.adapter import Timm

__all__ = ["Timm"]
