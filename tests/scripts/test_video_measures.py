"""Measures of made predictions of moving scenes, as an image and a table."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.pages import script

made = script("video_measures")


def test_right_wrong_and_static_predictions_are_told_apart_by_exact_flow_and_not_by_zero_flow(tmp_path, capsys):
    small = ["--videos", "2", "--frames", "3", "--size", "48", "64", "--rate", "2", "--untrained"]
    made.main([*small, "--extractor", "test_resnet.r160_in1k", "--output", str(tmp_path)])
    lines = [line.split(";") for line in (tmp_path / "video_measures.csv").read_text().splitlines()]
    rows = {name: dict(zip(lines[0][1:], map(float, values), strict=True)) for name, *values in lines[1:]}
    levels = [name for name in rows if name != made.STATIC]
    for measure in ("1 - flicker", "TC, exact flow"):
        values = [rows[name][measure] for name in levels]
        assert values == sorted(values, reverse=True)
    assert rows[made.STATIC]["TC, zero flow"] == 1 > rows["0%"]["TC, zero flow"]
    assert rows[made.STATIC]["TC, exact flow"] < rows["0%"]["TC, exact flow"]
    assert rows["20%"]["AUROC_confidence"] == pytest.approx(0.5)
    assert Image.open(tmp_path / "video_measures.png").size[0] > 400
    assert "PC" in capsys.readouterr().out


def test_a_video_of_one_frame_is_refused():
    with pytest.raises(SystemExit):
        made.main(["--frames", "1"])
