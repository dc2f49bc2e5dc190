"""The slow twin of the training pipeline: decode the image, resize all of it and of its label, crop, flip.

This is how items were made before the geometry was drawn first, kept as it was but for its checks, to say what the
faster pipeline must not change: :mod:`test_augment_twin` compares pixels, ``scripts/bench_data.py`` compares times.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets
from PIL import Image

from seglab.data import targets
from seglab.data.augment import AUGMENT, PhotoMetricDistortion, Size, is_diverse, keep_ratio_size
from seglab.data.source import FileSource, Sample


def read(source: FileSource, split: str, index: int) -> Sample:
    """An item with its label: both files decoded by Pillow, ids mapped as indices."""
    pair = source.pairs(split)[index]
    assert pair.label is not None
    with Image.open(source.path(pair.image)) as image:
        pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    with Image.open(source.path(pair.label)) as label:
        ids = np.take(source.table.table, np.asarray(label))
    assert not (ids == 254).any()
    return Sample(image=pixels, label=ids, name=pair.name)


def choose_window(
    label: np.ndarray, crop: Size, offsets: Iterable[Size], max_share: float, retries: int = 10
) -> tuple[int, Size]:
    """Number and offset (top, left) of the window taken: the first diverse one, or the one after ``retries`` anyway."""
    for number, (top, left) in enumerate(offsets):
        if number == retries or is_diverse(label[top : top + crop[0], left : left + crop[1]], max_share):
            return number, (top, left)
    raise ValueError(f"fewer than {retries + 1} candidate windows")


class RandomResize(A.DualTransform):
    """Resize to ``long_short`` times a random factor, shape kept: bilinear image, nearest label, no antialiasing.

    Args:
        long_short: (long, short) side that the factor multiplies; None is the image's own size.
        ratio: range of the factor, uniform.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, long_short: Sequence[int] | None, ratio: Sequence[float] = (0.5, 2.0), p: float = 1.0) -> None:
        super().__init__(p=p)
        self.long_short = long_short
        self.ratio = ratio

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the new (height, width)."""
        height, width = params["shape"][:2]
        base = self.long_short or (height, width)
        factor = self.py_random.uniform(*self.ratio)
        # One pixel stays one: 0 would bound the other side to 0 as well.
        return {"size": keep_ratio_size((height, width), [max(1, int(side * factor)) for side in base])}

    def apply(self, img: np.ndarray, size: Size = (0, 0), **params: Any) -> np.ndarray:
        """The image, resized."""
        return cv2.resize(img, size[::-1], interpolation=cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, size: Size = (0, 0), **params: Any) -> np.ndarray:
        """The label, resized."""
        return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)


class DiverseCrop(A.DualTransform):
    """A random window that is drawn again while one class dominates it; an image smaller than the window stays smaller.

    Without a label map, the first window is taken.

    Args:
        crop: (height, width).
        max_share: the largest class must cover less of the labelled pixels; 1 takes any window.
        retries: windows that may be refused; the next one is taken unchecked.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, crop: Sequence[int], max_share: float = 0.75, retries: int = 10, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.crop = (crop[0], crop[1])
        self.max_share = max_share
        self.retries = retries

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the window's offset."""
        margins = [max(side - crop, 0) for side, crop in zip(params["shape"], self.crop, strict=False)]
        label = data.get(_key("label"))
        if label is None or self.max_share >= 1 or margins == [0, 0]:
            return {"offset": next(self._draw(margins))}
        _, offset = choose_window(label, self.crop, self._draw(margins), self.max_share, self.retries)
        return {"offset": offset}

    def apply(self, img: np.ndarray, offset: Size = (0, 0), **params: Any) -> np.ndarray:
        """The window of image or label."""
        (top, left), (height, width) = offset, self.crop
        return img[top : top + height, left : left + width]

    def _draw(self, margins: Sequence[int]) -> Iterator[Size]:
        while True:
            yield self.py_random.randint(0, margins[0]), self.py_random.randint(0, margins[1])


class SlowDistortion(PhotoMetricDistortion):
    """The distortion with all three channels of HSV sent through tables."""

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
        table = _LEVELS.copy()
        if brightness is not None:
            table = _truncated(table + np.float32(brightness))
        if contrast is not None and contrast_first:
            table = _truncated(table * np.float32(contrast))
        if brightness is not None or (contrast is not None and contrast_first):
            img = cv2.LUT(img, table.astype(np.uint8))
        if saturation is not None:
            img = _on_hsv(img, 1, _truncated(_LEVELS * np.float32(saturation)))
        if hue is not None:
            img = _on_hsv(img, 0, (_LEVELS + hue) % 180)
        if contrast is not None and not contrast_first:
            img = cv2.LUT(img, _truncated(_LEVELS * np.float32(contrast)).astype(np.uint8))
        return img


_LEVELS = np.arange(256, dtype=np.float32)


def _truncated(levels: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(levels, 0, 255))


def _on_hsv(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """Send one channel of HSV through a table."""
    tables = np.stack([_LEVELS] * 3, axis=1).astype(np.uint8)
    tables[:, channel] = table
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, tables[:, None]), cv2.COLOR_HSV2RGB)


class SlowAugment:
    """``(sample, key) -> item``, with the arguments of :class:`seglab.data.augment.Augment`."""

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
    ) -> None:
        self.crop = None if crop is None else (crop[0], crop[1])
        steps: list[Any] = []
        if ratio is not None:
            steps.append(RandomResize(long_short, ratio))
        if self.crop is not None:
            steps.append(DiverseCrop(self.crop, cat_max_ratio, crop_retries))
        if flip > 0:
            steps.append(A.HorizontalFlip(p=flip))
        if photometric is not None:
            steps.append(photometric)
        others = {name: "mask" for name, target in targets.TARGETS.items() if target.is_map and _key(name) == name}
        self.pipeline = A.Compose([*steps, *extra], additional_targets=others)
        self.fill = np.array(fill, np.uint8)

    def __call__(self, sample: Sample, key: tuple[int, int, int]) -> targets.Item:
        generator = np.random.default_rng([AUGMENT, *key])
        # One pair of generators for all steps: seeded each for itself, they would all draw the same numbers.
        self.pipeline.set_random_state(generator, random.Random(int(generator.integers(1 << 62))))
        given = targets.given(sample)
        maps = [name for name in given if targets.TARGETS[name].is_map]
        out = self.pipeline(image=sample.image, **{_key(name): given[name] for name in maps})
        image = out["image"]
        size = image.shape[:2]
        height, width = size if self.crop is None else self.crop
        if size != (height, width):
            whole = np.empty((height, width, 3), np.uint8)
            whole[:] = self.fill
            whole[: size[0], : size[1]] = image
            image = whole
        made = targets.tensors({name: value for name, value in given.items() if name not in maps})
        made |= {name: targets.padded(name, out[_key(name)], height, width) for name in maps}
        return targets.Item(image=targets.planes(image), name=sample.name, **made)


def _key(name: str) -> str:
    """What albumentations and the transforms of its users call a map."""
    return "mask" if name == "label" else name
