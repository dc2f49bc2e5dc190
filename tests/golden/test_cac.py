"""CAC against tensors of the published code: network, losses (as conf/classifier has them) and gradients."""

from __future__ import annotations

import pytest
import torch

from seglab.classifiers import CAC

NAMES = {"conv_seg": "conv", "proj": "projector.layers", "apd_proj": "oracle_projector.layers"}
OUTPUTS = {
    "coarse_logits": "coarse",
    "estimated_context": "context",
    "estimated_prototypes": "prototypes",
    "refined_logits": "logits",
    "gt_context": "oracle_context",
    "gt_prototypes": "oracle_prototypes",
    "gt_logits": "oracle",
}
LOSSES = {"main": "main", "coarse": "coarse", "gt": "gt", "distill": "distill"}
OPTIONS = {
    "head_align_corners": ["loss.main.align_corners"],
    "scale": ["classifier.tau"],
    "smoothness": ["loss.distill.smoothness"],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.golden("cac_*", exclude="cac_distill_*")
def test_network_losses_and_gradients_are_those_of_the_published_code(golden, dtype, check_network):
    check_network(golden, dtype, CAC, "cac", NAMES, OUTPUTS, LOSSES, OPTIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.golden("cac_distill_*")
def test_distillation_alone_is_that_of_the_published_code(golden, dtype, check_distillation):
    check_distillation(golden, dtype, "cac", "distill")
