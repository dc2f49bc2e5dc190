import pytest
import torch
from lightning import Callback

from seglab.callbacks.ema import EMA
from seglab.errors import ConfigError


class Watch(Callback):
    """Keeps the weights of every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, *_):
        self.seen.append(module.task.model.backbone[0].weight.detach().clone())


def test_the_average_follows_its_formula(fit, tmp_path):
    watch = Watch()
    fit(tmp_path, watch, EMA(0.7), max_steps=6)
    average = watch.seen[0]
    for n, current in enumerate(watch.seen[1:], start=1):
        d = min(0.7, (1 + n) / (10 + n))
        average = d * average + (1 - d) * current
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert torch.allclose(saved["state_dict"]["task.model.backbone.0.weight"], average, atol=1e-6)
    assert torch.equal(saved["current_model_state"]["task.model.backbone.0.weight"], watch.seen[-1])


def test_counters_are_taken_and_not_averaged(fit, tmp_path):
    fit(tmp_path, EMA(0.9), max_steps=5)
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert int(saved["state_dict"]["task.model.backbone.1.num_batches_tracked"]) == 5


def test_validation_sees_the_average(fit, tmp_path):
    seen = []

    class Look(Callback):
        def on_validation_batch_end(self, trainer, module, *_):
            seen.append(module.task.model.backbone[0].weight.detach().clone())

    fit(tmp_path, EMA(0.9), Look(), max_steps=4)
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert torch.equal(seen[-1], saved["state_dict"]["task.model.backbone.0.weight"])
    assert not torch.equal(seen[-1], saved["current_model_state"]["task.model.backbone.0.weight"])


def test_what_is_tested_afterwards_is_the_average_even_when_nothing_was_left_to_train(fit, tmp_path):
    _, trained = fit(tmp_path, EMA(0.9))
    last = tmp_path / "checkpoints/last.ckpt"
    average = torch.load(last, weights_only=True)["state_dict"]["task.model.backbone.0.weight"]
    assert torch.equal(trained.task.model.backbone[0].weight, average)
    trainer, resumed = fit(tmp_path, EMA(0.9), resume=last)
    assert torch.equal(resumed.task.model.backbone[0].weight, average)
    resumed.test_step = resumed.validation_step
    trainer.test(resumed, [[]], ckpt_path=str(last), weights_only=True, verbose=False)
    assert torch.equal(resumed.task.model.backbone[0].weight, average)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_never_moves_or_overshoots_is_refused(decay):
    with pytest.raises(ConfigError, match="decay"):
        EMA(decay)
