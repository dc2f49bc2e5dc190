"""Training augmentation as mmsegmentation made it the field's standard; the only file that imports albumentations.

Resize by a random factor, crop so that no class covers too much, flip, distort the colours, pad. Images stay uint8: the
network normalises them. Random numbers depend on (seed, epoch, index) alone, so that any worker makes the same pixels
of an item. The geometry is drawn first, from the image's size and its label, of which only candidate windows are
resized; then the image is decoded, and resized as far as the window's lower right corner.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

# albumentations asks a package index for updates when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray

from seglab.data import targets
from seglab.data.clips import Surroundings
from seglab.data.source import Opened
from seglab.errors import ConfigError, DataError
from seglab.types import IGNORE, Clip

Size = tuple[int, int]
"""(height, width) of an image, or (top, left) of a window."""

AUGMENT = 0xA06
"""Separates the random numbers of the augmentation from those of the order."""

UNCOVERED = "uncovered"
"""A mask beside the maps: 0, and another value where a transform uncovers pixels."""

BAND = 32
"""Rows that go through all colour steps together: they stay in the core's cache, which halves the time."""


def generators(use: int, *key: int) -> tuple[np.random.Generator, random.Random]:
    """The two kinds of random numbers that transforms of albumentations take, as a function of the key alone.

    Args:
        use: what they are for; other uses of the same key have other numbers.
        key: such as seed, epoch and index, 0 or more.
    """
    generator = np.random.default_rng([use, *key])
    return generator, random.Random(int(generator.integers(1 << 62)))


def keep_ratio_size(size: Size, long_short: Sequence[int]) -> Size:
    """(height, width) >= 1 of an image of ``size`` made to fit a long and a short side, shape kept."""
    factor = min(max(long_short) / max(size), min(long_short) / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def is_diverse(label: np.ndarray, max_share: float) -> bool:
    """Whether a window [h, w] uint8 shows two classes, the larger below ``max_share`` of the labelled pixels."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()[:IGNORE]
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_share)


def choose_window(
    window: Callable[[Size], np.ndarray], offsets: Iterable[Size], max_share: float, retries: int = 10
) -> tuple[int, Size]:
    """Number and offset (top, left) of the window taken: the first diverse one, or the one after ``retries`` anyway.

    ``window`` gives the label [h, w] uint8 at an offset.
    """
    for number, offset in enumerate(offsets):
        if number == retries or is_diverse(window(offset), max_share):
            return number, offset
    raise ValueError(f"fewer than {retries + 1} candidate windows")


class Geometry(NamedTuple):
    """Which pixels of an image training sees: those of a window of the resized image, mirrored or not."""

    size: Size
    """Of the whole image, resized."""
    offset: Size
    """(top, left) of the window."""
    window: Size
    """(height, width) of the window: the crop's, or less where the resized image is smaller."""
    flip: bool

    def of_image(self, image: np.ndarray, stored: Size, scale: int = 1) -> np.ndarray:
        """[h, w, 3] of an image of size ``stored``, decoded at 1/scale: bilinear, no antialiasing.

        What lies below and right of the window is not resized. The rest is: OpenCV resizes from the top left corner,
        and only from there come the bytes of the whole.
        """
        (top, left), (height, width) = self.offset, self.window
        (bottom, right), needed = (top + height, left + width), list(image.shape[:2])
        factors = [new * scale / side for new, side in zip(self.size, stored, strict=True)]
        for axis, (end, factor) in enumerate(zip((bottom, right), factors, strict=True)):
            needed[axis] = min(needed[axis], math.ceil(end / factor) + 2)
        part = image[: needed[0], : needed[1]]
        resized = cv2.resize(part, None, fx=factors[1], fy=factors[0], interpolation=cv2.INTER_LINEAR)
        cut = resized[top:bottom, left:right]
        return cv2.flip(cut, 1) if self.flip else cut

    def of_map(self, resized: Nearest) -> np.ndarray:
        """[h, w] of a map."""
        cut = resized.window(self.window, self.offset)
        return np.ascontiguousarray(cut[:, ::-1]) if self.flip else cut

    def of_flow(self, flow: np.ndarray) -> np.ndarray:
        """[h, w, 2] of an optical flow [H, W, 2] between two images that are both treated so."""
        factors = [new / old for new, old in zip(self.size[::-1], flow.shape[1::-1], strict=True)]
        if self.flip:
            factors[0] = -factors[0]
        parts = [self.of_map(Nearest(flow[..., axis], self.size)) * np.float32(factors[axis]) for axis in (0, 1)]
        return np.stack(parts, -1)


class Nearest:
    """A map [H, W] resized by nearest neighbour to ``size``, window by window: the values of OpenCV's whole resize."""

    def __init__(self, values: np.ndarray, size: Size) -> None:
        self.values = values
        self.rows, self.columns = (_sources(old, new) for old, new in zip(values.shape, size, strict=True))
        self._last: tuple[tuple[Size, Size], np.ndarray] | None = None  # the last that was looked at is mostly taken

    def window(self, window: Size, offset: Size) -> np.ndarray:
        """[h, w] of size ``window`` at ``offset``."""
        if self._last is None or self._last[0] != (window, offset):
            self._last = (window, offset), self._cut(window, offset)
        return self._last[1]

    def _cut(self, window: Size, offset: Size) -> np.ndarray:
        rows = self.rows[offset[0] : offset[0] + window[0]]
        columns = self.columns[offset[1] : offset[1] + window[1]]
        span, rows = self.values[rows[0] : rows[-1] + 1], rows - rows[0]
        if len(span) > len(rows):  # a copied row costs less than one of picked pixels
            return span.take(rows, axis=0).take(columns, axis=1)
        return span.take(columns, axis=1).take(rows, axis=0)


def _sources(old: int, new: int) -> NDArray[np.intp]:
    """Which of ``old`` positions each of ``new`` is taken from: OpenCV's own choice, as it resizes the positions."""
    positions = np.arange(old, dtype=np.int32)[None]
    return cv2.resize(positions, (new, 1), interpolation=cv2.INTER_NEAREST)[0].astype(np.intp)


class PhotoMetricDistortion(A.ImageOnlyTransform):
    """Brightness, contrast, saturation and hue, each with probability ``each``; truncated to uint8 after every step.

    Args:
        brightness: largest amount added or subtracted.
        contrast: range of the factor; applied before or after the colour steps, by a coin.
        saturation: range of the factor on S of HSV.
        hue: an integer in -hue..hue-1 is added to H (0..179, OpenCV's), modulo 180.
    """

    _targets = Targets.IMAGE

    def __init__(
        self,
        brightness: float = 32,
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue: int = 18,
        each: float = 0.5,
        p: float = 1.0,
    ) -> None:
        _require(brightness >= 0, f"augment.photometric.brightness={brightness}", "0 or more")
        for name, factors in (("contrast", contrast), ("saturation", saturation)):
            _require(_is_range(factors), f"augment.photometric.{name}={factors}", "[low, high], 0 or more")
        _require(hue >= 0, f"augment.photometric.hue={hue}", "0 or more, in steps of 2 degrees")
        _require(0 <= each <= 1, f"augment.photometric.each={each}", "a probability")
        super().__init__(p=p)
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.each = each

    def get_params(self) -> dict[str, Any]:
        """Draw every amount; None leaves a step out."""
        draw = self.py_random
        return {
            "brightness": draw.uniform(-self.brightness, self.brightness) if self._chosen() else None,
            "contrast": draw.uniform(*self.contrast) if self._chosen() else None,
            "contrast_first": draw.random() < 0.5,
            "saturation": draw.uniform(*self.saturation) if self._chosen() else None,
            "hue": draw.randrange(-self.hue, self.hue) if self.hue and self._chosen() else None,
        }

    def apply(
        self,
        img: np.ndarray,
        brightness: float | None = None,
        contrast: float | None = None,
        contrast_first: bool = True,
        saturation: float | None = None,
        hue: int | None = None,
        **params: Any,
    ) -> np.ndarray:
        """The image [H, W, 3] uint8 after the steps that were drawn."""
        steps: list[Callable[[np.ndarray], np.ndarray]] = []
        table = _LEVELS.copy()
        if brightness is not None:
            table = _truncated(table + np.float32(brightness))
        if contrast is not None and contrast_first:
            table = _truncated(table * np.float32(contrast))
        if brightness is not None or (contrast is not None and contrast_first):
            steps.append(partial(cv2.LUT, lut=table.astype(np.uint8)))
        if saturation is not None:
            steps.append(partial(_on_hsv, channel=1, table=_truncated(_LEVELS * np.float32(saturation))))
        if hue is not None:
            steps.append(partial(_on_hsv, channel=0, table=(_LEVELS + hue) % 180))
        if contrast is not None and not contrast_first:
            steps.append(partial(cv2.LUT, lut=_truncated(_LEVELS * np.float32(contrast)).astype(np.uint8)))
        if not steps:
            return img
        out = np.empty_like(img)
        for top in range(0, len(img), BAND):
            band = img[top : top + BAND]
            for step in steps:
                band = step(band)
            out[top : top + BAND] = band
        return out

    def _chosen(self) -> bool:
        return self.py_random.random() < self.each


_LEVELS = np.arange(256, dtype=np.float32)


def _truncated(levels: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(levels, 0, 255))


def _on_hsv(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """Send one channel of HSV through a table."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    values = cv2.LUT(cv2.extractChannel(hsv, channel), table.astype(np.uint8))
    return cv2.cvtColor(cv2.insertChannel(values, hsv, channel), cv2.COLOR_HSV2RGB)


class Augment:
    """``(opened sample, key) -> item``: the image [H, W, 3] uint8 and every target, augmented together.

    Args:
        crop: (height, width) of what training sees; None keeps the resized image whole.
        long_short: (long, short) side before the random factor, shape kept; None is the image's own size.
        ratio: range of the random factor; null resizes nothing.
        cat_max_ratio: largest share of one class in a crop; 1 takes any crop.
        crop_retries: crops refused for that before one is taken unchecked.
        flip: probability of mirroring left and right.
        photometric: the colour distortion; None leaves colours alone.
        extra: albumentations transforms of image, or image and mask (the label), that leave an image uint8. Those that
            uncover pixels need ``fill_mask: 255``; other maps have their own fill value there.
        fill: (r, g, b) that images smaller than the crop are padded with; the mean colour, unless it is set.
        scaled_decoding: decode a JPEG at 1/2, 1/4 or 1/8 of its size where the resized image is no larger: faster, with
            other pixels than the published pipelines, for what is decoded is antialiased. None or false: never.
    """

    def __init__(
        self,
        crop: Sequence[int] | None = (512, 512),
        long_short: Sequence[int] | None = None,
        ratio: Sequence[float] | None = (0.5, 2.0),
        cat_max_ratio: float = 0.75,
        crop_retries: int = 10,
        flip: float = 0.5,
        photometric: PhotoMetricDistortion | None = None,
        extra: Sequence[A.BasicTransform] = (),
        fill: Sequence[int] = (0, 0, 0),
        scaled_decoding: bool | None = None,
    ) -> None:
        _require(crop is None or (len(crop) == 2 and min(crop) > 0), f"augment.crop={crop}", "[height, width] or null")
        _require(
            long_short is None or (len(long_short) == 2 and min(long_short) > 0),
            f"augment.long_short={long_short}",
            "[long, short] side or null",
        )
        _require(
            ratio is None or (_is_range(ratio) and ratio[0] > 0),
            f"augment.ratio={ratio}",
            "[low, high] above 0, or null",
        )
        _require(0 < cat_max_ratio <= 1, f"augment.cat_max_ratio={cat_max_ratio}", "a share in (0, 1]")
        _require(crop_retries >= 0, f"augment.crop_retries={crop_retries}", "0 or more")
        _require(0 <= flip <= 1, f"augment.flip={flip}", "a probability")
        _require(
            len(fill) == 3 and min(fill) >= 0 and max(fill) <= 255,
            f"augment.fill={fill}",
            "three numbers from 0 to 255",
        )
        self.crop = None if crop is None else (crop[0], crop[1])
        self.long_short = long_short
        self.ratio = ratio
        self.max_share = cat_max_ratio
        self.retries = crop_retries
        self.flip = flip
        self.scaled_decoding = scaled_decoding
        others = {name: "mask" for name, target in targets.TARGETS.items() if target.is_map and _key(name) == name}
        self.extra = bool(extra)
        self.moves = next((type(step).__name__ for step in extra if not _keeps_places(step)), None)
        if extra:
            others[UNCOVERED] = "mask"
        steps = [*([] if photometric is None else [photometric]), *extra]
        self.pipeline = A.Compose(steps, additional_targets=others)
        self.fill = [int(value) for value in fill]

    def __call__(self, opened: Opened, key: tuple[int, int, int], around: Surroundings | None = None) -> targets.Item:
        """Augment one item; the same ``key`` (seed, epoch, index) gives the same result, with frames around it or not.

        Args:
            around: the frames of its clip: they get the geometry and the colours that are drawn for the item.

        Raises:
            ConfigError: ``extra`` or ``photometric`` makes an image that is not uint8 RGB or larger than the crop, or
                ``extra`` has transforms of the geometry, and there is a clip.
            DataError: the image cannot be decoded, or a frame is of another size.
        """
        if around is not None and self.moves is not None:
            raise ConfigError(
                f"augment.extra has {self.moves}, which moves pixels — the frames of a clip (data.clip) are compared "
                "with the image in its own colours, so that only transforms of colours are expected — leave it out"
            )
        geometry, resized = self._draw(opened, key)
        maps = {name: geometry.of_map(values) for name, values in resized.items()}
        scale = self.scale(opened, geometry.size)
        window = geometry.of_image(opened.read(scale), opened.size, scale)
        out = {"image": window, **{_key(name): values for name, values in maps.items()}}
        further = [name for name in maps if name != "label"]
        if further and self.extra:
            out[UNCOVERED] = np.zeros(window.shape[:2], np.uint8)
        near = {} if around is None else self._near(around, opened, geometry, scale)
        if near:
            out["images"] = np.stack(list(near.values()))
        if self.pipeline.transforms:
            out = self.pipeline(**out, force_apply=True)  # which draws nothing for the pipeline as a whole
        if UNCOVERED in out:
            for name in further:  # ``fill_mask`` is the label's value, of a depth it would be metres
                out[name][out[UNCOVERED] > 0] = targets.TARGETS[name].fill
        image = out["image"]
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise ConfigError(
                f"augment.extra (or augment.photometric) makes images of {image.dtype} {list(image.shape)} — expected "
                "uint8 [height, width, 3]; the network normalises — take out what normalises or converts them"
            )
        size = image.shape[:2]
        height, width = size if self.crop is None else self.crop
        if size[0] > height or size[1] > width:
            raise ConfigError(
                f"augment.extra makes images of {size}, larger than augment.crop={self.crop}"
                " — transforms there must keep the size — crop in the last of them"
            )
        image = self._padded(image, height, width)
        others = [name for name in targets.TARGETS if name in opened.values and name not in maps]
        made: dict[str, Any] = dict(targets.tensors({name: opened.values[name] for name in others}))
        made |= {name: targets.padded(name, out[_key(name)], height, width) for name in maps}
        item = targets.Item(image=targets.planes(image), name=opened.name, **made)
        if around is not None:
            shown = dict(zip(near, out["images"], strict=True))
            item.clip = self._clip(around, geometry, {0: window, **near}, {0: image, **shown}, (height, width))
        return item

    def _near(self, around: Surroundings, opened: Opened, geometry: Geometry, scale: int) -> dict[int, np.ndarray]:
        """The item's window [h, w, 3] of every frame around it, by its offset."""
        found = {}
        for offset, frame in around.frames.items():
            if frame.size != opened.size:
                sizes = " and ".join("{1}x{0}".format(*each.size) for each in (frame, opened))
                raise DataError(
                    f"{frame.name} and {opened.name} are {sizes} (width x height) — frames of a video are expected to "
                    "be of one size — remove the ones that do not belong to it, or set data.clip=null"
                )
            found[offset] = geometry.of_image(frame.read(scale), frame.size, scale)
        return found

    def _clip(
        self,
        around: Surroundings,
        geometry: Geometry,
        frames: Mapping[int, np.ndarray],
        shown: Mapping[int, np.ndarray],
        size: Size,
    ) -> Clip:
        """The clip of one item, without the axis of the batch, of images [h, w, 3] by their offsets."""
        flow = None
        if around.flow is not None:
            flow = torch.full((len(around.offsets), 2, *size), torch.nan)
            for place, offset in enumerate(around.offsets):
                if offset == 0:
                    flow[place, :, : geometry.window[0], : geometry.window[1]] = 0
                elif offset in around.flow:
                    moved = torch.from_numpy(geometry.of_flow(around.flow[offset]))
                    flow[place, :, : moved.shape[0], : moved.shape[1]] = moved.permute(2, 0, 1)
        stacked = [
            torch.stack([targets.planes(self._padded(images[offset], *size)) for offset in around.offsets])
            for images in (frames, shown)
        ]
        return Clip(
            frames=stacked[0],
            shown=stacked[1],
            index=torch.tensor(around.offsets.index(0)),
            offset=torch.tensor(around.offsets),
            flow=flow,
        )

    def _padded(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """An image [h, w, 3] at the top left of [height, width, 3], the fill colour around it."""
        if image.shape[:2] == (height, width):
            return image
        edges = (0, height - image.shape[0], 0, width - image.shape[1])
        return cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=self.fill)

    def geometry(self, opened: Opened, key: tuple[int, int, int]) -> Geometry:
        """Which pixels of an item training sees at ``key``; the image is not decoded."""
        return self._draw(opened, key)[0]

    def _draw(self, opened: Opened, key: tuple[int, int, int]) -> tuple[Geometry, dict[str, Nearest]]:
        """The geometry and the resized maps, by name. The pipeline's random numbers are those that follow."""
        generator, draw = generators(AUGMENT, *key)
        # One pair of generators for all steps: seeded each for itself, they would all draw the same numbers.
        self.pipeline.set_random_state(generator, draw)
        draw.random()  # decides nothing; published runs drew it, and their items are to be repeated
        size = opened.size if self.ratio is None else self._resized(opened.size, draw.uniform(*self.ratio))
        names = [name for name, target in targets.TARGETS.items() if target.is_map and name in opened.values]
        maps = {name: Nearest(opened.values[name], size) for name in names}
        offset, window = (0, 0), size
        if self.crop is not None:
            margins = [max(side - crop, 0) for side, crop in zip(size, self.crop, strict=True)]
            window = (size[0] - margins[0], size[1] - margins[1])
            offsets = _offsets(draw, margins)
            if "label" not in maps or self.max_share >= 1 or margins == [0, 0]:
                offset = next(offsets)
            else:
                look = partial(maps["label"].window, window)
                _, offset = choose_window(look, offsets, self.max_share, self.retries)
        flip = self.flip >= 1 or (self.flip > 0 and draw.random() < self.flip)
        return Geometry(size, offset, window, flip), maps

    def _resized(self, size: Size, factor: float) -> Size:
        base = self.long_short or size
        # One pixel stays one: 0 would bound the other side to 0 as well.
        return keep_ratio_size(size, [max(1, int(side * factor)) for side in base])

    def scale(self, opened: Opened, size: Size) -> int:
        """The scale that an image is decoded at: the largest that leaves no side smaller than that of ``size``."""
        if not self.scaled_decoding:
            return 1
        spare = min(side // new for side, new in zip(opened.size, size, strict=True))
        return max(scale for scale in opened.scales if scale <= max(spare, 1))


def _offsets(draw: random.Random, margins: Sequence[int]) -> Iterator[Size]:
    while True:
        yield draw.randint(0, margins[0]), draw.randint(0, margins[1])


def _keeps_places(step: Any) -> bool:
    """Whether a transform, or all in a group of them, changes colours only."""
    if isinstance(step, A.BaseCompose):
        return all(_keeps_places(each) for each in step.transforms)
    return isinstance(step, A.ImageOnlyTransform)


def _key(name: str) -> str:
    """What albumentations and the transforms of its users call a map."""
    return "mask" if name == "label" else name


def _is_range(values: Sequence[float]) -> bool:
    return len(values) == 2 and 0 <= values[0] <= values[1] < float("inf")


def _require(fine: bool, given: str, expected: str) -> None:
    if not fine:
        raise ConfigError(f"{given} — expected {expected} — change it in YAML or as an override")
