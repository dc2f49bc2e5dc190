"""A scene: layout, materials, light and camera drawn from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seglab.data.scenes.camera import Camera
from seglab.data.scenes.classes import Label
from seglab.data.scenes.geometry import World
from seglab.data.scenes.light import Light, indoor, outdoor
from seglab.data.scenes.materials import Materials, draw_materials
from seglab.data.scenes.room import room
from seglab.data.scenes.street import street


@dataclass(frozen=True)
class Scene:
    """Everything that a frame depends on but time and size."""

    kind: str
    """``street`` or ``room``."""
    world: World
    camera: Camera
    materials: Materials
    light: Light
    seed: tuple[int, ...]


def make_scene(seed: Sequence[int], variation: float = 0.8) -> Scene:
    """The scene of a seed (non-negative integers); ``variation`` in 0..1 as in materials.py."""
    rng = np.random.default_rng(list(seed))
    outdoors = bool(rng.random() < 0.5)
    materials = draw_materials(rng, variation, outdoors)
    if outdoors:
        builder, camera = street(rng)
        light = outdoor(rng, materials.base[Label.OVERHEAD])
        return Scene("street", builder.build(light.sun), camera, materials, light, tuple(seed))
    builder, camera, size = room(rng)
    light = indoor(rng, size)
    return Scene("room", builder.build(light.sun), camera, materials, light, tuple(seed))
