"""The LightningModule adds nothing to what its parts say."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seglab import build
from seglab.losses.base import Criterion
from seglab.train import fit
from seglab.types import IGNORE, Batch
from tests.conftest import SMALL_NET, TINY, options


@pytest.fixture
def made(compose):
    def module(*overrides, oracle=False):
        cfg = compose("train", [*TINY, *SMALL_NET, *overrides])
        task = build.build_training(cfg, build.build_data(cfg).spec).task
        if oracle:
            task.scored("oracle")
        return task

    return module


def batch(K, size=(48, 64), void=False):
    label = torch.randint(K, (2, size[0] // 8, size[1] // 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Batch(
        image=torch.randn(2, 3, *size), label=torch.full_like(label, IGNORE) if void else label, names=("a", "b")
    )


def test_one_forward_pass_serves_prediction_metrics_and_losses(made, monkeypatch):
    module = made("classifier=ssa").eval()
    calls = []
    forward = module.model.forward
    monkeypatch.setattr(module.model, "forward", lambda *a, **named: calls.append(1) or forward(*a, **named))
    b = batch(module.spec.num_classes)
    with torch.no_grad():
        module.evaluate(b, 0)
        expected = module.losses(b, 0)
    assert len(calls) == 2
    assert float(module.averages["loss"].compute()) == pytest.approx(float(expected.total), rel=1e-6)
    assert int(module.metrics["confusion"].compute()["matrix"].sum()) == b.label.numel()


def test_a_mirrored_view_beside_changes_scores_but_not_the_loss(made):
    b = batch(12)
    losses = []
    for flip in ("false", "true"):
        module = made("classifier=cac", f"evaluation.flip={flip}").eval()
        with torch.no_grad():
            module.evaluate(b, 0)
        losses.append(float(module.averages["loss"].compute()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_oracle_is_another_prediction_of_the_same_weights(made):
    b = batch(12)
    found = []
    for oracle in (False, True):
        module = made("classifier=cac", oracle=oracle).eval()
        with torch.no_grad():
            module.evaluate(b, 0)
        found.append(module.metrics["confusion"].compute()["matrix"])
    assert not torch.equal(*found)


@pytest.mark.parametrize("classifier", options("classifier"))
def test_a_batch_without_a_labelled_pixel_has_loss_zero_and_moves_nothing(made, classifier):
    module = made(f"classifier={classifier}", "heads=fcn").train()
    b = batch(12, void=True)
    total = module.losses(b, 0).total
    total.backward()
    assert total.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


def test_half_precision_keeps_losses_in_full(made):
    module = made("classifier=ssa").train()
    b = batch(12)
    with torch.autocast("cpu", torch.bfloat16):
        losses = module.losses(b, 0)
    assert losses.total.dtype == torch.float32
    full = module.losses(b, 0)
    assert float(losses.total) == pytest.approx(float(full.total), rel=0.1)


def test_the_total_is_the_weighted_sum_of_what_is_logged(made):
    module = made("classifier=ssa").train()
    b = batch(12)
    losses = module.losses(b, 0)
    assert isinstance(module.criterion, Criterion)
    weights = {name: term.weight_at(0) for name, term in module.criterion.named()}
    assert weights["semantic"] == 10
    expected = sum(weights[name] * float(value) for name, value in losses.parts.items())
    assert float(losses.total) == pytest.approx(expected, rel=1e-6)


def test_a_compiled_network_gives_the_same_loss(made):
    eager, compiled = made("classifier=cac"), made("classifier=cac")
    compiled.model.compile(backend="eager")
    b = batch(12)
    totals = [m.eval().losses(b, 0).total for m in (eager, compiled)]
    assert torch.allclose(*totals)
    assert eager.state_dict().keys() == compiled.state_dict().keys()


WAITS = (
    "_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive", "equal", "is_nonzero",
)  # fmt: skip
"""Operations whose result, or its shape, the host has to know."""


class NeverWait(TorchDispatchMode):
    """Raises where a GPU would have to be waited for, also on a CPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        waits = name in WAITS or any(mask is not None and mask.dtype == torch.bool for mask in masks)
        assert not waits, f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("classifier", options("classifier"))
def test_a_training_step_never_waits_for_the_device(made, classifier):
    task = made(f"classifier={classifier}", "heads=fcn").train()
    optimizer = torch.optim.AdamW(task.model.parameters(), foreach=True)
    b = batch(12)
    with NeverWait():
        task.losses(b, 0).total.backward()
        with pytest.raises(AssertionError, match="waits"):
            float(b.image.sum())
        with pytest.raises(AssertionError, match="waits"):
            b.image[b.image > 0]
    optimizer.step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("classifier", options("classifier"))
def test_a_training_step_on_a_gpu_never_waits_for_it(made, classifier):
    device = torch.device("cuda")
    task = made(f"classifier={classifier}", "heads=fcn").to(device).train()
    optimizer = torch.optim.AdamW(task.model.parameters(), fused=True)
    b = batch(12).map(lambda value: value.to(device))
    for mode in ("default", "error"):  # the first step makes the optimiser's state
        torch.cuda.set_sync_debug_mode(mode)
        try:
            task.losses(b, 0).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_accumulating_two_batches_takes_one_step(compose, tmp_path):
    cfg = compose("train", [*TINY, *SMALL_NET, "trainer.accumulate_grad_batches=2", "trainer.max_steps=2", "test=null"])
    fit(cfg, tmp_path / "run")
    stored = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert stored["global_step"] == 2
    assert stored["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == 4


@pytest.mark.parametrize(
    "protocol",
    [
        ["evaluation.long_short=[100,70]"],
        ["evaluation.divisor=32", "evaluation.divisor_mode=pad", "evaluation.long_short=[70,50]"],
        ["evaluation.mode=slide", "evaluation.window=[32,32]", "evaluation.stride=[24,24]", "evaluation.flip=true"],
    ],
    ids=lambda x: x[0],
)
def test_images_are_normalised_once_before_they_are_resized_cut_and_padded(made, protocol):
    task = made("classifier=cac", *protocol).eval()
    b = batch(12)
    raw = torch.randint(0, 256, b.image.shape, dtype=torch.uint8)
    found = []
    for image in (raw, task.model.normalise(raw)):
        task.reset()
        with torch.no_grad():
            seen = task.evaluate(replace(b, image=image), 0)
        found.append((seen.scores, task.mean_losses()["loss"], task.metrics["confusion"].compute()["matrix"]))
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*found, strict=True))
