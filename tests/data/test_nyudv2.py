"""NYU Depth v2: what is cut off, how labels count, and depth, from the file to the batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from seglab import evaluate
from seglab.data import check, io
from seglab.data.augment import Augment
from seglab.data.collate import stack
from seglab.data.datasets.nyudv2 import CROPS, TABLE, NYUDv2
from seglab.data.tables import nyudv2_official
from seglab.errors import ConfigError, DataError
from seglab.train import fit
from tests.conftest import SMALL_NET


@pytest.fixture
def root(mini, tmp_path) -> Path:
    return mini.nyudv2(tmp_path / "nyu").root


@pytest.fixture
def whole(tmp_path) -> Path:
    """One image of 640x480 of which every pixel of image, label and depth says where it is."""
    rows, columns = np.mgrid[:480, :640]
    arrays = {
        "rgb": np.stack([rows % 256, columns % 256, rows // 256 * 16 + columns // 256], 2).astype(np.uint8),
        "labels_40": ((rows + columns) % 41).astype(np.uint8),
        "depth": (rows * 100 + columns).astype(np.uint16),
    }
    for split in ("train", "test"):
        for name, array in arrays.items():
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(array).save(tmp_path / split / name / "0001.png")
    return tmp_path


def relabel(root: Path, mini, ids, dtype="u1") -> None:
    for path in root.rglob("labels_40/*.png"):
        mini.label(path, ids, dtype)


def test_classes_split_and_map_of_the_894_names_are_the_published_ones(published_tables):
    facts = json.loads((published_tables / "nyudv2_40.json").read_text())
    official = nyudv2_official()
    assert list(official.from_894) == [facts["raw894_to_40"][str(raw)] for raw in range(895)]
    assert list(official.numbers["train"]) == facts["train_ids"]
    assert list(official.numbers["test"]) == facts["test_ids"]
    single = {c["raw_id"]: c["raw894_id"] for c in facts["classes"] if c["num_raw894"] == 1}
    assert {raw: i for raw, i in zip(TABLE.raw, official.id_894, strict=True) if i} == single
    assert [c["raw_id"] for c in facts["classes"]] == list(TABLE.raw)


def test_the_split_is_one_of_all_images_and_every_class_is_some_names():
    official = nyudv2_official()
    assert {split: len(numbers) for split, numbers in official.numbers.items()} == {"train": 795, "test": 654}
    assert sorted(official.numbers["train"] + official.numbers["test"]) == list(range(1, 1450))
    assert official.from_894[0] == 0
    assert sorted(set(official.from_894)) == list(range(41))
    assert all(official.from_894[i] == raw for raw, i in zip(TABLE.raw, official.id_894, strict=True) if i)


@pytest.mark.parametrize("crop", CROPS)
def test_image_label_and_depth_are_cut_alike_and_the_title_says_how(whole, crop):
    source = NYUDv2(whole, crop=crop)
    sample, full = source.read("test", 0), NYUDv2(whole).read("test", 0)
    top, left, height, width = CROPS[crop] or (0, 0, 480, 640)
    part = np.s_[top : top + height, left : left + width]
    assert np.array_equal(sample.image, full.image[part])
    assert np.array_equal(sample.label, full.label[part])
    assert np.array_equal(sample.depth, full.depth[part])
    assert sample.image.shape == (height, width, 3)
    assert source.open("test", 0).size == (height, width)
    assert source.spec.title == f"nyudv2 (crop {crop}, labels 0..40)"


def test_the_borders_are_those_of_the_published_matlab_code():
    """Rows and columns from 1, the last included: those of Gupta's code and of the toolbox's mask."""
    spans = {"gupta": ((46, 470), (41, 600)), "toolbox": ((45, 471), (41, 601))}
    for name, ((top, bottom), (left, right)) in spans.items():
        assert CROPS[name] == (top - 1, left - 1, bottom - top + 1, right - left + 1)
    assert {name: region.size for name, region in CROPS.items() if region} == {
        "gupta": (425, 560),
        "toolbox": (427, 561),
        "lwr": (468, 625),
    }


def test_files_without_the_border_are_taken_as_they_are_by_the_crop_of_their_size_only(mini, tmp_path):
    made = mini.nyudv2(tmp_path, size=(425, 560))
    source = NYUDv2(made.root, crop="gupta")
    check.run(source, "train", "full")
    assert source.read("train", 0).image.shape == (425, 560, 3)
    with pytest.raises(
        DataError, match=r"\.png: 560x425 pixels.*crop=none expects 640x480 — set data\.dataset\.crop=gupta"
    ):
        check.run(NYUDv2(made.root), "train")
    with pytest.raises(
        DataError, match=r"crop=lwr expects 640x480 or 625x468 — set data\.dataset\.crop=gupta, which leaves that size"
    ):
        check.run(NYUDv2(made.root, crop="lwr"), "train")


def test_images_that_are_no_whole_ones_are_not_cut(root):
    with pytest.raises(DataError, match=r"16x12 pixels.*expects 640x480 or 561x427 — set data\.dataset\.crop=none"):
        NYUDv2(root, crop="toolbox").read("train", 0)


def test_three_layouts_give_the_same_labels_and_say_how_theirs_count(root, mini, tmp_path):
    toolkit, light = tmp_path / "toolkit", tmp_path / "light"
    for split, folder in (("train", "train"), ("test", "val")):
        for i, image in enumerate(sorted((root / split / "rgb").iterdir())):
            for target in (toolkit / "image" / split / f"{i:05d}.png", light / f"{folder}_images" / f"{i:06d}.png"):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(image, target)
            mini.label(toolkit / "seg40" / split / f"{i:05d}.png", (255, 0, 12, 39))
            mini.label(light / f"{folder}_labels" / f"{i:06d}.png", (255, 0, 12, 39))
            (toolkit / "depth" / split).mkdir(parents=True, exist_ok=True)
            shutil.copy(root / split / "depth" / image.name, toolkit / "depth" / split / f"{i:05d}.png")
    first, *others = (NYUDv2(folder) for folder in (root, toolkit, light))
    assert first.spec.variant["labels"] == "0..40"
    for source in others:
        assert source.spec.variant["labels"] == "0..39"
        for split, count in (("train", 5), ("test", 3)):
            check.run(source, split, "full")
            assert len(source.names(split)) == count
            for i in range(count):
                a, b = first.read(split, i), source.read(split, i)
                assert np.array_equal(a.label, b.label)
                assert np.array_equal(a.image, b.image)
    assert np.array_equal(others[0].read("test", 2).depth, first.read("test", 2).depth)
    assert others[1].read("test", 2).depth is None
    assert [source.gives >= {"depth"} for source in (first, *others)] == [True, True, False]


@pytest.mark.parametrize(
    ("labels", "ids", "mends"),
    [
        ("0..40", (255, 0, 12, 39), "255 occurs and 40 does not.*set data.dataset.labels=0..39"),
        ("0..39", (0, 1, 13, 40), "40 occurs and 255 does not.*set data.dataset.labels=0..40"),
        ("0..40", (0, 1, 21, 400), "894 names.*prepare_nyudv2.py"),
        ("0..39", (0, 1, 21, 894), "894 names.*prepare_nyudv2.py"),
        ("0..40", (0, 1, 40, 255), "take the label files"),
        ("0..39", (0, 1, 40, 255), "take the label files"),
    ],
)
def test_labels_that_count_otherwise_are_refused_with_what_mends_it(root, mini, labels, ids, mends):
    relabel(root, mini, ids, "u2" if max(ids) > 255 else "u1")
    with pytest.raises(DataError, match=rf"\.png: ids .*{mends}"):
        check.run(NYUDv2(root, labels=labels), "train")


@pytest.mark.parametrize(
    ("labels", "ids", "says"),
    [
        ("0..39", (0, 1, 12, 39), r"no label holds 255 \(void\), .*labels=0\.\.40"),
        ("0..40", (0, 1, 12, 13), r"no label holds 40 \(otherprop\), as in labels of fewer classes"),
        ("0..40", (1, 2, 12, 39), r"no label holds 0 \(void\) or 40 \(otherprop\).*labels=0\.\.39"),
    ],
)
def test_labels_that_fit_both_ways_are_reported_and_refused_by_the_full_check(root, mini, caplog, labels, ids, says):
    relabel(root, mini, ids)
    source = NYUDv2(root, labels=labels)
    check.run(source, "train")
    assert "no label holds" in caplog.text
    with pytest.raises(DataError, match=says):
        check.run(source, "train", "full")


def test_what_is_typed_for_labels_reaches_the_data_set_as_text():
    for choice in ("0..40", "0..39"):
        (parsed,) = OverridesParser.create().parse_overrides([f"data.dataset.labels={choice}"])
        assert parsed.value() == choice


def test_depth_is_metres_with_0_where_unknown_and_the_kind_is_a_choice(root):
    filled, raw = (NYUDv2(root, depth=kind).read("test", 2).depth for kind in ("auto", "raw"))
    assert (filled.dtype, raw.dtype) == (np.float32, np.float32)
    assert np.unique(filled).tolist() == pytest.approx([1.009, 2.5, 9.999])
    assert np.unique(raw).tolist() == pytest.approx([0, 1.009, 9.999])
    without = NYUDv2(root, depth="none")
    assert without.read("test", 2).depth is None
    assert without.gives == {"label"}


def test_depths_that_no_task_reads_are_not_opened(root):
    source = NYUDv2(root)
    source.wanted = {"label"}
    (root / "test" / "depth" / f"{source.names('test')[2].rpartition('/')[2]}.png").write_bytes(b"")
    assert source.read("test", 2).depth is None
    source.wanted = {"label", "depth"}
    with pytest.raises(DataError, match="depth"):
        source.read("test", 2)


def test_a_set_without_depths_is_read_and_one_with_some_is_refused(root):
    (root / "train" / "depth" / "0004.png").unlink()
    with pytest.raises(
        DataError,
        match=r"train/depth: 1 of 5 images have no depth: 0004 .*data\.dataset\.depth=none(.|\n)*prepare_nyudv2",
    ):
        check.run(NYUDv2(root), "train")
    for split in ("train", "test"):
        shutil.rmtree(root / split / "depth")
    source = NYUDv2(root)
    check.run(source, "train")
    assert source.gives == {"label"}
    with pytest.raises(ConfigError, match=r"depth=filled.*has raw depths.*data\.dataset\.depth=auto"):
        NYUDv2(root, depth="filled")


def test_depth_files_are_checked_and_part_of_the_fingerprint(root, mini):
    prints = {kind: NYUDv2(root, depth=kind).fingerprint("train") for kind in ("filled", "raw", "none")}
    assert len(set(prints.values())) == 3
    path = mini.label(root / "train" / "depth" / "0004.png", (1, 2), "u2", (6, 8))
    for level in ("headers", "full"):
        with pytest.raises(DataError, match=r"rgb/0004\.png is 16x12 and .*depth/0004\.png is 8x6"):
            check.run(NYUDv2(root), "train", level)
    assert NYUDv2(root).fingerprint("train") != prints["filled"]
    mini.label(path, (1, 2), "u1")
    with pytest.raises(DataError, match=r"depth/0004\.png: depth of mode L — one channel of 16 bits"):
        check.run(NYUDv2(root), "train", "full")


def test_depth_reaches_the_batch_in_training(whole):
    source = NYUDv2(whole, crop="gupta")
    item = Augment(crop=(425, 560), ratio=None, flip=0, photometric=None, cat_max_ratio=1)(
        source.open("train", 0), (0, 0, 0)
    )
    batch = stack([item, item])
    assert (batch.depth.shape, batch.depth.dtype) == ((2, 425, 560), torch.float32)
    assert torch.equal(batch.depth[1], torch.from_numpy(source.read("train", 0).depth.copy()))


def test_a_real_depth_map_is_metres(samples):
    (path,) = sorted((samples / "nyu_depth_v2" / "annotations").glob("*.png"))
    depth = io.read_depth(str(path))
    assert (depth.shape, depth.dtype) == ((120, 160), np.float32)
    stored = np.asarray(Image.open(path))
    assert np.array_equal(depth == 0, stored == 0)
    assert 0.5 < depth[depth > 0].min() < depth.max() <= 10
    with pytest.raises(DataError, match="depth of mode RGB"):
        io.read_depth(str(next((samples / "nyu_depth_v2" / "images").iterdir())))


def test_crop_and_labels_stand_with_every_score(mini, tmp_path, compose, capsys, caplog):
    root, run = mini.nyudv2(tmp_path / "nyu", size=(32, 48)).root, tmp_path / "run"
    small = ["data.batch_size=2", "augment.crop=[32,48]", "trainer.max_steps=1", "trainer.val_check_interval=1"]
    machine = ["data.num_workers=0", "trainer.accelerator=cpu", "callbacks.images=null"]
    caplog.set_level("INFO", "seglab.train")
    fit(compose("train", ["data=nyudv2", f"data.root={root}", *SMALL_NET, *small, *machine]), run)
    variant, said = {"crop": "none", "labels": "0..40"}, "nyudv2 (crop none, labels 0..40)"
    printed = capsys.readouterr().out
    for stage in ("val (split test) at step 1", "test at step 1"):
        assert f"{said} {stage}" in " ".join(printed.split())
    assert f"data: {said}, 40 classes, 5 train, 3 val" in caplog.text
    assert json.loads((run / "metrics.json").read_text())["variant"] == variant
    assert json.loads((run / "provenance.json").read_text())["data"]["variant"] == variant

    options = [f"ckpt={run}", f"output={tmp_path / 'evaluated'}", "trainer.accelerator=cpu", "images=0"]
    evaluate.score(
        compose("evaluate", [*options, "data.num_workers=0", "data.dataset.labels=0..40", "data.dataset.crop=none"])
    )
    assert f"{said} test" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "evaluated" / "metrics.json").read_text())["variant"] == variant
