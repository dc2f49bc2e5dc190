"""InverseForm's terms, head and option: what has a gradient, what is deployed, and inputs at the edge."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import seglab
from seglab import build, checkpoint
from seglab.errors import ConfigError
from seglab.hierarchy.plan import Layer, Plan, write
from seglab.losses import BoundaryAttention, BoundaryCrossEntropy, CrossEntropy, InverseDistance
from seglab.losses.inverse import grid
from seglab.models.inverse_net import Convolutional, InverseNet, Transformations
from seglab.models.normalise import Normalise
from seglab.train import fit
from seglab.types import IGNORE, Batch, Output
from tests.commands import run_apart
from tests.conftest import SMALL_NET, TINY, each, options, tiny


class Opened:
    """What a frozen network is opened as."""

    def __init__(self, model) -> None:
        self.model = model


def inverse_net(tile: int = 16, parameters: int = 4) -> InverseNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Convolutional(tile, widths=(4, 4), hidden=(8,), transformations=Transformations(parameters))
    return InverseNet(Normalise([0.0] * 3, [1.0] * 3), net)


def distance(**options) -> InverseDistance:
    network = inverse_net(parameters=options.pop("parameters", 4))
    return InverseDistance(lambda: Opened(network), **options)


def blocks(height: int = 32, width: int = 48) -> torch.Tensor:
    coarse = torch.randint(0, 4, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    return coarse.repeat_interleave(height // 4, 1).repeat_interleave(width // 4, 2)


def output(label: torch.Tensor, size=(8, 12)) -> tuple[Output, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(len(label), 4, *size, generator=generator, requires_grad=True)
    boundary = torch.randn(len(label), 1, *size, generator=generator, requires_grad=True)
    return Output(logits=logits, extra={"boundary": boundary}), logits, boundary


def batch_of(label: torch.Tensor) -> Batch:
    return Batch(image=torch.zeros(len(label), 3, 1, 1), label=label, names=("",) * len(label))


TERMS = {
    "boundary": BoundaryCrossEntropy,
    "inverse": distance,
    "geodesic": lambda: distance(distance="geodesic", parameters=8),
    "tiles": lambda: distance(tiles=2, classes="released"),
    "attention": lambda: BoundaryAttention(threshold=0.0),
}
every_term = pytest.mark.parametrize("term", [make() for make in TERMS.values()], ids=TERMS)
EDGES = {
    "void": torch.full((2, 32, 48), IGNORE),
    "one class": torch.zeros(2, 32, 48, dtype=torch.int64),
    "one row": blocks()[:, 5:6],
    "one pixel": torch.zeros(2, 1, 1, dtype=torch.int64),
    "blocks": blocks(),
}


@every_term
@pytest.mark.parametrize("label", EDGES.values(), ids=EDGES)
def test_any_labels_give_a_finite_loss_with_a_finite_gradient(term, label):
    seen, logits, boundary = output(label)
    loss = term(seen, batch_of(label))
    loss.backward()
    assert loss.isfinite()
    for each_branch in (logits, boundary):
        assert each_branch.grad is None or each_branch.grad.isfinite().all()
    assert logits.grad is not None or boundary.grad is not None


@pytest.mark.parametrize("activation", ["sigmoid", "logsigmoid", "identity"])
def test_the_distance_has_a_gradient_and_in_its_published_form_none(activation):
    label = blocks()
    seen, _, boundary = output(label)
    (gradient,) = torch.autograd.grad(distance(activation=activation)(seen, batch_of(label)), boundary)
    assert gradient.abs().max() > 0
    official = distance(activation="official")
    loss = official(seen, batch_of(label))
    (gradient,) = torch.autograd.grad(loss, boundary)
    assert not gradient.any()
    other = Output(logits=seen.logits, extra={"boundary": 3 * boundary + 1})
    assert official(other, batch_of(label)) == loss, "a constant of the labels"


def test_the_network_is_neither_trained_nor_copied_nor_part_of_the_term():
    term, label = distance(), blocks()
    seen, _, _ = output(label)
    again = copy.deepcopy(term)
    (one, two) = (each_term(seen, batch_of(label)) for each_term in (term, again))
    assert one == two
    (one + two).backward()
    model = term.network.loaded.model
    assert model is again.network.loaded.model
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert not list(term.parameters())


@every_term
def test_under_autocast_losses_are_float32_and_close_to_those_without(term):
    label = blocks()
    seen, _, _ = output(label)
    half = Output(logits=seen.logits.bfloat16(), extra={"boundary": seen.extra["boundary"].bfloat16()})
    wide = Output(logits=half.logits.float(), extra={"boundary": half.extra["boundary"].float()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = term(half, batch_of(label))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, term(wide, batch_of(label)))


@pytest.mark.parametrize("term", [BoundaryCrossEntropy(), BoundaryAttention(threshold=0.0)])
def test_no_loss_waits_for_a_number(term):
    """Tensors without data: anything that asks for a value, a data-dependent shape or a branch fails."""

    def loss() -> torch.Tensor:
        boundary = torch.randn(2, 1, 8, 12, requires_grad=True)
        seen = Output(logits=torch.randn(2, 4, 8, 12, requires_grad=True), extra={"boundary": boundary})
        return term(seen, batch_of(torch.zeros(2, 32, 48, dtype=torch.int64)))

    loss()  # how maps of these sizes are resized is worked out once, on the CPU
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss().backward()


def test_boundaries_and_the_rest_weigh_the_same():
    label = blocks()
    zero = Output(logits=torch.zeros(2, 4, 8, 12), extra={"boundary": torch.zeros(2, 1, 8, 12)})
    term = BoundaryCrossEntropy()
    share = term.true(label).float().mean().item()
    expected = 2 * share * (1 - share) * torch.log(torch.tensor(2.0)).item()
    assert term(zero, batch_of(label)).item() == pytest.approx(expected, rel=1e-6)


def test_attention_sees_sure_pixels_alone_and_leaves_the_boundary_head_alone():
    label = blocks()
    seen, logits, boundary = output(label, label.shape[1:])
    loss = BoundaryAttention()(seen, batch_of(label))
    sure = boundary[:, 0] > 0.8
    kept = batch_of(label.where(sure, IGNORE))
    torch.testing.assert_close(loss, CrossEntropy(class_weight="histogram", average="image")(seen, kept))
    loss.backward()
    assert boundary.grad is None
    assert torch.equal(logits.grad.abs().amax(1) > 0, sure)


def test_tiles_cover_images_of_any_shape():
    assert grid((512, 1024), 224) == (2, 5)
    assert grid((512, 1024), 224, 3) == (3, 6)
    assert grid((1024, 512), 224, 3) == (6, 3)
    assert grid((500, 600), 224, (3, 6)) == (3, 6)
    assert grid((1, 1), 64) == grid((1, 1), 64, 1) == (1, 1)
    assert grid((1, 640), 64) == (1, 10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: distance(activation="softmax"), "activation=softmax"),
        (lambda: distance(distance="cosine"), "distance=cosine"),
        (lambda: distance(tiles=0), "tiles=0"),
        (lambda: distance(tiles=[3]), r"tiles=\[3\]"),
        (lambda: BoundaryCrossEntropy(radius=0), "radius=0"),
        (lambda: BoundaryCrossEntropy(classes="some"), "classes=some"),
        (lambda: CrossEntropy(class_weight="median"), "class_weight=median"),
    ],
)
def test_options_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        wrong()


def test_a_branch_of_several_channels_and_another_kind_of_network_are_refused():
    label = blocks()
    seen, _, _ = output(label)
    classes = Output(logits=seen.logits, extra={"boundary": seen.logits})
    with pytest.raises(ConfigError, match=r"branch 'boundary' of shape \[2, 4, 8, 12\]"):
        BoundaryCrossEntropy()(classes, batch_of(label))
    term = InverseDistance(lambda: Opened(torch.nn.Identity()))
    with pytest.raises(ConfigError, match=r"Identity.*task=inverse_net.*loss\.inverse\.network\.path"):
        term(seen, batch_of(label))


ON = ["regularizer=inverseform", "loss.attention.weight=0.1"]


def chosen(given) -> list[str]:
    return [*ON, f"loss.inverse.network.path={given}"]


@pytest.mark.parametrize("decoder", each(options("decoder"), "fpn", "ifa"))
@pytest.mark.parametrize("classifier", each(options("classifier"), "linear"))
def test_any_decoder_and_any_classifier_train_with_it(classifier, decoder, compose, trained_once):
    extra = ["decoder.train_query=stride4"] if decoder == "ifa" else []  # attention compares classes and boundaries
    names = [f"classifier={classifier}", f"decoder={decoder}", *extra]
    cfg = compose("train", [*TINY, SMALL_NET[0], *chosen(trained_once("inverse_net")), *names])
    if "width" in cfg["decoder"]:
        cfg["decoder"]["width"] = 16
    data = build.build_data(cfg)
    task = build.build_training(cfg, data.spec, probe=data.probe()).task
    label = torch.randint(task.spec.num_classes, (2, 7, 9)).repeat_interleave(9, 1).repeat_interleave(7, 2)
    batch = Batch(image=torch.randn(2, 3, *label.shape[1:]), label=label, names=("a", "b"))
    losses = task.losses(batch, 0)
    assert {"boundary", "inverse", "attention"} <= losses.parts.keys()
    losses.total.backward()
    assert losses.total.isfinite()
    assert not [n for n, p in task.model.named_parameters() if p.requires_grad and p.grad is None]
    assert any(p.grad.abs().max() > 0 for p in task.model.heads["boundary"].parameters())


def test_without_attention_it_trains_beside_a_decoder_that_is_asked_at_single_pixels(compose, trained_once):
    names = ["decoder=ifa", "decoder.width=16", ON[0], f"loss.inverse.network.path={trained_once('inverse_net')}"]
    cfg = compose("train", [*TINY, SMALL_NET[0], *names])
    data = build.build_data(cfg)
    task = build.build_training(cfg, data.spec, probe=data.probe()).task
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = task.losses(data.probe(), 0)
    assert {"boundary", "inverse"} <= losses.parts.keys()
    assert losses.total.isfinite()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, trained_once):
    """A run with it (and averaged weights), and the same without it."""
    folder = tmp_path_factory.mktemp("inverseform")
    given = chosen(trained_once("inverse_net"))
    results = fit(tiny(folder / "on", *given, "callbacks=ema"), folder / "on")
    fit(tiny(folder / "off"), folder / "off")
    return folder, results


def test_what_is_deployed_is_the_same_network_as_without_it(runs):
    folder, _ = runs
    on, off = (seglab.load(folder / name).model for name in ("on", "off"))
    assert {n: p.shape for n, p in on.state_dict().items()} == {n: p.shape for n, p in off.state_dict().items()}
    image = torch.randint(0, 256, (1, 3, 47, 65), dtype=torch.uint8)
    counts = []
    for model in (on, off):
        counter = torch.utils.flop_counter.FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(image)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    paths = [checkpoint.export_safetensors(model, checkpoint.describe(folder / name), folder / f"exported_{name}")
             for name, model in (("on", on), ("off", off))]  # fmt: skip
    assert len({(path / "model.safetensors").stat().st_size for path in paths}) == 1
    off.load_state_dict(on.state_dict())
    with torch.no_grad():
        expected = off(image).logits
        assert torch.equal(on(image).logits, expected)
        assert torch.equal(seglab.load(paths[0])(image).logits, expected)


def test_its_terms_are_logged_and_the_distance_is_of_training_alone(runs):
    folder, results = runs
    columns = (folder / "on/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/boundary", "train/inverse", "train/attention", "val/boundary"} <= set(columns)
    assert not [name for name in columns if name.endswith("/inverse") and not name.startswith("train/")]
    assert "test/inverse" not in results
    config = json.loads((folder / "on/scores.json").read_text())
    assert config["headline"]["name"] == "mIoU"


def test_a_resumed_run_needs_the_same_network_and_goes_on(runs, trained_once):
    folder, _ = runs
    given = chosen(trained_once("inverse_net"))
    fit(tiny(folder / "on", *given, "callbacks=ema", "trainer.max_steps=3", "resume=auto"), folder / "on")
    assert checkpoint.describe(folder / "on/checkpoints/last.ckpt").step == 3


@pytest.mark.slow
def test_two_processes_train_with_it(trained_once, tmp_path):
    given = chosen(trained_once("inverse_net"))
    run_apart(*TINY, *given, "trainer=ddp", "trainer.devices=2", "hydra.run.dir=two", cwd=tmp_path)
    assert checkpoint.describe(tmp_path / "two/checkpoints/last.ckpt").step == 2


def test_regularisers_are_chosen_together(compose, trained_once, tmp_path):
    clusters = [list(range(5)), list(range(5, 12))]
    layers = tuple(Layer(name, clusters) for name in ("backbone.2", "decoder.1"))
    write(Plan(tuple(f"class {k}" for k in range(12)), layers), tmp_path / "plan.json", "0")
    paths = [f"loss.{term}.network.path={trained_once(task)}" for term, task in
             (("inverse", "inverse_net"), ("teacher", "semantic"))]  # fmt: skip
    together = ["regularizer=[inverseform,hs3,teacher]", f"regularizer.plan={tmp_path / 'plan.json'}"]
    cfg = compose("train", [*TINY, *SMALL_NET, *together, *paths])
    data = build.build_data(cfg)
    task = build.build_training(cfg, data.spec).task
    losses = task.losses(data.probe(), 0)
    assert {"boundary", "inverse", "layers", "teacher"} <= losses.parts.keys()
    losses.total.backward()
    assert all(p.grad is not None for head in task.model.heads.values() for p in head.parameters())


def test_the_distance_is_warmed_up_over_a_tenth_of_the_training(compose, trained_once):
    cfg = compose("train", [*TINY, *SMALL_NET, ON[0], f"loss.inverse.network.path={trained_once('inverse_net')}"])
    criterion = build.build_criterion(cfg)
    criterion.training_takes(100)
    weights = {name: [term.weight_at(step) for step in (0, 5, 10, 100)] for name, term in criterion.named()}
    assert weights == {
        "main": [1.0] * 4,
        "boundary": [0.3] * 4,
        "inverse": [0, pytest.approx(0.15), 0.3, 0.3],
    }
