"""What every classifier promises."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from seglab.classifiers import CAC, MLP, SSA, Cosine, Linear, Located
from seglab.classifiers.base import Classifier
from seglab.errors import ConfigError
from seglab.types import IGNORE
from tests.conftest import each

C, K = 8, 5
VARIANTS = {
    "linear": (Linear, {}),
    "linear without bias": (Linear, {"bias": False}),
    "mlp": (MLP, {}),
    "located": (Located, {}),
    "located sinusoidal": (Located, {"position": "sinusoidal", "bias": False}),
    "cosine": (Cosine, {}),
    "cosine learnt tau": (Cosine, {"learn_tau": True}),
    "cac": (CAC, {}),
    "cac dot": (CAC, {"similarity": "dot"}),
    "cac per image": (CAC, {"oracle_context": "image", "detach_means": True}),
    "cac linear projector": (CAC, {"projector": "linear"}),
    "cac shared wide projector": (CAC, {"projector_width": 2.0, "shared_projector": True}),
    "cac of its own prediction": (CAC, {"oracle_from": "prediction"}),
    "cac confident": (CAC, {"confidence": 0.5, "detach_coarse": True}),
    "ssa": (SSA, {}),
    "ssa of its own prediction": (SSA, {"oracle_from": "prediction"}),
    "ssa semantic": (SSA, {"spatial": False}),
    "ssa spatial": (SSA, {"semantic": False}),
    "ssa learnable": (SSA, {"position": "learnable"}),
    "ssa sinusoidal": (SSA, {"position": "sinusoidal"}),
    "ssa nowhere": (SSA, {"position": "none"}),
    "ssa over classes": (SSA, {"spatial_softmax": "classes"}),
    "ssa basis": (SSA, {"spatial_softmax": "none"}),
    "ssa paper": (SSA, {"similarity": "dot", "combine": False, "projector": "linear"}),
    "ssa shared": (SSA, {"shared_projector": True, "oracle_context": "image", "confidence": 0.3}),
}
every_variant = pytest.mark.parametrize(("kind", "options"), VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Feature [2, C, 4, 6] and labels [2, 16, 24] with void pixels and an absent class."""
    torch.manual_seed(0)
    target = torch.randint(0, K - 1, (2, 16, 24))
    target[:, :5] = IGNORE
    return torch.randn(2, C, 4, 6), target


def make(kind: type[Classifier], options: dict, channels: int = C, classes: int = K) -> Classifier:
    torch.manual_seed(1)
    return kind(channels, classes, **options)


@pytest.mark.parametrize("name", each(list(VARIANTS), "linear", "cosine", "cac", "ssa", "ssa paper"))
def test_it_compiles_without_a_graph_break(name, scene):
    kind, options = VARIANTS[name]
    feature, target = scene
    classifier = make(kind, {**options, "dropout": 0.0})
    torch.compiler.reset()  # the variants share their code, which is only compiled so many times
    compiled = torch.compile(classifier, fullgraph=True, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = compiled(feature, target), classifier(feature, target)
    torch.testing.assert_close(found.logits, wanted.logits)


@every_variant
def test_without_labels_the_branches_that_need_them_are_empty(kind, options, scene):
    feature, target = scene
    classifier = make(kind, options)
    output = classifier(feature)
    assert output.logits.shape == (2, K, 4, 6)
    assert output.label_branches() <= output.missing()
    assert classifier.weight.shape == (K, C)
    for branch in output.label_branches() & {"oracle"}:
        assert getattr(classifier(feature, target), branch).shape == (2, K, 4, 6)


@every_variant
def test_labels_do_not_change_the_prediction(kind, options, scene):
    feature, target = scene
    classifier = make(kind, options).eval()
    assert torch.equal(classifier(feature).logits, classifier(feature, target).logits)


@every_variant
def test_every_parameter_learns_from_the_branches(kind, options, scene):
    feature, target = scene
    classifier = make(kind, options)
    output = classifier(feature.requires_grad_(), target)
    sum((getattr(output, b) ** 2).sum() for b in output.branches() - output.missing()).backward()
    idle = {name for name, p in classifier.named_parameters() if p.grad is None}
    assert not idle
    assert feature.grad.isfinite().all()


@every_variant
def test_dropout_acts_in_front_of_the_static_logits_only(kind, options, scene):
    feature, target = scene
    classifier = make(kind, options).eval()
    whole = classifier(feature, target)
    classifier.dropout = torch.nn.Threshold(torch.inf, 0)  # drops everything
    dropped = classifier(feature, target)
    if "coarse" in kind.Output.branches():
        assert not torch.equal(dropped.coarse, whole.coarse)
        if "oracle" in kind.Output.branches() and options.get("oracle_from") != "prediction":
            assert torch.equal(dropped.oracle, whole.oracle)
    else:
        assert not torch.equal(dropped.logits, whole.logits)


@every_variant
@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (1, 3), (3, 1)])
def test_one_class_and_one_channel_are_enough(kind, options, channels, classes):
    feature, target = torch.randn(1, channels, 3, 3, requires_grad=True), torch.zeros(1, 6, 6, dtype=torch.int64)
    output = make(kind, options, channels, classes)(feature, target)
    output.logits.sum().backward()
    assert output.logits.shape == (1, classes, 3, 3)
    assert feature.grad.isfinite().all()


@every_variant
def test_void_labels_and_zero_features_leave_everything_finite(kind, options):
    feature = torch.randn(2, C, 3, 3)
    feature[0, :, 1, 1] = 0
    feature.requires_grad_()
    output = make(kind, options)(feature, torch.full((2, 6, 6), IGNORE))
    sum(getattr(output, b).sum() for b in output.branches() - output.missing()).backward()
    assert all(getattr(output, b).isfinite().all() for b in output.branches() - output.missing())
    assert feature.grad.isfinite().all()


@every_variant
def test_under_autocast_the_logits_are_close_and_adapted_ones_float32(kind, options, scene):
    feature, target = scene
    classifier = make(kind, options).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = classifier(feature, target)
    if hasattr(classifier, "similarity"):
        assert output.logits.dtype == torch.float32
    expected = classifier(feature, target).logits
    assert (output.logits - expected).abs().max() < 0.05 * expected.abs().max()


@every_variant
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_runs(kind, options, dtype, scene):
    feature, target = scene
    classifier = make(kind, options).to(dtype)
    classifier(feature.to(dtype), target).logits.sum().backward()


@every_variant
def test_no_classifier_waits_for_a_number(kind, options):
    """Tensors without data: anything that asks for a value, a data-dependent shape or a branch fails."""
    with FakeTensorMode():
        output = kind(C, K, **options)(torch.randn(2, C, 4, 6), torch.zeros(2, 16, 24, dtype=torch.int64))
        output.logits.sum().backward()


@every_variant
def test_a_state_of_one_fits_another(kind, options, scene):
    classifier, other = make(kind, options).eval(), kind(C, K, **options).eval()
    other.load_state_dict(classifier.state_dict())
    assert torch.equal(classifier(scene[0]).logits, other(scene[0]).logits)


@every_variant
def test_images_of_a_batch_are_predicted_alone(kind, options, scene):
    feature, _ = scene
    classifier = make(kind, options).eval()
    alone = torch.cat([classifier(image[None]).logits for image in feature])
    torch.testing.assert_close(classifier(feature).logits, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Linear, CAC, SSA])
def test_the_convolution_starts_small_and_without_bias(kind):
    torch.manual_seed(0)
    classifier = kind(256, 100)
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not classifier.conv.bias.any()


@pytest.mark.parametrize(
    ("kind", "options", "key"),
    [
        (Linear, {"dropout": 1.5}, "dropout"),
        (Cosine, {"tau": 0.0}, "tau"),
        (Cosine, {"tau": float("nan")}, "tau"),
        (CAC, {"tau": -1.0}, "tau"),
        (CAC, {"similarity": "euclid"}, "similarity"),
        (CAC, {"projector": "deep"}, "projector"),
        (CAC, {"projector_width": 0.0}, "projector_width"),
        (CAC, {"oracle_context": "dataset"}, "oracle_context"),
        (CAC, {"confidence": 2.0}, "confidence"),
        (CAC, {"eps": -1.0}, "eps"),
        (SSA, {"position": "gps"}, "position"),
        (SSA, {"spatial_softmax": "rows"}, "spatial_softmax"),
        (SSA, {"semantic": False, "spatial": False}, "semantic"),
        (SSA, {"dropout": -0.1}, "dropout"),
    ],
)
def test_wrong_options_are_refused_by_key(kind, options, key):
    with pytest.raises(ConfigError, match=rf"classifier\.{key}"):
        kind(C, K, **options)


@pytest.mark.parametrize("kind", [CAC, SSA])
def test_an_oracle_of_the_own_prediction_is_one_of_labels_that_say_the_same(kind, scene):
    feature, target = scene
    own, told = (make(kind, {"oracle_from": source}).eval() for source in ("prediction", "labels"))
    predicted = own(feature).logits.argmax(1).repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert not torch.equal(own(feature, target).oracle, told(feature, target).oracle)
    assert torch.equal(own(feature, target).oracle, told(feature, predicted).oracle)


def test_a_learnt_tau_starts_where_it_is_told_and_stays_above_0(scene):
    feature, _ = scene
    fixed, learnt = (make(Cosine, {"tau": 7.0, "learn_tau": learn}).eval() for learn in (False, True))
    torch.testing.assert_close(fixed(feature).logits, learnt(feature).logits)
    optimiser = torch.optim.SGD([learnt.similarity.log_tau], lr=0.01)
    learnt(feature).logits.square().mean().backward()  # smaller logits by a smaller tau
    optimiser.step()
    assert 0 < learnt.similarity.tau < 7
    assert "tau=7" not in str(learnt)
    learnt.similarity.tau = 7.0
    torch.testing.assert_close(fixed(feature).logits, learnt(feature).logits)


def test_a_located_classifier_without_position_is_two_linear_ones(scene):
    feature, _ = scene
    classifier = make(Located, {"position": "none"}).eval()
    output = classifier(feature)
    torch.testing.assert_close(output.coarse, classifier.conv(feature))
    torch.testing.assert_close(output.logits, classifier.second.conv(feature))


def test_an_mlp_has_as_many_further_weights_as_ssa_adds_to_a_deployed_network():
    channels = 96
    plain, mlp, ssa = (kind(channels, 11) for kind in (Linear, MLP, SSA))
    deployed = [p.numel() for name, p in ssa.named_parameters() if not name.startswith("oracle_")]
    added = sum(deployed) - sum(p.numel() for p in plain.parameters())
    assert sum(p.numel() for p in mlp.parameters()) - sum(p.numel() for p in plain.parameters()) == pytest.approx(
        added, rel=0.1
    )
