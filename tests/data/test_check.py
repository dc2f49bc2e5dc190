from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglab.data import check, io
from seglab.data.datasets import CamVid, Folder
from seglab.errors import ConfigError, DataError


@pytest.fixture
def root(mini, tmp_path):
    return mini.camvid(tmp_path / "camvid").root


def camvid(root, **options):
    return CamVid(root, **options)


def refusal(root, split="train", level="names", **options) -> str:
    with pytest.raises(DataError) as caught:
        check.run(camvid(root, **options), split, level)
    return str(caught.value)


def test_a_missing_root_shows_path_key_tree_and_command(tmp_path, mini):
    message = refusal(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "data.root=" in message
    assert "{train,val,test}/images/<name>.jpg" in message
    assert "data.root is not set" in refusal(None)
    made = mini.pascal_context59(tmp_path)
    with pytest.raises(DataError, match=r"scripts/prepare_pascal_context\.py"):
        check.run(made.dataset(tmp_path / "nowhere"), "train")


def test_a_missing_folder_shows_path_and_tree(root):
    shutil.rmtree(root / "val" / "labels")
    message = refusal(root, "val")
    assert os.path.join("val", "labels") in message
    assert "expected below data.root" in message
    check.run(camvid(root), "train")


def test_missing_labels_are_counted_and_the_first_five_listed(root):
    for path in sorted((root / "train" / "labels").iterdir())[1:3]:
        path.unlink()
    message = refusal(root)
    assert "2 of 5 images have no label" in message
    assert "0001TP_000001.jpg, train/images/0001TP_000002.jpg" in message
    assert "data.allow_unlabelled=true" in message


def test_images_without_label_are_left_out_only_on_request(root, caplog):
    (root / "train" / "labels" / "0001TP_000001.png").unlink()
    source = camvid(root)
    with pytest.raises(DataError, match=r"0001TP_000001\.jpg: no label"):
        source.read("train", 1)
    source.allow_unlabelled = True
    check.run(source, "train")
    assert "1 of 5 images have no label" in caplog.text
    assert source.names("train") == [f"train/images/0001TP_{i:06d}" for i in (0, 2, 3, 4)]
    assert source.read("train", 1).name.endswith("2")


def test_labels_without_image_are_listed(root):
    (root / "train" / "images" / "0001TP_000003.jpg").unlink()
    assert "1 labels have no image: train/labels/0001TP_000003.png" in refusal(root)


def test_two_files_of_one_name_are_refused(root, mini):
    mini.image(root / "train" / "images" / "0001TP_000003.png")
    message = refusal(root)
    assert "0001TP_000003.jpg" in message
    assert "0001TP_000003.png" in message


def test_an_empty_split_is_refused(root):
    for path in root.glob("test/*/*"):
        path.unlink()
    assert "split test: no images" in refusal(root, "test")


def test_a_number_of_images_that_is_not_the_official_one_is_reported(root, caplog):
    check.run(camvid(root), "train")
    assert "5 images; the official split has 367" in caplog.text


def test_hidden_files_are_no_data(root):
    for folder, name in (("images", "._0001TP_000000.jpg"), ("labels", ".DS_Store"), ("images", "Thumbs.db")):
        (root / "train" / folder / name).write_bytes(b"junk")
    check.run(camvid(root), "train")


def test_a_size_mismatch_names_both_files_and_suspects_exif(root, mini):
    mini.label(root / "train" / "labels" / "0001TP_000001.png", (0, 1), size=(mini.WIDTH, mini.HEIGHT))
    check.run(camvid(root), "train")
    for level in ("headers", "full"):
        message = refusal(root, level=level)
        assert "0001TP_000001.jpg is 16x12" in message
        assert "0001TP_000001.png is 12x16" in message
        assert "EXIF" in message
    with pytest.raises(DataError, match=r"0001TP_000001\.png"):
        camvid(root).read("train", 1)


def test_the_full_check_reads_every_pixel_and_lists_all_faults(root, mini):
    labels = root / "train" / "labels"
    mini.label(labels / "0001TP_000001.png", (0, 99))
    whole = (root / "train" / "images" / "0001TP_000003.jpg").read_bytes()
    (root / "train" / "images" / "0001TP_000003.jpg").write_bytes(whole[: len(whole) // 2])
    (labels / "0001TP_000004.png").write_bytes(b"")
    message = refusal(root, level="full")
    assert "3 of 5 items cannot be used" in message
    for part in ("0001TP_000001.png: ids 99", "0001TP_000003.jpg", "0001TP_000004.png"):
        assert part in message


def test_a_full_check_that_passed_is_not_repeated_until_a_file_changes(root, monkeypatch):
    check.run(camvid(root), "train", "full")
    decoded = []
    monkeypatch.setattr(check, "_pixels", lambda source, pair: decoded.append(pair) or {0: 1})
    check.run(camvid(root), "train", "full")
    assert not decoded
    os.utime(root / "train" / "labels" / "0001TP_000001.png", (1, 1))
    check.run(camvid(root), "train", "full")
    assert len(decoded) == 5


def test_a_verdict_that_cannot_be_stored_is_no_obstacle(root, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    check.run(camvid(root), "train", "full")
    assert "cannot be cached" in caplog.text


def test_an_unknown_level_is_a_configuration_error(root):
    with pytest.raises(ConfigError, match="names, headers, full"):
        check.run(camvid(root), "train", "all")


def test_with_exif_applied_image_and_label_turn_together(root):
    exif = Image.Exif()
    exif[io.ORIENTATION] = 6
    shown = np.zeros((32, 64, 3), np.uint8)
    shown[:, :32] = 255
    Image.fromarray(shown).save(root / "train" / "images" / "0001TP_000000.jpg", exif=exif, quality=100)
    Image.fromarray((shown[..., 0] == 0).astype(np.uint8)).save(root / "train" / "labels" / "0001TP_000000.png")
    stored, turned = (camvid(root, exif=exif).read("train", 0) for exif in ("ignore", "apply"))
    assert stored.label.shape == (32, 64)
    assert turned.label.shape == turned.image.shape[:2] == (64, 32)
    for sample in (stored, turned):
        assert np.array_equal(sample.image[..., 0] < 128, sample.label == 1)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")
def test_links_are_followed_and_loops_end(root):
    moved = root.parent / "elsewhere"
    (root / "train" / "images").rename(moved)
    (root / "train" / "images").symlink_to(moved)
    (moved / "loop").symlink_to(moved)
    check.run(camvid(root), "train")
    (moved / "0001TP_000000.jpg").unlink()
    (moved / "0001TP_000000.jpg").symlink_to(moved / "gone.jpg")
    with pytest.raises(DataError, match=r"0001TP_000000\.jpg.*no such file"):
        camvid(root).read("train", 0)


def test_the_fingerprint_follows_names_and_sizes_but_not_the_place(root, tmp_path):
    first = camvid(root).fingerprint("train")
    shutil.copytree(root, tmp_path / "copy")
    assert camvid(tmp_path / "copy").fingerprint("train") == first
    image = tmp_path / "copy" / "train" / "images" / "0001TP_000000.jpg"
    image.write_bytes(image.read_bytes() + b"\0")
    assert camvid(tmp_path / "copy").fingerprint("train") != first
    assert camvid(root).fingerprint("val") != first


def test_pairing_100_000_files_takes_no_time_to_speak_of(monkeypatch):
    from seglab.data import listing

    names = [f"images/train2017/{i:012d}.jpg" for i in range(100_000)]
    monkeypatch.setattr(listing, "_walk", lambda *_: iter(names))
    began = time.process_time()
    images = listing.scan("", "images/train2017", ".jpg")
    assert len(listing.match(images, images).pairs) == 100_000
    assert time.process_time() - began < 3  # a third of a second where nothing else runs


def test_paths_are_sorted_by_code_point(root, mini):
    for name in ("ä", "Z", "a b", "A"):
        mini.image(root / "val" / "images" / f"{name}.jpg")
        mini.label(root / "val" / "labels" / f"{name}.png", (0, 1))
    stems = [Path(name).name for name in camvid(root).names("val")]
    assert stems == ["0001TP_000000", "0001TP_000001", "0001TP_000002", "A", "Z", "a b", "ä"]


@pytest.mark.parametrize("kind", ["images/0001TP_000001.jpg", "labels/0001TP_000001.png"])
@pytest.mark.parametrize("level", ["headers", "full"])
def test_a_pipe_among_the_files_is_named_by_every_check(root, pipe, kind, level):
    file = root / "train" / kind
    file.unlink()
    pipe.rename(file)
    assert camvid(root).names("train")[1].endswith("0001TP_000001")
    message = refusal(root, level=level)
    assert "1 of 5 items cannot be used" in message
    assert f"{file}: cannot be read (it is a pipe" in message
    with pytest.raises(DataError, match=rf"{file}: no regular file"):
        camvid(root).fingerprint("train")


def test_a_link_to_itself_is_a_file_that_cannot_be_read_and_not_the_end_of_the_listing(root):
    loop = root / "train" / "images" / "0001TP_000001.jpg"
    loop.unlink()
    loop.symlink_to(loop.name)
    (root / "train" / "images" / "loop").symlink_to("loop")  # no data: it has no suffix
    source = camvid(root)
    check.run(source, "train")
    assert len(source.names("train")) == 5
    assert f"{loop}: cannot be read" in refusal(root, level="full")


def classes_of(root, *labels, level="names", **options):
    """A source of two classes with these labels, after its training split was judged."""
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    (root / "classes.txt").write_text("background\nobject\n")
    for i, ids in enumerate(labels):
        Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(root / "images/train" / f"{i:04d}.png")
        Image.fromarray(np.resize(ids, (2, 4)).astype(np.uint8)).save(root / "labels/train" / f"{i:04d}.png")
    source = Folder(root, **options)
    check.run(source, "train", level)
    check.classes(source, ["train"])
    return source


def test_no_more_labels_are_read_than_show_every_class(tmp_path):
    assert classes_of(tmp_path, *[[0, 1]] * 50).seen["train"].read == check.PROBES


def test_a_second_class_is_searched_in_all_labels(tmp_path):
    source = classes_of(tmp_path, *[[0]] * 199, [1])
    assert set(source.seen["train"].labels) == {0, 1}


def test_the_search_for_a_second_class_ends_at_an_id_without_one(tmp_path):
    with pytest.raises(DataError, match=r"ids 128 .* as many ids as classes") as caught:
        classes_of(tmp_path, *[[0]] * 199, [0, 128])
    assert "'data.dataset.label_map={0: 0, 128: 1}'" in str(caught.value)


def test_labels_start_at_1_only_where_many_hold_no_0(tmp_path):
    with pytest.raises(DataError, match="ids 2 in a label") as caught:
        classes_of(tmp_path, *[[1, 2]] * 199, [0])  # beyond the sample
    assert "start at 1" not in str(caught.value)


def test_labels_without_a_second_class_are_refused_after_all_were_read(tmp_path):
    with pytest.raises(DataError, match=r"folder, split train: nothing but class background in the 200 training") as c:
        classes_of(tmp_path, *[[0]] * 199, [0, 255])
    assert c.value.exit_code == 2
    assert "'data.dataset.label_map={0: 0, 255: 1}'" in str(c.value)


def test_a_sample_of_large_labels_is_small(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "SAMPLE_PIXELS", 100)  # 8 pixels a label
    (tmp_path / "few").mkdir()
    source = classes_of(tmp_path / "few", *[[0, 1]] * 50)
    source.spec = replace(source.spec, classes=("a", "b", "c"), palette=((0, 0, 0),) * 3)
    check.classes(source, ["train"])
    assert source.seen["train"].read == 13


def test_the_full_check_knows_what_is_missing_also_when_its_verdict_is_cached(tmp_path, caplog):
    source = classes_of(tmp_path, *[[0, 1, 255]] * 3, level="full")
    again = Folder(tmp_path)
    for each in (source, again):
        caplog.clear()
        check.run(each, "train", "full")
        check.classes(each, ["train"])
        assert "255 counts as void: 25.0% of the pixels of the 3 training labels" in caplog.text
    assert again.seen["train"].labels == source.seen["train"].labels


def test_a_verdict_on_ignored_ids_does_not_pass_for_one_that_refuses_them(tmp_path):
    classes_of(tmp_path, [0, 1, 7], [0, 1], level="full", unknown="ignore")
    with pytest.raises(DataError, match="ids 7"):
        check.run(Folder(tmp_path), "train", "full")


def test_a_split_that_is_only_evaluated_may_lack_classes(tmp_path):
    (tmp_path / "x").mkdir()
    source = classes_of(tmp_path / "x", [0, 1], [1])
    for path in (tmp_path / "x/labels/train").iterdir():
        Image.fromarray(np.zeros((2, 4), np.uint8)).save(path)
    source = Folder(tmp_path / "x")
    check.run(source, "train", "full")  # nothing is wrong with the files
    with pytest.raises(DataError, match="nothing but class background"):
        check.classes(source, ["train"])


class Photographs(CamVid):
    """Images whose data set gives something else than label maps."""

    gives = frozenset({"category"})
    official = ()


def test_labels_are_checked_only_where_the_data_set_gives_them(root, caplog):
    for path in (root / "train" / "labels").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no label"):
        check.run(CamVid(root), "train", "names")
    source = Photographs(root)
    for level in check.LEVELS:
        check.run(source, "train", level)
    check.classes(source, ["train"])
    assert source.read("train", 0).label is None
    assert not caplog.records
