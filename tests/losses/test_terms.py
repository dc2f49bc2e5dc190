"""What every loss on logits promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from seglab.losses import CrossEntropy, Dice, Distillation, Focal, Lovasz, PrototypeDistribution, Relation
from seglab.types import IGNORE, Batch
from tests.losses.conftest import Branches

TERMS = {
    "cross entropy": CrossEntropy(),
    "cross entropy over all": CrossEntropy(average="all"),
    "cross entropy per image": CrossEntropy(average="image", class_weight="histogram", label_smoothing=0.1),
    "smoothed": CrossEntropy(label_smoothing=0.1),
    "hard": CrossEntropy(ohem_threshold=0.5, ohem_min_kept=5),
    "dice": Dice(ignore_void=True),
    "focal": Focal(),
    "mask focal": Focal(classes="present"),
    "lovasz": Lovasz(),
    "lovasz per image": Lovasz(per_image=True),
    "distillation": Distillation(),
    "plain distillation": Distillation(entropy="none", class_wise=False),
    "smoothed distillation": Distillation(eps=0.1, entropy="target"),
    "distillation with edges": Distillation(edges="map"),
    "distillation with fine edges": Distillation(edges="label"),
}
PUBLISHED_DICE = {"published dice": Dice()}  # void pixels are background
every_term = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS.keys())
every_term_and_dice = pytest.mark.parametrize(
    "term", (TERMS | PUBLISHED_DICE).values(), ids=(TERMS | PUBLISHED_DICE).keys()
)


@every_term
def test_what_stands_at_void_pixels_changes_neither_value_nor_gradient(scene, term):
    loss = scene.loss(term)
    (gradient,) = torch.autograd.grad(loss, scene.logits)
    other = (scene.logits.detach() + 5 * torch.randn_like(scene.logits) * scene.void[:, None]).requires_grad_()
    changed = scene.loss(term, other)
    torch.testing.assert_close(changed, loss)
    torch.testing.assert_close(torch.autograd.grad(changed, other)[0], gradient)
    assert not gradient[scene.void[:, None].expand_as(gradient)].any()
    assert gradient.abs().sum() > 0


@every_term_and_dice
@pytest.mark.parametrize("classes", [1, 4])
def test_a_batch_without_a_labelled_pixel_gives_zero_with_a_graph(scene, term, classes):
    logits = torch.randn(2, classes, 3, 3, requires_grad=True)
    void = torch.full_like(scene.label, IGNORE)
    output = type(scene)(logits, logits.detach() + 1, void)
    loss = output.loss(term)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@every_term_and_dice
def test_a_void_image_beside_others_leaves_the_mean_finite(scene, term):
    label = scene.label.clone()
    label[0] = IGNORE
    assert 0 < scene.loss(term, label=label).item() < 100


@every_term_and_dice
def test_one_class_is_enough(scene, term):
    logits = torch.randn(2, 1, 3, 3, requires_grad=True)
    loss = type(scene)(logits, logits.detach() + 1, scene.label.clamp(max=0)).loss(term)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in TERMS if "edges" not in name])  # Canny's rule reads the ids
def test_names_of_classes_do_not_matter(scene, name):
    term = TERMS[name]
    order = torch.tensor([2, 0, 3, 1])
    label = torch.where(scene.void, scene.label, order.argsort()[scene.label.clamp(max=3)])
    permuted = type(scene)(scene.logits[:, order], scene.oracle[:, order], label)
    torch.testing.assert_close(permuted.loss(term), scene.loss(term))


@every_term_and_dice
def test_gradients_are_those_of_finite_differences(term):
    torch.manual_seed(3)
    label = torch.tensor([[[0, 0, 1, IGNORE], [2, 1, 1, 0], [2, 2, 0, 0]]])
    logits = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    oracle = torch.randn(1, 3, 2, 2, dtype=torch.float64)

    assert torch.autograd.gradcheck(
        lambda x: term(Branches(logits=x, oracle=oracle), Batch(image=x, label=label, names=("",))), logits
    )


@every_term_and_dice
def test_under_autocast_losses_are_float32_and_close_to_those_without(scene, term):
    logits = scene.logits.detach().bfloat16()
    wide = type(scene)(logits.float(), scene.oracle.bfloat16().float(), scene.label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = type(scene)(logits, scene.oracle.bfloat16(), scene.label).loss(term)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wide.loss(term))
    assert scene.loss(term).dtype == torch.float64


@every_term_and_dice
def test_no_loss_waits_for_a_number(term):
    """Tensors without data: anything that asks for a value, a data-dependent shape or a branch fails."""

    def loss() -> torch.Tensor:
        logits = torch.randn(2, 4, 16, 18, requires_grad=True)
        label = torch.zeros(2, 32, 36, dtype=torch.int64)
        branches = Branches(logits=logits, oracle=logits.detach())
        return term(branches, Batch(image=logits, label=label, names=("", "")))

    loss()  # how maps of these sizes are resized is worked out once, on the CPU
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss().backward()


@pytest.mark.parametrize("term", [Relation(), PrototypeDistribution()])
def test_no_prototype_loss_waits_for_a_number(prototypes, term):
    output, batch = prototypes()
    with FakeTensorMode(allow_non_fake_inputs=True):
        term(output, batch).backward()


def test_the_gradient_of_prototype_distributions_is_that_of_finite_differences(prototypes):
    output, batch = prototypes()

    def loss(p: torch.Tensor) -> torch.Tensor:
        return PrototypeDistribution()(replace(output, spatial_prototypes=p), batch)

    assert torch.autograd.gradcheck(loss, output.spatial_prototypes)
