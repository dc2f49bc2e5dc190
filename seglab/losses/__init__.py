"""Loss terms, named and weighted in YAML."""

from seglab.losses.base import Criterion, Losses, Term
from seglab.losses.boundary import BoundaryAttention, BoundaryCrossEntropy
from seglab.losses.category import CategoryCrossEntropy
from seglab.losses.cross_entropy import CrossEntropy
from seglab.losses.dice import Dice
from seglab.losses.distillation import Distillation
from seglab.losses.focal import Focal
from seglab.losses.frozen import Frozen
from seglab.losses.inverse import InverseDistance
from seglab.losses.layers import LayerSupervision
from seglab.losses.lovasz import Lovasz
from seglab.losses.motion_consistency import MotionConsistencyLoss
from seglab.losses.perceptual_consistency import PerceptualConsistencyLoss
from seglab.losses.presence import Presence
from seglab.losses.prototypes import PrototypeDistribution, Relation
from seglab.losses.teacher import TeacherDistillation
from seglab.losses.transformation import TransformationError

__all__ = [
    "BoundaryAttention",
    "BoundaryCrossEntropy",
    "CategoryCrossEntropy",
    "Criterion",
    "CrossEntropy",
    "Dice",
    "Distillation",
    "Focal",
    "Frozen",
    "InverseDistance",
    "LayerSupervision",
    "Losses",
    "Lovasz",
    "MotionConsistencyLoss",
    "PerceptualConsistencyLoss",
    "Presence",
    "PrototypeDistribution",
    "Relation",
    "TeacherDistillation",
    "Term",
    "TransformationError",
]
