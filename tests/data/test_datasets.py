from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglab.data import check, datasets
from seglab.data.source import FileSource
from seglab.errors import ConfigError, DataError


def remade(source: FileSource, **options) -> FileSource:
    return type(source)(source.given, **options)


def test_a_miniature_in_the_published_layout_is_listed_and_mapped(each, mini, tmp_path):
    made = mini.ALL[each](tmp_path)
    source = made.dataset(made.root)
    assert set(source.splits) == set(made.counts)
    for split, count in made.counts.items():
        check.run(source, split)
        names = source.names(split)
        assert len(names) == count
        assert names == sorted(set(names))
        sample = source.read(split, count - 1)
        assert sample.name == names[-1]
        assert sample.image.shape == (mini.HEIGHT, mini.WIDTH, 3)
        assert sample.image.dtype == np.uint8
        if split in source.unlabelled:
            assert sample.label is None
        else:
            assert sample.label.dtype == np.uint8
            assert np.array_equal(sample.label, mini.stripes(made.train))


def test_names_are_paths_below_the_root_without_suffix(mini, tmp_path):
    made = mini.cityscapes(tmp_path)
    assert made.dataset(tmp_path).names("val")[0] == "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit"


def test_every_check_level_accepts_a_sound_miniature(each, mini, tmp_path):
    made = mini.ALL[each](tmp_path)
    source = made.dataset(made.root)
    for split in made.counts:
        for level in ("names", "headers", "full"):
            check.run(source, split, level)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("CamVid", 11), ("ADE20K", 150), ("CocoStuff10k", 171), ("CocoStuff164k", 171), ("Cityscapes", 19),
     ("PascalContext59", 59), ("PascalContext60", 60), ("VOC2012", 21),
     ("NYUDv2", 40), ("KITTISemantic", 19), ("KITTISTEP", 19)],
)  # fmt: skip
def test_class_counts_need_no_files(name, classes):
    spec = getattr(datasets, name)(None).spec
    assert spec.num_classes == len(spec.palette) == len(set(spec.classes)) == classes


@pytest.mark.parametrize(
    ("file", "name", "options", "table"),
    [
        ("camvid", "CamVid", {}, "raw_to_train"),
        ("ade20k", "ADE20K", {}, "raw_to_train"),
        ("cityscapes", "Cityscapes", {"labels": "label_ids"}, "raw_to_train"),
        ("cocostuff171", "CocoStuff164k", {"labels": "raw"}, "png_to_train"),
        ("cocostuff171", "CocoStuff10k", {}, None),
        ("pascal_context_59", "PascalContext59", {}, "png_to_train"),
        ("pascal_context_60", "PascalContext60", {}, "png_to_train"),
        ("voc2012", "VOC2012", {}, "raw_to_train"),
        ("nyudv2_40", "NYUDv2", {}, "raw_to_train"),
    ],
)
def test_names_colours_and_ids_are_the_published_ones(published_tables, file, name, options, table):
    facts = json.loads((published_tables / f"{file}.json").read_text())
    spec = getattr(datasets, name)(None, **options).spec
    assert spec.classes == tuple(c["name"] for c in facts["classes"])
    assert spec.palette == tuple(tuple(c["color"]) for c in facts["classes"])
    if table:
        expected = {int(raw): train for raw, train in facts[table].items() if int(raw) >= 0}
        assert {raw: spec.table[raw] for raw in expected} == expected
        assert set(spec.table) - set(expected) <= {255}


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_coco_stuff_10k_lists_are_the_published_ones(published_tables, split):
    from seglab.data.tables import coco_stuff10k_split

    assert list(coco_stuff10k_split(split)) == (published_tables / f"cocostuff10k_{split}.txt").read_text().split()


def test_void_that_is_already_255_stays_void(mini, tmp_path):
    for name in ("ade20k", "coco_stuff10k", "pascal_context59"):
        made = mini.ALL[name](tmp_path / name)
        source = made.dataset(made.root)
        split = source.splits[0]
        mini.label(Path(source.path(source.pairs(split)[0].label)), (0, 1, 255, 2))
        assert np.array_equal(np.unique(source.read(split, 0).label), [0, 1, 255])


def test_both_kinds_of_label_files_give_the_same_labels(mini, tmp_path):
    for name, kinds in (("coco_stuff164k", ("raw", "train_ids")), ("cityscapes", ("label_ids", "train_ids"))):
        made = mini.ALL[name](tmp_path / name)
        split = next(iter(made.counts))
        first, second = (made.dataset(made.root, labels=kind).read(split, 0).label for kind in kinds)
        assert np.array_equal(first, second)


def test_converted_files_are_found_where_only_they_exist(mini, tmp_path):
    for name, published in (("coco_stuff164k", "[0-9]*[0-9].png"), ("cityscapes", "*labelIds.png")):
        made = mini.ALL[name](tmp_path / name)
        for path in made.root.rglob(published):
            path.unlink()
        source = made.dataset(made.root)
        split = next(iter(made.counts))
        check.run(source, split)
        assert np.array_equal(np.unique(source.read(split, 0).label), sorted(made.train))


def test_the_root_may_be_the_archives_own_folder(mini, tmp_path):
    made = mini.ade20k(tmp_path)
    assert datasets.ADE20K(tmp_path / "ADEChallengeData2016").names("training") == made.dataset(tmp_path).names(
        "training"
    )


def test_flat_coco_stuff_10k_images_are_divided_by_the_official_list(mini, tmp_path):
    made = mini.coco_stuff10k(tmp_path)
    for split in ("train2014", "test2014"):
        for path in (tmp_path / "images" / split).iterdir():
            path.rename(tmp_path / "images" / path.name)
        (tmp_path / "images" / split).rmdir()
    source = made.dataset(tmp_path)
    for split, count in made.counts.items():
        check.run(source, split)
        assert len(source.names(split)) == count


def test_a_test_image_among_the_training_images_is_refused(mini, tmp_path):
    made = mini.coco_stuff10k(tmp_path)
    stray = next((tmp_path / "images" / "test2014").iterdir())
    shutil.copy(stray, tmp_path / "images" / "train2014")
    with pytest.raises(DataError, match=stray.stem):
        check.run(made.dataset(tmp_path), "train")


def test_an_unknown_split_or_label_kind_is_a_configuration_error(mini, tmp_path):
    with pytest.raises(ConfigError, match=r"no split 'validation'.*train, val, test"):
        mini.camvid(tmp_path).dataset(tmp_path).names("validation")
    with pytest.raises(ConfigError, match="label_ids"):
        datasets.Cityscapes(None, labels="raw")


@pytest.mark.parametrize(
    ("name", "options", "ids", "mends"),
    [
        ("cityscapes", {"labels": "train_ids"}, (7, 11, 26, 33), "labels=label_ids"),
        ("cityscapes", {"labels": "label_ids"}, (0, 13, 18, 255), "labels=train_ids"),
        ("cityscapes", {"labels": "label_ids"}, (7, 26001, 26002, 4), "labelIds.png"),
        ("coco_stuff164k", {"labels": "train_ids"}, (0, 92, 180, 255), "labels=raw"),
        ("coco_stuff164k", {"labels": "raw"}, (0, 11, 170, 255), "labels=train_ids"),
        ("coco_stuff164k", {"labels": "train_ids"}, (0, 1, 92, 171), "coco_stuff10k"),
        ("coco_stuff164k", {"labels": "raw"}, (0, 1, 92, 182), "stuffthingmaps"),
        ("coco_stuff10k", {}, (0, 1, 92, 182), "prepare_coco_stuff.py 10k"),
        ("ade20k", {}, (0, 1, 400, 2000), "ADEChallengeData2016"),
        ("pascal_context59", {}, (0, 2, 284, 458), "prepare_pascal_context.py"),
        ("pascal_context60", {}, (0, 2, 284, 458), "prepare_pascal_context.py"),
        ("voc2012", {}, (0, 38, 52, 220), "grey levels of the palette's colours"),
        ("voc2012", {}, (0, 2, 284, 458), "take the label files"),
        ("camvid", {}, (1, 12, 3, 4), "take the label files"),
    ],
)
def test_a_wrong_variant_is_recognised_and_named(mini, tmp_path, name, options, ids, mends):
    made = mini.ALL[name](tmp_path)
    source = made.dataset(made.root, **options)
    split = source.splits[0]
    file = Path(source.path(source.pairs(split)[0].label))
    mini.label(file, ids, "u2" if max(ids) > 255 else "u1")
    with pytest.raises(DataError) as caught:
        check.run(source, split)
    assert file.name in str(caught.value)
    assert mends in str(caught.value)
    assert "label_map" not in str(caught.value)  # theirs is fixed


@pytest.mark.parametrize(
    ("name", "ids", "mends"),
    [
        ("coco_stuff10k", (0, 11, 170, 255), "prepare_coco_stuff.py 10k"),
        ("ade20k", (255, 0, 12, 149), "ADEChallengeData2016"),
        ("pascal_context60", (255, 0, 29, 58), "prepare_pascal_context.py"),
    ],
)
def test_labels_shifted_by_one_are_reported_at_once_and_refused_by_the_full_check(
    mini, tmp_path, caplog, name, ids, mends
):
    made = mini.ALL[name](tmp_path)
    source = made.dataset(made.root)
    split = source.splits[0]
    for pair in source.pairs(split):
        mini.label(Path(source.path(pair.label)), ids)
    check.run(source, split)
    assert mends in caplog.text
    with pytest.raises(DataError, match="255 occurs"):
        check.run(source, split, "full")


def test_object_numbers_of_voc_are_recognised_where_there_are_more_than_classes(mini, tmp_path):
    made = mini.voc2012(tmp_path)
    source = made.dataset(made.root)
    file = Path(source.path(source.pairs("train")[0].label))
    mini.label(file, (*range(22), 255), size=(mini.HEIGHT, 46))
    with pytest.raises(
        DataError, match=rf"{file.name}: ids 21 .*SegmentationObject; take the PNGs of SegmentationClass"
    ):
        check.run(source, "train")


def test_voc_labels_without_background_are_reported_and_refused_by_the_full_check(mini, tmp_path, caplog):
    made = mini.voc2012(tmp_path)
    source = made.dataset(made.root)
    for pair in source.pairs("train"):
        mini.palette_label(Path(source.path(pair.label)), (255, 4, 19, 255))
    check.run(source, "train")
    assert "no label holds 0 (background)" in caplog.text
    with pytest.raises(DataError, match="background is a class here"):
        check.run(source, "train", "full")
    check.run(source, "test", "full")  # its labels are private


def test_trainaug_takes_the_masks_of_voc_where_there_are_any_and_those_of_sbd_elsewhere(mini, tmp_path):
    made = mini.voc2012(tmp_path)
    source = made.dataset(made.root)
    stored = {
        name.rpartition("/")[2]: source.read("trainaug", i).label for i, name in enumerate(source.names("trainaug"))
    }
    assert stored.keys() == {*mini.VOC_LISTS["train"], *mini.VOC_LISTS["aug"]}
    for name, label in stored.items():
        own = name in mini.VOC_LISTS["train"]
        assert np.array_equal(label, mini.stripes((0, 1, 20, 255 if own else 7)))
    shutil.rmtree(tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClassAug")
    with pytest.raises(DataError, match=r"split trainaug.*SegmentationClassAug(.|\n)*prepare_voc2012\.py ROOT SBD"):
        check.run(made.dataset(made.root), "trainaug")
    for split in ("train", "val", "trainval", "test"):
        check.run(made.dataset(made.root), split)


def test_trainaug_needs_its_list(mini, tmp_path):
    made = mini.voc2012(tmp_path)
    (tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
    with pytest.raises(DataError, match=r"trainaug\.txt: cannot be read(.|\n)*prepare_voc2012\.py ROOT SBD"):
        made.dataset(made.root).names("trainaug")


@pytest.mark.parametrize("split", ["train", "trainaug"])
def test_a_training_list_of_voc_with_images_of_val_is_refused(mini, tmp_path, split):
    made = mini.voc2012(tmp_path)
    path = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / f"{split}.txt"
    count = made.counts[split]
    path.write_text(f"{path.read_text()}{mini.VOC_LISTS['val'][0]}\n")
    with pytest.raises(
        DataError, match=rf"/{split}\.txt: 1 of {count + 1} images are in val\.txt as well: 2007_000033"
    ):
        check.run(made.dataset(made.root), split)


def test_the_palette_of_voc_follows_its_rule(mini):
    from seglab.data.datasets.voc2012 import VOID_COLOUR

    spec = datasets.VOC2012(None).spec
    assert spec.palette == tuple(mini.voc_colour(index) for index in range(21))
    assert mini.voc_colour(255) == VOID_COLOUR
    assert spec.classes[0] == "background"
    assert list(spec.classes[1:]) == sorted(spec.classes[1:])


@pytest.mark.parametrize("index", [0, 1, 2, 7, 14, 20, 255])
def test_the_grey_levels_that_betray_a_converted_voc_label_are_pillows(mini, index):
    from seglab.data.datasets.voc2012 import GREYS, grey

    colour = mini.voc_colour(index)
    level = Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))
    assert grey(colour) == level
    assert level in GREYS


def test_real_ade20k_files_are_read(samples):
    source = datasets.ADE20K(samples / "ade20k")
    check.run(source, "validation", "full")
    sizes = [source.read("validation", i).image.shape for i in range(3)]
    assert sizes == [(512, 683, 3), (364, 500, 3), (300, 400, 3)]
    assert len(np.unique(source.read("validation", 0).label)) > 2


def test_real_raw_and_converted_coco_stuff_agree_pixel_by_pixel(samples):
    raw, converted = (datasets.CocoStuff164k(samples / "coco_stuff164k", labels=kind) for kind in ("raw", "train_ids"))
    for split, count in (("train2017", 13), ("val2017", 8)):
        assert raw.names(split) == converted.names(split)
        assert len(raw.names(split)) == count
        for i in range(count):
            assert np.array_equal(raw.read(split, i).label, converted.read(split, i).label)


def test_real_camvid_has_the_published_number_of_pixels_per_class(real_camvid):
    source = datasets.CamVid(real_camvid)
    for split, count in zip(source.splits, source.official, strict=True):
        check.run(source, split)
        assert len(source.names(split)) == count
    facts = json.loads((real_camvid / "classes.json").read_text())
    labels = [source.table(source.read_stored(pair), pair.label) for pair in source.pairs("val")]
    counted = np.bincount(np.stack(labels).ravel(), minlength=256)
    assert counted[:11].tolist() == [c["val_pixels"] for c in facts["classes"]]
    assert counted[255] == facts["void_pixels"]["val"]
