"""Ray casting of a scene into image, label, instance, depth.

Visibility. A ray t (K⁻¹ (x, y, 1)) meets the plane of a rectangle where 1/t, a/t and b/t (a, b: surface coordinates)
are linear in the pixel (x, y). Five linear functions (1/t and the four edges) hence decide a rectangle, each an outer
sum of a row and a column, evaluated in its bounding box only; round bodies need one quadratic. The nearest 1/t wins.
t is the depth along the optical axis. Shading then happens once per pixel for the winner.

Legend: N rectangles, R round bodies, H x W pixels, n pixels of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from seglab.data.scenes.classes import Label
from seglab.data.scenes.geometry import Quads, Rounds, Shape, World
from seglab.data.scenes.light import Light
from seglab.data.scenes.materials import RUBBER, SKIN, Materials
from seglab.data.scenes.scene import Scene
from seglab.data.scenes.textures import draw, noise

VOID = 255
FAR = 100.0
"""Surfaces beyond this depth (metres) are void in the label."""
_NEAR = 0.05
_SHADOW = np.float32(0.45)

Float = NDArray[np.float64]
Single = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Frame:
    """An image with its exact truth."""

    image: NDArray[np.uint8]
    """[H, W, 3] RGB."""
    label: NDArray[np.uint8]
    """[H, W] train ids, 255 where void."""
    instance: NDArray[np.int32]
    """[H, W], 0 for the background (ground, path, wall, window, door, overhead), objects from 1."""
    depth: Single
    """[H, W] metres along the optical axis, inf in the sky."""
    pose: Float
    """[4, 4] camera-to-world."""
    intrinsics: Float
    """[3, 3]; pixel (0, 0) is the centre of the upper left pixel."""


def render(
    scene: Scene,
    time: float = 0.0,
    size: tuple[int, int] = (128, 160),
    noise_level: float = 0.0,
    world_time: float | None = None,
) -> Frame:
    """The frame of ``size`` [H, W] at ``time`` seconds; ``world_time`` stops the objects while the camera moves on.

    ``noise_level`` is the standard deviation of the sensor's noise in a middle grey, as a fraction of full scale.
    """
    view = View(scene.camera.pose(time), scene.camera.intrinsics(size), size)
    hits = cast(scene.world, view, time if world_time is None else world_time)
    image, label = _shade(scene, view, hits)
    if noise_level > 0:
        _expose(image, noise_level, np.random.default_rng([*scene.seed, 1, round(abs(time) * 1e6), int(time < 0)]))
    depth = hits.depth.astype(np.float32)
    label[(depth > FAR) & hits.solid] = VOID
    np.clip(image, 0, 1, out=image)
    image *= 255
    image += np.float32(0.5)
    shape = size
    return Frame(
        image=image.T.reshape(*shape, 3).astype(np.uint8),
        label=label.reshape(shape),
        instance=hits.instance.reshape(shape),
        depth=depth.reshape(shape),
        pose=view.pose,
        intrinsics=view.intrinsics,
    )


class View:
    """A pose with intrinsics and the rays of its pixels."""

    def __init__(self, pose: Float, intrinsics: Float, size: tuple[int, int]) -> None:
        self.pose, self.intrinsics, self.size = pose, intrinsics, size
        self.origin, self.axes = pose[:3, 3], pose[:3, :3]
        self.focal = float(intrinsics[0, 0])
        self.x = (np.arange(size[1]) - intrinsics[0, 2]) / intrinsics[0, 0]
        self.y = (np.arange(size[0]) - intrinsics[1, 2]) / intrinsics[1, 1]
        right, down, ahead = self.axes.T
        self.rays = (right[:, None] * self.x)[:, None, :] + (down[:, None] * self.y + ahead[:, None])[:, :, None]
        """[3, H, W] world directions with unit depth."""

    def to_camera(self, points: Float) -> Float:
        """World points [..., 3] in the camera's axes."""
        return (points - self.origin) @ self.axes

    def boxes(self, corners: Float) -> tuple[Ids, NDArray[np.bool_]]:
        """Bounding boxes [N, 4] (x0, x1, y0, y1) of outlines [N, P, 3] in the camera's axes; whether they hold pixels.

        Edges are cut at the near plane; an outline is the closed walk over its corners.
        """
        following = np.roll(corners, -1, axis=1)
        z, zn = corners[..., 2], following[..., 2]
        crosses = (z < _NEAR) != (zn < _NEAR)
        part = np.where(crosses, (_NEAR - z) / np.where(crosses, zn - z, 1), 0)[..., None]
        points = np.concatenate((corners, corners + part * (following - corners)), axis=1)
        seen = np.concatenate((z >= _NEAR, crosses), axis=1)
        depth = np.where(seen, points[..., 2], 1)
        px = points[..., 0] / depth * self.intrinsics[0, 0] + self.intrinsics[0, 2]
        py = points[..., 1] / depth * self.intrinsics[1, 1] + self.intrinsics[1, 2]
        low = np.stack((np.where(seen, px, np.inf).min(1), np.where(seen, py, np.inf).min(1)), 1)
        high = np.stack((np.where(seen, px, -np.inf).max(1), np.where(seen, py, -np.inf).max(1)), 1)
        limit = np.array(self.size[::-1], float)
        first = np.clip(np.ceil(low - 1e-6), 0, limit).astype(np.int64)
        last = np.clip(np.floor(high + 1e-6) + 1, 0, limit).astype(np.int64)
        box = np.stack((first[:, 0], last[:, 0], first[:, 1], last[:, 1]), 1)
        return box, (last > first).all(1)


@dataclass
class Hits:
    """What each pixel sees, flat [H W]."""

    solid: NDArray[np.bool_]
    depth: Float
    label: NDArray[np.uint8]
    material: NDArray[np.uint8]
    instance: NDArray[np.int32]
    tint: Single
    u: Single
    v: Single
    fu: Single
    fv: Single
    part: Single
    """[2, H W] place within the rectangle, or within the window of a grid, as fractions of its width and height."""
    normal: Single
    """[3, H W], towards the camera."""
    shadow: Single
    """Factor on the direct light."""


def _functions(quads: Quads, view: View, time: float) -> tuple[Float, Float, Float, Ids, Ids]:
    """For the rectangles in view: the linear functions of the pixel, split in rows and columns.

    Returns columns [5, n, W], rows [5, n, H] (1/t, a/t, b/t, (A - a)/t, (B - b)/t with A, B the extent; the sum of the
    two is the function), the coefficients [3, 3, n] of (1/t, a/t, b/t) for (x, y, 1) in normalised pixels, the
    bounding boxes [n, 4] and the indices [n] of the rectangles, from near to far.
    """
    origin = view.to_camera(quads.origin + time * quads.marks.velocity)
    along, up = quads.along @ view.axes, quads.up @ view.axes
    extent = quads.extent
    far = along * extent[:, :1]
    high = up * extent[:, 1:]
    corners = np.stack((origin, origin + far, origin + far + high, origin + high), 1)
    box, inside = view.boxes(corners)
    normal = np.cross(along, up)
    offset = (normal * origin).sum(1)
    facing = np.where(quads.one_sided, offset < -1e-9, np.abs(offset) > 1e-9)
    index = np.flatnonzero(inside & facing)
    index = index[np.argsort(np.median(corners[index, :, 2], axis=1), kind="stable")]
    normal, along, up, origin = normal[index], along[index], up[index], origin[index]
    w = normal / offset[index, None]
    a = along - (along * origin).sum(1, keepdims=True) * w
    b = up - (up * origin).sum(1, keepdims=True) * w
    size = extent[index]
    functions = np.stack((w, a, b, size[:, :1] * w - a, size[:, 1:] * w - b), 0)
    columns = functions[:, :, 0:1] * view.x
    rows = functions[:, :, 1:2] * view.y + functions[:, :, 2:3]
    return columns, rows, functions[:3].transpose(0, 2, 1), box[index], index


@dataclass
class Visible:
    """Which surface each pixel sees, and where."""

    owner: Ids
    """[H, W] number of the rectangle in view, then of the round body, then of the sky."""
    inverse: Float
    """[H, W] 1/t, 0 in the sky."""
    index: Ids
    """[n] of the rectangles in view among all."""
    coefficients: Float
    """[3, 3, n] as :func:`_functions` gives them."""
    centres: Float
    """[R, 3] of the round bodies, from the camera."""

    @property
    def depth(self) -> Float:
        """[H, W] metres along the optical axis, inf in the sky."""
        depth = np.full(self.owner.shape, np.inf)
        np.divide(1, self.inverse, out=depth, where=self.owner < len(self.index) + len(self.centres))
        return depth


def look(world: World, view: View, time: float) -> Visible:
    """Find the nearest surface of every pixel."""
    height, width = view.size
    inverse = np.zeros((height, width))
    quads, rounds = world.quads, world.rounds
    columns, rows, coefficients, boxes, index = _functions(quads, view, time)
    count, sky = len(index), len(index) + len(rounds.centre)
    owner = np.full((height, width), sky, np.int64)
    shapes = quads.shape[index].tolist()
    extents = quads.extent[index].tolist()
    for k, (x0, x1, y0, y1) in enumerate(boxes.tolist()):
        values = columns[:, k, None, x0:x1] + rows[:, k, y0:y1, None]
        nearest = inverse[y0:y1, x0:x1]
        hit = values[0] > nearest
        hit &= values[1:].min(0) >= 0
        if shapes[k] != Shape.FULL:
            hit &= _cut(shapes[k], values, extents[k])
        np.copyto(nearest, values[0], where=hit)
        np.copyto(owner[y0:y1, x0:x1], k, where=hit)

    centres = rounds.centre + time * rounds.marks.velocity - view.origin
    _cast_rounds(rounds, centres, view, inverse, owner, count)
    return Visible(owner, inverse, index, coefficients, centres)


def cast(world: World, view: View, time: float) -> Hits:
    """Find the nearest surface of every pixel and its coordinates there."""
    seen = look(world, view, time)
    hits = _gather(
        world.quads, world.rounds, seen.centres, view, seen.owner.ravel(), seen.depth.ravel(), seen.coefficients,
        seen.index,
    )  # fmt: skip
    hits.shadow = _shadows(world.shadows, view, time, seen.inverse)
    return hits


def _cut(shape: int, values: Float, extent: list[float]) -> NDArray[np.bool_]:
    """Which pixels [h, w] of a rectangle belong to its shape."""
    inverse = np.where(values[0] > 0, values[0], np.inf)
    a, b = values[1] / (inverse * extent[0]) * 2 - 1, values[2] / (inverse * extent[1])
    if shape == Shape.ELLIPSE:
        return a * a + (2 * b - 1) ** 2 <= 1
    side = np.abs(a)
    if shape == Shape.TRIANGLE:
        return side <= 1 - b
    if shape == Shape.DIAMOND:
        return side + np.abs(2 * b - 1) <= 1
    if shape == Shape.LEAVES:
        lift = 2 * b - 0.6
        angle = np.arctan2(a, lift)
        return np.hypot(a, lift * 0.75) <= 0.68 + 0.3 * np.cos(9 * angle)
    head = (a / 0.3) ** 2 + ((b - 0.925) / 0.075) ** 2 <= 1
    torso = (side <= 0.52) & (b > 0.45) & (b < 0.85)
    arms = (side > 0.62) & (side < 0.9) & (b > 0.47) & (b < 0.82)
    shoulders = (side < 0.9) & (b > 0.74) & (b < 0.84)
    legs = (side > 0.07) & (side < 0.5) & (b <= 0.46)
    return head | torso | arms | shoulders | legs


def _cast_rounds(rounds: Rounds, centres: Float, view: View, inverse: Float, owner: Ids, first: int) -> None:
    """Enter the round bodies into the buffers; their owner ids start at ``first``."""
    if not len(centres):
        return
    reach = np.where(rounds.squash > 0, rounds.radius / np.sqrt(np.maximum(rounds.squash, 1e-9)), rounds.half)
    # An outline that visits all edges of the bounding box: a closed walk over its twelve edges.
    walk = np.array(((-1, -1, -1), (1, -1, -1), (1, 1, -1), (-1, 1, -1), (-1, -1, -1), (-1, -1, 1), (1, -1, 1),
                     (1, -1, -1), (1, -1, 1), (1, 1, 1), (1, 1, -1), (1, 1, 1), (-1, 1, 1), (-1, 1, -1), (-1, 1, 1),
                     (-1, -1, 1)), float)  # fmt: skip
    half = np.stack((rounds.radius, rounds.radius, reach), 1)
    boxes, inside = view.boxes((centres[:, None] + walk * half[:, None]) @ view.axes)
    dx, dy, dz = view.rays
    flat, steep = dx * dx + dy * dy, dz * dz
    numbers = np.column_stack((centres, rounds.radius, rounds.squash, rounds.half)).tolist()
    for k in np.flatnonzero(inside).tolist():
        x0, x1, y0, y1 = boxes[k].tolist()
        cx, cy, cz, radius, squash, cut = numbers[k]
        part = np.s_[y0:y1, x0:x1]
        rise = dz[part]
        qa, qb = flat[part], dx[part] * cx + dy[part] * cy
        qc = cx * cx + cy * cy - radius * radius
        if squash > 0:
            qa, qb, qc = qa + squash * steep[part], qb + (squash * cz) * rise, qc + squash * cz * cz
        if qc <= 0:
            continue  # the camera is inside
        root = qb * qb - qa * qc
        hit = root > 0
        np.sqrt(root, out=root, where=hit)
        # 1/t of the nearer of the two points: t = (qb - root) / qa = qc / (qb + root)
        near = (qb + root) / qc
        nearest = inverse[part]
        hit &= near > nearest
        if squash == 0:
            hit &= np.abs(rise - cz * near) <= cut * near
        np.copyto(nearest, near, where=hit)
        np.copyto(owner[part], first + k, where=hit)


def _gather(
    quads: Quads,
    rounds: Rounds,
    centres: Float,
    view: View,
    owner: Ids,
    depth: Float,
    coefficients: Float,
    index: Ids,
) -> Hits:
    """Surface coordinates, footprints, normals and marks of every pixel.

    ``owner`` counts rectangles in view, then round bodies, then the sky.
    """
    count, sky = len(index), len(index) + len(centres)

    def table(quad: NDArray, other: NDArray, last: float, dtype: type) -> NDArray:
        return np.concatenate((quad[index], other, [last])).astype(dtype).take(owner)

    q, r = quads.marks, rounds.marks
    label = table(q.label, r.label, Label.OVERHEAD, np.uint8)
    material = table(q.material, r.material, Label.OVERHEAD, np.uint8)
    instance = table(q.instance, r.instance, 0, np.int32)
    tint = table(q.tint, r.tint, 1, np.float32)

    # Per rectangle and, through one take, per pixel: 9 coefficients, normal, origin of u and v, inverse extent.
    # Round bodies and the sky take zeros; the former are filled in below.
    rows = np.zeros((16, sky + 1), np.float32)
    rows[:9, :count] = coefficients.reshape(9, count)
    size, upright = quads.extent[index], np.abs(quads.up[index, 2]) > 0.5
    normal = np.cross(quads.along[index], quads.up[index])
    away = (normal * (quads.origin[index] - view.origin)).sum(1, keepdims=True)
    rows[9:12, :count] = (-np.sign(away) * normal).T
    rows[12, :count] = size[:, 0] / 2
    rows[13, :count] = np.where(upright, 0, size[:, 1] / 2)
    rows[14:16, :count] = 1 / size.T
    c = rows.take(owner, axis=1)
    solid = owner < sky
    t = np.where(solid, depth, 0).astype(np.float32)
    x = np.tile(view.x.astype(np.float32), view.size[0])
    y = np.repeat(view.y.astype(np.float32), view.size[1])
    u = (c[3] * x + c[4] * y + c[5]) * t
    v = (c[6] * x + c[7] * y + c[8]) * t
    scale = t * np.float32(1 / view.focal)
    fu = np.maximum(np.abs(c[3] - u * c[0]), np.abs(c[4] - u * c[1])) * scale
    fv = np.maximum(np.abs(c[6] - v * c[0]), np.abs(c[7] - v * c[1])) * scale

    part = np.stack((u * c[14], v * c[15]))
    windows = np.zeros(sky + 1, np.bool_)
    windows[:count] = quads.windows[index, 0] > 0
    facade = np.flatnonzero(windows.take(owner))
    if facade.size:
        own = index[owner[facade]]
        inside, place = _glaze(quads.windows[own], quads.extent[own], u[facade], v[facade])
        glazed = facade[inside]
        label[glazed] = material[glazed] = Label.WINDOW
        part[:, glazed] = place[:, inside]
    # From here on coordinates run from the middle of a rectangle, the height of an upright one from its foot.
    u -= c[12]
    v -= c[13]

    pixel = np.flatnonzero((owner >= count) & solid)
    if pixel.size:
        own = owner[pixel] - count
        point = (view.rays.reshape(3, -1)[:, pixel] * depth[pixel] - centres.T[:, own]).astype(np.float32)
        u[pixel] = np.arctan2(point[1], point[0]) * rounds.radius[own].astype(np.float32)
        v[pixel] = point[2]
        fu[pixel] = fv[pixel] = (1.5 / view.focal) * depth[pixel]
        point[2] *= rounds.squash[own]
        c[9:12, pixel] = point / np.sqrt((point * point).sum(0))
    return Hits(solid, depth, label, material, instance, tint, u, v, fu, fv, part, c[9:12], tint)


def _glaze(windows: Float, extent: Float, u: Single, v: Single) -> tuple[NDArray[np.bool_], Float]:
    """Which points [n] of facades lie in a window, and the fractions [2, n] of its width and height there.

    The grid is centred and keeps off the edges.
    """
    pitch, storey, width, height, first = windows.T
    columns = np.floor((extent[:, 0] - 0.6) / pitch)
    x = (u - (extent[:, 0] - columns * pitch) / 2) / pitch
    y = (v - first) / storey
    inside = (x > 0) & (x < columns) & (y > 0) & ((np.floor(y) + 1) * storey + first < extent[:, 1] + storey - height)
    place = np.stack(((x - np.floor(x) - 0.5) * pitch / width + 0.5, (y - np.floor(y)) * storey / height))
    return inside & (place > 0).all(0) & (place < 1).all(0), place


def _shadows(shadows: Quads, view: View, time: float, inverse: Float) -> Single:
    """The part of the direct light [H W] that reaches surfaces on the ground."""
    light = np.ones(inverse.shape, np.float32)
    columns, rows, _, boxes, _ = _functions(shadows, view, time)
    soft = 0.3
    for k, (x0, x1, y0, y1) in enumerate(boxes.tolist()):
        values = columns[:, k, None, x0:x1] + rows[:, k, y0:y1, None]
        near = inverse[y0:y1, x0:x1]
        # Only surfaces at the height of the ground: those whose 1/t the shadow's plane shares but for its lift.
        on_ground = np.abs(near - values[0]) < 0.03 * near
        edge = (values[1:].min(0) / np.maximum(values[0], 1e-9)).astype(np.float32)
        shade = np.clip(edge * np.float32(1 / soft), 0, 1) * (1 - _SHADOW)
        light[y0:y1, x0:x1] = np.minimum(light[y0:y1, x0:x1], np.where(on_ground, 1 - shade, 1))
    return light.ravel()


def _shade(scene: Scene, view: View, hits: Hits) -> tuple[Single, NDArray[np.uint8]]:
    """Colours [3, H W] after the camera's response, in 0..1 but for outliers, and labels [H W]."""
    materials, light = scene.materials, scene.light
    # Sorted by material, each material is one slice.
    order = np.argsort(hits.material, kind="stable")
    material = hits.material.take(order)
    u, v, fu, fv = hits.u.take(order), hits.v.take(order), hits.fu.take(order), hits.fv.take(order)
    inverse_size = (np.float32(1) / materials.grain_size).take(material)
    shift = hits.instance.take(order).astype(np.float32) * np.float32(0.377)
    grain = noise(u * inverse_size + shift, v * inverse_size, np.maximum(fu, fv) * inverse_size)
    albedo = materials.base.T.take(material, axis=1)
    ends = np.searchsorted(material, np.arange(len(materials.pattern) + 1))
    for m, (start, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        if start == end:
            continue
        run = slice(start, end)
        weight = draw(materials.pattern[m], u[run], v[run], fu[run], fv[run], materials.period[m], grain[run])
        if weight is not None:
            albedo[:, run] += (materials.accent[m] - materials.base[m])[:, None] * weight
        if m == Label.PERSON:
            albedo[:, run] = _clothe(albedo[:, run], hits.part[1, order[run]], materials)
        elif m in _FRAMES:
            frame = _frame(hits.part[:, order[run]], *_FRAMES[m])
            albedo[:, run] += (materials.trim[m][:, None] - albedo[:, run]) * frame
    albedo *= (1 + (grain - np.float32(0.5)) * materials.grain.take(material)) * hits.tint.take(order)
    colour = np.empty_like(albedo)
    colour[:, order] = albedo

    colour *= _illuminate(light, view, hits)
    sky = np.flatnonzero(~hits.solid)
    rays = view.rays.reshape(3, -1)
    if light.fog > 0:
        distance = np.minimum(hits.depth, 1e4).astype(np.float32)
        clear = np.exp(distance * np.float32(-light.fog))
        colour *= clear
        colour += light.haze[:, None] * (1 - clear)
    if sky.size:
        colour[:, sky] = _sky(light, materials.base[Label.OVERHEAD], rays[:, sky].astype(np.float32), view.focal)
    colour *= light.gain[:, None]
    # A response with a shoulder instead of clipping, then gamma 2.
    colour /= 1 + np.float32(0.25) * colour
    return np.sqrt(colour), hits.label


# What windows, doors and signs share in all scenes: the width of the frame, and the bars across and upright.
_FRAMES: dict[int, tuple[float, tuple[float, ...], tuple[float, ...]]] = {
    Label.WINDOW: (0.09, (0.5,), (0.5,)),
    Label.DOOR: (0.07, (0.45,), ()),
    Label.SIGN: (0.13, (), ()),
}


def _frame(part: Single, width: float, across: tuple[float, ...], upright: tuple[float, ...]) -> Single:
    """The weight [n] of the frame's colour at fractions [2, n] of a rectangle."""
    x, y = part
    edge = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    weight = edge < np.float32(width)
    for bar in across:
        weight |= np.abs(y - np.float32(bar)) < np.float32(width / 2)
    for bar in upright:
        weight |= np.abs(x - np.float32(bar)) < np.float32(width / 2)
    return weight.astype(np.float32)


def _clothe(albedo: Single, height: Single, materials: Materials) -> Single:
    """People: shoes, trousers in the accent colour, top in the base colour, face and hair."""
    parts = np.digitize(height, (0.05, 0.47, 0.85, 0.955))
    shades = np.stack(
        (materials.base[RUBBER], materials.accent[Label.PERSON], materials.base[0], materials.base[SKIN],
         materials.base[SKIN] * np.float32(0.2)), 1)  # fmt: skip
    return np.where(parts == 2, albedo, shades[:, parts])


def _illuminate(light: Light, view: View, hits: Hits) -> Single:
    """The light [3, H W] that falls on every pixel's surface."""
    nx, ny, nz = hits.normal
    if light.lamp is None:
        facing = nx * light.sun[0] + ny * light.sun[1] + nz * light.sun[2]
    else:
        depth = np.where(hits.solid, hits.depth, 0).astype(np.float32)
        rays = view.rays.reshape(3, -1).astype(np.float32)
        lx, ly, lz = ((light.lamp - view.origin).astype(np.float32)[:, None]) - rays * depth
        square = lx * lx + ly * ly + lz * lz
        facing = (nx * lx + ny * ly + nz * lz) / (np.sqrt(square) * (1 + np.float32(0.06) * square))
        facing *= np.float32(1.6)
    direct = np.maximum(facing, 0) * hits.shadow
    # Ambient light comes from above more than from below; a shadow dims it a little, too.
    around = (np.float32(0.85) + np.float32(0.15) * nz) * (np.float32(0.6) + np.float32(0.4) * hits.shadow)
    return light.direct[:, None] * direct + light.ambient[:, None] * around


def _sky(light: Light, zenith: Single, rays: Single, focal: float) -> Single:
    """Colours [3, n] of the sky: from the haze at the horizon to the zenith, with clouds on a plane far above."""
    rise = rays[2] / np.sqrt((rays * rays).sum(0))
    up = np.maximum(rise, np.float32(0.04))
    blend = np.clip(rise * np.float32(2.2), 0, 1)
    colour = light.haze[:, None] + (zenith - light.haze)[:, None] * blend
    if light.clouds > 0:
        scale = np.float32(0.12) / up
        cloud = noise(rays[0] * scale, rays[1] * scale, scale / up / np.float32(focal))
        cover = np.clip((cloud - np.float32(0.45)) * 3, 0, 1) * blend * np.float32(light.clouds)
        colour += (np.float32(0.9) - colour) * cover
    return colour * light.ambient.mean() * np.float32(1.5)


@cache
def _quantiles() -> Single:
    """A standard normal distribution as 4096 equally likely values."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((k + 0.5) / 4096) for k in range(4096)], np.float32)


def _expose(image: Single, level: float, rng: np.random.Generator) -> None:
    """Add sensor noise in place; as shot noise would after gamma, nearly equal in all tones."""
    bits = np.frombuffer(rng.bytes(2 * image.size), "<u2") & np.uint16(4095)
    image += (np.float32(level) * _quantiles()).take(bits).reshape(image.shape)
