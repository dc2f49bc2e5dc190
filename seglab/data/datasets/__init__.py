"""One file per dataset: its facts as class attributes, and the rule that lists its items."""

from seglab.data.datasets.ade20k import ADE20K
from seglab.data.datasets.camvid import CamVid
from seglab.data.datasets.cifar10 import CIFAR10
from seglab.data.datasets.cityscapes import Cityscapes
from seglab.data.datasets.coco_stuff import CocoStuff10k, CocoStuff164k
from seglab.data.datasets.folder import Folder
from seglab.data.datasets.kitti import KITTISTEP, KITTISemantic
from seglab.data.datasets.nyudv2 import NYUDv2
from seglab.data.datasets.pascal_context import PascalContext59, PascalContext60
from seglab.data.datasets.voc2012 import VOC2012

__all__ = [
    "ADE20K",
    "CIFAR10",
    "KITTISTEP",
    "VOC2012",
    "CamVid",
    "Cityscapes",
    "CocoStuff10k",
    "CocoStuff164k",
    "Folder",
    "KITTISemantic",
    "NYUDv2",
    "PascalContext59",
    "PascalContext60",
]
