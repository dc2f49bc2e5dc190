import json

import pytest

from seglab.callbacks.nonfinite import NonFinite, NonFiniteError
from seglab.callbacks.status import Status


def test_the_status_has_the_step_and_the_best(fit, toy, tmp_path):
    fit(tmp_path, Status(), module=toy(scores=[0.5, 0.25]), max_steps=8)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["step"], status["max_steps"]) == (8, 8)
    assert status["best"] == {"val/mIoU": 0.5, "step": 4, "mode": "max", "name": "mIoU", "unit": "percent"}


def test_a_run_that_breaks_off_says_where(fit, toy, tmp_path):
    module = toy(lambda index, loss: loss * float("nan") if index == 6 else loss)
    with pytest.raises(NonFiniteError):
        fit(tmp_path, Status(), NonFinite(), module=module)
    assert json.loads((tmp_path / "status.json").read_text())["step"] == 6
