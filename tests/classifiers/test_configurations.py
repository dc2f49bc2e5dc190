"""Every file of conf/classifier builds a classifier and the losses that its output feeds."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from seglab.losses import Criterion
from seglab.types import IGNORE, Batch

CONF = Path(__file__).resolve().parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "classifier").glob("*.yaml"))


def load(name: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose(f"classifier/{name}"), _convert_="all")


@pytest.mark.parametrize("name", NAMES)
def test_its_losses_read_what_its_classifier_publishes(name):
    made = load(name)
    classifier, criterion = made["classifier"](in_channels=8, num_classes=5), Criterion(made["loss"])
    criterion.check(classifier.Output.branches())
    feature, label = torch.randn(2, 8, 16, 16, requires_grad=True), torch.randint(0, 5, (2, 64, 64))
    label[:, :9] = IGNORE
    losses = criterion(classifier(feature, label), Batch(image=feature, label=label, names=("", "")))
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(value > 0 for value in losses.parts.values())
    assert not [name for name, p in classifier.named_parameters() if p.grad is None]


PUBLISHED_DICE = {"ssa": {"dice", "dice_gt"}, "ssa_paper": {"dice", "dice_gt"}}
"""Terms that count void pixels as background, as SSA's published code does."""


@pytest.mark.parametrize("name", NAMES)
def test_void_pixels_give_a_gradient_to_the_published_dice_alone(name):
    made = load(name)
    classifier, torch_size = made["classifier"](in_channels=8, num_classes=5), (2, 5, 24, 24)
    label = torch.randint(0, 5, (2, 6, 6)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    label[:, 8:16, 4:20] = IGNORE
    feature = torch.randn(2, 8, 24, 24)
    output = classifier(feature, label)
    maps = {
        field.name: torch.randn(torch_size).requires_grad_()
        for field in fields(output)
        if isinstance(value := getattr(output, field.name), torch.Tensor) and value.shape == torch_size
    }
    assert "logits" in maps
    touched = set()
    for term_name, term in Criterion(made["loss"]).named():
        loss = term(replace(output, **maps), Batch(image=feature, label=label, names=("", "")))
        gradients = torch.autograd.grad(loss, list(maps.values()), allow_unused=True)
        read = [gradient for gradient in gradients if gradient is not None]
        if any(gradient.movedim(1, -1)[label == IGNORE].any() for gradient in read):
            touched.add(term_name)
    assert touched == PUBLISHED_DICE.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_a_labelled_pixel_costs_nothing(name):
    made = load(name)
    classifier, criterion = made["classifier"](in_channels=8, num_classes=5), Criterion(made["loss"])
    feature, label = torch.randn(2, 8, 16, 16, requires_grad=True), torch.full((2, 64, 64), IGNORE)
    losses = criterion(classifier(feature, label), Batch(image=feature, label=label, names=("", "")))
    losses.total.backward()
    assert losses.total.item() == 0
    assert not feature.grad.any()


def test_the_papers_ssa_has_the_weights_of_its_appendix_and_no_coarse_term():
    terms = load("ssa_paper")["loss"]
    assert not terms["coarse"].active
    assert [terms[name].weight for name in ("distill", "semantic", "spatial")] == [1, 1, 1]
    assert (terms["distill"].edge_size, terms["distill"].smoothness, terms["distill"].edges) == (4, 1, "map")
