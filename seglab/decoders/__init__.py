"""Decoders: the backbone's maps in, one feature map out; the pixel classifier comes after them."""

from seglab.decoders.base import Decoded, Decoder
from seglab.decoders.encnet import EncNet
from seglab.decoders.fcn import FCN
from seglab.decoders.ffnet import FFNet, FFNetCategory
from seglab.decoders.fpn import FPN
from seglab.decoders.hs3_fuse import HS3Fuse
from seglab.decoders.ifa import IFA
from seglab.decoders.last import LastMap
from seglab.decoders.mlp import MLP
from seglab.decoders.upernet import UPerNet

__all__ = [
    "FCN",
    "FPN",
    "IFA",
    "MLP",
    "Decoded",
    "Decoder",
    "EncNet",
    "FFNet",
    "FFNetCategory",
    "HS3Fuse",
    "LastMap",
    "UPerNet",
]
