"""Backbones: an image in, a tuple of maps out, finest first; each publishes ``channels`` and ``strides``."""

from seglab.backbones.adapter import Timm
from seglab.backbones.encnet_cifar import EncNetCifar

__all__ = ["EncNetCifar", "Timm"]
