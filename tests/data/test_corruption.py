"""Images that are corrupted for an evaluation: which pixels, and always the same ones."""

from __future__ import annotations

import io
import json
from functools import lru_cache

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from seglab import build, cli
from seglab.data import DataModule
from seglab.data.augment import Augment
from seglab.data.datasets import CamVid
from seglab.errors import ConfigError
from tests.conftest import options

NAMES = [name for name in options("corruption") if name != "none"]
SPLITS = {"train": "train", "val": "val", "test": "test"}


@lru_cache  # composing takes longer than corrupting
def node(*overrides: str) -> str:
    return json.dumps(cli.compose("evaluate", ["ckpt=x", "output=x", *overrides])["corruption"])


def corruption(*overrides: str):
    return build.build_corruption(json.loads(node(*overrides)))


def own(transform: str, *overrides: str):
    """One that a user types."""
    return corruption(f"corruption.transform={transform}", *overrides)


@pytest.fixture
def image():
    """[60, 80, 3], as smooth as a photograph; may not be written to."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    made = cv2.resize(coarse, (80, 60), interpolation=cv2.INTER_CUBIC)
    made.flags.writeable = False
    return made


@pytest.mark.parametrize("name", NAMES)
def test_an_image_keeps_its_size_and_changes_the_more_the_higher_the_severity(name, image):
    changes = [0.0]
    for severity in (1, 2, 3):
        made = corruption(f"corruption={name}", f"corruption.severity={severity}")(image, 0)
        assert (made.shape, made.dtype) == (image.shape, np.uint8)
        changes.append(np.abs(made.astype(int) - image).mean())
    assert np.diff(changes).min() > 0.3, changes


def test_none_is_no_corruption():
    assert corruption("corruption=none") is None
    assert build.build_corruption(None) is None


@pytest.mark.parametrize(("severity", "amount"), enumerate((0.15, 0.3, 0.45), 1))
def test_brightness_adds_exactly_its_amount(image, severity, amount):
    made = corruption("corruption=brightness", f"corruption.severity={severity}")(image, 5)
    assert np.abs(made - np.clip(image + 255 * amount, 0, 255)).max() <= 1


@pytest.mark.parametrize(("severity", "factor"), enumerate((0.6, 0.4, 0.2), 1))
def test_contrast_shrinks_differences_from_the_mean_grey_level(image, severity, factor):
    made = corruption("corruption=contrast", f"corruption.severity={severity}")(image, 5)
    mean = (image @ [0.299, 0.587, 0.114]).mean()
    assert np.abs(made - (mean + factor * (image - mean))).max() <= 1.5


@pytest.mark.parametrize(("severity", "transmission"), enumerate((0.7, 0.5, 0.3), 1))
def test_fog_blends_with_light_grey(image, severity, transmission):
    made = corruption("corruption=fog", f"corruption.severity={severity}")(image, 5)
    assert np.abs(made - (transmission * image + (1 - transmission) * 0.9 * 255)).max() <= 1


@pytest.mark.parametrize(("severity", "share"), enumerate((0.05, 0.1, 0.2), 1))
def test_noise_has_its_standard_deviation(severity, share):
    grey = np.full((100, 100, 3), 128, np.uint8)
    made = corruption("corruption=noise", f"corruption.severity={severity}")(grey, 0).astype(float)
    assert made.std() == pytest.approx(255 * share, rel=0.05)
    assert made.mean() == pytest.approx(128, abs=1.5)


def test_jpeg_is_that_of_the_rgb_image(image):
    made = corruption("corruption=jpeg", "corruption.severity=2")(image, 0)
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=15)
    decoded = np.array(Image.open(encoded)).astype(int)
    assert np.abs(made - decoded).mean() < 0.1


def test_noise_is_a_function_of_seed_and_index(image):
    first, again = corruption("corruption=noise"), corruption("corruption=noise")
    made = [first(image, index) for index in range(3)]
    for index in (2, 0, 1):  # in any order
        assert np.array_equal(again(image, index), made[index])
    assert not np.array_equal(made[0], made[1])
    other = corruption("corruption=noise", "corruption.seed=1")
    assert not np.array_equal(other(image, 0), made[0])


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    from tests.data.conftest import MINIATURES

    return MINIATURES.camvid(tmp_path_factory.mktemp("camvid")).root


def evaluated(root, chosen, ranks: int = 1, **loading) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Image and label of every test item, by name, as the loaders of all processes give them."""
    found = {}
    for rank in range(ranks):
        data = DataModule(CamVid, root=root, splits=SPLITS, augment=Augment(), persistent_workers=False, **loading)
        data.corruption = chosen
        data._place = lambda rank=rank: (rank, ranks)
        for batch in (batch for batches in data.test_dataloader() for batch in batches):
            found |= {name: (batch.image[i], batch.label[i]) for i, name in enumerate(batch.names)}
    return found


def test_any_workers_batches_processes_and_networks_see_the_same_images_with_their_labels(camvid):
    clean = evaluated(camvid, None, num_workers=0)
    noisy = evaluated(camvid, corruption("corruption=noise"), num_workers=0)
    ways = [
        {"num_workers": 2},
        {"num_workers": 0, "eval_batch_size": 3},
        {"num_workers": 0, "ranks": 2},
        {"num_workers": 0, "seed": 9},  # that of a network's training
    ]
    for way in ways:
        found = evaluated(camvid, corruption("corruption=noise"), **way)
        assert found.keys() == noisy.keys()
        assert all(torch.equal(found[name][0], noisy[name][0]) for name in noisy), way
    assert len(clean) == 4
    for name, (image, label) in clean.items():
        assert not torch.equal(noisy[name][0], image)
        assert torch.equal(noisy[name][1], label)


def test_training_sees_no_corruption(camvid):
    data = DataModule(CamVid, root=camvid, splits=SPLITS, augment=Augment(crop=None, ratio=None, flip=0), batch_size=1)
    before = data.probe()
    data.corruption = corruption("corruption=noise")
    assert torch.equal(data.probe().image, before.image)


def test_a_transform_of_ones_own_is_applied_to_every_image(image):
    mine = own("{_target_: albumentations.InvertImg}")
    assert all(np.array_equal(mine(image, index), 255 - image) for index in range(8))
    assert mine.record() == {
        "name": "InvertImg",
        "severity": None,
        "seed": 0,
        "transform": {"_target_": "albumentations.InvertImg", "p": 1.0},
    }
    some = own("{_target_: albumentations.InvertImg, p: 0.5}")
    assert len({some(image, index)[0, 0, 0] for index in range(8)}) == 2, "unless it says otherwise"


def test_severities_of_ones_own_are_listed(image):
    levels = "corruption.levels=[{num_bits: [5, 5]}, {num_bits: [1, 1]}]"
    mine = own("{_target_: albumentations.Posterize}", levels, "corruption.severity=2", "corruption.name=levels")
    assert len(np.unique(mine(image, 0))) == 2
    assert str(mine) == "levels, severity 2"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corruption=fog", "corruption.severity=4"], r"corruption\.severity=4 — expected a whole number from 1 to 3"),
        (["corruption=fog", "corruption.severity=0"], r"corruption\.severity=0 — expected a whole number from 1 to 3"),
        (["corruption=fog", "corruption.severity=null"], r"corruption\.severity=null — expected a whole number from 1"),
        (["corruption=fog", "corruption.severity=1.5"], r"corruption\.severity=1\.5 — expected a whole number"),
        (["corruption.severity=2"], r"corruption\.severity=2 — expected null.*corruption\.levels"),
        (["corruption=noise", "corruption.seed=-1"], r"corruption\.seed=-1 — expected a finite number >= 0"),
        (["corruption=noise", "corruption.levels=[0.1]"], r"corruption\.levels=\[0\.1\] — expected a list, each a map"),
        (["corruption=noise", "+corruption.strength=1"], r"nothing reads the key strength"),
        (["corruption=noise", "+corruption.transform.std=1"], r"corruption\.transform: .* has no parameter 'std'"),
        (["corruption=noise", "corruption.levels=[{std_range: [2, 2]}]"], r"cannot build corruption\.transform .*std_ra"),
        (["corruption.transform=GaussNoise"], r"corruption\.transform=GaussNoise — expected a mapping or null"),
        (["corruption.transform={p: 1.0}"], r"corruption\.transform is a mapping without _target_"),
        (["corruption.transform={_target_: albumentations.Fog}"], r"cannot build corruption\.transform \(albumentations\.Fog"),
        (["corruption.transform={_target_: torch.nn.Identity}"], r"torch\.nn\.Identity is no transform of pixel values"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_its_key(overrides, message):
    with pytest.raises(ConfigError, match=message):
        corruption(*overrides)


@pytest.mark.parametrize("target", ["HorizontalFlip", "Resize, height: 9, width: 9", "PixelDropout"])
def test_what_would_change_labels_too_is_refused(target):
    with pytest.raises(ConfigError, match=r"corruption\.transform=albumentations\.\w+ is no transform of pixel values"):
        own(f"{{_target_: albumentations.{target}}}")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Normalize", r"albumentations\.Normalize makes float32 \[60, 80, 3\] of an image of uint8 \[60, 80, 3\]"),
        ("ToGray, num_output_channels: 1", r"albumentations\.ToGray makes uint8 \[60, 80\] of an image"),
        ("TextImage, font_path: none.ttf", r"albumentations\.TextImage fails on an image of uint8 \[60, 80, 3\]: "),
    ],
)
def test_what_makes_no_image_of_the_same_size_and_type_is_refused_at_the_first(image, target, message):
    chosen = own(f"{{_target_: albumentations.{target}}}")
    with pytest.raises(ConfigError, match=message):
        chosen(image, 0)
