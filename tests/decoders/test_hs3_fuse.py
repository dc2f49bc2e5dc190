"""HS3-Fuse and its object-contextual block, against plain loops over pixels and regions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seglab.decoders import HS3Fuse
from seglab.decoders.blocks import ObjectContext
from seglab.errors import ConfigError

CHANNELS, STRIDES, K = (8, 12, 16, 20), (4, 8, 16, 32), 5
SIZES = [(17, 25), (9, 13), (5, 7), (3, 4)]
CLUSTERS = [[0, 4], [1, 2, 3]]
TASKS = [
    {"layer": "backbone.1", "clusters": CLUSTERS},
    {"layer": "backbone.2", "clusters": [[0], [1, 2], [3, 4]]},
    {"layer": "backbone.3", "clusters": None},
]
ALL = frozenset(f"clusters.{task['layer']}" for task in TASKS)


def maps(batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, SIZES, strict=True)]


def made(tasks=TASKS, **options) -> HS3Fuse:
    torch.manual_seed(1)
    return HS3Fuse(CHANNELS, STRIDES, K, tasks, **{"width": 16, "key_width": 8, **options})


def test_the_block_is_the_equations_pixel_by_pixel():
    torch.manual_seed(0)
    block = ObjectContext(6, 4, norm=nn.Identity).double().eval()
    x, regions = torch.randn(2, 6, 3, 5).double(), 3 * torch.randn(2, 4, 3, 5).double()
    relu = torch.relu

    def dense(layers, v):  # 1x1 convolutions of single vectors
        for layer in layers:
            v = relu(layer[0].weight[:, :, 0, 0] @ v)
        return v

    for b in range(2):
        pixels, logits = x[b].flatten(1).T, regions[b].flatten(1)
        objects = [sum(m * p for m, p in zip(row.softmax(0), pixels, strict=True)) for row in logits]
        for i, pixel in enumerate(pixels):
            query = dense(block.query, pixel)
            relation = torch.stack([query @ dense(block.key, each) / 2 for each in objects]).softmax(0)  # sqrt(4)
            context = sum(w * dense([block.value], each) for w, each in zip(relation, objects, strict=True))
            expected = dense([block.join], torch.cat([dense([block.out], context), pixel]))
            assert torch.allclose(block(x, regions)[b].flatten(1)[:, i], expected, atol=1e-12)


def test_the_block_has_the_parameters_of_the_published_head():
    """HRNet-OCR: mid channels 512, key channels 256; convolutions without bias here, whose norm has one."""
    block = ObjectContext(512, 256)
    convolutions = 2 * (512 * 256 + 256 * 256) + 512 * 256 + 256 * 512 + 2 * 512 * 512
    norms = 2 * (4 * 256 + 256 + 512 + 512)
    assert sum(p.numel() for p in block.parameters()) == convolutions + norms


def test_odd_sizes_give_the_size_of_the_finest_layer_and_each_layers_clusters():
    decoder = made()
    decoded = decoder(maps(), ALL)
    assert decoded.feature.shape == (2, 16, 9, 13)
    assert (decoder.stride, decoder.out_channels) == (8, 16)
    assert {name: tuple(x.shape) for name, x in decoded.extra.items()} == {
        "clusters.backbone.1": (2, 2, 9, 13),
        "clusters.backbone.2": (2, 3, 5, 7),
        "clusters.backbone.3": (2, 5, 3, 4),
    }
    assert decoder.branches == {
        "clusters.backbone.1": (2, 8),
        "clusters.backbone.2": (3, 16),
        "clusters.backbone.3": (5, 32),
    }
    assert decoder(maps()).extra == {}


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_gradients_reach_every_layer_and_every_parameter(kind):
    decoder = made(kind=kind)
    given = [x.requires_grad_() for x in maps()]
    decoder(given).feature.square().sum().backward()
    assert [x.grad is not None and bool(x.grad.abs().sum() > 0) for x in given] == [False, True, True, True]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_with_one_layer_and_all_classes_it_is_the_head_of_ocr():
    decoder = made([TASKS[2]]).eval()
    x = maps()[3]
    regions = decoder.classifiers[0](x)
    assert regions.shape[1] == K
    expected = decoder.fuse(decoder.contexts[0](decoder.projections[0](x), regions))
    assert torch.equal(decoder(maps()).feature, expected)


def test_the_order_of_the_tasks_does_not_matter():
    assert torch.equal(made().eval()(maps()).feature, made(TASKS[::-1]).eval()(maps()).feature)


def test_one_image_trains_and_bf16_is_finite():
    decoder = made()
    with torch.autocast("cpu", torch.bfloat16):
        found = decoder.train()(maps(1), ALL)
    assert found.feature.isfinite().all()
    decoder.bfloat16().eval()
    assert decoder([x.bfloat16() for x in maps()]).feature.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([{"layer": "decoder.1", "clusters": None}], r"decoder\.1 is none — expected some of backbone\.0"),
        ([{"layer": "backbone.4", "clusters": None}], r"set regularizer\.layers"),
        ([], r"set regularizer\.layers"),
        (
            [{"layer": "backbone.1", "clusters": [[0], [1]]}],
            r"clusters of 2 classes, the data has 5.*regularizer\.plan=FILE",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(tasks, said):
    with pytest.raises(ConfigError, match=said):
        made(tasks)
