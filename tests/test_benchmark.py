"""Costs are measured side by side, and counted where module hooks do not look."""

import pytest
import torch

from seglab import benchmark


def test_every_combination_becomes_a_variant_named_by_what_varies():
    made = benchmark.expand(["classifier=linear,cac", "backbone=resnet18"])
    assert made == {
        "classifier=linear": ["classifier=linear", "backbone=resnet18"],
        "classifier=cac": ["classifier=cac", "backbone=resnet18"],
    }
    assert list(benchmark.expand(["seed=1"])) == ["network"]


def test_matrix_products_of_the_classifier_are_counted():
    net = ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]
    modules = {name: benchmark.build([name, *net], 7) for name in ("classifier=linear", "classifier=cac")}
    batch = benchmark.random_batch((64, 64), 2, 7, torch.device("cpu"))
    costs = benchmark.measure(modules, batch, rounds=2, warmup=1)
    K, C, N = 7, 16, 16 * 16
    extra = costs["classifier=cac"].gflops - costs["classifier=linear"].gflops
    # Context and cosine, a product of K x N x C each, and the projector 2C -> C/2 -> C for every class.
    assert extra * 1e9 == pytest.approx(2 * (2 * K * N * C + K * (2 * C * C // 2 + C // 2 * C)))
    assert all(len(cost.forward) == len(cost.step) == 2 for cost in costs.values())
    assert costs["classifier=cac"].parameters - costs["classifier=linear"].parameters == 2 * (3 * C * C // 2 + C)


def test_a_ratio_is_taken_within_a_round():
    assert benchmark.ratio([2.0, 20.0, 4.0], [1.0, 10.0, 4.0]) == 2
