"""Data sets of videos: which frames are near an item, and what an evaluation of every frame sees."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from seglab.data import check
from seglab.data.datamodule import DataModule
from seglab.data.datasets import KITTISTEP, CamVid, Cityscapes, Folder, KITTISemantic
from seglab.errors import DataError
from tests.data.test_clips import plain


def numbers(source, split, index):
    """The frame numbers of an item's video, and its own place."""
    frames, place = source.video(split, index)
    return [int(path.removesuffix("_leftImg8bit.png").rpartition("_")[2]) for path in frames], place


def test_a_labelled_frame_of_cityscapes_has_its_snippet_around_it(mini, tmp_path):
    mini.cityscapes_sequences(tmp_path)
    source = Cityscapes(tmp_path)
    assert source.sequences("val") is None  # an evaluation is of single images
    names = [name.rpartition("/")[2].removesuffix("_leftImg8bit") for name in source.names("val")]
    assert names[:3] == ["frankfurt_000000_000294", "frankfurt_000000_000324", "lindau_000000_000019"]
    assert [source.reach("val", index) for index in range(3)] == [(19, 10)] * 3
    assert numbers(source, "val", 1) == ([*range(305, 335)], 19)  # running numbers: not the frames of the one before
    found = source.near("val", 0, -2).read(1)
    expected = tmp_path / "leftImg8bit_sequence/val/frankfurt/frankfurt_000000_000292_leftImg8bit.png"
    np.testing.assert_array_equal(found, np.asarray(Image.open(expected)))


def test_a_missing_frame_ends_a_snippet(mini, tmp_path):
    mini.cityscapes_sequences(tmp_path)
    (tmp_path / "leftImg8bit_sequence/val/frankfurt/frankfurt_000000_000290_leftImg8bit.png").unlink()
    assert Cityscapes(tmp_path).reach("val", 0) == (3, 10)


def test_without_the_sequences_their_folder_is_asked_for(mini, tmp_path):
    mini.cityscapes(tmp_path)
    with pytest.raises(DataError, match="leftImg8bit_sequence/train"):
        Cityscapes(tmp_path).reach("train", 0)


def test_all_frames_of_cityscapes_are_evaluated_and_one_of_a_snippet_is_scored(mini, tmp_path):
    made = mini.cityscapes_sequences(tmp_path)
    (tmp_path / "gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png").unlink()  # of which no frames are there
    source = Cityscapes(tmp_path, every_frame=True)
    check.run(source, "val", "full")
    sequences = source.sequences("val")
    assert {name: sequences.count(name) for name in sequences} == {
        "frankfurt_000000_000294": 30, "frankfurt_000000_000324": 30, "lindau_000000_000019": 30
    }  # fmt: skip
    labelled = [index for index in range(90) if (source.read("val", index).label != 255).any()]
    assert [source.names("val")[index].rpartition("/")[2][-18:-12] for index in labelled] == [
        "000294",
        "000324",
        "000019",
    ]
    np.testing.assert_array_equal(source.read("val", labelled[0]).label, mini.stripes(made.train))
    assert source.reach("val", labelled[1]) == (19, 10)


def test_kitti_step_has_its_official_videos_and_reads_the_class_as_red(mini, tmp_path):
    mini.kitti_step(tmp_path)
    source = KITTISTEP(tmp_path)
    assert source.sequences("train") == ["0000", "0000", "0001", "0001"]
    assert source.sequences("val") == ["0002", "0002"]
    assert [source.reach("train", index) for index in range(4)] == [(0, 1), (1, 0)] * 2
    mini.label(tmp_path / "panoptic_maps/val/0002/000000.png", (0, 1))
    with pytest.raises(DataError, match=r"0002/000000\.png: label of mode L"):
        source.read("val", 0)


def test_the_kitti_benchmark_holds_21_images_out_and_takes_the_frames_around_where_they_are(mini, tmp_path):
    mini.kitti_semantic(tmp_path)
    source = KITTISemantic(tmp_path)
    assert [name[-9:-3] for name in source.names("val")] == ["000001", "000005", "000011"]
    assert not set(source.names("train")) & set(source.names("val"))
    assert [source.reach("train", index) for index in range(3)] == [(0, 0), (2, 1), (0, 0)]
    assert source.near("train", 1, 1).name == "training/image_2/000002_11"
    mini.label(tmp_path / "training/semantic/000001_10.png", (7 * 256, 26 * 256 + 1), "u2")
    with pytest.raises(DataError, match="training/semantic"):
        source.read("val", 0)


def test_a_folder_of_videos_is_evaluated_with_void_where_there_is_no_label(mini, tmp_path):
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    for number in range(4):
        mini.image(tmp_path / "images/val/street" / f"{number}.png", number)
    mini.label(tmp_path / "labels/val/street/2.png", (0, 1))
    with pytest.raises(DataError, match="no label"):
        check.run(Folder(tmp_path), "val")
    source = Folder(tmp_path, every_frame=True)
    check.run(source, "val", "full")
    assert [(source.read("val", index).label != 255).all() for index in range(4)] == [False, False, True, False]
    data = DataModule(
        lambda root: Folder(root, every_frame=True), str(tmp_path), {"train": "val", "val": "val", "test": None}, plain(),
        num_workers=0,
    )  # fmt: skip
    data.in_sequences = True
    batches = [batch for some in data.val_dataloader() for batch in some]
    assert [batch.names[0][-1] for batch in batches] == list("0123")


def test_the_validation_of_camvid_is_one_clip(real_camvid):
    source = CamVid(real_camvid)
    assert set(source.sequences("val")) == {"0016E5"}
    reached = [source.reach("val", index) for index in range(101)]
    assert sorted(reached) == [(k, 100 - k) for k in range(101)]
    assert {source.reach("train", index) for index in range(367)} == {(0, 0)}
