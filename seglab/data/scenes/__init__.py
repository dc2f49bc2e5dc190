"""The embedded dataset: procedural street- and room-like scenes, rendered on the fly with exact ground truth."""

from seglab.data.scenes.renderer import Frame, render
from seglab.data.scenes.scene import Scene, make_scene
from seglab.data.scenes.source import Scenes

__all__ = ["Frame", "Scene", "Scenes", "make_scene", "render"]
