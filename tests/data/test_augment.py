from __future__ import annotations

import random

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from seglab.data.augment import (
    Augment,
    PhotoMetricDistortion,
    choose_window,
    is_diverse,
    keep_ratio_size,
)
from seglab.data.source import Opened, Sample
from seglab.errors import ConfigError

RNG = np.random.default_rng(0)


def scene(height=40, width=60, classes=5):
    image = cv2.resize(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8), (width, height))
    label = cv2.resize(
        RNG.integers(0, classes, (5, 6), dtype=np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return image, label


@pytest.mark.parametrize(
    ("size", "long_short", "expected"),
    [
        ((512, 683), (2048, 512), (512, 683)),  # the short side decides
        ((100, 900), (2048, 512), (228, 2048)),  # the long side decides
        ((683, 512), (2048, 512), (683, 512)),  # orientation does not matter
        ((1024, 2048), (2048, 1024), (1024, 2048)),
        ((375, 500), (520, 520), (390, 520)),
        ((300, 400), (1023, 255), (255, 340)),
        ((1, 20000), (2048, 512), (1, 2048)),  # a side keeps one pixel
        ((20000, 1), (10000, 1), (10000, 1)),
    ],
)
def test_keep_ratio_follows_the_published_arithmetic(size, long_short, expected):
    assert keep_ratio_size(size, long_short) == expected


def drawn(augment, size=(40, 60), label=None, count=200):
    """The geometries of one item in ``count`` epochs."""
    opened = Opened.of(Sample(image=np.zeros((*size, 3), np.uint8), label=label, name="a"))
    return [augment.geometry(opened, (0, epoch, 0)) for epoch in range(count)]


def test_the_factor_is_drawn_and_the_target_truncated():
    sizes = {geometry.size for geometry in drawn(Augment(crop=None))}
    assert min(sizes) >= (20, 30)
    assert max(sizes) <= (80, 120)
    assert max(sizes)[0] - min(sizes)[0] > 50


def test_resizing_is_opencvs_bilinear_and_nearest():
    image, label = scene()
    out, target = augmented(Augment(crop=None, long_short=(90, 60), ratio=(1.0, 1.0), flip=0), image, label, (0, 0, 0))
    assert np.array_equal(planes(out), cv2.resize(image, (90, 60), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(target, cv2.resize(label, (90, 60), interpolation=cv2.INTER_NEAREST))


def planes(image):
    """[H, W, 3] of an item's image."""
    return image.permute(1, 2, 0).numpy()


def test_a_window_needs_two_classes_and_none_that_dominates():
    half = np.repeat(np.uint8([[0, 1]]), 2, axis=1)
    assert is_diverse(half, 0.75)
    assert not is_diverse(np.uint8([[0, 0, 0, 1]]), 0.75)  # exactly the share is too much
    assert not is_diverse(np.uint8([[2, 2]]), 0.75)
    assert not is_diverse(np.uint8([[2, 255]]), 0.75)  # void is no class
    assert not is_diverse(np.uint8([[255, 255]]), 0.75)
    assert is_diverse(np.uint8([[0, 1, 255, 255, 255, 255]]), 0.75)  # and no part of the whole


def test_the_eleventh_window_is_taken_unchecked():
    label = np.zeros((4, 8), np.uint8)
    label[:, 6:] = 1
    dull, good = (0, 0), (0, 4)

    def window(offset):
        return label[:, offset[1] : offset[1] + 4]

    assert choose_window(window, [dull] * 3 + [good], 0.75) == (3, good)
    assert choose_window(window, [dull] * 10 + [good], 0.75) == (10, good)
    assert choose_window(window, [dull] * 11 + [good], 0.75) == (10, dull)
    assert choose_window(window, [dull, good], 0.75, retries=0) == (0, dull)


def test_the_cropped_window_is_inside_and_reaches_all_borders():
    found = drawn(Augment(crop=(38, 57), ratio=None, cat_max_ratio=1.0))
    assert {geometry.window for geometry in found} == {(38, 57)}
    assert {geometry.offset[0] for geometry in found} == {0, 1, 2}
    assert {geometry.offset[1] for geometry in found} == {0, 1, 2, 3}


def distorted(image, brightness, contrast, contrast_first, saturation, hue):
    """The published steps, one after the other on pixels."""

    def scaled(pixels, factor=1.0, shift=0.0):
        return np.clip(pixels.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)

    if brightness is not None:
        image = scaled(image, shift=brightness)
    if contrast is not None and contrast_first:
        image = scaled(image, contrast)
    if saturation is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = scaled(hsv[..., 1], saturation)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if hue is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if contrast is not None and not contrast_first:
        image = scaled(image, contrast)
    return image


def test_colours_are_distorted_step_by_step_with_truncation():
    image = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    step = PhotoMetricDistortion()
    drawn = []
    for seed in range(200):
        step.set_random_seed(seed)
        params = step.get_params()
        assert np.array_equal(step.apply(image, **params), distorted(image, **params))
        drawn.append(params)
    for key in ("brightness", "contrast", "saturation", "hue"):
        values = [params[key] for params in drawn if params[key] is not None]
        assert 60 < len(values) < 140  # every second time
        low, high = {"brightness": (-32, 32), "hue": (-18, 17)}.get(key, (0.5, 1.5))
        assert low <= min(values) < low + (high - low) / 10
        assert high - (high - low) / 10 < max(values) <= high
    assert 60 < sum(params["contrast_first"] for params in drawn) < 140


def augmented(augment, image, label, key):
    """Image and label of an augmented sample."""
    item = augment(Opened.of(Sample(image=image, label=label, name="a")), key)
    assert item.name == "a"
    assert item.category is None
    return item.image, item.label


def standard(**options):
    return Augment(**{"crop": (32, 48), "photometric": PhotoMetricDistortion(), **options})


def test_the_result_is_a_function_of_seed_epoch_and_index():
    image, label = scene()
    key = (1, 2, 3)
    augment, another = standard(), standard()
    first = augmented(augment, image, label, key)
    augmented(augment, image, label, (9, 9, 9))
    for again in (augmented(augment, image, label, key), augmented(another, image, label, key)):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not torch.equal(first[0], augmented(augment, image, label, other)[0])


def test_the_steps_do_not_share_their_random_numbers():
    """Seeded each for itself, the flip would follow the resize factor."""
    image, label = scene()
    plain = Augment(crop=None, flip=0.5)
    pairs = []
    for i in range(300):
        out = augmented(plain, image, label, (0, 0, i))[1]
        unflipped = cv2.resize(label, (out.shape[1], out.shape[0]), interpolation=cv2.INTER_NEAREST)
        pairs.append((out.shape[0], not np.array_equal(out.numpy(), unflipped)))
    sizes, flips = np.array(pairs, float).T
    assert abs(np.corrcoef(sizes, flips)[0, 1]) < 0.2
    assert 0.4 < flips.mean() < 0.6


def test_padding_is_the_mean_colour_and_void():
    image, label = scene(20, 30)
    augment = Augment(crop=(32, 48), ratio=None, flip=0, fill=(124, 116, 104))
    out, target = augmented(augment, image, label, (0, 0, 0))
    assert out.shape == (3, 32, 48)
    assert out.dtype == torch.uint8
    assert out.is_contiguous()
    assert target.dtype == torch.int64
    assert torch.equal(target[:20, :30], torch.from_numpy(label).long())
    assert (target[20:] == 255).all()
    assert (target[:, 30:] == 255).all()
    assert torch.equal(out[:, :20, :30], torch.from_numpy(image).permute(2, 0, 1))
    for outside in (out[:, 20:], out[:, :, 30:]):
        assert outside.flatten(1).unique(dim=1).tolist() == [[124], [116], [104]]


class Blank(A.ImageOnlyTransform):
    """Makes something else of the image."""

    def __init__(self, made):
        super().__init__(p=1.0)
        self.made = made

    def apply(self, img, **params):
        return self.made


@pytest.mark.parametrize("made", [np.zeros((32, 48, 3), np.float32), np.zeros((32, 48, 1), np.uint8)], ids=str)
@pytest.mark.parametrize("key", ["extra", "photometric"])
def test_transforms_that_give_anything_but_an_rgb_image_of_8_bits_are_refused(made, key):
    image, label = scene()
    step = [Blank(made)] if key == "extra" else Blank(made)
    with pytest.raises(ConfigError, match=r"augment\.extra .*expected uint8 \[height, width, 3\]"):
        augmented(standard(**{key: step}), image, label, (0, 0, 0))
    with pytest.raises(ConfigError, match=r"augment\.extra .*float32"):
        augmented(standard(extra=[A.Normalize()]), image, label, (0, 0, 0))


def test_inputs_are_not_written_to():
    image, label = scene()
    before = image.copy(), label.copy()
    image.flags.writeable = label.flags.writeable = False
    for i in range(20):
        augmented(standard(), image, label, (0, 0, i))
    assert np.array_equal(image, before[0])
    assert np.array_equal(label, before[1])


def test_extra_transforms_of_albumentations_join_in():
    image, label = scene()
    extra = standard(
        extra=[A.GaussNoise(p=1.0), A.VerticalFlip(p=1.0)], ratio=None, flip=0, cat_max_ratio=1.0, photometric=None
    )
    out, target = augmented(extra, image[:32, :48], label[:32, :48], (0, 0, 0))
    assert torch.equal(target, torch.from_numpy(label[:32, :48][::-1].copy()).long())
    assert torch.equal(out, augmented(extra, image[:32, :48], label[:32, :48], (0, 0, 0))[0])
    with pytest.raises(ConfigError, match="augment.extra"):
        augmented(standard(extra=[A.Resize(99, 99)]), image, label, (0, 0, 0))


@pytest.mark.parametrize(
    "wrong",
    [{"crop": (0, 5)}, {"long_short": (5,)}, {"ratio": (2, 1)}, {"flip": 2}, {"fill": (0, 300, 0)}, {"fill": (0,)}],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"augment.{next(iter(wrong))}="):
        Augment(**wrong)


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1)])
@pytest.mark.parametrize("long_short", [None, (2048, 512)])
def test_an_image_one_pixel_wide_is_augmented_like_any_other(size, long_short):
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    label = RNG.integers(0, 3, size, dtype=np.uint8)
    augment = Augment(crop=(16, 24), long_short=long_short, photometric=PhotoMetricDistortion())
    for epoch in range(8):
        out, target = augmented(augment, image, label, (0, epoch, 0))
        assert out.shape == (3, 16, 24)
        assert target.shape == (16, 24)
        assert set(target.unique().tolist()) - {255} <= set(np.unique(label).tolist())
        assert (target != 255).any()


def test_one_pixel_is_not_resized_to_none():
    (geometry,) = drawn(Augment(crop=None, ratio=(0.01, 0.01)), (40, 40), count=1)
    assert geometry.size == (1, 1)


DRAWN = [[25, 39, 5, 19], [6, 28, 9, 32], [24, 7, 16, 33]]
DISTORTED = {"brightness": 2.83067, "contrast": 1.10392, "contrast_first": False, "saturation": 0.513168, "hue": None}


def test_the_random_numbers_of_an_item_are_those_of_before():
    """Recorded with the first version: another order of draws would silently change every published run."""
    rows, columns = np.mgrid[:40, :60]
    image, drawn = np.dstack([rows, columns, rows]).astype(np.uint8), []
    augment = Augment(crop=(20, 20), ratio=(0.8, 1.4), cat_max_ratio=0.4)
    for epoch in range(3):
        _, columns_seen = augmented(augment, image, columns.astype(np.uint8), (7, epoch, 11))
        _, rows_seen = augmented(augment, image, rows.astype(np.uint8), (7, epoch, 11))
        drawn.append([*columns_seen[0, [0, -1]].tolist(), *rows_seen[[0, -1], 0].tolist()])
    assert drawn == DRAWN
    step = PhotoMetricDistortion()
    step.set_random_state(np.random.default_rng(3), random.Random(3))
    found = {key: value and round(float(value), 6) for key, value in step.get_params().items()}
    assert found == DISTORTED


def test_without_a_label_map_the_first_window_is_taken_and_the_class_stays():
    image, label = scene()
    flat = np.zeros_like(label)  # no window is diverse: with a label, ten are drawn again
    augment = standard(cat_max_ratio=0.5, crop=(16, 16), extra=[A.VerticalFlip(p=0.5)])
    sample = Opened.of(Sample(image=image, category=3, name="a"))
    item, again = augment(sample, (0, 0, 1)), augment(sample, (0, 0, 1))
    assert torch.equal(item.image, again.image)
    assert item.image.shape == (3, 16, 16)
    assert (item.category.dtype, item.category.shape, item.category.item()) == (torch.int64, (), 3)
    assert item.label is None
    both = augment(Opened.of(Sample(image=image, category=3, label=flat, name="a")), (0, 0, 1))
    assert both.category == 3
    assert both.label.shape == (16, 16)
    assert not torch.equal(both.image, item.image)


@pytest.mark.parametrize("extra", [[], [A.Affine(translate_px=(-9, 9), rotate=(-20, 20), fill_mask=255, p=1.0)]])
def test_a_map_of_metres_goes_with_the_label_and_is_unknown_wherever_the_label_is_void(extra):
    image, label = scene(40, 60, classes=30)
    depth = label.astype(np.float32) + 1.5
    opened = Opened.of(Sample(image=image, label=label, depth=depth, name="a"))
    augment = Augment(crop=(48, 52), photometric=None, cat_max_ratio=1.0, extra=extra)
    made = [augment(opened, (0, epoch, 0)) for epoch in range(8)]
    for item in made:
        assert item.depth.dtype == torch.float32
        assert torch.equal(item.depth, torch.where(item.label == 255, 0.0, item.label + 1.5))
    void = torch.stack([item.label == 255 for item in made])
    assert void.any()
    assert not void.all()
