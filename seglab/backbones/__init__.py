"""Backbones: an image in, a tuple of maps out, finest first; each publishes ``channels`` and ``strides``."""

from seglab.backbones.adapter import Timm
from seglab.backbones.encnet_cifar import EncNetCifar
from seglab.backbones.ffnet import FFNet

__all__ = ["EncNetCifar", "FFNet", "Timm"]
