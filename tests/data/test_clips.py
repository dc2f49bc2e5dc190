"""Clips of training: which frames, one geometry and one colour draw for all of them, the flow with them."""

from __future__ import annotations

from functools import partial

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from seglab.data.augment import Augment, PhotoMetricDistortion
from seglab.data.clips import Clips, Surroundings
from seglab.data.collate import group, stack
from seglab.data.datamodule import DataModule
from seglab.data.datasets import CamVid, Folder
from seglab.data.items import Items, TrainItems
from seglab.data.scenes import Scenes
from seglab.data.source import Opened, Sample
from seglab.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


def plain(**options):
    """An augmentation that changes nothing unless it is told to."""
    return Augment(**{"crop": None, "ratio": None, "flip": 0, "photometric": None, **options})


def frame(seed, size=(40, 60)):
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8), size[::-1])


def opened(image, label=None):
    return Opened.of(Sample(image=image, label=label, name="a"))


def around(offsets, flow=None, size=(40, 60)):
    return Surroundings(offsets, {o: opened(frame(7 + o, size)) for o in offsets if o}, flow)


def test_a_near_frame_is_drawn_from_both_sides_within_the_gap_and_the_video():
    clips = Clips(gap=3)
    drawn = {sum(clips.choose((5, 2), (0, epoch, 4))) for epoch in range(200)}
    assert drawn == {-3, -2, -1, 1, 2}
    assert {clips.choose((0, 1), (0, epoch, 4)) for epoch in range(20)} == {(0, 1)}
    assert all(list(chosen) == sorted(chosen) for chosen in (clips.choose((5, 2), (0, e, 4)) for e in range(20)))


def test_what_is_drawn_is_a_function_of_seed_epoch_and_index():
    clips = Clips(gap=3)
    keys = [(seed, epoch, index) for seed in range(5) for epoch in range(5) for index in range(5)]
    assert [clips.choose((9, 9), key) for key in keys] == [Clips(gap=3).choose((9, 9), key) for key in keys]
    for axis in range(3):
        moved = [tuple(value + (place == axis) for place, value in enumerate(key)) for key in keys]
        assert [clips.choose((9, 9), key) for key in keys] != [clips.choose((9, 9), key) for key in moved]


def test_fixed_frames_need_all_of_them():
    clips = Clips(offsets=[1, 0, -1])
    assert clips.choose((4, 4), (0, 0, 0)) == (-1, 0, 1)
    assert clips.reached((1, 1))
    assert not clips.reached((0, 5))
    assert Clips().reached((0, 1))
    assert not Clips().reached((0, 0))


@pytest.mark.parametrize(
    ("options", "key"),
    [({"gap": 0}, "gap"), ({"offsets": [1, 2]}, "offsets"), ({"offsets": [0]}, "offsets"),
     ({"offsets": [0, 1, 1]}, "offsets"), ({"unreached": "skip"}, "unreached")],
)  # fmt: skip
def test_an_impossible_clip_is_refused_by_its_key(options, key):
    with pytest.raises(ConfigError, match=f"data.clip.{key}"):
        Clips(**options)


@pytest.mark.parametrize("size", [(40, 60), (20, 30)], ids=["cropped", "padded"])
def test_the_same_image_is_the_same_in_every_frame_of_a_clip(size):
    augment = Augment(crop=(32, 48), photometric=PhotoMetricDistortion())
    image = frame(0, size)
    label = RNG.integers(0, 3, size, dtype=np.uint8)
    same = Surroundings((-1, 0, 2), {-1: opened(image), 2: opened(image)})
    coloured = 0
    for epoch in range(12):
        item = augment(opened(image, label), (0, epoch, 0), same)
        for place in range(3):
            assert torch.equal(item.clip.shown[place], item.image)
            assert torch.equal(item.clip.frames[place], item.clip.frames[0])
        coloured += not torch.equal(item.clip.frames, item.clip.shown)
    assert coloured > 8


def test_a_clip_changes_nothing_of_its_item():
    augment = Augment(crop=(32, 48), photometric=PhotoMetricDistortion())
    image, label = frame(0), RNG.integers(0, 3, (40, 60), dtype=np.uint8)
    for epoch in range(10):
        alone = augment(opened(image, label), (0, epoch, 0))
        item = augment(opened(image, label), (0, epoch, 0), around((0, 1)))
        assert torch.equal(alone.image, item.image)
        assert torch.equal(alone.label, item.label)
        assert torch.equal(item.clip.shown[item.clip.index], item.image)
        assert item.clip.offset.tolist() == [0, 1]


def test_the_frames_are_the_neighbours_of_the_image():
    item = plain()(opened(frame(0)), (0, 0, 0), around((-2, 0, 1)))
    assert item.clip.index == 1
    for place, seed in enumerate((5, 0, 8)):
        np.testing.assert_array_equal(item.clip.frames[place].permute(1, 2, 0).numpy(), frame(seed))


def test_a_flow_is_resized_cropped_and_mirrored_with_its_frames():
    flow = np.stack(np.meshgrid(np.arange(60), np.arange(40)), -1).astype(np.float32)  # each pixel's own place
    item = plain(ratio=(0.5, 0.5), flip=1.0)(opened(frame(0)), (0, 0, 0), around((0, 1), {1: flow}))
    found = item.clip.flow
    assert found.shape == (2, 2, 20, 30)
    assert (found[0] == 0).all()
    # A place at x becomes a motion of x / 2 pixels, to the other side.
    np.testing.assert_array_equal(found[1, 0, 0].numpy(), -np.arange(0, 60, 2)[::-1] / 2)
    np.testing.assert_array_equal(found[1, 1, :, 0].numpy(), np.arange(0, 40, 2) / 2)


def test_a_flow_carries_the_near_frame_into_the_image_after_any_augmentation():
    source = Scenes(size=(72, 96), lengths={"train": 3}, noise=0.0, rate=4)
    items = TrainItems(Items(source, ["train"]), Augment(crop=(48, 64), ratio=(0.8, 1.3)), seed=0, clips=Clips(gap=1))
    moved = still = 0.0
    for epoch in range(4):
        for index in range(3):
            clip = items[epoch, index].clip
            near = 1 - int(clip.index)
            image, other = (clip.frames[place].permute(1, 2, 0).float().numpy() for place in (int(clip.index), near))
            flow = clip.flow[near].permute(1, 2, 0).numpy()
            y, x = np.mgrid[:48, :64].astype(np.float32)
            to = [np.nan_to_num(flow[..., axis]) + grid for axis, grid in ((0, x), (1, y))]
            inside = (to[0] >= 0) & (to[0] <= 63) & (to[1] >= 0) & (to[1] <= 47)
            use = inside & (np.hypot(*np.moveaxis(np.nan_to_num(flow), -1, 0)) > 1.5)
            moved += np.abs(cv2.remap(other, *to, cv2.INTER_LINEAR) - image)[use].sum()
            still += np.abs(other - image)[use].sum()
    assert 0 < moved < 0.7 * still


def test_padding_has_no_flow():
    item = plain(crop=(50, 70))(opened(frame(0)), (0, 0, 0), around((0, 1), {1: np.ones((40, 60, 2), np.float32)}))
    flow = item.clip.flow[1]
    assert (flow[:, :40, :60] == 1).all()
    assert flow[:, 40:].isnan().all()
    assert flow[:, :, 60:].isnan().all()


def test_transforms_that_move_pixels_are_refused_with_a_clip_and_colours_are_not():
    image = frame(0)
    moving = plain(extra=[A.OneOf([A.Blur(p=1), A.HorizontalFlip(p=1)])])
    moving(opened(image), (0, 0, 0))
    with pytest.raises(ConfigError, match=r"augment\.extra has OneOf"):
        moving(opened(image), (0, 0, 0), around((0, 1)))
    item = plain(extra=[A.InvertImg(p=1)])(opened(image), (0, 0, 0), around((0, 1)))
    assert torch.equal(item.clip.shown, 255 - item.clip.frames)


def test_frames_of_another_size_are_refused():
    with pytest.raises(DataError, match="60x30 and 60x40"):
        plain()(opened(frame(0)), (0, 0, 0), around((0, 1), size=(30, 60)))


def batch(flow=True):
    source = Scenes(size=(48, 64), lengths={"train": 4}, noise=0.0)
    items = TrainItems(Items(source, ["train"]), Augment(crop=(40, 56)), 0, clips=Clips(flow=flow))
    return stack([items[0, index] for index in range(4)])


def test_a_batch_carries_clips_through_all_that_is_done_to_it():
    made = batch()
    clip = made.clip
    assert clip.frames.shape == clip.shown.shape == (4, 2, 3, 40, 56)
    assert clip.flow.shape == (4, 2, 2, 40, 56)
    assert clip.index.tolist() == [row.index(0) for row in clip.offset.tolist()]
    assert torch.equal(clip.shown[torch.arange(4), clip.index], made.image)
    small = made.corner(16).clip
    assert torch.equal(small.shown, clip.shown[..., :16, :16])
    assert torch.equal(small.offset, clip.offset)
    assert made.map(lambda x: x.double()).clip.flow.dtype == torch.float64
    assert batch(flow=False).clip.flow is None


def test_clips_of_different_lengths_are_not_stacked_together():
    items = [plain()(opened(frame(0)), (0, 0, 0), around(offsets)) for offsets in ((0, 1), (0, 1), (-1, 0, 1))]
    assert [len(each) for each in group(items)] == [2, 1]


def test_the_stream_of_clips_does_not_depend_on_the_workers():
    def stream(number):
        data = DataModule(
            partial(Scenes, size=(48, 64), lengths={"train": 6, "val": 1}), None,
            {"train": "train", "val": "val", "test": None}, Augment(crop=(40, 56)), batch_size=3, num_workers=number,
            clip=Clips(),
        )  # fmt: skip
        batches = iter(data.train_dataloader())
        return [next(batches) for _ in range(3)]

    for one, other in zip(stream(0), stream(2), strict=True):
        assert torch.equal(one.clip.shown, other.clip.shown)
        assert torch.equal(one.clip.offset, other.clip.offset)


def folder_of_videos(mini, root, labelled=(1, 2, 3)):
    (root / "classes.txt").write_text("road\nsky\n")
    for video, numbers in {"a": (1, 2, 3, 10), "b": (1,)}.items():
        for number in numbers:
            mini.image(root / "images" / "train" / video / f"{number}.png", number)
            if number in labelled:
                mini.label(root / "labels" / "train" / video / f"{number}.png", (0, 1))
    return Folder(str(root))


def test_frames_without_a_label_are_near_frames_of_those_with_one(mini, tmp_path):
    source = folder_of_videos(mini, tmp_path, labelled=(1, 2))
    source.allow_unlabelled = True
    assert [name.rpartition("train/")[2] for name in source.names("train")] == ["a/1", "a/2", "b/1"]
    assert [source.reach("train", index) for index in range(3)] == [(0, 3), (1, 2), (0, 0)]
    found = source.near("train", 1, 2)  # the tenth frame comes after the third
    assert found.name == "images/train/a/10"
    assert not found.values
    np.testing.assert_array_equal(found.read(1), source.open_frame("train", "images/train/a/10.png").read(1))
    with pytest.raises(IndexError):
        source.near("train", 0, -1)


def module(root, source, clip):
    return DataModule(
        lambda root: source(root), str(root), {"train": "train", "val": "train", "test": None}, plain(crop=(12, 16)),
        batch_size=1, num_workers=0, clip=clip,
    )  # fmt: skip


def test_items_without_a_near_frame_are_refused_or_left_out(mini, tmp_path):
    folder_of_videos(mini, tmp_path, labelled=(1, 2, 3, 10))
    with pytest.raises(DataError, match=r"1 of 5 training items.*images/train/b/1.*data\.clip\.unreached=leave_out"):
        module(tmp_path, Folder, Clips()).setup("fit")
    data = module(tmp_path, Folder, Clips(unreached="leave_out"))
    data.setup("fit")
    assert len(data.items("train")) == 4
    assert len(data.items("val")) == 5
    assert data.probe().clip is not None
    fixed = module(tmp_path, Folder, Clips(offsets=[-1, 0, 1], unreached="leave_out"))
    assert [name.rpartition("/")[2] for name in fixed.names("train")] == ["2", "3"]


def test_neighbours_in_a_split_of_one_frame_a_second_are_no_near_frames(mini, tmp_path):
    mini.camvid(tmp_path)
    source = CamVid(tmp_path)
    assert source.sequences("train") == ["0001TP"] * 5
    assert source.reach("train", 2) == (0, 0)
    assert source.reach("val", 1) == (1, 1)
    with pytest.raises(DataError, match="own rate"):
        module(tmp_path, CamVid, Clips()).setup("fit")
    with pytest.raises(DataError, match="own rate"):  # nothing is left
        module(tmp_path, CamVid, Clips(unreached="leave_out")).setup("fit")


def test_scenes_are_evaluated_as_videos_with_exact_flow():
    source = partial(Scenes, size=(48, 64), lengths={"train": 2, "val": 2}, frames={"val": 3})
    data = DataModule(source, None, {"train": "train", "val": "val", "test": None}, plain(), num_workers=0)
    data.in_sequences = True
    batches = [each for some in data.val_dataloader() for each in some]
    assert [each.sequence for each in batches] == [("val/val/000000",)] * 3 + [("val/val/000001",)] * 3
    for number, each in enumerate(batches):
        assert each.flow.shape == (1, 2, 48, 64)
        if number % 3 == 2:
            assert each.flow.isnan().all()
        else:
            expected = np.moveaxis(source().flow("val", number, 1), -1, 0)
            np.testing.assert_array_equal(each.flow[0].numpy(), expected)
