"""Perceptual and flow-warped temporal consistency against the tensors of the authors' published functions."""

from __future__ import annotations

import pytest
import torch

from seglab.metrics.video import overlaps, ratios
from seglab.ops.perceptual_consistency import consistency, soft_consistency
from seglab.ops.warp import warp_labels

KINDS = {
    "random", "shifted", "identical_frames_different_segmentation", "identical_frames_identical_segmentation",
    "relu_features",
}  # fmt: skip


def understood(golden):
    """The cases and the absolute tolerance, after every tensor has been found as the sidecar describes it."""
    said = golden.understand("fixture", "tolerance", "cases", "tensors")
    assert golden.name.startswith(said["fixture"])
    assert said["tolerance"].keys() == {"abs"}
    there = {name: (list(x.shape), str(x.dtype)) for name, x in golden.tensors.items()}
    assert there == {name: (about["shape"], f"torch.{about['dtype']}") for name, about in said["tensors"].items()}
    return said["cases"], said["tolerance"]["abs"]


@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.golden("perceptual_consistency*")
def test_perceptual_consistency_is_that_of_the_published_function(golden, block):
    cases, tolerance = understood(golden)
    read = set()
    for case in cases:
        assert case.keys() == {"case", "kind", "num_classes", "expected"}
        assert case["kind"] in KINDS
        names = ("feat_a", "feat_b", "labels_a", "labels_b", "pc_map_a", "pc_map_b")
        keys = [f"case{case['case']}.{name}" for name in names]
        read |= set(keys)
        *given, map_a, map_b = (golden.tensors[key][None] for key in keys)
        assert max(x.max() for x in given[2:]) < case["num_classes"]
        one_hot = (torch.nn.functional.one_hot(x, case["num_classes"]).movedim(-1, 1).float() for x in given[2:])
        for found in (consistency(*given, block=block), soft_consistency(*given[:2], *one_hot, block=block)):
            torch.testing.assert_close(found.map_a, map_a, atol=tolerance, rtol=0)
            torch.testing.assert_close(found.map_b, map_b, atol=tolerance, rtol=0)
            values = {"pc_a": found.value_a.item(), "pc_b": found.value_b.item(), "pc": found.value.item()}
            assert values == pytest.approx(case["expected"], abs=tolerance, rel=0)
            assert not found.undefined.any()
    assert read == golden.tensors.keys()


@pytest.mark.golden("temporal_consistency*")
def test_temporal_consistency_is_that_of_the_published_function(golden):
    cases, tolerance = understood(golden)
    read = set()
    for case in cases:
        assert case.keys() == {"case", "num_classes", "per_pair_intersection_union", "expected"}
        K, pairs = case["num_classes"], case["per_pair_intersection_union"]
        total = torch.zeros(2, K, dtype=torch.int64)
        for t, expected in enumerate(pairs):
            keys = [f"case{case['case']}.{name}" for name in (f"pred{t}", f"pred{t + 1}", f"flow{t}", f"warped{t}")]
            read |= set(keys)
            before, after, flow, pulled = (golden.tensors[key][None] for key in keys)
            assert torch.equal(warp_labels(after, flow), pulled)
            found = overlaps(before, pulled, torch.ones_like(before, dtype=torch.bool), K)
            assert found.tolist() == expected
            total += found
        found = ratios(total)
        expected = dict(case["expected"])
        assert found.pop("TC_per_class") == pytest.approx(expected.pop("iou_per_class"), abs=tolerance, rel=0)
        assert found == {
            "TC": pytest.approx(expected.pop("tc_present_classes"), abs=tolerance, rel=0),
            "TC_all": pytest.approx(expected.pop("tc_all_classes"), abs=tolerance, rel=0),
        }
        assert not expected
    assert read == golden.tensors.keys()
