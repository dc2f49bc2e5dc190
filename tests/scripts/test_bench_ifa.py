"""Both forms that are compared are the same problem."""

from __future__ import annotations

import json
import sys

from tests.pages import script


def test_every_form_has_a_line_with_times_and_the_same_feature(monkeypatch, capsys):
    made = script("bench_ifa")
    small = ["--width", "8", "--map", "8", "9", "--query", "16", "18", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["bench_ifa.py", *small])
    made.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["form"] for row in rows] == ["joined", "split"]
    for row in rows:
        assert row["difference"] < 1e-4
        assert min(value for key, value in row.items() if key.endswith("_s")) > 0
