"""Configuration becomes objects in one place, and what cannot be meant is refused with the key that mends it."""

import pytest
import torch

from seglab import build
from seglab.errors import ConfigError
from seglab.trainer import build_trainer
from seglab.types import IGNORE
from tests.conftest import SMALL_NET, TINY, network


def module(compose, *overrides):
    cfg = compose("train", [*TINY, *SMALL_NET, *overrides])
    data = build.build_data(cfg)
    return build.build_training(cfg, data.spec, probe=data.probe()).task


def trained(module) -> set[str]:
    return {name for name, p in module.model.classifier.named_parameters() if p.requires_grad}


def test_a_ground_truth_branch_without_its_losses_is_frozen_and_never_asked_for(compose):
    full = module(compose, "classifier=cac")
    assert any("oracle" in name for name in trained(full))
    assert full.shows_target
    off = module(compose, "classifier=cac", "loss.gt.weight=0", "~loss.distill")
    assert not any("oracle" in name for name in trained(off))
    assert {name for name in trained(full) if "oracle" not in name} == trained(off)
    assert not off.shows_target


def test_a_teacher_that_is_only_mimicked_is_not_trained(compose):
    only = module(compose, "classifier=cac", "loss.gt.weight=0")
    assert not any("oracle" in name for name in trained(only))
    assert only.shows_target


def test_a_scheduled_weight_keeps_its_branch(compose):
    schedule = "loss.gt.weight={_target_: seglab.losses.schedules.LinearRamp, start: 0.0, stop: 1.0, steps: 10}"
    assert any("oracle" in name for name in trained(module(compose, "classifier=cac", schedule)))


def test_an_auxiliary_head_whose_loss_is_off_is_not_built(compose):
    assert module(compose, "heads=fcn").model.heads.keys() == {"aux"}
    assert module(compose, "heads=fcn", "loss.aux.weight=0").model.heads.keys() == set()


def test_a_seed_makes_a_network(compose):
    first, again, other = (module(compose, f"seed={seed}").model.classifier.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_building_leaves_the_callers_random_numbers_alone(compose):
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    module(compose, "classifier=linear")
    assert torch.equal(torch.rand(1), first)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss.main.branch=coarse"], "loss.main reads the branch 'coarse'"),
        (["loss.main.weight=0"], "loss.main.weight=1"),
        (["+decoder.witdh=3"], "did you mean decoder.width"),
        (["loss.main._target_=seglab.losses.CrossEntrpy"], "loss.main"),
        (["loss.main.weight=nan"], "weight"),
    ],
)
def test_what_cannot_be_built_is_named_with_its_key(compose, overrides, said):
    with pytest.raises(ConfigError) as caught:
        module(compose, *overrides)
    assert said in str(caught.value)


def test_epochs_become_steps(compose, tmp_path):
    cfg = compose("train", [*TINY, "trainer.max_steps=-1", "trainer.max_epochs=3", "trainer.accumulate_grad_batches=2"])
    data = build.build_data(cfg)
    trainer = build_trainer(
        {**cfg, "callbacks": {}, "logger": {}}, str(tmp_path), module(compose), "fit", data.steps_per_epoch
    )
    assert trainer.max_steps == 3 * (24 // 4) // 2


def test_a_training_without_an_end_is_refused(compose, tmp_path):
    cfg = compose("train", [*TINY, "trainer.max_steps=-1"])
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        build_trainer(cfg, str(tmp_path), module(compose), "fit")


def test_the_network_normalises_as_configured_and_padding_is_its_mean_colour(compose):
    cfg = compose("train", [*TINY, *SMALL_NET, "normalize.mean=[10.4,20.6,30]", "augment.crop=[56,72]", "augment=none"])
    data = build.build_data(cfg)
    batch = data.probe()
    assert batch.image.dtype == torch.uint8
    outside = batch.label[0] == IGNORE
    assert batch.image[0][:, outside].unique(dim=1).tolist() == [[10], [21], [30]]
    model = network(cfg, 12).eval()
    with torch.no_grad():
        raw, normalised = model(batch.image).logits, model(model.normalise(batch.image)).logits
    assert torch.equal(raw, normalised)
    assert model.normalise.mean == (10.4, 20.6, 30.0)
    with torch.no_grad():  # the image is rounded once, after normalisation
        half = model.bfloat16()
        assert torch.equal(half(batch.image).logits, half(model.normalise(batch.image).bfloat16()).logits)
    assert not [name for name in model.state_dict() if "normalise" in name]
