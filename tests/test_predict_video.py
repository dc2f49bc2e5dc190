"""Prediction of video files: an overlay as a video, class ids of every frame, and what becomes of damaged ones."""

from __future__ import annotations

import json
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from seglab import predict
from seglab.data.video import VideoReader
from seglab.errors import ConfigError, DataError
from seglab.predictors import videos
from tests.filming import cut, film
from tests.predicting import files, network, photograph, runner

pytest.importorskip("av")


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    return network(tmp_path_factory.mktemp("net") / "net.ckpt")


@pytest.fixture
def run(ckpt, tmp_path):
    """``run(*overrides)`` predicts the videos below ``videos``."""
    return runner(ckpt, tmp_path / "videos", tmp_path / "out")


def ids(folder) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted(folder.iterdir())]


def report(folder) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_a_video_becomes_a_video_with_its_times_and_maps_of_every_frame(ckpt, tmp_path):
    times = [0, 1, 2, 5, 9]
    path = film(tmp_path / "ride.mkv", times, Fraction(30), Fraction(1, 1000), rotation=0)
    out = runner(ckpt, path, tmp_path / "out")()
    frames = [f"{i:06d}.png" for i in range(5)]
    expected = [f"{kind}/ride/{frame}" for kind in ("colour", "index") for frame in frames]
    assert files(out) == sorted([*expected, "overlay/ride.mp4", "report.json"])
    with VideoReader(path) as source, VideoReader(out / "overlay/ride.mp4") as made:
        shown = list(source)
        drawn = list(made)
        assert [f.pts * made.time_base for f in drawn] == [f.pts * source.time_base for f in shown]
        assert made.size == source.size
    for frame in shown[:2]:  # as images are predicted
        Image.fromarray(frame.image).save(tmp_path / "frame.png")
        image = runner(ckpt, tmp_path / "frame.png", tmp_path / f"still{frame.pts}")("write=[index]")
        place = next(i for i, each in enumerate(shown) if each is frame)
        assert np.array_equal(np.array(Image.open(image / "index/frame.png")), ids(out / "index/ride")[place])
    assert report(out)["done"] == report(out)["images"] == 1


def test_a_video_that_players_turn_is_predicted_and_shown_upright(ckpt, tmp_path):
    out = runner(ckpt, film(tmp_path / "a.mp4", 2, rotation=90), tmp_path / "out")("write=[index,overlay]")
    assert ids(out / "index/a")[0].shape == (48, 32)
    with VideoReader(out / "overlay/a.mp4") as made:
        assert made.size == (48, 32)
        assert made.rate == Fraction(30000, 1001)


@pytest.mark.parametrize("predictor", ["temporal_average", "aux_adapt", "tent"])
def test_every_predictor_begins_anew_with_each_video(run, ckpt, tmp_path, predictor):
    film(tmp_path / "videos/a.mp4", 3)
    film(tmp_path / "videos/deep/b.mp4", 3)
    chosen = [f"predictor={predictor}"]
    if predictor == "aux_adapt":
        chosen.append(f"predictor.aux={network(tmp_path / 'aux.ckpt', 'seed=3')}")
    if predictor != "temporal_average":
        chosen.append("predictor.refine.optimizer.lr=0.1")
    out = run(*chosen, "write=[index]")
    one, two = ids(out / "index/a"), ids(out / "index/deep/b")
    assert len(one) == 3
    assert all(map(np.array_equal, one, two))
    before = (out / "index/a").stat().st_mtime_ns
    videos.remove(out / "index/deep/b")
    run(*chosen, "write=[index]")
    assert all(map(np.array_equal, one, ids(out / "index/deep/b")))
    assert (out / "index/a").stat().st_mtime_ns == before, "a video that is done is left alone"


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_of_a_video_with_a_broken_tail_the_frames_before_are_kept_and_the_reason_said(run, tmp_path, name):
    options = {"movflags": "frag_keyframe+empty_moov"} if name == "a.mp4" else {}
    path = cut(film(tmp_path / "videos" / name, 24, **options), 0.7)
    with pytest.raises(predict.PartialPrediction, match=rf"(?s)1 of 1 videos .*{name}: frame \d+ .*expected") as raised:
        run()
    assert raised.value.exit_code == 3
    out = tmp_path / "out"
    kept = ids(out / "index/a.partial")
    assert 4 < len(kept) < 24
    with VideoReader(out / "overlay/a.partial.mp4") as made:
        assert len(list(made)) == len(kept)
    about = report(out)
    assert (about["status"], about["done"], about["partial"]) == ("partial", 0, 1)
    assert "frame" in about["failed"][str(path)]
    with pytest.raises(predict.PartialPrediction):
        run()  # what is not whole is no reason to leave it out
    film(path, 24, **options)
    run()
    assert len(ids(out / "index/a")) == 24
    assert not [name for name in files(out) if ".partial" in name and ".replaced" not in name]


def test_a_change_of_size_ends_a_video_and_the_next_one_is_predicted(run, tmp_path):
    film(tmp_path / "videos/a.mkv", 6, codec="mjpeg", sizes={4: (16, 24)})
    film(tmp_path / "videos/b.mp4", 2)
    with pytest.raises(predict.PartialPrediction, match=r"1 of 2 videos .*\n.*frame 5 is 16x24"):
        run("write=[index]")
    assert len(ids(tmp_path / "out/index/a.partial")) == 4
    assert len(ids(tmp_path / "out/index/b")) == 2


def test_nothing_decodable_is_bad_input_and_leaves_no_prediction(run, tmp_path):
    cut(film(tmp_path / "videos/a.mp4", 24), 0.6)  # without its index
    (tmp_path / "videos/b.mkv").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)no video could be predicted:.*a\.mp4: .*b\.mkv: ") as raised:
        run()
    assert raised.value.exit_code == 2
    assert files(tmp_path / "out") == ["report.json"]


def test_an_interrupted_video_leaves_nothing_half_and_is_begun_again(run, tmp_path, monkeypatch):
    film(tmp_path / "videos/a.mp4", 6)
    content = videos.PixelVideoWriter.content
    calls = []

    def interrupted(self, kind, image, ids):
        calls.append(kind)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return content(self, kind, image, ids)

    with monkeypatch.context() as patch:
        patch.setattr(videos.PixelVideoWriter, "content", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert files(tmp_path / "out") == ["report.json"]
    assert report(tmp_path / "out")["status"] == "interrupted"
    out = run()
    assert len(ids(out / "index/a")) == 6
    stamp = (out / "overlay/a.mp4").stat().st_mtime_ns
    run()
    assert (out / "overlay/a.mp4").stat().st_mtime_ns == stamp
    run("overwrite=true")
    assert (out / "overlay/a.mp4").stat().st_mtime_ns > stamp


def test_a_video_that_changed_is_predicted_again_and_the_old_one_kept(run, tmp_path):
    film(tmp_path / "videos/a.mp4", 3)
    run("write=[index]")
    film(tmp_path / "videos/a.mp4", 5)
    out = run("write=[index]")
    assert len(ids(out / "index/a")) == 5
    (old,) = (out / ".replaced").glob("*/index/a")
    assert len(ids(old)) == 3


def test_videos_are_found_again_where_their_predictions_lie_beside_them(ckpt, tmp_path):
    film(tmp_path / "videos/ride.mp4", [0, 1])
    run = runner(ckpt, tmp_path / "videos", tmp_path / "videos")
    made = (run("write=[index,overlay]") / "overlay/ride.mp4").stat().st_mtime_ns
    assert report(run("write=[index,overlay]"))["images"] == 1
    assert (tmp_path / "videos/overlay/ride.mp4").stat().st_mtime_ns == made


def test_in_a_folder_with_images_these_are_predicted_and_the_videos_are_mentioned(run, tmp_path, capsys):
    film(tmp_path / "videos/a.mp4", 2)
    photograph(tmp_path / "videos/b.png")
    assert [name for name in files(run()) if name.startswith("index")] == ["index/b.png"]
    assert "1 videos, which are not" in capsys.readouterr().out


def test_frames_that_are_too_large_are_refused_with_the_key(run, tmp_path):
    film(tmp_path / "videos/a.mp4", 2)
    with pytest.raises(DataError, match=r"a\.mp4: .*set max_pixels=1536"):
        run("max_pixels=1000")


def test_without_pyav_the_extra_is_named_before_anything_is_opened(run, tmp_path, monkeypatch):
    film(tmp_path / "videos/a.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'seglab\[video\]'"):
        run()


def test_a_frame_is_decoded_when_the_one_before_is_written_so_that_no_video_is_too_long(ckpt, tmp_path, monkeypatch):
    path, alive = film(tmp_path / "a.mp4", 12), []
    decode = VideoReader._decode

    def counted(self, av):
        for frame in decode(self, av):
            alive.append("decoded")
            yield frame

    content = videos.PixelVideoWriter.content
    monkeypatch.setattr(VideoReader, "_decode", counted)
    monkeypatch.setattr(
        videos.PixelVideoWriter, "content", lambda *given: (alive.append("written"), content(*given))[1]
    )
    runner(ckpt, path, tmp_path / "out")("write=[index]")
    assert alive == ["decoded", "written"] * 12
