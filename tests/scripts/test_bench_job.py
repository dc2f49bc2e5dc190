"""Every part of a step and of a validation has its time."""

import json
import sys

from tests.conftest import SMALL_NET, TINY
from tests.pages import script


def test_a_step_and_a_validation_are_split_into_their_parts(monkeypatch, capsys):
    small = [each for each in TINY if not each.startswith("data.num_workers")]
    monkeypatch.setattr(sys, "argv", ["bench_job.py", "--rounds", "2", "classifier=cac", *small, *SMALL_NET])
    script("bench_job").main()
    step, validation = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    network = ["normalise", "backbone", "decoder", "classifier"]
    assert list(step) == ["of", "data", *network, "losses", "backward", "optimiser", "all"]
    assert list(validation) == ["of", "data", "network", "confusion", "losses", "all"]
    assert step["all"] > step["backward"] > 0
