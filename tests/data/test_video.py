"""Frames of video files: pixels, times and sizes, and where a file ends too early."""

from __future__ import annotations

import struct
import sys
from fractions import Fraction

import numpy as np
import pytest

from seglab.data import video
from seglab.data.video import BrokenVideo, VideoReader, VideoWriter, missing_bytes
from seglab.errors import ConfigError, DataError
from tests.filming import cut, film, picture

pytest.importorskip("av")


def read(path) -> tuple[VideoReader, list[video.Frame]]:
    with VideoReader(path) as reader:
        return reader, list(reader)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.ts", "libx264")]
)
def test_every_frame_is_read_in_order_at_its_time(tmp_path, name, codec):
    reader, frames = read(film(tmp_path / name, 8, Fraction(25), codec=codec))
    assert reader.size == (32, 48)
    assert reader.rate == 25
    assert len(frames) == 8
    for number, frame in enumerate(frames):
        assert np.abs(frame.image[16:, 24:].mean() - (40 + 8 * number)) < 4, "the next one is brighter by 8"
        assert frame.image[2, 2, 0] - frame.image[2, 2, 1] > 150
        assert frame.pts * reader.time_base == pytest.approx(number / 25, abs=1e-3)


def test_a_rate_is_a_fraction_and_times_that_vary_stay_as_they_are(tmp_path):
    assert read(film(tmp_path / "a.mp4"))[0].rate == Fraction(30000, 1001)
    times = [0, 1, 2, 5, 11, 12, 20]
    reader, frames = read(film(tmp_path / "b.mp4", times, Fraction(30), Fraction(1, 100)))
    assert [frame.pts * reader.time_base for frame in frames] == [Fraction(time, 100) for time in times]


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_video_is_turned_as_players_show_it(tmp_path, rotation):
    path = film(tmp_path / "a.mp4", rotation=rotation)
    content = path.read_bytes()
    at = content.index(b"tkhd") + 44  # the matrix [a b u; c d v; x y w]: (x, y) goes to (a x + c y, b x + d y)
    a, b, _, c, d = (value / 65536 for value in struct.unpack(">5i", content[at : at + 20]))
    reader, frames = read(path)
    corner = np.array([-1, -1])  # red, from the middle
    shown = np.array([a * corner[0] + c * corner[1], b * corner[0] + d * corner[1]])
    height, width = reader.size
    assert (height, width) == ((32, 48) if rotation == 180 else (48, 32))
    x, y = (3 if each < 0 else side - 4 for each, side in zip(shown, (width, height), strict=True))
    red = frames[0].image[y, x]
    assert red[0] > 200
    assert red[1] < 60
    assert sum(int(frames[0].image[i, j, 0]) > 200 for i in (3, height - 4) for j in (3, width - 4)) == 1


@pytest.mark.parametrize(("name", "options"), [("a.mkv", {}), ("a.mp4", {"movflags": "frag_keyframe+empty_moov"})])
def test_a_file_that_was_cut_off_gives_the_frames_before_and_says_so(tmp_path, name, options):
    path = film(tmp_path / name, 24, Fraction(24), **options)
    assert missing_bytes(path) == 0
    whole = [frame.image for frame in read(path)[1]]
    assert len(whole) == 24
    found = []
    with VideoReader(cut(path, 0.7)) as reader, pytest.raises(BrokenVideo, match=rf"{name}: frame \d+ .*replace"):  # noqa: PT012
        for frame in reader:
            found.append(frame.image)
    assert 4 < len(found) < 24
    assert all(np.array_equal(*pair) for pair in zip(found, whole[: len(found)], strict=True))


def test_a_matroska_file_that_was_streamed_does_not_say_how_long_it_is(tmp_path):
    path = film(tmp_path / "a.mkv", live="1")
    assert missing_bytes(path) == 0
    assert len(read(path)[1]) == 8


def test_frames_of_another_size_end_a_video(tmp_path):
    path = film(tmp_path / "a.mkv", 6, codec="mjpeg", sizes={4: (16, 24)})
    found = []
    with VideoReader(path) as reader, pytest.raises(BrokenVideo, match=r"frame 5 is 16x24 .* before it 32x48"):  # noqa: PT012
        for frame in reader:
            found.append(frame.pts)
    assert len(found) == 4


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b""), "no frame of it can be decoded"),
        (lambda path: path.write_text("no video"), "no frame of it can be decoded"),
        (lambda path: cut(film(path, 24), 0.6), "no frame of it can be decoded"),  # its index is at the end
        (lambda path: path.write_bytes(film(path).read_bytes().replace(b"avc1", b"zzzz")), "no frame .*codec"),
    ],
    ids=["empty", "text", "without an index", "no codec"],
)
def test_what_no_frame_can_be_decoded_of_is_refused(tmp_path, make, reason):
    path = tmp_path / "a.mp4"
    make(path)
    with pytest.raises(DataError, match=reason) as raised:
        VideoReader(path)
    assert not isinstance(raised.value, BrokenVideo)


def test_frames_with_too_many_pixels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"1536 pixels .*at most 1000; set max_pixels=1536"):
        VideoReader(film(tmp_path / "a.mp4"), 1000)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'seglab\[video\]'"):
        VideoReader(tmp_path / "a.mp4")


@pytest.mark.parametrize("size", [(32, 48), (31, 47)])
def test_what_is_written_is_read_again_with_its_times(tmp_path, size):
    times = [0, 3, 4, 10]
    writer = VideoWriter(tmp_path / "a.mp4", size, Fraction(24000, 1001), Fraction(1, 90))
    for number, time in enumerate(times):
        writer.add(picture(number, size), time)
    writer.close()
    reader, frames = read(tmp_path / "a.mp4")
    assert reader.size == (32, 48)
    assert [frame.pts * reader.time_base for frame in frames] == [Fraction(time, 90) for time in times]
    for number, frame in enumerate(frames):
        shown = picture(number, size)
        assert np.abs(frame.image[: size[0], : size[1]].astype(int) - shown).mean() < 5
    if size == (31, 47):
        assert np.abs(frames[0].image[31].astype(int) - frames[0].image[30]).max() < 8, "the last row once more"
