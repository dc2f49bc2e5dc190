"""The truth of a frame: against a plain ray caster, and by warping one frame into the next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from seglab.data.scenes.classes import Label
from seglab.data.scenes.geometry import Builder, Marks, Place, Shape
from seglab.data.scenes.renderer import FAR, Frame, View, _cut, render
from seglab.data.scenes.scene import Scene, make_scene

SEEDS = [(0, 0, index) for index in range(6)]


def first_hits(
    scene: Scene, pose: np.ndarray, k: np.ndarray, size: tuple[int, int], time: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, label, instance [H, W] by intersecting every ray with every primitive in world coordinates."""
    y, x = np.mgrid[: size[0], : size[1]]
    pixels = np.stack((x, y, np.ones_like(x)), -1).reshape(-1, 3)
    rays = pixels @ np.linalg.inv(k).T @ pose[:3, :3].T
    eye = pose[:3, 3]
    best = np.full(len(rays), np.inf)
    label, instance = np.zeros(len(rays), int), np.zeros(len(rays), int)

    def offer(t: np.ndarray, hit: np.ndarray, marks: Marks, n: int) -> None:
        hit = hit & (t > 0) & (t < best)
        best[hit], label[hit], instance[hit] = t[hit], marks.label[n], marks.instance[n]

    with np.errstate(divide="ignore", invalid="ignore"):
        quads = scene.world.quads
        for n in range(len(quads.origin)):
            origin = quads.origin[n] + time * quads.marks.velocity[n]
            normal = np.cross(quads.along[n], quads.up[n])
            if quads.one_sided[n] and normal @ (origin - eye) >= 0:
                continue
            t = (normal @ (origin - eye)) / (rays @ normal)
            point = eye + t[:, None] * rays - origin
            a, b = point @ quads.along[n], point @ quads.up[n]
            hit = (a >= 0) & (a <= quads.extent[n, 0]) & (b >= 0) & (b <= quads.extent[n, 1])
            if quads.shape[n] != Shape.FULL:
                hit &= _cut(int(quads.shape[n]), np.stack((1 / t, a / t, b / t)), quads.extent[n].tolist())
            offer(t, hit, quads.marks, n)
        rounds = scene.world.rounds
        for n in range(len(rounds.centre)):
            o = eye - rounds.centre[n] - time * rounds.marks.velocity[n]
            weight = np.array((1, 1, rounds.squash[n]))
            qa, qb, qc = (rays**2) @ weight, rays @ (weight * o), (o**2) @ weight - rounds.radius[n] ** 2
            if qc <= 0:
                continue
            t = (-qb - np.sqrt(qb**2 - qa * qc)) / qa
            z = o[2] + t * rays[:, 2]
            offer(t, np.isfinite(t) & (np.abs(z) <= rounds.half[n]), rounds.marks, n)
    return best.reshape(size), label.reshape(size), instance.reshape(size)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("time", [0.0, 0.5])
def test_depth_label_and_instance_are_those_of_the_first_surface_on_each_ray(seed: tuple, time: float) -> None:
    scene, size = make_scene(seed), (36, 48)
    frame = render(scene, time, size)
    depth, label, instance = first_hits(scene, frame.pose, frame.intrinsics, size, time)
    # Rays that graze an edge may fall on either side of it.
    same = frame.instance == instance
    assert same.mean() > 0.998
    same &= np.isclose(frame.depth, depth, rtol=1e-6, atol=0)
    assert same.mean() > 0.998
    known = same & (frame.label != 255)
    walls = (frame.label == Label.WINDOW) & (label == Label.WALL)  # window grids are drawn on walls
    assert ((frame.label == label) | walls)[known].all()


def world_points(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels with a depth, and their points [n, 3] in the world."""
    y, x = np.nonzero(np.isfinite(frame.depth))
    rays = np.stack((x, y, np.ones_like(x)), -1) @ np.linalg.inv(frame.intrinsics).T
    points = rays * frame.depth[y, x, None].astype(float)
    return np.stack((y, x)), points @ frame.pose[:3, :3].T + frame.pose[:3, 3]


def warp(source: Frame, target: Frame, pose: np.ndarray) -> dict[str, float]:
    """Carry the source's pixels into the target seen from ``pose`` and compare what is there."""
    (y, x), points = world_points(source)
    seen = (points - pose[:3, 3]) @ pose[:3, :3]
    seen, y, x = seen[seen[:, 2] > 0.1], y[seen[:, 2] > 0.1], x[seen[:, 2] > 0.1]
    place = seen @ target.intrinsics.T
    tx, ty = (place[:, :2] / place[:, 2:]).T
    height, width = target.label.shape
    inside = (tx > 1) & (tx < width - 2) & (ty > 1) & (ty < height - 2)
    tx, ty, y, x, depth = tx[inside], ty[inside], y[inside], x[inside], seen[inside, 2]
    column, row = np.round(tx).astype(int), np.round(ty).astype(int)
    # 1/depth is linear over a plane: bilinear sampling of it is exact inside a surface.
    left, top = np.floor(tx).astype(int), np.floor(ty).astype(int)
    fx, fy = tx - left, ty - top
    corners = ((top, left, (1 - fy) * (1 - fx)), (top, left + 1, (1 - fy) * fx),
               (top + 1, left, fy * (1 - fx)), (top + 1, left + 1, fy * fx))  # fmt: skip
    with np.errstate(divide="ignore"):
        inverse = sum(w / target.depth[i, j] for i, j, w in corners)
    visible = np.abs(inverse * depth - 1) < 2e-3
    # Away from borders between classes and objects, where rounding to a pixel decides.
    key = target.label.astype(int) * 4096 + target.instance
    around = np.stack([key[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    inner = visible & (around == around[:1]).all(0) & (target.label[row, column] != 255) & (source.label[y, x] != 255)
    colour = sum(w[:, None] * target.image[i, j].astype(float) for i, j, w in corners)
    if not inner.any():
        nothing = dict.fromkeys(("inner", "labels", "instances"), 0.0)
        return {"visible": float(visible.mean()), "median": 255.0, "p90": 255.0, **nothing}
    error = np.abs(colour - source.image[y, x])[inner].mean(1)
    return {
        "visible": float(visible.mean()),
        "inner": float(inner.mean()),
        "labels": float((target.label[row, column] == source.label[y, x])[inner].mean()),
        "instances": float((target.instance[row, column] == source.instance[y, x])[inner].mean()),
        "median": float(np.median(error)),
        "p90": float(np.quantile(error, 0.9)),
    }


def turned(pose: np.ndarray, degrees: float) -> np.ndarray:
    """``pose`` with the camera turned about its own vertical axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    out = pose.copy()
    out[:3, :3] = pose[:3, :3] @ np.array(((cos, 0, sin), (0, 1, 0), (-sin, 0, cos)))
    return out


def two_frames(seed: tuple[int, ...]) -> tuple[Frame, Frame]:
    """A scene before and after the camera has moved and turned, its objects at rest."""
    scene = make_scene(seed)
    scene = replace(scene, camera=replace(scene.camera, speed=1.0, turn=0.1))
    return render(scene, 0.0, (144, 192)), render(scene, 0.25, (144, 192), world_time=0.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_frame_warped_by_depth_and_pose_is_the_next_frame(seed: tuple[int, ...]) -> None:
    first, second = two_frames(seed)
    found = warp(first, second, second.pose)
    assert found["visible"] > 0.85
    assert found["inner"] > 0.7
    assert found["labels"] > 0.999
    assert found["instances"] > 0.999
    assert found["median"] < 1.5  # of 255
    assert found["p90"] < 12


@pytest.mark.parametrize("seed", SEEDS)
def test_the_warp_fails_with_a_wrong_pose(seed: tuple[int, ...]) -> None:
    first, second = two_frames(seed)
    for pose in (turned(second.pose, 1.0), turned(second.pose, -2.0), first.pose):
        assert warp(first, second, pose)["visible"] < 0.7


def test_colours_fit_the_right_pose_only() -> None:
    right, wrong = [], []
    for first, second in map(two_frames, SEEDS):
        right.append(warp(first, second, second.pose)["median"])
        wrong.append(warp(first, second, turned(second.pose, 1.0))["median"])
    assert np.mean(wrong) > 3 * np.mean(right)


def test_only_moving_objects_change_when_the_camera_stands_still() -> None:
    moved = 0
    for seed in SEEDS:
        scene = make_scene(seed)
        before, after = (render(scene, 0.0, (96, 128), world_time=time) for time in (0.0, 0.6))
        parts = (scene.world.quads.marks, scene.world.rounds.marks)
        moving = {int(i) for marks in parts for i in marks.instance[np.abs(marks.velocity).sum(1) > 0]}
        changed = (before.instance != after.instance) | (before.label != after.label)
        ids = set(before.instance[changed].tolist()) | set(after.instance[changed].tolist())
        covered = np.isin(before.instance, list(moving)) | np.isin(after.instance, list(moving))
        assert covered[changed].all()
        moved += len(ids & moving)
    assert moved > 0


def plain_scene(builder: Builder) -> Scene:
    """A street's light and materials over primitives of the test's own, seen by a level camera at 1 m."""
    base = next(scene for scene in map(make_scene, SEEDS) if scene.kind == "street")
    camera = replace(base.camera, position=(0.0, 0.0, 1.0), yaw=0.0, pitch=0.0, roll=0.0)
    return replace(base, world=builder.build(base.light.sun), camera=camera)


def test_nearer_objects_hide_farther_ones() -> None:
    builder = Builder()
    far, near = builder.place(8.0, 0.0), builder.place(5.0, 0.0)
    builder.box(far, Label.WALL, (1, 6, 3))
    builder.box(near, Label.VEHICLE, (1, 1, 3))
    frame = render(plain_scene(builder), 0.0, (33, 65))
    assert frame.instance[16, 32] == near.instance
    assert frame.depth[16, 32] == pytest.approx(4.5)
    assert frame.instance[16, 20] == far.instance
    assert frame.depth[16, 20] == pytest.approx(7.5)


def test_thin_poles_keep_their_exact_distance() -> None:
    builder = Builder()
    builder.cylinder(builder.place(6.0, 0.0), Label.POLE, 0.1, 4.0)
    frame = render(plain_scene(builder), 0.0, (33, 65))
    assert frame.label[16, 32] == Label.POLE
    assert frame.depth[16, 32] == pytest.approx(5.9)
    assert (frame.label == Label.POLE).any(0).sum() <= 3


def test_the_sky_is_infinitely_far_and_surfaces_beyond_the_limit_are_void() -> None:
    builder = Builder()
    builder.slab(Place(0, 0), Label.GROUND, (600, 600))
    frame = render(plain_scene(builder), 0.0, (256, 256))
    assert np.isinf(frame.depth[:127]).all()
    assert (frame.label[:127] == Label.OVERHEAD).all()
    beyond = np.isfinite(frame.depth) & (frame.depth > FAR)
    assert beyond.any()
    assert (frame.label[beyond] == 255).all()
    assert (frame.label[np.isfinite(frame.depth) & ~beyond] == Label.GROUND).all()


def test_a_surface_that_passes_behind_the_camera_is_seen_up_to_the_frame() -> None:
    builder = Builder()
    builder.slab(Place(0, 0), Label.GROUND, (600, 600))
    builder.slab(Place(0, 0), Label.PATH, (600, 4), (0, 0, 0.01))
    frame = render(plain_scene(builder), 0.0, (64, 96))
    assert frame.label[-1, 48] == Label.PATH
    below = frame.label[33:]
    assert np.isin(below, (Label.GROUND, Label.PATH, 255)).all()


def test_noise_touches_the_image_only_and_differs_between_times() -> None:
    scene = make_scene((0, 0, 1))
    clean, noisy = render(scene, 0.0, (48, 64)), render(scene, 0.0, (48, 64), noise_level=0.05)
    for name in ("label", "instance", "depth", "pose", "intrinsics"):
        np.testing.assert_array_equal(getattr(clean, name), getattr(noisy, name))
    difference = noisy.image.astype(float) - clean.image
    assert np.std(difference) == pytest.approx(0.05 * 255, rel=0.25)
    later = render(scene, 0.1, (48, 64), noise_level=0.05).image.astype(float) - render(scene, 0.1, (48, 64)).image
    assert abs(np.corrcoef(difference.ravel(), later.ravel())[0, 1]) < 0.1


def test_rays_have_unit_depth() -> None:
    scene = make_scene((0, 0, 0))
    view = View(scene.camera.pose(0.3), scene.camera.intrinsics((8, 10)), (8, 10))
    np.testing.assert_allclose(np.tensordot(view.pose[:3, 2], view.rays, 1), 1)


def test_both_kinds_of_scene_occur_and_light_differs() -> None:
    scenes = [make_scene((0, 0, index)) for index in range(20)]
    assert {scene.kind for scene in scenes} == {"street", "room"}
    means = [render(scene, 0.0, (24, 32)).image.mean() for scene in scenes]
    assert min(means) > 30
    assert max(means) < 230
    assert np.std(means) > 10
