from __future__ import annotations

import numpy as np
import pytest

from seglab.data import check
from seglab.data.scenes import Scenes
from seglab.errors import ConfigError

LENGTHS = {"train": 6, "val": 4, "test": 5}


def scenes(**changes: object) -> Scenes:
    return Scenes(size=[48, 64], lengths=LENGTHS, **changes)  # type: ignore[arg-type]


def test_an_item_is_a_function_of_seed_split_and_index() -> None:
    for split in Scenes.splits:
        once, again = scenes().read(split, 3), scenes().read(split, 3)
        assert once.name == again.name == f"{split}/000003"
        np.testing.assert_array_equal(once.image, again.image)
        np.testing.assert_array_equal(once.label, again.label)


def test_splits_indices_and_seeds_never_share_a_scene() -> None:
    items = [source.read(split, index) for source in (scenes(), scenes(seed=1))
             for split, length in LENGTHS.items() for index in range(length)]  # fmt: skip
    assert len({item.label.tobytes() for item in items if item.label is not None}) == len(items)
    assert len({item.image.tobytes() for item in items}) == len(items)


def test_an_item_has_the_asked_size_and_legal_ids() -> None:
    source = scenes()
    for index in range(LENGTHS["train"]):
        sample = source.read("train", index)
        assert sample.label is not None
        assert sample.image.shape == (48, 64, 3)
        assert sample.image.dtype == sample.label.dtype == np.uint8
        assert sample.label.shape == (48, 64)
        assert set(np.unique(sample.label)) <= {*range(source.spec.num_classes), 255}
        assert len(np.unique(sample.label)) >= 4


def test_every_class_occurs_and_void_is_rare() -> None:
    source = Scenes(size=[96, 128], lengths={"train": 60})
    counts = sum(np.bincount(source.frame("train", i).label.ravel(), minlength=256) for i in range(60))
    share = np.asarray(counts) / np.sum(counts)
    assert (share[: source.spec.num_classes] > 0.003).all()
    assert share[255] < 0.01


def test_time_moves_the_camera_and_time_zero_is_the_item() -> None:
    source = scenes(noise=0.0)
    np.testing.assert_array_equal(source.frame("val", 1).image, source.read("val", 1).image)
    assert not np.array_equal(source.frame("val", 1, time=0.5).pose, source.frame("val", 1).pose)


def test_names_follow_the_lengths_and_a_missing_length_is_zero() -> None:
    source = Scenes(size=[48, 64], lengths={"train": 2})
    assert source.names("train") == ["train/000000", "train/000001"]
    assert source.names("test") == []
    check.run(source, "train")


def test_the_fingerprint_changes_with_what_the_images_depend_on() -> None:
    prints = [scenes(**change).fingerprint("val") for change in ({}, {"seed": 3}, {"noise": 0.0}, {"variation": 0.5})]
    assert len(set(prints)) == 4
    assert prints[0] == scenes().fingerprint("val")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"size": [48]}, "data.dataset.size"),
        ({"size": [4, 64]}, "data.dataset.size"),
        ({"lengths": {"training": 3}}, "data.dataset.lengths"),
        ({"lengths": {"train": -1}}, "data.dataset.lengths"),
        ({"seed": -1}, "data.dataset.seed"),
        ({"noise": -0.1}, "data.dataset.noise"),
        ({"variation": 1.5}, "data.dataset.variation"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(change: dict, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Scenes(**change)


def test_an_unknown_split_or_index_is_refused() -> None:
    with pytest.raises(ConfigError, match="no split"):
        scenes().names("validation")
    with pytest.raises(IndexError):
        scenes().read("val", 4)


def test_scenes_are_videos_of_named_frames_in_order() -> None:
    source = scenes(frames={"val": 3}, rate=5, noise=0.0)
    assert source.names("val")[:4] == [
        "val/000000/000000",
        "val/000000/000001",
        "val/000000/000002",
        "val/000001/000000",
    ]
    assert source.sequences("val")[2:4] == ["val/000000", "val/000001"]
    assert source.names("train") == scenes().names("train")
    assert source.sequences("train") is None
    frame = source.frame("val", 1, time=2 / 5)
    sample = source.read("val", 5)
    assert sample.name == "val/000001/000002"
    np.testing.assert_array_equal(sample.image, frame.image)
    np.testing.assert_array_equal(sample.label, frame.label)


def test_a_near_frame_is_the_scene_at_another_time() -> None:
    source, video = scenes(), scenes(frames=3)
    assert min(source.reach("train", 2)) >= 3
    np.testing.assert_array_equal(source.near("val", 1, 2).read(1), video.read("val", 5).image)
    np.testing.assert_array_equal(video.near("val", 5, -1).read(1), video.read("val", 4).image)
    assert "label" not in source.near("val", 1, -2).values


def test_frames_have_noise_of_their_own_and_as_much_as_is_said() -> None:
    quiet, noisy = (scenes(frames=2, noise=noise) for noise in (0.02, 0.06))
    still = scenes(frames=2, noise=0.0)
    spread = [
        [(source.read("val", k).image.astype(float) - still.read("val", k).image) for k in (0, 1)]
        for source in (quiet, noisy)
    ]
    assert 2.5 < spread[1][0].std() / spread[0][0].std() < 3.2
    assert abs(np.corrcoef(spread[1][0].ravel(), spread[1][1].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("change", [{"frames": 0}, {"frames": {"valid": 2}}, {"frames": {"val": 0}}, {"rate": 0}])
def test_impossible_videos_are_refused_by_their_key(change: dict) -> None:
    with pytest.raises(ConfigError, match=f"data.dataset.{next(iter(change))}"):
        Scenes(**change)
