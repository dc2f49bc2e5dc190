import json
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback

from seglab.callbacks.nonfinite import NonFinite, NonFiniteError


def bad_from(first, last=None, value=float("nan")):
    """Makes the term `extra` non-finite at some batches."""
    return lambda index, loss: loss * value if first <= index <= (last or first) else loss


def test_a_nan_term_is_named_before_the_weights_move(fit, toy, tmp_path):
    module = toy(bad_from(3))
    with pytest.raises(NonFiniteError, match=r"step 3: the loss term extra .*val/3_0, val/3_1") as refused:
        fit(tmp_path, NonFinite(), module=module)
    assert refused.value.exit_code == 1
    assert all(p.isfinite().all() for p in module.parameters())
    report = json.loads((tmp_path / "nonfinite/step_000003.json").read_text())
    assert report["batches"][0]["names"] == ["val/3_0", "val/3_1"]
    assert report["batches"][0]["parts"]["extra"] == "nan"
    before = torch.load(tmp_path / "nonfinite/step_000003.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(before["task.model.backbone.0.weight"], module.task.model.backbone[0].weight)


def test_without_it_the_weights_are_lost(fit, toy, tmp_path):
    _, module = fit(tmp_path, module=toy(bad_from(3)), checkpoints=None, limit_val_batches=0)
    assert not module.task.model.backbone[0].weight.isfinite().all()


class Overflow(torch.autograd.Function):
    """The identity, with an infinite gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float("inf")


def overflows_at(batch):
    return lambda index, loss: Overflow.apply(loss) if index == batch else loss


def test_a_gradient_can_be_infinite_while_the_loss_is_not(fit, toy, tmp_path):
    with pytest.raises(NonFiniteError, match=r"gradient of task\.model\.backbone\.0\.weight"):
        fit(tmp_path, NonFinite(), module=toy(overflows_at(1)))


def test_an_overflow_of_fp16_is_left_to_its_scaler_but_a_nan_loss_is_not(fit, toy, tmp_path):
    class Scaled(Callback):
        def on_fit_start(self, trainer, module):
            trainer.precision_plugin.scaler = SimpleNamespace(get_scale=lambda: 2.0)

    watch = NonFinite()
    fit(tmp_path, Scaled(), watch, module=toy(overflows_at(7)), limit_val_batches=0)
    assert watch.overflows == 1
    with pytest.raises(NonFiniteError, match="loss term extra"):
        fit(tmp_path, Scaled(), NonFinite(), module=toy(bad_from(1)))


def test_any_batch_of_an_accumulated_step_counts_and_its_loss_is_reported_in_full(fit, toy, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 1: the loss term extra"):
        fit(tmp_path, NonFinite(), module=toy(bad_from(2)), accumulate=2)
    first, second = json.loads((tmp_path / "nonfinite/step_000001.json").read_text())["batches"]
    assert first["loss"] == "nan"
    assert float(second["loss"]) == pytest.approx(sum(map(float, second["parts"].values())), rel=1e-5)


def test_skipping_leaves_the_step_out_with_its_running_statistics(fit, toy, tmp_path):
    def overflow(index, loss):
        return loss * float("inf") if index == 2 else loss

    trainer, module = fit(tmp_path, NonFinite("skip", skips=1), module=toy(overflow))
    assert trainer.global_step == 8
    assert all(t.isfinite().all() for t in module.state_dict().values())
    _, without = fit(tmp_path / "clean", module=toy())
    assert not torch.equal(module.task.model.backbone[0].weight, without.task.model.backbone[0].weight)
    assert int(module.task.model.backbone[1].num_batches_tracked) in (7, 8)


def test_too_many_skips_are_an_error(fit, toy, tmp_path):
    with pytest.raises(NonFiniteError, match="step 3"):
        fit(tmp_path, NonFinite("skip", skips=2), module=toy(bad_from(1, 5)))


def test_a_finite_run_is_not_changed(fit, weights, tmp_path):
    fit(tmp_path / "a", NonFinite("skip"))
    fit(tmp_path / "b")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[k], b[k]) for k in a)
