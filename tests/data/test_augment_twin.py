"""The training pipeline makes what its slow twin makes, and decodes an image only when its geometry is drawn."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from seglab.data import augment as augmentation
from seglab.data import io
from seglab.data.augment import Augment, Geometry, Nearest, PhotoMetricDistortion
from seglab.data.datasets import CIFAR10, CamVid
from seglab.data.items import Items, TrainItems
from seglab.data.scenes import Scenes
from seglab.data.source import Opened, Sample
from seglab.errors import DataError

SIZES = [(37, 53), (53, 37), (20, 24), (9, 90), (90, 9), (7, 5), (150, 200)]
"""Odd ones, one smaller than the crop, long ones; (height, width)."""


@pytest.fixture(scope="module")
def twin():
    path = Path(__file__).with_name("slow_twin.py")
    spec = importlib.util.spec_from_file_location("slow_twin", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["slow_twin"] = module
    spec.loader.exec_module(module)
    return module


def photo(size, seed=0):
    """An image [H, W, 3] that is smooth here and rough there."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def regions(size, seed=0, classes=11):
    """A label [H, W] in which one class covers most."""
    rng = np.random.default_rng(seed)
    coarse = np.where(rng.random((6, 7)) < 0.6, 0, rng.integers(0, classes, (6, 7))).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)


@pytest.fixture
def source(mini, tmp_path):
    """CamVid with JPEGs and labels of all SIZES."""
    made = mini.camvid(tmp_path / "camvid")
    for split in ("train", "val", "test"):
        for folder in ("images", "labels"):
            for path in (made.root / split / folder).iterdir():
                path.unlink()
    for i, size in enumerate(SIZES):
        name = f"0001TP_{i:06d}"
        Image.fromarray(photo(size, i)).save(made.root / "train" / "images" / f"{name}.jpg", quality=90)
        Image.fromarray(regions(size, i)).save(made.root / "train" / "labels" / f"{name}.png")
    return CamVid(made.root)


def file(source, index, kind):
    pair = source.pairs("train")[index]
    return Path(source.path(getattr(pair, kind)))


def same(first, second):
    assert first.name == second.name
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.label, second.label)


STANDARD = {"crop": (32, 40), "ratio": (0.5, 2.0), "cat_max_ratio": 0.6}
OPTIONS = {
    "standard": {},
    "own size": {"ratio": None},
    "keep-ratio": {"long_short": (128, 32)},  # as ADE20K's 2048 and 512
    "long side decides": {"long_short": (60, 60)},
    "extremes": {"ratio": (0.02, 8.0)},
    "half": {"ratio": (0.5, 0.5)},  # where OpenCV averages 2x2 pixels
    "whole images": {"crop": None},
    "always flipped": {"flip": 1.0},
    "never flipped": {"flip": 0.0},
    "any crop": {"cat_max_ratio": 1.0},
    "extra": {
        "extra": [
            A.Pad(padding=4, fill_mask=255),
            A.RandomCrop(30, 36, pad_if_needed=True, fill_mask=255),
            A.GaussNoise(p=0.5),
        ]
    },
    "padded by extra": {"extra": [A.PadIfNeeded(48, 50, fill_mask=255), A.RandomCrop(32, 40)]},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_pixel_is_that_of_decode_resize_all_and_crop(option, source, twin):
    options = {**STANDARD, **OPTIONS[option], "fill": (124, 116, 104)}
    fast = Augment(photometric=PhotoMetricDistortion(), **options)
    slow = twin.SlowAugment(photometric=twin.SlowDistortion(), **options)
    items = Items(source, ["train"])
    for epoch in range(12):
        for index in range(len(SIZES)):
            key = (3, epoch, index)
            same(fast(items.open(index), key), slow(twin.read(source, "train", index), key))


def test_the_same_key_draws_the_same_window_mirror_and_retries(twin):
    """Every pixel says where it comes from, and most windows are refused by the category ratio."""
    rows, columns = np.mgrid[:60, :80].astype(np.uint8)
    label = np.where((rows > 40) & (columns > 50), 1, 0).astype(np.uint8)
    sample = Sample(image=np.dstack([rows, columns, rows]), label=label, name="a")
    options = {"crop": (24, 32), "ratio": (0.6, 1.7), "cat_max_ratio": 0.9}
    fast, slow = Augment(**options), twin.SlowAugment(**options)
    for index in range(300):
        same(fast(Opened.of(sample), (1, 0, index)), slow(sample, (1, 0, index)))


# Recorded with the first version: (seed, epoch, index) -> size, offset, mirrored.
DRAWN = {
    (0, 0, 0): ((546, 728), (23, 105), True),
    (0, 0, 1): ((323, 431), (0, 0), True),
    (0, 1, 0): ((998, 1331), (34, 419), False),
    (3, 7, 20209): ((713, 951), (32, 200), False),
    (2**31, 159999, 5): ((547, 730), (18, 187), False),
    (1, 0, 2): ((405, 540), (0, 11), False),
}


@pytest.mark.parametrize("key", DRAWN)
def test_the_geometry_of_ade20ks_protocol_is_that_of_the_first_version(key):
    rows, columns = np.mgrid[:512, :683]
    label = (rows // 128 * 3 + columns // 171) % 7
    label[200:][label[200:] <= 4] = 0  # most windows are dominated by one class
    opened = Opened(name="a", size=(512, 683), read=lambda scale: 1 / 0, values={"label": label.astype(np.uint8)})
    geometry = Augment(crop=(512, 512), long_short=(2048, 512)).geometry(opened, key)
    assert (geometry.size, geometry.offset, geometry.flip) == DRAWN[key]
    assert geometry.window == tuple(min(side, 512) for side in geometry.size)


def test_a_window_alone_has_the_bytes_of_the_whole_resized():
    rng = np.random.default_rng(5)
    for number in range(400):
        old = tuple(int(side) for side in rng.integers(1, 160, 2))
        new = tuple(int(side) for side in rng.integers(1, 240, 2))
        new = {0: old, 1: (2 * old[0], 2 * old[1]), 2: tuple((side + 1) // 2 for side in old)}.get(number % 9, new)
        window = tuple(int(rng.integers(1, side + 1)) for side in new)
        top, left = (int(rng.integers(0, side - part + 1)) for side, part in zip(new, window, strict=True))
        cut = np.s_[top : top + window[0], left : left + window[1]]
        image = rng.integers(0, 256, (*old, 3), dtype=np.uint8)
        geometry = Geometry(new, (top, left), window, flip=False)
        assert np.array_equal(geometry.of_image(image, old), cv2.resize(image, new[::-1])[cut]), (old, geometry)
        for label in (image[..., 0], image[..., 0].astype(np.int32) * 1000, image[..., 0].astype(np.float32)):
            whole = cv2.resize(label, new[::-1], interpolation=cv2.INTER_NEAREST)
            assert np.array_equal(geometry.of_map(Nearest(label, new)), whole[cut]), (old, geometry)
            mirrored = geometry._replace(flip=True).of_map(Nearest(label, new))
            assert np.array_equal(mirrored, whole[cut][:, ::-1])


@pytest.mark.parametrize("size", [(1, 1), (3, 301), (33, 7), (65, 129)])
def test_colours_do_not_depend_on_the_bands_that_they_are_distorted_in(size, twin, monkeypatch):
    image = photo(size)
    fast, slow = PhotoMetricDistortion(), twin.SlowDistortion()
    for seed in range(40):
        fast.set_random_seed(seed)
        params = fast.get_params()
        assert np.array_equal(fast.apply(image, **params), slow.apply(image, **params))
        monkeypatch.setattr(augmentation, "BAND", 5)
        assert np.array_equal(fast.apply(image, **params), slow.apply(image, **params))
        monkeypatch.undo()


def test_the_label_is_looked_at_before_the_image_is_decoded(source, monkeypatch):
    happened = []
    diverse, decode = augmentation.is_diverse, io.read_image
    monkeypatch.setattr(augmentation, "is_diverse", lambda *a: happened.append("label") or diverse(*a))
    monkeypatch.setattr(io, "read_image", lambda *a, **k: happened.append("image") or decode(*a, **k))
    augment = Augment(**{**STANDARD, "ratio": (1.5, 2.0), "cat_max_ratio": 0.01, "crop_retries": 6})
    opened = source.open("train", 6)
    assert opened.size == (150, 200)
    augment.geometry(opened, (0, 0, 0))
    assert happened == ["label"] * 6
    augment(opened, (0, 0, 0))
    assert happened == ["label"] * 12 + ["image"]


def test_an_item_without_a_label_is_refused_before_its_image_is_decoded(source, monkeypatch):
    decoded = []
    monkeypatch.setattr(io, "read_image", lambda *a, **k: decoded.append(a))
    source.unlabelled = ("train",)
    with pytest.raises(DataError, match=r"0001TP_000000: no label, which the task learns from"):
        TrainItems(Items(source, ["train"]), Augment(**STANDARD), 0)[0, 0]
    assert not decoded


@pytest.mark.parametrize("kind", ["palette", "16 bit", "grey image"])
def test_files_of_every_kind_are_read_as_before(kind, source, twin):
    path = file(source, 0, "label")
    ids = np.array(Image.open(path))
    if kind == "palette":
        label = Image.fromarray(ids).convert("P")
        label.putdata(ids.ravel().tolist())
        label.putpalette([9, 200, 31] * 256)
        label.save(path)
        assert Image.open(path).mode == "P"
    elif kind == "16 bit":
        Image.fromarray(ids.astype(np.uint16)).save(path)
        assert Image.open(path).mode.startswith("I")
    else:
        Image.fromarray(photo(SIZES[0])[..., 0]).save(file(source, 0, "image"))
    fast, slow = Augment(**STANDARD), twin.SlowAugment(**STANDARD)
    for epoch in range(6):
        key = (0, epoch, 0)
        same(fast(source.open("train", 0), key), slow(twin.read(source, "train", 0), key))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_has_its_upright_size_before_it_is_decoded(orientation, source):
    exif = Image.Exif()
    exif[io.ORIENTATION] = orientation
    stored, path = photo(SIZES[0]), file(source, 0, "image")
    Image.fromarray(stored).save(path, exif=exif, quality=90)
    pixels = np.asarray(Image.open(path))
    for exif in ("ignore", "apply"):
        opened = CamVid(source.root, exif=exif).open("train", 0)
        expected = io.orient(pixels, orientation) if exif == "apply" else pixels
        assert opened.size == expected.shape[:2]
        assert opened.values["label"].shape == opened.size
        assert np.array_equal(opened.read(1), expected)


def test_what_is_opened_is_what_is_read(source, cifar10_miniature, tmp_path):
    cifar10_miniature.write(tmp_path / "cifar", per_class=1)
    for other in (source, CIFAR10(tmp_path / "cifar"), Scenes(size=(16, 24))):
        read, opened = other.read("train", 3), other.open("train", 3)
        assert opened.size == read.image.shape[:2]
        made = opened.sample()
        assert np.array_equal(made.image, read.image)
        assert np.array_equal(made.label, read.label)
        assert (made.name, made.category) == (read.name, read.category)


def test_an_image_that_breaks_when_it_is_decoded_is_named_or_skipped(source):
    path = file(source, 6, "image")
    path.write_bytes(path.read_bytes()[:-600])  # its header is whole
    items, augment = Items(source, ["train"]), Augment(**STANDARD)
    assert augment.geometry(items.open(6), (0, 0, 6)).size > (0, 0)
    with pytest.raises(DataError, match=rf"{path.name}.*truncated.*data\.on_corrupt=skip"):
        TrainItems(items, augment, 0)[0, 6]
    skipping = TrainItems(items, augment, 0, on_corrupt="skip")
    item = skipping[0, 6]
    assert item.name.endswith("0001TP_000000")
    same(item, augment(items.open(0), (0, 0, 6)))  # drawn for the item that was asked for
    assert skipping.corrupt.tolist() == [False] * 6 + [True]


# Decoding at a reduced size


def test_images_are_decoded_whole_unless_reduced_ones_are_asked_for(source, monkeypatch):
    scales = []
    decode = io.read_image
    monkeypatch.setattr(io, "read_image", lambda *a, **k: scales.append(k["scale"]) or decode(*a, **k))
    for scaled, ratio in ((False, 0.1), (True, 0.1), (True, 0.25), (True, 0.3), (True, 0.5), (True, 0.6), (True, 2.0)):
        Augment(crop=(16, 16), ratio=(ratio, ratio), scaled_decoding=scaled)(source.open("train", 6), (0, 0, 0))
    assert scales == [1, 8, 4, 2, 2, 1, 1]
    file(source, 6, "image").unlink()
    Image.fromarray(photo(SIZES[6])).save(file(source, 6, "image").with_suffix(".png"))
    png = CamVid(source.root)
    assert png.open("train", 6).scales == (1,)
    Augment(crop=(16, 16), ratio=(0.1, 0.1), scaled_decoding=True)(png.open("train", 6), (0, 0, 0))
    assert scales[-1] == 1


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_a_reduced_image_is_rounded_up_and_turned_like_a_whole_one(scale, source):
    exif = Image.Exif()
    exif[io.ORIENTATION] = 6
    path = file(source, 0, "image")
    Image.fromarray(photo((37, 53))).save(path, exif=exif)
    for exif, size in (("ignore", (37, 53)), ("apply", (53, 37))):
        reduced = CamVid(source.root, exif=exif).open("train", 0).read(scale)
        assert reduced.shape == (-(-size[0] // scale), -(-size[1] // scale), 3)
        assert reduced.dtype == np.uint8


@pytest.mark.parametrize("size", [(160, 240), (157, 235)])
@pytest.mark.parametrize("factor", [0.12, 0.2, 0.4])
def test_a_reduced_image_lies_where_the_whole_one_does(size, factor, source):
    """A ramp has no details that antialiasing could change, but half a pixel's shift would show."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    ramp = np.dstack([rows * 255 / size[0], columns * 255 / size[1], 0 * rows])
    path = file(source, 0, "image")
    Image.fromarray(ramp.round().astype(np.uint8)).save(path, quality=100, subsampling=0)
    Image.fromarray(regions(size)).save(file(source, 0, "label"))
    options = {"crop": (16, 24), "ratio": (factor, factor), "flip": 0.5}
    for epoch in range(8):
        whole, reduced = (
            Augment(scaled_decoding=scaled, **options)(source.open("train", 0), (0, epoch, 0))
            for scaled in (False, True)
        )
        assert torch.equal(whole.label, reduced.label)
        difference = (whole.image - reduced.image.float()).mean((1, 2))
        assert difference.abs().max() < 0.4  # half a pixel of the stored image is 0.5 or more
