"""What is reported. Every metric is a sum over the whole set: batch size and number of processes cannot change it."""

from seglab.metrics.boundary import BoundaryIoU
from seglab.metrics.boundary_fscore import BoundaryFScore
from seglab.metrics.calibration import Calibration
from seglab.metrics.category import CategoryError
from seglab.metrics.challenge import ChallengeScore
from seglab.metrics.confusion import ConfusionMatrix, confusion_matrix, summarise
from seglab.metrics.object_size import ObjectSizeIoU
from seglab.metrics.transformation import TransformationFit
from seglab.metrics.video import Flicker, PerceptualConsistency, TemporalConsistency

__all__ = [
    "BoundaryFScore",
    "BoundaryIoU",
    "Calibration",
    "CategoryError",
    "ChallengeScore",
    "ConfusionMatrix",
    "Flicker",
    "ObjectSizeIoU",
    "PerceptualConsistency",
    "TemporalConsistency",
    "TransformationFit",
    "confusion_matrix",
    "summarise",
]
