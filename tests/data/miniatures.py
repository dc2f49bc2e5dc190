"""Every dataset in miniature: a few tiny files in the published layout, generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from seglab.data import datasets
from seglab.data.source import FileSource
from seglab.data.tables import coco_stuff10k_split

HEIGHT, WIDTH = 12, 16


@dataclass(frozen=True)
class Miniature:
    """A generated dataset and what reading it must give."""

    root: Path
    dataset: Callable[..., FileSource]
    counts: dict[str, int]
    stored: Sequence[int]
    """Ids that every label holds, in stripes from left to right."""
    train: Sequence[int]
    """The train ids they stand for."""


def image(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """An image of random blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((size[1], size[0]), Image.Resampling.NEAREST).save(path)
    return path


def label(path: Path, ids: Sequence[int], dtype: str = "u1", size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """Vertical stripes of the ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stripes(ids, size).astype(dtype)).save(path)
    return path


def stripes(ids: Sequence[int], size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """[H, W] with the ids side by side."""
    columns = np.asarray(ids)[np.arange(size[1]) * len(ids) // size[1]]
    return np.tile(columns, (size[0], 1))


def camvid(root: Path) -> Miniature:
    stored = (0, 5, 10, 11)
    counts = {"train": 5, "val": 3, "test": 4}
    for split, count in counts.items():
        for i in range(count):
            image(root / split / "images" / f"0001TP_{i:06d}.jpg", i)
            label(root / split / "labels" / f"0001TP_{i:06d}.png", stored)
    return Miniature(root, datasets.CamVid, counts, stored, (0, 5, 10, 255))


def ade20k(root: Path) -> Miniature:
    stored = (0, 1, 13, 150)
    counts = {"training": 4, "validation": 3}
    for split, short in (("training", "train"), ("validation", "val")):
        for i in range(counts[split]):
            name = f"ADE_{short}_{i + 1:08d}"
            image(root / "ADEChallengeData2016" / "images" / split / f"{name}.jpg", i)
            label(root / "ADEChallengeData2016" / "annotations" / split / f"{name}.png", stored)
    return Miniature(root, datasets.ADE20K, counts, stored, (255, 0, 12, 149))


def coco_stuff10k(root: Path) -> Miniature:
    stored = (0, 1, 92, 171)
    counts = {"train": 4, "test": 3}
    for split, count in counts.items():
        for i, name in enumerate(coco_stuff10k_split(split)[:count]):
            image(root / "images" / f"{split}2014" / f"{name}.jpg", i)
            label(root / "annotations" / f"{split}2014" / f"{name}_labelTrainIds.png", stored)
    return Miniature(root, datasets.CocoStuff10k, counts, stored, (255, 0, 91, 170))


def coco_stuff164k(root: Path) -> Miniature:
    """Published and converted labels side by side."""
    stored = (0, 12, 181, 255)
    counts = {"train2017": 4, "val2017": 3}
    for split, count in counts.items():
        for i in range(count):
            image(root / "images" / split / f"{i + 9:012d}.jpg", i)
            label(root / "annotations" / split / f"{i + 9:012d}.png", stored)
            label(root / "annotations" / split / f"{i + 9:012d}_labelTrainIds.png", (0, 11, 170, 255))
    return Miniature(root, datasets.CocoStuff164k, counts, stored, (0, 11, 170, 255))


def cityscapes(root: Path) -> Miniature:
    """The archive's files, train ids beside them, and the files that no loader wants."""
    stored = (7, 26, 33, 4)
    cities = {"train": ("aachen", "bochum"), "val": ("lindau",), "test": ("berlin",)}
    for split, names in cities.items():
        for city in names:
            for i in range(2):
                frame = f"{city}_{i:06d}_000019"
                image(root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", i)
                truth = root / "gtFine" / split / city
                label(truth / f"{frame}_gtFine_labelIds.png", stored)
                label(truth / f"{frame}_gtFine_instanceIds.png", (7, 26001, 33002, 4), "u2")
                image(truth / f"{frame}_gtFine_color.png")
                (truth / f"{frame}_gtFine_polygons.json").write_text("{}")
                if split != "test":
                    label(truth / f"{frame}_gtFine_labelTrainIds.png", (0, 13, 18, 255))
    counts = {split: 2 * len(names) for split, names in cities.items()}
    return Miniature(root, datasets.Cityscapes, counts, stored, (0, 13, 18, 255))


def pascal_context(root: Path, dataset: type[FileSource], stored: Sequence[int], train: Sequence[int]) -> Miniature:
    base = root / "VOCdevkit" / "VOC2010"
    lists = {"train": ("2008_000008", "2009_000001", "2010_000003"), "val": ("2008_000002", "2010_000004")}
    (base / "ImageSets" / "SegmentationContext").mkdir(parents=True)
    for split, names in lists.items():
        (base / "ImageSets" / "SegmentationContext" / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))
        for i, name in enumerate(names):
            image(base / "JPEGImages" / f"{name}.jpg", i)
            label(base / "SegmentationClassContext" / f"{name}.png", stored)
    image(base / "JPEGImages" / "2007_000001.jpg")  # VOC has images beyond trainval
    return Miniature(root, dataset, {split: len(names) for split, names in lists.items()}, stored, train)


def pascal_context59(root: Path) -> Miniature:
    return pascal_context(root, datasets.PascalContext59, (0, 1, 30, 59), (255, 0, 29, 58))


def pascal_context60(root: Path) -> Miniature:
    return pascal_context(root, datasets.PascalContext60, (0, 1, 30, 59), (0, 1, 30, 59))


VOC_LISTS = {
    "train": ("2007_000032", "2008_000008", "2011_003271"),
    "val": ("2007_000033", "2008_000002"),
    "test": ("2008_000006", "2008_000011"),
    "aug": ("2008_000015", "2008_000019"),
}


def voc2012(root: Path) -> Miniature:
    """The archive, the lists of its test archive, and what ``scripts/prepare_voc2012.py`` adds."""
    stored = (0, 1, 20, 255)
    base = root / "VOCdevkit" / "VOC2012"
    train, val, test, aug = VOC_LISTS.values()
    lists = {"train": train, "val": val, "trainval": sorted(train + val), "test": test, "aug": aug}
    lists["trainaug"] = sorted(train + aug)
    for kind in ("Segmentation", "Main"):
        (base / "ImageSets" / kind).mkdir(parents=True)
    for split, names in lists.items():
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (base / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{name}\n" for name in (*train, *val, *aug)))
    for i, name in enumerate((*train, *val, *test, *aug, "2012_004331")):  # VOC has images that no list names
        image(base / "JPEGImages" / f"{name}.jpg", i)
    for name in (*train, *val):
        palette_label(base / "SegmentationClass" / f"{name}.png", stored)
        palette_label(base / "SegmentationObject" / f"{name}.png", (0, 1, 2, 255))
        label(base / "SegmentationClassAug" / f"{name}.png", (0, 1, 20, 0))  # as shared by others: without borders
    for name in aug:
        label(base / "SegmentationClassAug" / f"{name}.png", (0, 1, 20, 7))
    counts = {split: len(names) for split, names in lists.items() if split != "aug"}
    return Miniature(root, datasets.VOC2012, counts, stored, stored)


def palette_label(path: Path, ids: Sequence[int]) -> Path:
    """Vertical stripes of the ids as a palette PNG in VOC's colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mapped = Image.fromarray(stripes(ids).astype(np.uint8), "P")
    mapped.putpalette([part for index in range(256) for part in voc_colour(index)])
    mapped.save(path)
    return path


def voc_colour(index: int) -> tuple[int, int, int]:
    """Bits 0, 1, 2 of group j of the index, three bits each from the low end, are bits 7 - j of R, G, B."""
    red, green, blue = (sum((index >> 3 * j + channel & 1) << 7 - j for j in range(3)) for channel in range(3))
    return red, green, blue


def nyudv2(root: Path, stored: Sequence[int] = (0, 1, 13, 40), size: tuple[int, int] = (HEIGHT, WIDTH)) -> Miniature:
    """As ``scripts/prepare_nyudv2.py`` writes it: the official numbers, of which a few are in each split."""
    numbers = {"train": (3, 4, 5, 6, 1449), "test": (1, 2, 9)}
    for split, found in numbers.items():
        for number in found:
            image(root / split / "rgb" / f"{number:04d}.png", number, size)
            label(root / split / "labels_40" / f"{number:04d}.png", stored, size=size)
            label(root / split / "depth" / f"{number:04d}.png", (1000 + number, 2500, 9999), "u2", size)
            label(root / split / "depth_raw" / f"{number:04d}.png", (1000 + number, 0, 9999), "u2", size)
    counts = {split: len(found) for split, found in numbers.items()}
    return Miniature(root, datasets.NYUDv2, counts, stored, (255, 0, 12, 39))


def folder(root: Path) -> Miniature:
    stored = (0, 1, 2, 255)
    counts = {"test": 3, "train": 6, "val": 3}
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("# of my own\nroad 128 64 128\ntraffic light 250 170 30\nsky\n")
    for split, count in counts.items():
        for i in range(count):
            image(root / "images" / split / f"shot {i}.jpg", i)
            label(root / "labels" / split / f"shot {i}.png", stored)
    return Miniature(root, datasets.Folder, counts, stored, stored)


def kitti_semantic(root: Path) -> Miniature:
    """The archive, and for some images frames of the multi-view extension."""
    stored = (7, 26, 33, 4)
    for number in (0, 1, 2, 3, 5, 11):
        name = f"{number:06d}_10.png"
        image(root / "training" / "image_2" / name, number)
        label(root / "training" / "semantic" / name, stored)
        label(root / "training" / "instance" / name, (7, 26 * 256 + 1, 33 * 256 + 2, 4), "u2")
        image(root / "training" / "semantic_rgb" / name, number)
    for frame in (8, 9, 11):
        image(root / "training" / "image_2" / f"000002_{frame:02d}.png", 20 + frame)
    for number in (0, 1):
        image(root / "testing" / "image_2" / f"{number:06d}_10.png", number)
    return Miniature(
        root, datasets.KITTISemantic, {"train": 3, "val": 3, "trainval": 6, "test": 2}, stored, (0, 13, 18, 255)
    )


def kitti_step(root: Path) -> Miniature:
    stored = (0, 13, 18, 255)
    for video, split in (("0000", "train"), ("0001", "train"), ("0002", "val")):
        for number in range(2):
            image(root / "training" / "image_02" / video / f"{number:06d}.png", number)
            path = root / "panoptic_maps" / split / video / f"{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            ids = stripes(stored).astype(np.uint8)
            Image.fromarray(np.stack((ids, np.full_like(ids, 1), ids // 2), -1)).save(path)
    image(root / "testing" / "image_02" / "0000" / "000000.png")
    return Miniature(root, datasets.KITTISTEP, {"train": 4, "val": 2, "test": 1}, stored, stored)


def cityscapes_sequences(root: Path) -> Miniature:
    """A city whose labelled frame is number 19, and one with running numbers: 30 frames each, the files of which are few."""
    made = cityscapes(root)
    for start in ("train/aachen/aachen_000000", "train/aachen/aachen_000001", "val/lindau/lindau_000000"):
        for frame in range(30):
            image(root / "leftImg8bit_sequence" / f"{start}_{frame:06d}_leftImg8bit.png", frame)
    for number in (294, 324):  # neighbouring snippets of one sequence
        key = f"val/frankfurt/frankfurt_000000_{number:06d}"
        image(root / "leftImg8bit" / f"{key}_leftImg8bit.png", number)
        label(root / "gtFine" / f"{key}_gtFine_labelIds.png", made.stored)
        for frame in range(number - 19, number + 11):
            image(root / "leftImg8bit_sequence" / f"val/frankfurt/frankfurt_000000_{frame:06d}_leftImg8bit.png", frame)
    return made


ALL: dict[str, Callable[[Path], Miniature]] = {
    maker.__name__: maker
    for maker in (
        camvid,
        ade20k,
        coco_stuff10k,
        coco_stuff164k,
        cityscapes,
        pascal_context59,
        pascal_context60,
        voc2012,
        nyudv2,
        kitti_semantic,
        kitti_step,
        folder,
    )
}
