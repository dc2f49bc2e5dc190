from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench():
    def run(*arguments: str) -> list[dict]:
        command = [sys.executable, "scripts/bench_data.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_every_pipeline_has_a_line_with_its_speed(bench):
    lines = bench("--sizes", "60x80:2", "90x50:1", "--rounds", "2")
    assert [line["pipeline"] for line in lines] == [
        "decode, resize all, crop",
        "seglab",
        "seglab, scaled_decoding=true",
        "reading alone",
    ]
    assert all(line["images"] == 3 and line["rounds"] == 2 and line["images_per_cpu_second"] > 0 for line in lines)
    assert lines[0]["ratio"] == 1


@pytest.mark.slow
def test_reduced_decoding_is_compared_on_the_photos_of_a_folder(bench, tmp_path):
    from PIL import Image

    Image.radial_gradient("L").convert("RGB").save(tmp_path / "a.jpg")
    half, quarter = bench("--compare", str(tmp_path), "--factors", "0.5", "0.25")
    assert (half["scales"], quarter["scales"], half["images"]) == ([2], [4], 1)
    assert half["mean_difference"] < 2
