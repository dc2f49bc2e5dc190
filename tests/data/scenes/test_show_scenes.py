from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[3] / "scripts" / "show_scenes.py"


def test_the_contact_sheet_shows_image_label_instance_and_depth_and_the_speed_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    options = f"--output {sheet} --count 3 --columns 2 --frames 2 --size 32 48 --time 4"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options.split()])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    with Image.open(sheet) as shown:
        assert shown.size == (2 * 4 * 48, 2 * 2 * 32)
    assert "images/s at 32x48" in capsys.readouterr().out
