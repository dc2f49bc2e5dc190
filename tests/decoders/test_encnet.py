"""EncNet's decoder: its equations, its branch, and what is not computed."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from seglab import build, cli
from seglab.decoders import EncNet
from seglab.decoders.blocks import group_norm, resize_to
from seglab.errors import ConfigError
from seglab.types import Batch
from tests.conftest import SMALL_NET, TINY, each, network, options

CHANNELS = (8, 12, 16, 20)
K = 5
WANTED = frozenset({"presence"})
SIZES = {
    "divisible": [(16, 24), (8, 12), (4, 6), (2, 3)],
    "odd": [(17, 25), (9, 13), (5, 7), (3, 4)],
    "dilated": [(16, 24), (8, 12), (8, 12), (8, 12)],
}


def maps_of(kind: str, batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, SIZES[kind], strict=True)]


def made(**options) -> EncNet:
    torch.manual_seed(1)
    return EncNet(CHANNELS, (4, 8, 16, 32), K, width=16, **options)


@pytest.mark.parametrize("laterals", [False, True])
@pytest.mark.parametrize("combine", ["mean", "sum"])
@pytest.mark.parametrize("kind", SIZES)
def test_feature_and_presence_have_the_published_channels(kind, combine, laterals):
    decoder = made(codewords=3, combine=combine, laterals=laterals)
    decoded = decoder(maps_of(kind), WANTED)
    assert decoded.feature.shape == (2, decoder.out_channels, *SIZES[kind][-1])
    assert decoded.extra["presence"].shape == (2, decoder.branches["presence"][0]) == (2, K)


@pytest.mark.parametrize("options", [{}, {"laterals": True}, {"combine": "sum"}, {"context": "mean"}], ids=str)
def test_every_parameter_is_trained(options):
    decoder = made(codewords=3, **options)
    decoded = decoder(maps_of("odd"), WANTED)
    (decoded.feature.square().sum() + decoded.extra["presence"].square().sum()).backward()
    assert [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_sum_over_codewords_is_their_number_times_the_mean():
    mean, total = made(codewords=7).eval(), made(codewords=7, combine="sum").eval()
    x = torch.rand(2, 16, 3, 5)
    assert torch.allclose(total.context(x), 7 * mean.context(x), rtol=1e-5)


def test_channels_are_weighted_by_what_the_image_holds_and_the_input_is_kept():
    decoder = made().eval()
    maps = maps_of("divisible")
    x = decoder.conv(maps[-1])
    nn.init.zeros_(decoder.attention.weight)
    nn.init.zeros_(decoder.attention.bias)
    assert torch.allclose(decoder(maps).feature, 1.5 * x)
    nn.init.constant_(decoder.attention.bias, -1e4)
    assert torch.allclose(decoder(maps).feature, x)


def test_the_mean_in_place_of_the_codebook_is_global_average_pooling():
    decoder = made(context="mean")
    x = torch.randn(2, 16, 3, 5)
    assert torch.allclose(decoder.context(x), x.mean((2, 3)))
    assert not any("codewords" in name for name, _ in decoder.named_parameters())


def test_laterals_are_the_two_maps_before_the_last():
    decoder, maps = made(laterals=True).eval(), maps_of("odd")
    before = decoder(maps).feature
    for i, changes in enumerate([False, True, True, True]):
        other = [x + 1 if i == j else x for j, x in enumerate(maps)]
        assert torch.equal(decoder(other).feature, before) is not changes
    joined = []
    decoder.fuse.register_forward_pre_hook(lambda _, inputs: joined.extend(inputs))
    decoder(maps)
    sides = [resize_to(lateral(m), maps[-1]) for lateral, m in zip(decoder.laterals, maps[1:3], strict=True)]
    assert torch.equal(joined[0], torch.cat([decoder.conv(maps[-1]), *sides], 1)), "in the published order"


def test_one_image_trains_also_without_batch_statistics():
    decoder = made(norm=partial(group_norm, groups=4), codewords=6, codeword_norm=nn.Identity)
    assert decoder(maps_of("odd", batch=1), WANTED).feature.isfinite().all()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in decoder.modules())
    assert made()(maps_of("odd", batch=1), WANTED).extra["presence"].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codewords": 0}, "decoder.codewords=0 — expected 1 or more; .* set decoder.context=mean"),
        ({"codewords": -3, "context": "mean"}, "codewords=-3"),
        ({"combine": "max"}, "decoder.combine=max — expected one of mean, sum"),
        ({"context": "none"}, "decoder.context=none — expected one of encoding, mean"),
        ({"width": 0}, "0 channels"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EncNet(CHANNELS, (4, 8, 16, 32), K, **options)


def test_laterals_of_a_single_map_are_refused():
    with pytest.raises(ConfigError, match=r"decoder\.laterals=false"):
        EncNet((8,), (16,), K, laterals=True)


SMALL = ["decoder=encnet", "decoder.codewords=4", *SMALL_NET]


@pytest.fixture(scope="module")
def trained():
    """A batch, and two tasks that are the same but for the weight of the SE-loss: 0.2 and 0."""
    cfg = cli.compose("train", [*SMALL, *TINY, "run_dir=."])
    without = {**cfg, "loss": {**cfg["loss"], "presence": {**cfg["loss"]["presence"], "weight": 0}}}
    data = build.build_data(cfg)
    batch = data.probe()
    return batch, [build.build_training(chosen, data.spec, probe=batch).task for chosen in (cfg, without)]


def test_at_weight_zero_nothing_of_the_presence_is_computed(trained):
    batch, tasks = trained
    for task, computed in zip(tasks, (True, False), strict=True):
        calls = []
        hook = task.model.decoder.presence.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        losses = task.losses(batch, 0)
        assert bool(calls) is computed
        assert ("presence" in losses.parts) is computed
        assert ("presence" in task.wanted) is computed
        assert all(p.requires_grad is computed for p in task.model.decoder.presence.parameters())
        calls.clear()
        task.eval().model(batch.image)
        task.train()
        assert not calls, "no prediction needs it"
        hook.remove()


def test_a_batch_of_void_only_has_a_finite_loss_with_a_gradient(trained):
    batch = Batch(image=torch.rand(2, 3, 48, 64), label=torch.full((2, 48, 64), 255), names=("a", "b"))
    task = trained[1][0]
    losses = task.losses(batch, 0)
    losses.total.backward()
    assert losses.total.isfinite()
    assert task.model.decoder.presence.weight.grad.any()


@pytest.mark.parametrize("classifier", each(options("classifier"), "cac", "cosine", "linear", "located", "mlp", "ssa"))
def test_every_classifier_reads_it_at_odd_sizes_in_bfloat16_and_after_a_copy(classifier, compose):
    model = network(compose("train", [*SMALL, f"classifier={classifier}"]), K).eval()
    image = torch.randint(256, (2, 3, 51, 67), dtype=torch.uint8)
    with torch.no_grad():
        first = model(image, wanted=WANTED)
        twin = copy.deepcopy(model)
        twin.load_state_dict(model.state_dict())
        again = twin(image, wanted=WANTED)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(image, wanted=WANTED)
    assert torch.equal(first.logits, again.logits)
    assert first.read("presence").shape == (2, K)
    assert rough.logits.isfinite().all()
    assert rough.read("presence").isfinite().all()
