"""Training augmentation as mmsegmentation made it the field's standard; the only file that imports albumentations.

Resize by a random factor, crop so that no class covers too much, flip, distort the colours, pad. Images stay uint8: the
network normalises them. Random numbers depend on (seed, epoch, index) alone, so that any worker makes the same pixels
of an item.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# albumentations asks a package index for updates when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets

from seglab.data import targets
from seglab.data.source import Sample
from seglab.errors import ConfigError
from seglab.types import IGNORE

Size = tuple[int, int]
"""(height, width) of an image, or (top, left) of a window."""

AUGMENT = 0xA06
"""Separates the random numbers of the augmentation from those of the order."""


def keep_ratio_size(size: Size, long_short: Sequence[int]) -> Size:
    """(height, width) >= 1 of an image of ``size`` made to fit a long and a short side, shape kept."""
    factor = min(max(long_short) / max(size), min(long_short) / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def is_diverse(label: np.ndarray, max_share: float) -> bool:
    """Whether a window [h, w] uint8 shows two classes, the larger below ``max_share`` of the labelled pixels."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()[:IGNORE]
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_share)


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

    def _chosen(self) -> bool:
        return self.py_random.random() < self.each


_LEVELS = np.arange(256, dtype=np.float32)


def _truncated(levels: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(levels, 0, 255))


def _on_hsv(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """Send one channel of HSV through a table."""
    tables = np.stack([_LEVELS] * 3, axis=1).astype(np.uint8)
    tables[:, channel] = table
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, tables[:, None]), cv2.COLOR_HSV2RGB)


class Augment:
    """``(sample, key) -> item``: the image [H, W, 3] uint8 and every target of a sample, augmented together.

    Args:
        crop: (height, width) of what training sees; None keeps the resized image whole.
        long_short: (long, short) side before the random factor, shape kept; None is the image's own size.
        ratio: range of the random factor; null resizes nothing.
        cat_max_ratio: largest share of one class in a crop; 1 takes any crop.
        crop_retries: crops refused for that before one is taken unchecked.
        flip: probability of mirroring left and right.
        photometric: the colour distortion; None leaves colours alone.
        extra: albumentations transforms of image, or image and mask (the label), that leave an image uint8. Those that
            uncover pixels need ``fill_mask: 255``.
        fill: (r, g, b) that images smaller than the crop are padded with; the mean colour, unless it is set.
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
        """Augment one item; the same ``key`` (seed, epoch, index) gives the same result.

        Raises:
            ConfigError: ``extra`` or ``photometric`` makes an image that is not uint8 RGB or larger than the crop.
        """
        generator = np.random.default_rng([AUGMENT, *key])
        # One pair of generators for all steps: seeded each for itself, they would all draw the same numbers.
        self.pipeline.set_random_state(generator, random.Random(int(generator.integers(1 << 62))))
        given = targets.given(sample)
        maps = [name for name in given if targets.TARGETS[name].is_map]
        out = self.pipeline(image=sample.image, **{_key(name): given[name] for name in maps})
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
        if size != (height, width):
            whole = np.empty((height, width, 3), np.uint8)
            whole[:] = self.fill
            whole[: size[0], : size[1]] = image
            image = whole
        made: dict[str, Any] = dict(targets.tensors({n: value for n, value in given.items() if n not in maps}))
        made |= {name: targets.padded(name, out[_key(name)], height, width) for name in maps}
        return targets.Item(image=targets.planes(image), name=sample.name, **made)


def _key(name: str) -> str:
    """What albumentations and the transforms of its users call a map."""
    return "mask" if name == "label" else name


def _is_range(values: Sequence[float]) -> bool:
    return len(values) == 2 and 0 <= values[0] <= values[1] < float("inf")


def _require(fine: bool, given: str, expected: str) -> None:
    if not fine:
        raise ConfigError(f"{given} — expected {expected} — change it in YAML or as an override")
