"""AuxAdapt: who changes, from what, and what is given out (the behavioural tests of its specification)."""

from __future__ import annotations

import copy
import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seglab.data.spec import DatasetSpec
from seglab.errors import CheckpointError, ConfigError, DataError
from seglab.inference import Protocol
from seglab.models.normalise import Normalise
from seglab.predictors.aux_adapt import AuxAdapt, renormalised
from seglab.predictors.tent import Tent, entropy
from tests.predictors.adapting import PLAIN, SPEC, K, Net, frames, opened, predicted

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def nets(linear: bool = False) -> tuple[nn.Module, nn.Module]:
    return Net(seed=1).eval(), Net(linear, seed=2).eval()


def adapting(main: nn.Module, aux: nn.Module, optimizer=SGD, protocol: Protocol = PLAIN, **options) -> AuxAdapt:
    made = AuxAdapt(optimizer, opened(aux), **options)
    made.attach(main, SPEC, protocol)
    return made


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(net.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


VARIANTS = [
    {},
    {"fusion": "prob_mean"},
    {"loss_on": "aux"},
    {"target": "main"},
    {"aux_scale": 0.5, "aux_weight": 2.0},
    {"resolution": "scores"},
    {"steps": 2},
    {"reset": "never"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_1_the_main_network_never_changes_and_of_aux_the_parameters_do_and_the_statistics_do_not(options):
    main, aux = nets()
    before = state(main), state(aux)
    learnt = adapting(main, aux, **options)
    predicted(main, learnt, frames(3))
    assert same(state(main), before[0])
    assert not any(parameter.grad is not None for parameter in main.parameters())
    assert learnt.network is not main
    start = before[0] if options.get("target") == "main" else before[1]
    buffers = {name for name, _ in learnt.network.named_buffers()}
    for name, value in learnt.network.state_dict().items():
        assert torch.equal(value, start[name]) == (name in buffers), name
    assert not any(module.training for module in learnt.network.modules())


@pytest.mark.parametrize("fusion", ["logit_sum", "prob_mean"])
def test_2_without_a_learning_rate_it_is_the_ensemble_of_frozen_networks_bit_for_bit(fusion):
    main, aux = nets()
    images = frames(3)
    still = predicted(main, adapting(main, aux, target="none", fusion=fusion), images)
    zero = predicted(main, adapting(main, aux, partial(torch.optim.SGD, lr=0.0, momentum=0.9), fusion=fusion), images)
    assert torch.equal(still, zero)
    with torch.no_grad():
        z = [F.interpolate(net(images).logits, images.shape[-2:], mode="bilinear") for net in (main, aux)]
    expected = z[0] + z[1] if fusion == "logit_sum" else ((z[0].softmax(1) + z[1].softmax(1)) / 2).log()
    torch.testing.assert_close(still, expected)


def test_adapting_main_without_a_learning_rate_is_the_main_network_bit_for_bit():
    main, aux = nets()
    images = frames(3)
    found = predicted(main, adapting(main, aux, partial(torch.optim.SGD, lr=0.0), target="main"), images)
    with torch.no_grad():
        assert torch.equal(found, torch.cat([main(image).logits for image in images.split(1)]))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_3_the_scores_of_a_frame_depend_on_no_later_one(options):
    images = frames(5)
    whole = predicted(*(run := nets())[:1], adapting(*run, **options), images)
    part = predicted(*(run := nets())[:1], adapting(*run, **options), images[:3])
    assert torch.equal(whole[:3], part)


@pytest.mark.parametrize(("weight", "loss_on"), [(1.0, "fused"), (2.0, "fused"), (1.0, "aux")])
def test_4_the_gradient_is_the_difference_of_probability_and_decision_and_nothing_of_main_is_kept(weight, loss_on):
    main, aux = nets(linear=True)
    image = frames(1)
    seen: list[bool] = []
    plain = partial(torch.optim.SGD, lr=1.0)
    learnt = adapting(main, aux, plain, aux_weight=weight, loss_on=loss_on)
    start = state(aux)
    with torch.no_grad():
        z_m = F.interpolate(main(image).logits, image.shape[-2:], mode="bilinear")
        z_a = aux(image).logits
    z = z_m + weight * z_a
    decided = F.one_hot(z.argmax(1), K).movedim(-1, 1)
    judged, factor = (z, weight) if loss_on == "fused" else (z_a, 1.0)
    gradient = factor * (judged.softmax(1) - decided) / (12 * 16)
    expected = torch.einsum("bkhw,bchw->kc", gradient, image), gradient.sum((0, 2, 3))

    hook = main.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    given = predicted(main, learnt, image)
    hook.remove()
    assert seen == [False], "of the main network no activation is kept"
    assert not given.requires_grad
    moved = start["last.weight"] - aux.last.weight.detach(), start["last.bias"] - aux.last.bias.detach()
    torch.testing.assert_close(moved[0][..., 0, 0], expected[0])
    torch.testing.assert_close(moved[1], expected[1])
    torch.testing.assert_close(learnt.loss, -(judged.log_softmax(1) * decided).sum(1).mean())


def test_5_what_the_main_network_is_certain_of_teaches_nothing():
    _, aux = nets()
    learnt = adapting(Net(), aux, partial(torch.optim.SGD, lr=1.0))
    start = state(aux)
    image = frames(1)
    scores = F.one_hot(torch.randint(K, (1, 12, 16)), K).movedim(-1, 1) * 100.0 - 50
    with torch.no_grad():
        given = learnt.along(image, scores, ["clip"])
    assert torch.equal(given.argmax(1), scores.argmax(1))
    assert sum((value - start[name]).square().sum() for name, value in state(aux).items()) ** 0.5 < 1e-6


@pytest.mark.parametrize("lr", [1e-4, 1e-3])
def test_6_confidence_in_a_frame_that_stays_grows_and_its_classes_do_not_change(lr):
    main, aux = nets()
    learnt = adapting(main, aux, partial(torch.optim.SGD, lr=lr, momentum=0.9))
    losses, classes = [], []
    decided = torch.arange(K).repeat_interleave(4)[None, None].expand(1, 12, 16)
    scores = F.one_hot(decided, K).movedim(-1, 1) * 2.0  # of probability 0.71
    for image in frames(1).expand(12, -1, -1, -1).split(1):
        with torch.no_grad():
            classes.append(learnt.along(image, scores, ["clip"]).argmax(1))
        losses.append(float(learnt.loss))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert all(torch.equal(each, classes[0]) for each in classes)


@pytest.mark.parametrize("target", ["aux", "main"])
def test_7_after_a_reset_a_clip_is_predicted_as_the_first_time(target):
    images = frames(3)
    twice, names = torch.cat([images, images]), ["a"] * 3 + ["b"] * 3
    main, aux = nets()
    found = predicted(main, adapting(main, aux, target=target), twice, names)
    assert torch.equal(found[:3], found[3:])
    main, aux = nets()
    never = predicted(main, adapting(main, aux, target=target, reset="never"), twice, names)
    assert torch.equal(found[:3], never[:3])
    assert not torch.equal(found[3:], never[3:])


def test_several_steps_go_further_towards_the_first_decision():
    losses = {}
    for steps in (1, 5):
        main, aux = nets()
        learnt = adapting(main, aux, partial(torch.optim.SGD, lr=1e-3), steps=steps)
        predicted(main, learnt, frames(1))
        first = float(learnt.loss)
        predicted(main, learnt, frames(1))
        losses[steps] = float(learnt.loss)
        assert losses[steps] < first
    assert losses[5] < losses[1]


def test_a_smaller_image_for_aux_is_a_smaller_image():
    main, aux = nets()
    sizes = []
    aux.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[-2:])))
    predicted(main, adapting(main, aux, aux_scale=0.5), frames(1))
    predicted(main, adapting(main, aux, protocol=Protocol(long_short=(8, 6)), aux_scale=1.0), frames(1))
    assert sizes == [(6, 8), (6, 8)]


def test_aux_sees_the_image_as_it_normalises_it():
    before, after = Normalise([100.0, 110, 120], [50.0, 60, 70]), Normalise([10.0, 20, 30], [1.0, 2, 3])
    raw = torch.randint(256, (1, 3, 5, 6), dtype=torch.uint8)
    torch.testing.assert_close(renormalised(before(raw), before, after), after(raw), rtol=1e-4, atol=1e-4)
    assert renormalised(image := before(raw), before, before) is image


def test_under_mixed_precision_aux_computes_and_learns_in_float32():
    main, aux = nets()
    kinds = []
    aux.last.register_forward_hook(lambda _, __, made: kinds.append(made.dtype))
    learnt = adapting(main, aux)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = predicted(main, learnt, frames(2))
    assert kinds == [torch.float32] * 2
    assert given.dtype == torch.float32
    assert {parameter.dtype for parameter in aux.parameters()} == {torch.float32}


def test_an_unsure_main_network_is_warned_of_once(caplog):
    main, aux = nets()
    with caplog.at_level(logging.WARNING):
        learnt = adapting(main, aux, unsure=0.3)
        sure = torch.zeros(1, K, 6, 8)
        sure[:, 1] = 5
        with torch.no_grad():
            learnt.along(frames(1), sure, ["a"])
            assert not caplog.records
            learnt.along(frames(2), torch.zeros(2, K, 6, 8), ["b", "b"])
    assert len(caplog.records) == 1
    assert "sequence b (mean confidence 0.25, below predictor.refine.unsure=0.3)" in caplog.records[0].getMessage()


def test_another_number_or_order_of_classes_is_refused(caplog):
    main, aux = nets()
    for classes, said in (
        (("a", "b", "c"), "3 classes .* network 4"),
        (("a", "c", "b", "d"), "the class c as 1, .* as 2"),
    ):
        other = AuxAdapt(SGD, opened(aux, DatasetSpec("other", classes, SPEC.palette[: len(classes)])))
        with pytest.raises(CheckpointError, match=rf"predictor\.aux=aux\.ckpt has .*{said}"):
            other.attach(main, SPEC, PLAIN)
    AuxAdapt(SGD, opened(aux, DatasetSpec("other", ("w", "x", "y", "z"), SPEC.palette))).attach(main, SPEC, PLAIN)
    assert "class names" in caplog.text


def test_a_loss_that_is_no_number_ends_the_sequence_and_the_next_one_begins_anew():
    main, aux = nets()
    learnt = adapting(main, aux, partial(torch.optim.SGD, lr=1e30))
    with pytest.raises(DataError, match=r"frame \d of the sequence clip: .*lower predictor\.refine\.optimizer\.lr"):
        predicted(main, learnt, frames(4))
    assert predicted(main, learnt, frames(1), ["next"]).isfinite().all()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"fusion": "sum"}, "fusion"),
        ({"loss_on": "main"}, "loss_on"),
        ({"target": "both"}, "target"),
        ({"reset": "frame"}, "reset"),
        ({"steps": 0}, "steps"),
        ({"aux_scale": 0.0}, "aux_scale"),
        ({"aux_weight": -1.0}, "aux_weight"),
        ({"resolution": "image"}, "resolution"),
        ({"unsure": 2.0}, "unsure"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options, key):
    with pytest.raises(ConfigError, match=rf"predictor\.refine\.{key}="):
        AuxAdapt(SGD, opened(Net()), **options)


def test_an_optimiser_that_refuses_its_options_is_named():
    with pytest.raises(ConfigError, match=r"predictor\.refine\.optimizer refuses .*learning rate"):
        adapting(*nets(), partial(torch.optim.SGD, lr=-1.0))


@pytest.mark.parametrize("made", [partial(AuxAdapt, SGD, target="main"), partial(Tent, SGD)], ids=["main", "tent"])
def test_what_adapts_the_network_itself_refuses_protocols_of_several_views(made):
    with pytest.raises(ConfigError, match=r"evaluation\.mode=whole evaluation\.flip=false"):
        made().attach(Net().eval(), SPEC, Protocol(flip=True))


# Tent


def tent(main: nn.Module, optimizer=partial(torch.optim.SGD, lr=0.1), **options) -> Tent:  # noqa: B008
    made = Tent(optimizer, **options)
    made.attach(main, SPEC, PLAIN)
    return made


@pytest.mark.parametrize("statistics", ["batch", "stored"])
def test_tent_moves_scale_and_shift_of_its_copy_alone_and_makes_it_more_certain(statistics):
    main, _ = nets()
    before = state(main)
    learnt = tent(main, statistics=statistics)
    entropies = []
    for image in frames(1).expand(6, -1, -1, -1).split(1):
        predicted(main, learnt, image)
        entropies.append(float(learnt.loss))
    assert same(state(main), before)
    moved = {name for name, value in learnt.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"body.1.weight", "body.1.bias"}
    assert entropies == sorted(entropies, reverse=True)


def test_the_statistics_of_tent_are_the_frames_own_and_stored_ones_leave_the_network_as_it_is():
    main, _ = nets()
    frozen = partial(torch.optim.SGD, lr=0.0)
    image = frames(1) + 2
    with torch.no_grad():
        own = main(image).logits
        feature = main.body[0](image)
        normal = (feature - feature.mean((0, 2, 3), keepdim=True)) / (
            feature.var((0, 2, 3), keepdim=True, correction=0) + 1e-5
        ).sqrt()
        batch = main.last(F.relu(normal))  # scale 1, shift 0
    assert torch.equal(predicted(main, tent(main, frozen, statistics="stored"), image), own)
    torch.testing.assert_close(predicted(main, tent(main, frozen), image), batch, rtol=1e-4, atol=1e-4)


def test_the_entropy_is_that_of_its_definition():
    scores = torch.randn(2, K, 3, 5)
    p = scores.softmax(1)
    torch.testing.assert_close(entropy(scores), -(p * p.log()).sum(1).mean())
    assert entropy(torch.tensor([[200.0, -200.0]]).view(1, 2, 1, 1)) == 0


def test_a_network_without_normalisation_is_refused_by_tent():
    with pytest.raises(ConfigError, match="no normalisation layer"):
        tent(Net(linear=True).eval())


def test_tent_resets_with_every_sequence():
    main, _ = nets()
    images = frames(3)
    found = predicted(main, tent(main), torch.cat([images, images]), ["a"] * 3 + ["b"] * 3)
    assert torch.equal(found[:3], found[3:])
    assert not torch.equal(found[0], found[1])
