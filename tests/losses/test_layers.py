"""Supervision of inner layers: deep supervision is the case of identity maps, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seglab.errors import ConfigError
from seglab.losses import Criterion, CrossEntropy, LayerSupervision
from seglab.types import IGNORE, Batch, Output

K, H, W = 6, 24, 32
WHOLE = [{"layer": "backbone.2", "clusters": None}, {"layer": "decoder.1", "clusters": None}]
SINGLE = [{**task, "clusters": [[k] for k in range(K)]} for task in WHOLE]
MERGED = [{"layer": "backbone.2", "clusters": [[0, 4], [1, 2, 3], [5]]}, {"layer": "decoder.1", "clusters": None}]


def batch(void: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(K, (2, H, W), generator=generator)
    if void:
        label[:, 3:9, 5:20] = IGNORE
    return Batch(image=torch.zeros(2, 3, H, W), label=label, names=("a", "b"))


def output(counts: dict[str, int]) -> tuple[Output, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    logits = {
        f"layers.{layer}": torch.randn(2, k, 6, 8, generator=generator).requires_grad_() for layer, k in counts.items()
    }
    return Output(logits=torch.zeros(2, K, 6, 8), extra=logits), logits


def test_identity_maps_are_plain_deep_supervision_in_value_and_gradients_bit_for_bit():
    found = []
    plain = [CrossEntropy(branch=f"layers.{task['layer']}", weight=1.0) for task in WHOLE]
    for terms in ([LayerSupervision(WHOLE)], [LayerSupervision(SINGLE)], plain):
        seen, logits = output({"backbone.2": K, "decoder.1": K})
        loss = torch.stack([term(seen, batch()) for term in terms]).sum()
        loss.backward()
        found.append([loss.detach(), *(x.grad for x in logits.values())])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_clusters_are_cross_entropy_with_relabelled_classes_and_void_stays_void():
    term = LayerSupervision(MERGED)
    assert term.branches == {"layers.backbone.2": 3, "layers.decoder.1": None}
    seen, logits = output({"backbone.2": 3, "decoder.1": K})
    number = {0: 0, 4: 0, 1: 1, 2: 1, 3: 1, 5: 2, IGNORE: IGNORE}
    merged = torch.tensor([[[number[int(c)] for c in row] for row in image] for image in batch().label])

    def entropy(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        large = F.interpolate(x, (H, W), mode="bilinear", align_corners=False)
        return F.cross_entropy(large, label, ignore_index=IGNORE)

    expected = entropy(logits["layers.backbone.2"], merged) + entropy(logits["layers.decoder.1"], batch().label)
    assert torch.allclose(term(seen, batch()), expected, rtol=1e-6)
    assert (batch().label == IGNORE).any()


def test_a_batch_of_void_gives_zero_with_a_gradient():
    seen, logits = output({"backbone.2": 3, "decoder.1": K})
    empty = Batch(image=torch.zeros(2, 3, H, W), label=torch.full((2, H, W), IGNORE), names=("a", "b"))
    loss = LayerSupervision(MERGED)(seen, empty)
    loss.backward()
    assert loss == 0
    assert all((x.grad == 0).all() for x in logits.values())


def test_no_layers_or_no_weight_is_no_term():
    main = CrossEntropy()
    for off in (LayerSupervision([]), LayerSupervision(MERGED, weight=0)):
        assert not off.active
        assert Criterion({"main": main, "layers": off}).branches == {"logits"}


def test_another_number_of_classes_is_refused_when_the_network_is_built():
    criterion = Criterion({"layers": LayerSupervision(MERGED)})
    legal = frozenset({"layers.backbone.2", "layers.decoder.1"})
    criterion.check(legal, K)
    with pytest.raises(ConfigError, match=r"clusters of 6 classes, the data has 7.*regularizer\.plan=FILE"):
        criterion.check(legal, K + 1)


@pytest.mark.parametrize("clusters", [[[0, 1], [1, 2]], [[0, 1, 2]], [[0, 1], [], [2]], [[0], [2]]])
def test_what_are_no_clusters_is_refused(clusters):
    with pytest.raises(ConfigError, match="each class once"):
        LayerSupervision([{"layer": "backbone.2", "clusters": clusters}])


def test_a_cluster_head_is_at_least_as_good_at_its_task_as_a_head_for_all_classes():
    """A layer that says which of two groups a class is in, and less about the class: both heads read the same."""
    torch.manual_seed(0)
    label = torch.randint(K, (4, 16, 16))
    group = (label >= 3).long()
    feature = torch.stack([group * 2.0 - 1, 0.3 * label.float()], 1) + 0.8 * torch.randn(4, 2, 16, 16)
    seen = Batch(image=torch.zeros(4, 3, 16, 16), label=label, names=("",) * 4)
    right = {}
    for name, clusters in (("all", None), ("two", [[0, 1, 2], [3, 4, 5]])):
        head = nn.Conv2d(2, K if clusters is None else 2, 1)
        term = LayerSupervision([{"layer": "x", "clusters": clusters}])
        optimizer = torch.optim.Adam(head.parameters(), 0.1)
        for _ in range(150):
            optimizer.zero_grad()
            term(Output(logits=feature, extra={"layers.x": head(feature)}), seen).backward()
            optimizer.step()
        found = head(feature).argmax(1)
        right[name] = ((found if clusters else (found >= 3).long()) == group).float().mean().item()
    assert right["two"] >= right["all"] - 0.005
    assert right["two"] > 0.85
