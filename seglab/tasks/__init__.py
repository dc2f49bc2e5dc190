"""What is learnt and how it is measured: one file per task, chosen by ``task=NAME``."""

from seglab.tasks.base import Task
from seglab.tasks.classification import Classification
from seglab.tasks.inverse_net import InverseNetTraining
from seglab.tasks.semantic import Semantic
from seglab.tasks.video import Video

__all__ = ["Classification", "InverseNetTraining", "Semantic", "Task", "Video"]
