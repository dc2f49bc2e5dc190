"""Frames of video files by number, and data sets whose images they are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from seglab.data import frames
from seglab.data.clips import Clips
from seglab.data.datamodule import DataModule
from seglab.data.datasets import Folder
from seglab.data.frames import VideoFrames
from seglab.data.io import MAX_PIXELS
from seglab.data.video import VideoReader
from seglab.errors import DataError
from tests.data.test_clips import plain
from tests.filming import cut, film

pytest.importorskip("av")


@pytest.mark.parametrize(
    ("name", "codec", "rotation"),
    [("a.mp4", "libx264", 0), ("a.mp4", "libx264", 90), ("a.mkv", "libx264", 0), ("a.ts", "libx264", 0), ("a.mkv", "mpeg4", 0)],
)  # fmt: skip
def test_any_order_gives_the_frames_that_reading_from_the_start_gives(tmp_path, name, codec, rotation):
    path = film(tmp_path / name, 14, Fraction(25), codec=codec, rotation=rotation)
    with VideoReader(path) as reader:
        expected = [frame.image for frame in reader]
    video = VideoFrames(str(path), MAX_PIXELS)
    assert len(video) == len(expected) == 14
    assert video.size == expected[0].shape[:2]
    for number in [*range(14), 13, 0, 7, 8, 3, 12, 12, 1, *np.random.default_rng(0).permutation(14)]:
        np.testing.assert_array_equal(video.read(int(number)), expected[number], err_msg=str(number))


def test_frames_that_are_stored_in_another_order_than_shown_are_found(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "3", "g": "8", "crf": "8"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for number in range(12):
            image = np.full((32, 48, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    video = VideoFrames(str(path), MAX_PIXELS)
    for number in (11, 2, 5, 0, 9, 10):
        assert video.read(number).mean() == pytest.approx(20 * number, abs=4)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"no video"), "cannot be read as a video"),
        (lambda path: cut(path, 0.5), "cannot be read as a video"),
        (lambda path: path.unlink(), "cannot be read as a video"),
    ],
)
def test_what_is_no_whole_video_is_named(tmp_path, spoil, said):
    path = film(tmp_path / "a.mp4")
    spoil(path)
    with pytest.raises(DataError, match=said) as caught:
        VideoFrames(str(path), MAX_PIXELS)
    assert str(path) in str(caught.value)


def test_a_damaged_frame_is_named_and_the_others_can_be_read(tmp_path):
    path = film(tmp_path / "a.avi", codec="mjpeg")
    content = bytearray(path.read_bytes())
    starts = [at for at in range(len(content) - 1) if content[at : at + 2] == b"\xff\xd8"]
    content[starts[5] : starts[6] - 16] = bytes(starts[6] - 16 - starts[5])
    path.write_bytes(content)
    video = VideoFrames(str(path), MAX_PIXELS)
    with pytest.raises(DataError, match="frame 5"):
        video.read(5)
    assert video.read(4).mean() < video.read(7).mean()
    with pytest.raises(DataError, match="no frame 8, it has 8"):
        video.read(8)
    with pytest.raises(DataError, match=r"data\.dataset\.max_pixels"):
        VideoFrames(str(path), 1000)


def test_threads_share_a_file(tmp_path):
    video = VideoFrames(str(film(tmp_path / "a.mp4", 14)), MAX_PIXELS)
    expected = [video.read(number) for number in range(14)]
    numbers = np.random.default_rng(0).permutation(14 * 6) % 14
    with ThreadPoolExecutor(4) as pool:
        for number, found in zip(numbers, pool.map(video.read, map(int, numbers)), strict=True):
            np.testing.assert_array_equal(found, expected[number])


def test_only_some_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "_open", type(frames._open)())
    paths = [str(film(tmp_path / f"{name}.mp4", 2)) for name in "abcdef"]
    for path in paths:
        frames.opened(path, MAX_PIXELS)
    assert [path for _, path, _ in frames._open] == paths[-frames.OPEN :]
    assert frames.opened(paths[-1], MAX_PIXELS) is frames.opened(paths[-1], MAX_PIXELS)


@pytest.fixture
def filmed(tmp_path):
    """A data set of one video file a split, of whose frames two are labelled."""
    for split in ("train", "val"):
        film(tmp_path / f"images/{split}/street.mp4", 10)
        for number in (2, 6):
            (tmp_path / f"labels/{split}/street").mkdir(parents=True, exist_ok=True)
            label = np.full((32, 48), number % 3, np.uint8)
            label[:16] = 0
            Image.fromarray(label).save(tmp_path / f"labels/{split}/street/{number:06d}.png")
    (tmp_path / "classes.txt").write_text("road\ncar\nsky\n")
    return tmp_path


def test_a_video_file_is_a_folder_of_its_frames(filmed):
    source = Folder(filmed, videos=True)
    source.allow_unlabelled = True
    assert source.names("val") == ["images/val/street.mp4/000002", "images/val/street.mp4/000006"]
    assert [source.reach("val", index) for index in (0, 1)] == [(2, 7), (6, 3)]
    sample = source.read("val", 1)
    assert sample.image.shape == (32, 48, 3)
    assert sample.image[20, 30, 0] == pytest.approx(40 + 8 * 6, abs=4)
    assert set(np.unique(sample.label)) == {0}
    near = source.near("val", 1, -3).read(1)
    assert near[20, 30, 0] == pytest.approx(40 + 8 * 3, abs=4)
    assert len(source.fingerprint("val")) == 16


def test_every_frame_of_a_file_is_evaluated_in_order(filmed):
    source = Folder(filmed, videos=True, every_frame=True, exif="apply")
    source.allow_unlabelled = True
    assert source.sequences("val") == ["images/val/street.mp4"] * 10
    labelled = [index for index in range(10) if (source.read("val", index).label != 255).any()]
    assert labelled == [2, 6]


def test_clips_of_video_files_train_in_worker_processes_as_without(filmed):
    def batches(workers):
        data = DataModule(
            lambda root: Folder(root, videos=True), str(filmed), {"train": "train", "val": "val", "test": None}, plain(crop=(16, 24)), batch_size=2, num_workers=workers,
            clip=Clips(gap=2), allow_unlabelled=True,
        )  # fmt: skip
        data.setup("fit")
        return next(iter(data.train_dataloader()))

    here, there = batches(0), batches(1)
    torch.testing.assert_close(here.clip.frames, there.clip.frames)
    assert here.clip.frames.shape == (2, 2, 3, 16, 24)
    assert here.clip.frames.float().mean((2, 3, 4)).diff(dim=1).abs().min() > 4, "the near frame is another one"


def test_where_there_are_only_video_files_the_option_is_named(filmed):
    with pytest.raises(DataError, match=r"street\.mp4.*data\.dataset\.videos=true"):
        Folder(filmed).pairs("val")
