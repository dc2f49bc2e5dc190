"""SSA-Seg against tensors of the published code: network, losses, gradients, and the parts alone.

The losses are those that conf/classifier holds.
"""

from __future__ import annotations

import pytest
import torch

from seglab.classifiers import SSA
from seglab.losses import Dice, Focal
from seglab.ops.edges import canny, edge_mask
from seglab.ops.resize import downsample_labels
from seglab.types import Batch, Output

NAMES = {
    "conv_seg": "conv",
    "get_feat_pos": "position",
    "center_pos.weight": "basis",
    "center_content_proj": "semantic_projector.layers",
    "center_pos_proj": "spatial_projector.layers",
    "center_proj": "combine",
    "gt_center_content_proj": "oracle_semantic_projector.layers",
    "gt_center_pos_proj": "oracle_spatial_projector.layers",
    "gt_center_proj": "oracle_combine",
}
OUTPUTS = {
    "coarse_logits": "coarse",
    "feat_pos": "position",
    "semantic_center": "semantic_context",
    "semantic_prototypes": "semantic_prototypes",
    "spatial_center": "spatial_context",
    "spatial_prototypes": "spatial_prototypes",
    "final_prototypes": "prototypes",
    "refined_logits": "logits",
    "gt_semantic_center": "oracle_semantic_context",
    "gt_semantic_prototypes": "oracle_semantic_prototypes",
    "gt_spatial_center": "oracle_spatial_context",
    "gt_spatial_prototypes": "oracle_spatial_prototypes",
    "gt_final_prototypes": "oracle_prototypes",
    "gt_logits": "oracle",
}
LOSSES = {
    "main": "main",
    "coarse": "coarse",
    "gt": "gt",
    "dice_pred": "dice",
    "dice_gt": "dice_gt",
    "response_distill": "distill",
    "semantic_distill": "semantic",
    "spatial_distill": "spatial",
}
OPTIONS = {
    "head_align_corners": [],  # the published losses align corners, whatever the decoder does
    "scale": ["classifier.tau", "loss.semantic.tau"],
    "smoothness": ["loss.distill.smoothness"],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.golden("ssa_*", exclude=("ssa_distill_*", "ssa_dice_*", "ssa_edges*", "ssa_protos_*"))
def test_network_losses_and_gradients_are_those_of_the_published_code(golden, dtype, check_network):
    check_network(golden, dtype, SSA, "ssa", NAMES, OUTPUTS, LOSSES, OPTIONS)


@pytest.mark.golden("ssa_*", exclude=("ssa_dice_*", "ssa_edges*", "ssa_protos_*"))
def test_edges_of_a_network_are_those_of_the_published_code(golden):
    if golden.config.get("eval_only"):
        pytest.skip(f"{golden.name} has no labels, so no edges")
    expected = golden.tensors["out.edge_mask"]
    edges = edge_mask(downsample_labels(golden.tensors["target"], expected.shape[-2:]))
    assert torch.equal(edges, expected > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.golden("ssa_distill_*")
def test_distillation_alone_is_that_of_the_published_code(golden, dtype, check_distillation):
    check_distillation(golden, dtype, "ssa", "distill")


@pytest.mark.golden("ssa_edges*")
def test_edges_are_opencvs_to_the_bit(golden):
    golden.understand("maps")
    tensors = golden.tensors
    checked = 0
    for key, expected in tensors.items():
        name, _, what = key.partition(".")
        label = tensors[f"{name}.label"]
        if what == "canny":
            actual = canny(label)
        elif what.startswith("edge_size"):
            size, border = what.removeprefix("edge_size").split(".")
            actual = edge_mask(label, int(size), {"clear": 6, "noclear": 0}[border])
        else:
            continue
        checked += 1
        assert torch.equal(actual, expected > 0), key
    assert checked


@pytest.mark.parametrize(("dtype", "suffix"), [(torch.float32, ""), (torch.float64, ".f64")])
@pytest.mark.golden("ssa_dice_*")
def test_dice_and_mask_focal_alone_are_those_of_the_published_code(golden, dtype, suffix, close):
    golden.understand()
    tensors = golden.tensors
    logits = tensors["pred"].to(dtype, copy=True).requires_grad_()
    output, batch = Output(logits=logits), Batch(image=logits, label=tensors["target"], names=())
    exact = dtype == torch.float64

    dice = Dice("logits")(output, batch)
    close(dice, tensors["loss_dice" + suffix], 1e-9 if exact else 1e-5, "dice")
    (gradient,) = torch.autograd.grad(dice, logits)
    close(gradient, tensors["grad_pred_dice" + suffix], 1e-9 if exact else 2e-5, "gradient of dice")

    focal = Focal("logits", classes="present", ignore_void=False)(output, batch)
    close(20 * focal, tensors["loss_focal_x20" + suffix], 1e-9 if exact else 1e-5, "focal")


@pytest.mark.parametrize(("dtype", "suffix"), [(torch.float32, ""), (torch.float64, ".f64")])
@pytest.mark.golden("ssa_protos_*")
def test_prototype_losses_alone_are_those_of_the_published_code(golden, dtype, suffix, close, load_classifier):
    keys = {
        "semantic_weight": ["loss.semantic.weight"],
        "spatial_weight": ["loss.spatial.weight"],
        "scale": ["loss.semantic.tau"],
    }
    said = golden.understand(*keys)
    overrides = [f"{key}={said[option]}" for option in said for key in keys[option]]
    tensors, terms = golden.tensors, load_classifier("ssa", *overrides).terms
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    semantic, spatial = (tensors[key].to(dtype, copy=True).requires_grad_() for key in ("pred_proto", "center_pos"))
    logits = torch.zeros(1, 1, 1, 1)
    output = SSA.Output(
        logits=logits,
        coarse=logits,
        prototypes=logits,
        semantic_prototypes=semantic,
        oracle_semantic_prototypes=tensors["gt_proto"].to(dtype),
        spatial_prototypes=spatial,
        oracle_spatial_prototypes=tensors["gt_center_pos"].to(dtype),
    )
    batch = Batch(image=logits, label=torch.zeros(1, 1, 1, dtype=torch.int64), names=("",))

    for key in ("pred", "gt"):
        relation = terms["semantic"].relation(tensors[f"{key}_proto"].to(dtype))
        close(relation, tensors[f"relation_{key}{suffix}"], tolerance, f"relation of {key}")
    for name, prototypes, key in (("semantic", semantic, "pred_proto"), ("spatial", spatial, "center_pos")):
        loss = terms[name].weight_at(0) * terms[name](output, batch)
        close(loss, tensors[f"{name}_loss{suffix}"], tolerance, name)
        (gradient,) = torch.autograd.grad(loss, prototypes)
        close(gradient, tensors[f"grad_{key}{suffix}"], 2 * tolerance, f"gradient of {name}")
