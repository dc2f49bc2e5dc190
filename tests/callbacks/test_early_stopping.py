"""A training ends when what it is about has stopped to improve, whichever direction is better."""

import pytest
import torch

from seglab.callbacks.early_stopping import EarlyStopping
from seglab.errors import ConfigError
from seglab.types import Score


def test_it_ends_after_validations_that_were_no_better(fit, toy, tmp_path):
    trainer, _ = fit(
        tmp_path, EarlyStopping(2), module=toy(scores=[0.2, 0.3, 0.3, 0.1, 0.9]), max_steps=10, val_every=2
    )
    assert trainer.global_step == 8
    content = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 8


def test_less_of_an_error_is_an_improvement(fit, toy, tmp_path):
    module = toy(scores=[0.5, 0.4, 0.3, 0.2, 0.1])
    module.task.headline = Score("mIoU", "min", "percent")
    module.task.metrics["confusion"].scores = ()
    trainer, _ = fit(tmp_path, EarlyStopping(1), module=module, max_steps=10, val_every=2, checkpoints=False)
    assert trainer.global_step == 10


def test_a_mode_that_would_wait_for_the_worst_is_refused(fit, toy, tmp_path):
    with pytest.raises(ConfigError, match=r"callbacks\.early_stopping\.mode=min .*mode=max"):
        fit(tmp_path, EarlyStopping(1, mode="min"), module=toy())


@pytest.mark.parametrize("options", [{"patience": 0}, {"min_delta": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=f"early_stopping.{next(iter(options))}"):
        EarlyStopping(**options)
