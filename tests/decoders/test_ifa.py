"""IFA: asked anywhere, split equals joined, bands equal the whole, random pixels see their own labels."""

from __future__ import annotations

import copy
import json
import logging
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from seglab import build
from seglab.checks import height_width
from seglab.classifiers import CAC, MLP, SSA, Cosine, Linear, Located
from seglab.decoders import IFA
from seglab.decoders import ifa as module
from seglab.decoders.blocks import group_norm
from seglab.decoders.implicit import Implicit, axis, one_in_each_cell, pick, whole_grid
from seglab.errors import ConfigError
from seglab.losses.base import Criterion, Term, seen_by
from seglab.ops.resize import resize_logits
from seglab.types import FEATURE, IGNORE, Bands, Batch, Output, at_pixels
from tests.conftest import SMALL_NET, TINY, network

CHANNELS, STRIDES = (8, 12, 16, 20), (4, 8, 16, 32)
SIZES = [(17, 25), (9, 13), (5, 7), (3, 4)]
CPU = torch.device("cpu")
SMALL = partial(IFA, CHANNELS, STRIDES, 5, width=16)


def maps_of(batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, SIZES, strict=True)]


def shaken(decoder: IFA) -> IFA:
    """With every parameter and statistic off its initial value."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for b in decoder.buffers():
            if b.is_floating_point() and b.shape[-1:] != (2,):
                b.add_(0.1 * torch.rand_like(b))
    return decoder.eval()


def slow_twin(decoder: IFA, maps: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """The feature at every point of a grid, one after another, from the equations."""
    levels = decoder.levels(maps)
    weight, bias = decoder.ifa.imnet.first.weight[..., 0], decoder.ifa.imnet.first.bias
    rows = []
    for i in range(size[0]):
        for j in range(size[1]):
            joined = []
            for k, x in enumerate(levels):
                if decoder.ifa.unfold:
                    x = F.unfold(x, 3, padding=1).unflatten(2, x.shape[-2:])
                h, w = x.shape[-2:]
                y, a = ((2 * i + 1) / size[0] * h - 1) / 2, ((2 * j + 1) / size[1] * w - 1) / 2
                cy, cx = min(max(round(y), 0), h - 1), min(max(round(a), 0), w - 1)
                delta = torch.tensor([2 * (y - cy), 2 * (a - cx)])
                place = torch.tensor([(i + 0.5) / size[0], (j + 0.5) / size[1]])
                joined += [decoder.ifa.encodings[k](delta, place).expand(len(x), -1), x[:, :, cy, cx]]
            rows.append(torch.cat(joined, 1) @ weight.T + bias)
    hidden = torch.stack(rows, -1).unflatten(-1, size)
    return decoder.ifa.imnet.after_first(hidden)


@pytest.mark.parametrize("unfold", [False, True])
@pytest.mark.parametrize("encoding", ["trained", "fixed", "absolute", "none"])
@torch.no_grad()
def test_levels_by_themselves_give_what_the_joined_matrix_gives(encoding: str, unfold: bool) -> None:
    decoder = shaken(SMALL(encoding=encoding, unfold=unfold))
    for size in [(9, 13), (11, 6)]:
        expected = slow_twin(decoder, maps_of(), size)
        for _ in range(2):  # computed, and kept
            torch.testing.assert_close(decoder(maps_of(), size=size).feature, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("local", ["none", "sum", "released"])
@pytest.mark.parametrize("shift", ["query", "feature"])
def test_split_and_joined_have_the_same_gradients(local: str, shift: str) -> None:
    query = shaken(SMALL(local=local, shift=shift)).double().ifa
    levels = [torch.randn(2, 16, *size, dtype=torch.float64, requires_grad=True) for size in SIZES]
    points = whole_grid((13, 30), CPU)
    joined = torch.cat([query.context(i, x, points) for i, x in enumerate(levels)], 1)
    plain = query.imnet.after_first(query.imnet.first(joined))
    split = query(levels, points)
    torch.testing.assert_close(split, plain)
    wanted = [*levels, *query.parameters()]
    direction = torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad((x * direction).sum(), wanted) for x in (split, plain)), strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_what_is_kept_between_calls_follows_weights_copies_and_sizes() -> None:
    decoder = shaken(SMALL())
    maps = maps_of()
    before = decoder(maps).feature
    assert decoder.ifa.known is not None
    other = copy.deepcopy(decoder)
    for each in (decoder, other):
        each.ifa.imnet.first.weight.mul_(1.5)
        fresh = shaken(SMALL())
        fresh.load_state_dict(each.state_dict())
        assert not torch.allclose(each(maps).feature, before)
        assert torch.equal(each(maps).feature, fresh(maps).feature)
    assert decoder(maps, size=(5, 9)).feature.shape[-2:] == (5, 9)
    assert torch.equal(decoder(maps).feature, fresh(maps).feature)


def test_a_gradient_reaches_the_encoding_although_it_is_kept_elsewhere() -> None:
    decoder = shaken(SMALL())
    with torch.no_grad():
        decoder(maps_of(), size=(20, 20))
    decoder(maps_of(), size=(20, 20)).feature.sum().backward()
    assert decoder.ifa.get_submodule("pos4").emb.grad.abs().sum() > 0


def test_neighbours_of_one_cell_are_that_cell_and_their_shares_add_up_to_one() -> None:
    decoder = shaken(SMALL(local="sum"))
    points = whole_grid((40, 40), CPU)
    for size in [(1, 1), (10, 10), (7, 3)]:
        total = sum(share for *_, share in decoder.ifa.neighbours(points, size))
        torch.testing.assert_close(total, torch.ones_like(total))
    x = torch.randn(1, 16, 1, 1)
    plain = shaken(SMALL()).ifa.context(0, x, points)
    torch.testing.assert_close(decoder.ifa.context(0, x, points), plain)


def test_the_nearer_neighbour_weighs_more() -> None:
    query = shaken(SMALL(local="sum", shift="feature")).ifa
    value = torch.arange(4.0).view(1, 1, 1, 4)
    points = whole_grid((1, 40), CPU)
    mixed = sum(
        pick(value, rows.cell, columns.cell) * share for rows, columns, share in query.neighbours(points, (1, 4))
    )[0, 0, 0]
    assert (mixed.diff() >= -1e-4).all(), "from one cell to the next without a way back"
    assert ((mixed > 0.2) & (mixed < 0.8)).any(), "and not in one step"
    released = shaken(SMALL(local="released", shift="feature")).ifa.neighbours(points, (1, 4))
    everything = query.neighbours(points, (1, 4))
    assert len(released) == 1
    assert torch.equal(released[0][2], everything[-1][2])


def test_cells_and_offsets_are_those_of_a_search_over_all_cells() -> None:
    for points in range(1, 14):
        for cells in range(1, 14):
            found = axis(points, cells)
            q = (2 * torch.arange(points) + 1) / points - 1
            centres = (2 * torch.arange(cells) + 1) / cells - 1
            distance = (q[:, None] - centres).abs()
            assert torch.allclose(distance.gather(1, found.cell[:, None])[:, 0], distance.amin(1), atol=1e-6)
            assert torch.allclose(found.delta, (q - centres[found.cell]) * cells, atol=1e-5)
            assert found.delta.abs().max() <= 1 + 1e-6


@torch.no_grad()
def test_a_finer_query_is_not_the_upsampling_of_the_coarse_one() -> None:
    decoder = shaken(SMALL())
    fine, coarse = decoder(maps_of(), size=(68, 100)).feature, decoder(maps_of()).feature
    upsampled = resize_logits(coarse, (68, 100))
    assert (fine - upsampled).abs().mean() > 0.1 * fine.abs().mean()
    blind = shaken(SMALL(encoding="none"))
    for i in range(4):  # without the offset, a point says what its cells say: nothing new in between
        blind.ifa.imnet.first.weight[:, i * 18 : i * 18 + 2] = 0
    nearest = F.interpolate(blind(maps_of()).feature, scale_factor=3, mode="nearest")
    assert torch.allclose(blind(maps_of(), size=(51, 75)).feature[..., 1::3, 1::3], nearest[..., 1::3, 1::3], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 64, 500])
@pytest.mark.parametrize("norm", [torch.nn.BatchNorm2d, partial(group_norm, groups=4)], ids=["batch", "group"])
def test_bands_are_the_rows_of_the_whole(norm, chunk: int) -> None:
    options = {"encoding": "absolute", "norm": norm}
    whole, decoder = shaken(SMALL(**options)), shaken(SMALL(**options, chunk=chunk))
    decoder.load_state_dict(whole.state_dict())
    whole, decoded = whole(maps_of(), size=(31, 42)).feature, decoder(maps_of(), size=(31, 42))
    assert decoded.feature is None
    for _ in range(2):
        bands = list(decoded.bands)
        assert max(x.shape[-2] * x.shape[-1] * 2 for x in bands) <= max(chunk, 2 * 42)
        torch.testing.assert_close(torch.cat(bands, 2), whole, rtol=1e-5, atol=1e-6)


class Cut(Bands):
    """A known feature in bands."""

    def __init__(self, feature: torch.Tensor, rows: int) -> None:
        self.feature, self.rows = feature, rows
        self.size = (feature.shape[-2], feature.shape[-1])

    def __iter__(self):
        return iter(self.feature.split(self.rows, 2))

    def whole(self) -> torch.Tensor:
        return self.feature


CLASSIFIERS = {
    "linear": Linear, "cosine": Cosine, "mlp": MLP, "cac": CAC,
    "cac per image": partial(CAC, oracle_context="image", confidence=0.3),
    "cac of its prediction": partial(CAC, oracle_from="prediction", shared_projector=True),
}  # fmt: skip


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("name", CLASSIFIERS)
@torch.no_grad()
def test_a_classifier_in_bands_says_what_it_says_of_the_whole(name: str, labelled: bool) -> None:
    torch.manual_seed(0)
    classifier = CLASSIFIERS[name](16, 5).eval()
    assert classifier.takes_bands()
    for p in classifier.parameters():
        p.add_(0.3 * torch.randn_like(p))
    feature = torch.randn(2, 16, 13, 9)
    target = torch.randint(5, (2, 13, 9)) if labelled else None
    if target is not None:
        target[:, :4] = IGNORE
    whole, banded = classifier(feature, target), classifier.in_bands(Cut(feature, 4), target)
    assert type(banded) is type(whole)
    assert banded.missing() == whole.missing()
    for branch in whole.branches() - whole.missing():
        torch.testing.assert_close(banded.read(branch), whole.read(branch), rtol=1e-5, atol=1e-5, msg=branch)


def test_who_looks_beyond_a_pixel_is_given_the_whole_map() -> None:
    class Adaptive(Linear):
        pass

    assert not any(kind(16, 5).takes_bands() for kind in (SSA, Located, Adaptive))
    assert not Linear(16, 5, kernel=3).takes_bands()


def model_of(compose, classifier: str, **options):
    cfg = copy.deepcopy(compose("train", [f"classifier={classifier}", "decoder=ifa", *TINY, *SMALL_NET]))
    cfg["decoder"].update(options)
    torch.manual_seed(0)
    return shaken(network(cfg, 5))


@pytest.mark.parametrize("classifier", ["linear", "cosine", "mlp", "located", "cac", "ssa"])
@torch.no_grad()
def test_a_network_answers_at_the_size_that_it_is_asked_for(classifier: str, compose, caplog) -> None:
    image = torch.randint(256, (2, 3, 50, 66), dtype=torch.uint8)
    whole, chunked = (model_of(compose, classifier, chunk=chunk) for chunk in (2**16, 500))
    assert whole.any_size
    assert whole(image).logits.shape[-2:] == (13, 17)
    for size in [(50, 66), (77, 31), (1, 1)]:
        expected = whole(image, size=size)
        assert expected.logits.shape == (2, 5, *size)
        found = chunked(image, size=size)
        for branch in expected.branches() - expected.missing():
            torch.testing.assert_close(found.read(branch), expected.read(branch), rtol=1e-4, atol=1e-5, msg=branch)
    asked = chunked(image, size=(50, 66), wanted=frozenset({FEATURE}))
    assert asked.extra[FEATURE].shape[-2:] == (50, 66), "who reads the feature has all of it"
    assert not caplog.records


@torch.no_grad()
def test_beyond_max_query_who_needs_the_whole_map_has_the_native_grid_and_the_log_says_so(compose, caplog) -> None:
    module.say_once.cache_clear()
    image = torch.randint(256, (1, 3, 50, 66), dtype=torch.uint8)
    model = model_of(compose, "ssa", chunk=500, max_query=3000)
    with caplog.at_level(logging.WARNING):
        assert model(image, size=(40, 60)).logits.shape[-2:] == (40, 60)
        assert not caplog.records
        for _ in range(2):
            assert torch.equal(model(image, size=(50, 66)).logits, model(image).logits)
    assert [
        record.message
        for record in caplog.records
        if "3300 points" in record.message and "max_query=3000" in record.message
    ]
    assert len(caplog.records) == 1
    assert model_of(compose, "cac", chunk=500, max_query=0)(image, size=(50, 66)).logits.shape[-2:] == (50, 66)


def test_the_native_grid_is_a_choice_and_none_but_evaluation_asks_for_more(compose) -> None:
    image = torch.randint(256, (2, 3, 50, 66), dtype=torch.uint8)
    native = model_of(compose, "linear", query="native")
    assert not native.any_size
    assert torch.equal(native(image, size=(50, 66)).logits, native(image).logits)
    released = model_of(compose, "linear", train_query="stride4").train()
    output = released(image, size=(50, 66))
    assert output.pixels is None
    assert output.logits.shape[-2:] == (13, 17)


# Random pixels


def test_every_cell_has_a_pixel_of_its_own_and_every_pixel_of_it_is_as_likely() -> None:
    torch.manual_seed(0)
    points = one_in_each_cell((10, 9), (3, 2), 6000, CPU)
    assert points.rows.shape == points.columns.shape == (6000, 3, 2)
    for y, (low, high) in enumerate([(0, 3), (3, 6), (6, 10)]):
        for x, (left, right) in enumerate([(0, 4), (4, 9)]):
            rows, columns = points.rows[:, y, x], points.columns[:, y, x]
            hits = torch.zeros(10, 9).index_put_((rows, columns), torch.ones(6000), accumulate=True)
            inside = hits[low:high, left:right]
            assert hits.sum() == inside.sum() == 6000
            assert ((inside / 6000 * inside.numel() - 1).abs() < 0.25).all()
    fine = one_in_each_cell((2, 3), (5, 5), 2, CPU)
    assert fine.rows.max() <= 1
    assert fine.columns.max() <= 2


def test_random_pixels_have_the_feature_of_a_query_there_and_come_from_the_seed(compose) -> None:
    decoder = shaken(SMALL(norm=partial(group_norm, groups=4)))
    maps = maps_of()
    whole = decoder(maps, size=(68, 100)).feature
    decoder.train()
    torch.manual_seed(3)
    first = decoder(maps, size=(68, 100))
    assert first.feature.shape == (2, 16, *SIZES[0])
    torch.testing.assert_close(first.feature, at_pixels(whole, first.pixels), rtol=1e-4, atol=1e-5)
    assert not torch.equal(first.pixels[0], first.pixels[1]), "each image has its own"
    second = decoder(maps, size=(68, 100))
    assert not torch.equal(first.pixels, second.pixels)
    torch.manual_seed(3)
    assert torch.equal(decoder(maps, size=(68, 100)).pixels, first.pixels)
    assert decoder(maps).pixels is None, "without a size there are no pixels"


def test_pixels_of_a_map_are_read_row_by_row() -> None:
    label = torch.arange(2 * 4 * 5).view(2, 4, 5)
    pixels = torch.tensor([[[0, 7]], [[19, 5]]])
    assert at_pixels(label, pixels).tolist() == [[[0, 7]], [[39, 25]]]
    assert torch.equal(at_pixels(torch.stack([label, -label], 1), pixels)[:, 1], -at_pixels(label, pixels))


class Seen(Term):
    """Keeps the labels that it is shown."""

    def forward(self, output: Output, batch: Batch) -> torch.Tensor:
        self.label = batch.label
        return sum(self.read(output, branch).sum() for branch in self.branches)


def test_a_term_sees_the_labels_of_the_pixels_that_its_branches_are_of() -> None:
    label = torch.arange(2 * 4 * 5).view(2, 4, 5)
    batch = Batch(image=torch.zeros(2, 3, 4, 5), label=label, names=("a", "b"))
    pixels = torch.tensor([[[0, 7]], [[19, 5]]])
    logits, aux = torch.zeros(2, 3, 1, 2), torch.zeros(2, 3, 2, 2)
    output = Output(logits=logits, extra={"aux": aux, FEATURE: logits}, pixels=pixels)
    terms = {"main": Seen(["logits", FEATURE]), "aux": Seen(["aux"])}
    Criterion(terms)(output, batch)
    assert torch.equal(terms["main"].label, at_pixels(label, pixels))
    assert torch.equal(terms["aux"].label, label)
    with pytest.raises(ConfigError, match="train_query=stride4"):
        seen_by(Seen(["aux", "logits"]), output, batch)
    assert seen_by(Seen(["logits"]), Output(logits=logits), batch) is batch


def task_of(compose, *overrides: str):
    cfg = compose("train", ["decoder=ifa", *TINY, *SMALL_NET, *overrides])
    data = build.build_data(cfg)
    return build.build_training(cfg, data.spec, probe=data.probe()).task


def batch_of(task) -> Batch:
    torch.manual_seed(0)
    label = torch.randint(task.spec.num_classes, (2, 50, 66))
    return Batch(image=torch.randint(256, (2, 3, 50, 66), dtype=torch.uint8), label=label, names=("a", "b"))


@pytest.mark.parametrize("classifier", ["linear", "cac", "ssa"])
def test_a_step_at_random_pixels_reaches_every_parameter_and_the_auxiliary_head_sees_all_labels(
    classifier: str, compose
) -> None:
    task = task_of(compose, f"classifier={classifier}", "heads=fcn").train()
    output = task.output(batch_of(task))
    assert output.pixels is not None
    assert output.logits.shape[-2:] == output.pixels.shape[1:] == (13, 17)
    losses = task.losses(batch_of(task), 0)
    losses.total.backward()
    assert losses.total.isfinite()
    assert "aux" in losses.parts
    assert not [n for n, p in task.model.named_parameters() if p.requires_grad and p.grad is None]


def test_training_at_pixels_needs_no_other_shape_of_labels_than_the_logits(compose) -> None:
    """Labels that say which pixel was asked: the loss of logits that know them is nearly 0."""
    task = task_of(compose, "classifier=linear").train()
    batch = batch_of(task)
    output = task.output(batch)
    known = at_pixels(batch.label, output.pixels)
    perfect = 50.0 * F.one_hot(known, task.spec.num_classes).permute(0, 3, 1, 2)
    right = Output(logits=perfect, pixels=output.pixels)
    assert task.terms(right, batch, 0).total < 1e-3
    assert task.terms(Output(logits=perfect), batch, 0).total > 1, "the same logits, taken for a grid"


@pytest.mark.parametrize("classifier", ["linear", "cac", "ssa"])
@torch.no_grad()
def test_evaluation_asks_at_the_labels_size_and_chunks_change_no_score(classifier: str, compose) -> None:
    task = task_of(compose, f"classifier={classifier}", "evaluation.flip=true").eval()
    batch = batch_of(task)
    results = []
    for chunk in (2**16, 700):
        task.model.decoder.chunk = chunk
        task.reset()
        seen = task.evaluate(batch, 0)
        assert seen.scores.shape[-2:] == (50, 66)
        losses = {name: float(value) for name, value in task.mean_losses().items()}
        results.append((seen.scores, losses))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-5)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)


def test_a_head_that_reads_the_feature_has_it_in_evaluation_and_is_refused_at_single_pixels(compose) -> None:
    task = task_of(
        compose,
        "+heads.two={_target_: tests.test_segmenter.Doubling, _partial_: true}",
        "+loss.two={_target_: seglab.losses.CrossEntropy, branch: two.a}",
        "decoder.chunk=500",
    )
    with torch.no_grad():
        output = task.eval().output(batch_of(task))
    assert output.extra["two.a"].shape[-2:] == (50, 66)
    with pytest.raises(ConfigError, match=r"train_query=stride4"):
        task.train().losses(batch_of(task), 0)


# Refusals and forms


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "decoder.depth=3"),
        ({"width": 1}, "decoder.width=1"),
        ({"encoding": "learned"}, "decoder.encoding=learned"),
        ({"pos_dim": 6}, "decoder.pos_dim=6"),
        ({"pos_dim": 4}, "decoder.pos_dim=4"),
        ({"local": "all"}, "decoder.local=all"),
        ({"shift": "cell"}, "decoder.shift=cell"),
        ({"shift_stride": 0}, "decoder.shift_stride=0"),
        ({"query": "4x"}, "decoder.query=4x"),
        ({"train_query": "random"}, "decoder.train_query=random"),
        ({"chunk": 0}, "decoder.chunk=0"),
        ({"max_query": -1}, "decoder.max_query=-1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IFA(CHANNELS, STRIDES, 5, **{"width": 16, **options})


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (2**14, 2**13)])
@pytest.mark.parametrize("training", [False, True])
def test_a_query_of_nothing_or_of_too_many_points_is_refused_by_name(size, training: bool) -> None:
    with pytest.raises(ConfigError, match=rf"size=\[{size[0]}, {size[1]}\]"):
        SMALL().train(training)(maps_of(), size=size)
    assert height_width("size", [3, 4], 12) == (3, 4)


def test_one_image_is_too_few_for_the_mean_over_an_image_in_training() -> None:
    with pytest.raises(ConfigError, match="data.batch_size=2"):
        SMALL(aspp=True).train()(maps_of(1))
    assert SMALL(aspp=True).eval()(maps_of(1)).feature.isfinite().all()
    SMALL(aspp=True).train()(maps_of(2)).feature.sum().backward()


@pytest.mark.parametrize("options", [{"depth": 0}, {"depth": 1}, {"unfold": True}, {"aspp": True}, {"local": "sum"}])
def test_every_form_publishes_its_width_and_takes_odd_sizes_and_half_precision(options: dict) -> None:
    decoder = SMALL(**options)
    maps = maps_of()
    with torch.autocast("cpu", torch.bfloat16):
        feature = decoder(maps, size=(33, 47)).feature
        assert feature.isfinite().all()
        asked = decoder.eval()(maps, size=(33, 47)).feature
    assert asked.shape == (2, decoder.out_channels, 33, 47)
    exact = decoder(maps, size=(33, 47)).feature
    assert (asked.float() - exact).abs().mean() < 0.05 * exact.abs().mean().clamp(min=0.05)
    half = copy.deepcopy(decoder).to(torch.bfloat16)
    assert half([x.bfloat16() for x in maps], size=(33, 47)).feature.isfinite().all()


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 1.77e6),
        ({"depth": 1}, 1.70e6),
        ({"depth": 0}, 1.15e6),
        ({"unfold": True}, 5.96e6),
        ({"aspp": True}, 19.4e6),
    ],
)
def test_the_decoder_has_the_parameters_of_the_published_one(options: dict, parameters: float) -> None:
    with torch.device("meta"):
        decoder = IFA((256, 512, 1024, 2048), STRIDES, 19, **options)
    classifier = 19 * decoder.out_channels + 19
    total = sum(p.numel() for p in decoder.parameters()) + classifier
    assert total == pytest.approx(parameters, rel=0.005)
    trained = [name for name, _ in decoder.named_parameters() if "pos" in name]
    assert trained == [f"ifa.pos{i}.emb" for i in (1, 2, 3, 4)]
    assert sum(decoder.get_parameter(name).numel() for name in trained) == 96
    assert {"enc1.0.weight", "enc1.1.weight", "head.0.weight", "ifa.imnet.0.weight"} <= decoder.state_dict().keys()
    assert not [name for name in IFA((8, 8), (4, 8), 5, encoding="fixed").state_dict() if "pos" in name]


def test_a_backbone_of_two_maps_will_do() -> None:
    decoder = IFA((8, 12), (8, 16), 5, width=16).eval()
    assert decoder(maps_of()[:2], size=(9, 40)).feature.shape == (2, 16, 9, 40)


def test_options_are_those_of_the_configuration(compose) -> None:
    cfg = compose("train", ["decoder=ifa", *TINY, *SMALL_NET])["decoder"]
    own = Implicit(4, 256, (512, 256, 256))
    assert json.dumps(cfg["dilations"]) == "[12, 24, 36]"
    assert (cfg["local"], cfg["shift"]) == (own.local, own.shift)
