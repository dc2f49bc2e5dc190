from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from seglab.data import check
from seglab.data.datasets import Folder
from seglab.data.datasets.folder import default_colour, read_classes
from seglab.errors import ConfigError, DataError


@pytest.fixture
def root(mini, tmp_path):
    return mini.folder(tmp_path).root


def test_the_class_file_gives_names_and_colours(root):
    spec = Folder(root).spec
    assert spec.classes == ("road", "traffic light", "sky")
    assert spec.palette[:2] == ((128, 64, 128), (250, 170, 30))
    assert spec.palette[2] == default_colour(2)


@pytest.mark.parametrize(
    "content",
    [["a", "b c"], {"classes": ["a", "b c"]}, {"classes": [{"name": "a", "color": [1, 2, 3]}, {"name": "b c"}]}],
)
def test_a_json_class_file_may_hold_names_or_rows(tmp_path, content):
    (tmp_path / "c.json").write_text(json.dumps(content))
    names, palette = read_classes(str(tmp_path / "c.json"))
    assert names == ("a", "b c")
    assert len(palette) == 2


def test_the_class_file_of_camvid_can_be_used_as_it_is(real_camvid):
    assert read_classes(str(real_camvid / "classes.json"))[0][0] == "sky"


@pytest.mark.parametrize(
    ("name", "content"),
    [("c.txt", ""), ("c.txt", "a\na\n"), ("c.txt", "a 1 2 999\n"), ("c.json", "{"), ("c.json", '[{"color": [1, 2, 3]}]'),
     ("c.json", '[{"name": "a", "color": [1, 2]}]'), ("c.json", "7")],
)  # fmt: skip
def test_a_class_file_that_makes_no_sense_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        read_classes(str(tmp_path / name))


def test_a_missing_class_file_is_named(root):
    with pytest.raises(DataError, match=r"names\.txt"):
        Folder(root, classes="names.txt")


def test_default_colours_differ():
    assert len({default_colour(k) for k in range(254)}) > 250


def test_folders_and_suffixes_are_options(root, mini):
    for i in range(2):
        mini.image(root / "val" / "photo" / f"{i}.jpeg")
        mini.label(root / "val" / "truth" / f"{i}_mask.png", (0, 1))
    source = Folder(
        root, images="{split}/photo", labels="{split}/truth", image_suffix=".jpeg", label_suffix="_mask.png"
    )
    assert source.splits == ("val",)
    check.run(source, "val")
    assert source.read("val", 1).name == "val/photo/1"


def test_a_list_file_may_name_pairs(root):
    (root / "lists").mkdir()
    pairs = [(f"images/train/shot {i}.jpg", f"labels/train/shot {i}.png") for i in (4, 1)]
    (root / "lists" / "few.txt").write_text("".join(f"{image}\t{label}\n" for image, label in pairs))
    source = Folder(root, lists="lists/{split}.txt")
    assert source.splits == ("few",)
    check.run(source, "few", "full")
    assert source.names("few") == ["images/train/shot 4", "images/train/shot 1"]


def test_a_list_file_may_name_stems(root, mini):
    mini.image(root / "images" / "all" / "a.jpg")
    mini.label(root / "labels" / "all" / "a.png", (0,))
    mini.image(root / "images" / "all" / "b.jpg")
    (root / "few.txt").write_text("a\n")
    source = Folder(root, lists="{split}.txt", images="images/all", labels="labels/all")
    check.run(source, "few")
    assert source.names("few") == ["images/all/a"]
    (root / "few.txt").write_text("a\na\n")
    with pytest.raises(DataError, match=r"a \(listed twice in .*few\.txt"):
        check.run(Folder(root, lists="{split}.txt", images="images/all", labels="labels/all"), "few")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("images/train/gone.jpg\tlabels/train/gone.png\n", "1 of 1 images do not exist: images/train/gone.jpg"),
        ("images/train/shot 0.jpg labels/train/shot 0.png\n", "tab"),
        ("images/train/shot 0.jpg\tlabels/train/gone.png\n", "1 of 1 images have no label"),
    ],
)
def test_a_wrong_list_file_is_explained(root, lines, says):
    (root / "few.txt").write_text(lines)
    source = Folder(root, lists="{split}.txt")
    with pytest.raises(DataError, match=says):
        check.run(source, "few")


def test_a_split_that_no_folder_is_for_lists_those_there_are(root):
    with pytest.raises(ConfigError, match=r"no split 'valid'.*test, train, val"):
        check.run(Folder(root), "valid")
    with pytest.raises(ConfigError, match=r"images/\{split\}"):
        Folder(root, images="images")


def test_a_label_map_makes_train_ids_of_stored_ones(root, mini):
    for path in (root / "labels" / "val").iterdir():
        mini.label(path, (1, 2, 3, 0))
    with pytest.raises(DataError, match="start at 1|label_map"):
        check.run(Folder(root), "val")
    source = Folder(root, label_map={0: 255, 1: 0, 2: 1, 3: 2})
    assert np.array_equal(source.read("val", 0).label, mini.stripes((0, 1, 2, 255)))


@pytest.mark.parametrize("given", [{"road": 1}, [0, 255], {0: None}])
def test_a_label_map_that_is_none_shows_one(root, given):
    with pytest.raises(
        ConfigError, match=r"expected \{stored id: train id or 255\}, such as 'data\.dataset\.label_map"
    ):
        Folder(root, label_map=given)


def test_unknown_ids_are_void_where_that_is_said(root, mini):
    for path in (root / "labels" / "val").iterdir():
        mini.label(path, (0, 77))
    assert np.array_equal(Folder(root, unknown="ignore").read("val", 0).label, mini.stripes((0, 255)))


def test_colour_coded_labels_are_read_through_the_class_files_colours(root):
    colours = np.uint8([[[128, 64, 128], [250, 170, 30], [0, 0, 0], [128, 64, 128]]])
    for path in (root / "labels" / "val").iterdir():
        Image.fromarray(colours.repeat(12, 0).repeat(4, 1)).save(path)
    with pytest.raises(DataError, match="labels_are_colours"):
        check.run(Folder(root), "val")
    source = Folder(root, labels_are_colours=True)
    check.run(source, "val", "full")
    assert source.read("val", 0).label[0, ::4].tolist() == [0, 1, 255, 0]
    with pytest.raises(ConfigError, match="exclude"):
        Folder(root, labels_are_colours=True, label_map={0: 0})


def test_images_without_any_labels_are_a_dataset_too(root):
    source = Folder(root, labels=None)
    check.run(source, "val", "full")
    assert source.read("val", 0).label is None


def test_a_missing_class_file_shows_the_format_and_the_tree_once(root):
    (root / "classes.txt").unlink()
    with pytest.raises(DataError) as caught:
        Folder(root)
    message = str(caught.value)
    assert f"{root / 'classes.txt'}: no such file" in message
    assert "data.dataset.classes" in message
    assert message.count("one class name per line, optionally with a colour: road 128 64 128") == 1
    assert message.count("images/<split>/<name>.jpg") == 1


def test_a_root_without_splits_shows_the_tree(root):
    (root / "images").rename(root / "pictures")
    with pytest.raises(DataError, match=r"(?s)images/\{split\}.*data\.dataset\.images.*images/<split>/<name>\.jpg"):
        Folder(root)
    assert Folder(root, images="pictures/{split}").splits == ("test", "train", "val")


def test_a_class_file_that_is_a_pipe_is_not_waited_at(root, pipe):
    for name in ("classes.txt", "classes.json"):
        (root / name).unlink(missing_ok=True)
        pipe.rename(root / name)
        with pytest.raises(DataError, match="no regular file"):
            Folder(root, classes=name)
        (root / name).rename(pipe)


def relabel(root, mini, split, *ids):
    for i, path in enumerate(sorted((root / "labels" / split).iterdir())):
        mini.label(path, ids[i % len(ids)])


def test_labels_that_start_at_1_are_told_from_many_labels_together(root, mini):
    relabel(root, mini, "train", (1, 2), (2, 3, 255))
    whole = "'data.dataset.label_map={1: 0, 2: 1, 3: 2, 255: 255}'"
    for level in ("names", "full"):
        with pytest.raises(DataError, match="start at 1") as caught:
            check.run(Folder(root), "train", level)
        assert whole in str(caught.value)
    relabel(root, mini, "train", (1, 2, 3), (0, 1))  # one label without class 0 proves nothing
    with pytest.raises(DataError, match="ids 3") as caught:
        check.run(Folder(root), "train")
    assert "start at 1" not in str(caught.value)


def test_a_smoothed_mask_is_recognised(root, mini):
    relabel(root, mini, "train", tuple(range(0, 256, 17)))
    with pytest.raises(DataError, match="smoothed or stored as JPEG"):
        check.run(Folder(root), "train")


def test_only_a_map_that_can_be_set_is_suggested(root, mini):
    assert Folder(root).remap({255: 1, 0: 0}) == "'data.dataset.label_map={0: 0, 255: 1}'"
    assert Folder(root, labels_are_colours=True).remap({0: 0}) is None
    assert mini.camvid(root / "camvid").dataset(root / "camvid").remap({0: 0}) is None
