"""Exact optical flow: against motions that are known, by carrying frames over, and what is hidden."""

from __future__ import annotations

from unittest import mock

import cv2
import numpy as np
import pytest

from seglab.data.scenes import Scenes
from seglab.data.scenes.camera import Camera
from seglab.data.scenes.classes import Label
from seglab.data.scenes.geometry import Builder, Place
from seglab.data.scenes.motion import flow
from seglab.data.scenes.renderer import render
from seglab.data.scenes.scene import Scene, make_scene

SIZE = (60, 80)


def scene(builder: Builder, **motion: float) -> Scene:
    """What was built, seen from the origin at a height of 1.5 m along x."""
    made = make_scene((0, 0, 0))
    camera = Camera(position=(0, 0, 1.5), yaw=0, pitch=0, roll=0, field_of_view=1.2, **motion)
    return Scene("test", builder.build(made.light.sun), camera, made.materials, made.light, (0,))


def wall(builder: Builder, distance: float = 10) -> None:
    builder.panel(Place(distance, 0), Label.WALL, (100, 100), (0, 0, -50))


def focal(made: Scene) -> float:
    return float(made.camera.intrinsics(SIZE)[0, 0])


def test_nothing_that_moves_has_no_flow() -> None:
    builder = Builder()
    wall(builder)
    np.testing.assert_allclose(flow(scene(builder), 0, 1, SIZE), 0, atol=1e-5)


def test_a_turning_camera_moves_the_sky_by_the_rotation_alone() -> None:
    made = scene(Builder(), turn=0.1, speed=5)
    found, f = flow(made, 0, 1, SIZE), focal(made)
    x = np.arange(SIZE[1]) - (SIZE[1] - 1) / 2
    y = np.arange(SIZE[0])[:, None] - (SIZE[0] - 1) / 2
    angle = np.arctan(x / f) + 0.1  # turned to the left, what is seen moves to the right
    expected = np.stack((f * np.tan(angle) - x + 0 * y, y * np.cos(angle - 0.1) / np.cos(angle) - y), -1)
    seen = np.isfinite(found)
    assert seen.mean() > 0.85
    np.testing.assert_allclose(found[seen], expected[seen], atol=1e-3)


def test_driving_towards_a_wall_magnifies_it() -> None:
    builder = Builder()
    wall(builder, 10)
    made = scene(builder, speed=2)
    found = flow(made, 0, 1, SIZE)
    x, y = np.arange(SIZE[1]) - (SIZE[1] - 1) / 2, np.arange(SIZE[0]) - (SIZE[0] - 1) / 2
    expected = np.stack(np.meshgrid(x, y), -1) * (10 / 8 - 1)
    seen = np.isfinite(found)
    np.testing.assert_allclose(found[seen], expected[seen], atol=1e-3)
    inside = (np.abs(expected + np.stack(np.meshgrid(x, y), -1)) <= np.array((SIZE[1], SIZE[0])) / 2 - 0.01).all(-1)
    np.testing.assert_array_equal(seen.all(-1), inside)  # what leaves the image is not known


@pytest.mark.parametrize("kind", ["box", "ball"])
def test_an_object_moves_by_its_velocity_and_hides_what_is_behind_it(kind: str) -> None:
    builder = Builder()
    wall(builder, 20)
    place = builder.place(6, -0.5, velocity=(0, 1.0))
    if kind == "box":
        builder.box(place, Label.FURNITURE, (1, 1.5, 1.5), (0, 0, 0.75))
    else:
        builder.ball(place, Label.FURNITURE, 0.8, 1.6, (0, 0, 0.7))
    made = scene(builder)
    before, after = render(made, 0, SIZE), render(made, 1, SIZE)
    found, on = flow(made, 0, 1, SIZE), before.instance == place.instance
    seen = np.isfinite(found[..., 0])
    # y points left: a metre at depth z is focal / z pixels.
    moved = -focal(made) / before.depth
    np.testing.assert_allclose(found[on & seen, 0], moved[on & seen], atol=1e-3)
    np.testing.assert_allclose(found[on & seen, 1], 0, atol=1e-3)
    assert (on & seen).sum() > 0.8 * on.sum()
    hidden = ~on & (after.instance == place.instance)  # the wall does not move: the object comes before it
    assert hidden.any()
    assert not seen[hidden].any()
    assert seen[~on & ~hidden].all()
    np.testing.assert_allclose(found[~on & ~hidden], 0, atol=1e-5)


def test_the_far_side_of_a_body_is_hidden() -> None:
    builder = Builder()
    builder.cylinder(builder.place(3, 0), Label.POLE, 1.0, 6, (0, 0, -1.5))
    made = scene(builder)
    aside = Camera(position=(3, 4, 1.5), yaw=-np.pi / 2, pitch=0, roll=0, field_of_view=1.2)
    poses = {0.0: made.camera.pose(0), 1.0: aside.pose(0)}
    with mock.patch.object(Camera, "pose", lambda self, time: poses[float(time)]):
        found = flow(made, 0, 1, SIZE)
        frame = render(made, 0, SIZE)
    on = np.isfinite(frame.depth) & (frame.instance > 0)
    columns = np.arange(SIZE[1])[None] + 0 * on
    seen = np.isfinite(found[..., 0]) & on
    # From the left side one sees the left of what was in front.
    assert columns[seen].max() < SIZE[1] / 2 < columns[on & ~seen].max()
    assert seen.any()


def test_frames_are_carried_into_each_other() -> None:
    source = Scenes(size=(72, 96), lengths={"val": 8}, noise=0.0, frames=3, rate=4)
    labels, pixels, still, carried = [], [], [], []
    y, x = np.mgrid[:72, :96].astype(np.float32)
    for index in range(8):
        first, second = source.read("val", 3 * index), source.read("val", 3 * index + 1)
        found = source.flow("val", 3 * index, 1)
        seen = np.isfinite(found).all(-1)
        assert 0.5 < seen.mean() <= 1
        to = [np.nan_to_num(found[..., axis]) + grid for axis, grid in ((0, x), (1, y))]
        at = tuple(np.rint(place).astype(int) for place in to[::-1])
        moving = seen & (np.hypot(*np.moveaxis(np.nan_to_num(found), -1, 0)) > 1)
        pixels.append(moving.sum())
        labels.append([((other == first.label) & moving).sum() for other in (second.label[at], second.label)])
        colours = second.image.astype(np.float32)
        for errors, image in ((carried, cv2.remap(colours, *to, cv2.INTER_LINEAR)), (still, colours)):
            errors.append(np.abs(image - first.image).mean(-1)[moving].sum())
    right, wrong = np.sum(labels, 0) / np.sum(pixels)
    assert np.sum(pixels) > 10_000
    assert right > 0.98
    assert wrong < 0.95
    assert np.sum(carried) < 0.6 * np.sum(still)


def test_there_and_back_is_the_way_home() -> None:
    source = Scenes(size=(48, 64), lengths={"val": 2}, noise=0.0)
    there = source.flow("val", 1, 2)
    later = Scenes(size=(48, 64), lengths={"val": 2}, noise=0.0, frames=3)
    back = later.flow("val", 5, -2)  # from the third frame of scene 1 to its first
    y, x = np.mgrid[:48, :64]
    seen = np.isfinite(there).all(-1)
    at = np.rint(np.stack((y, x), -1)[seen] + there[seen][:, ::-1]).astype(int)
    total = there[seen] + back[at[:, 0], at[:, 1]]
    known = np.isfinite(total).all(-1)
    assert known.mean() > 0.95
    assert np.median(np.abs(total[known])) < 0.1
