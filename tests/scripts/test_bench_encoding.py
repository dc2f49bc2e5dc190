"""What is compared is the same layer."""

from __future__ import annotations

import json
import sys

import torch

from seglab.ops.encoding import encode
from tests.pages import script

SMALL = ["--batch", "1", "--channels", "4", "--codewords", "3", "--map", "5", "6", "--rounds", "1"]


def test_both_forms_are_the_same_layer_and_are_measured(monkeypatch, capsys):
    bench = script("bench_encoding")
    x, codewords, smoothing = torch.rand(2, 4, 5, 6), torch.rand(3, 4), -torch.rand(3)
    assert torch.allclose(bench.residuals(x, codewords, smoothing), encode(x, codewords, smoothing), atol=1e-4)
    monkeypatch.setattr(sys, "argv", ["bench_encoding.py", *SMALL])
    bench.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["form"] for line in lines] == ["products", "residuals"]
    assert all(line["seconds"] > 0 for line in lines)
