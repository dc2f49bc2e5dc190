"""Loss terms, named and weighted in YAML."""

from seglab.losses.base import Criterion, Losses, Term
from seglab.losses.category import CategoryCrossEntropy
from seglab.losses.cross_entropy import CrossEntropy
from seglab.losses.dice import Dice
from seglab.losses.distillation import Distillation
from seglab.losses.focal import Focal
from seglab.losses.frozen import Frozen
from seglab.losses.layers import LayerSupervision
from seglab.losses.lovasz import Lovasz
from seglab.losses.presence import Presence
from seglab.losses.prototypes import PrototypeDistribution, Relation
from seglab.losses.teacher import TeacherDistillation

__all__ = [
    "CategoryCrossEntropy",
    "Criterion",
    "CrossEntropy",
    "Dice",
    "Distillation",
    "Focal",
    "Frozen",
    "LayerSupervision",
    "Losses",
    "Lovasz",
    "Presence",
    "PrototypeDistribution",
    "Relation",
    "TeacherDistillation",
    "Term",
]
