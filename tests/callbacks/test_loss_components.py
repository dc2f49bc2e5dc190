"""Measuring the loss terms changes nothing, and what is measured is what the step computes."""

import csv
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from lightning.pytorch.plugins.precision import Precision
from PIL import Image

from seglab import build
from seglab.callbacks.loss_components import LossComponents, measure, untouched
from seglab.errors import ConfigError
from seglab.losses import Criterion, CrossEntropy
from seglab.trainer import build_trainer
from seglab.types import Batch
from tests.conftest import SMALL_NET, TINY, each, options

QUIET = ["callbacks.progress=null", "callbacks.class_table=null", "callbacks.images=null", "test=null",
         "trainer.log_every_n_steps=1"]  # fmt: skip


@pytest.fixture
def train(compose, tmp_path):
    """``train(folder name, *overrides) -> (run folder, module, gradients of each step)``."""

    class Gradients(Callback):
        def __init__(self):
            self.seen = []

        def on_before_optimizer_step(self, trainer, module, optimizer):
            self.seen.append([None if p.grad is None else p.grad.clone() for p in module.parameters()])

    def run(name, *overrides, steps=3, resume=None):
        cfg = compose("train", [*TINY, *SMALL_NET, f"trainer.max_steps={steps}",
                                "trainer.val_check_interval=100", *overrides])  # fmt: skip
        data = build.build_data(cfg)
        for stage in ("fit", "test"):
            data.setup(stage)
        torch.manual_seed(0)
        module = build.build_training(cfg, data.spec)
        trainer = build_trainer(cfg, str(tmp_path / name), module.task, "fit", data.steps_per_epoch)
        gradients = Gradients()
        trainer.callbacks.append(gradients)
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        return tmp_path / name, module, gradients.seen

    return run


MEASURED = ["callbacks=loss_components", "callbacks.loss_components.every_n_steps=1", *QUIET]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def same(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("classifier", each(options("classifier"), "cac", "ssa"))
def test_weights_running_statistics_and_gradients_are_the_same_bits_with_it(train, classifier):
    choice = [f"classifier={classifier}", "classifier.dropout=0.5", "heads=fcn"]
    _, plain, gradients = train("plain", *QUIET, *choice)
    folder, measured, seen = train("measured", *choice, *MEASURED)
    assert len(rows(folder / "insight/loss_components.csv")) == 3 * len(measured.task.criterion.terms)
    assert any("running_mean" in name for name in plain.state_dict())
    assert plain.state_dict().keys() == measured.state_dict().keys()
    assert same(plain.state_dict().values(), measured.state_dict().values())
    assert len(gradients) == len(seen) == 3
    assert all(same(a, b) for a, b in zip(gradients, seen, strict=True))


def test_values_are_those_of_the_step_and_shares_add_up(train):
    folder, _, _ = train("run", "classifier=ssa", "heads=fcn", *MEASURED)
    table = rows(folder / "insight/loss_components.csv")
    logged = [row for row in rows(folder.parent / "metrics.csv") if row["train/loss"]]
    shares = {row["step"]: row for row in rows(folder.parent / "metrics.csv") if row["grad_share/main"]}
    assert [row["step"] for row in logged] == ["1", "2", "3"]
    for step in logged:
        mine = {row["term"]: row for row in table if row["step"] == step["step"]}
        assert all(float(row["value"]) == float(step[f"train/{name}"]) for name, row in mine.items())
        assert sum(float(row["weighted"]) for row in mine.values()) == pytest.approx(
            float(step["train/loss"]), rel=1e-5
        )
        assert mine["aux"]["norm"] == mine["aux"]["share"] == ""
        assert sum(float(row["share"]) for name, row in mine.items() if name != "aux") == pytest.approx(1)
        assert float(shares[step["step"]]["grad_share/main"]) == float(mine["main"]["share"])
    cosines = rows(folder / "insight/loss_components_cosine.csv")
    assert all((row["cosine"] == "") == (row["b"] == "aux") for row in cosines)
    with Image.open(folder / "insight/loss_components.png") as figure:
        assert figure.width > 1000


@pytest.fixture
def made(compose):
    def module(*overrides):
        torch.manual_seed(0)
        cfg = compose("train", [*TINY, *SMALL_NET, *overrides])
        return build.build_training(cfg, build.build_data(cfg).spec).train()

    return module


def batch():
    label = torch.randint(12, (2, 6, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Batch(image=torch.randn(2, 3, 48, 64), label=label, names=("a", "b"))


TRAINER = SimpleNamespace(precision_plugin=Precision(), global_step=0)


def test_norms_and_cosines_are_those_of_the_whole_graph(made):
    module, b, kept = made("classifier=cac"), batch(), []
    module.task.model.decoder.register_forward_hook(lambda *args: kept.append(args[2].feature))
    torch.manual_seed(3)
    found = measure(TRAINER, module, b)
    torch.manual_seed(3)
    output = module.task.output(b)
    terms = {name: term(output, b) for name, term in module.task.criterion.named()}
    whole = {name: torch.autograd.grad(t, kept[-1], retain_graph=True)[0].flatten() for name, t in terms.items()}
    assert found.value == {name: float(t) for name, t in terms.items()}
    for name, gradient in whole.items():
        assert found.norm[name] == pytest.approx(float(gradient.norm()), rel=1e-4)
    for (a, c), cosine in found.cosine.items():
        assert cosine == pytest.approx(float(torch.cosine_similarity(whole[a], whole[c], dim=0)), abs=1e-4)


def test_a_term_three_times_as_heavy_has_three_quarters_and_the_same_direction(made):
    module = made("classifier=linear")
    module.task.criterion = Criterion({"one": CrossEntropy(), "three": CrossEntropy(weight=3)})
    found = measure(TRAINER, module, batch())
    assert found.share == pytest.approx({"one": 0.25, "three": 0.75})
    assert found.cosine[("one", "three")] == pytest.approx(1)


def test_opposite_terms_have_cosine_minus_one_and_a_term_of_weight_zero_pulls_nothing(made):
    class Opposite(CrossEntropy):
        def forward(self, output, batch):
            return -super().forward(output, batch)

    module = made("classifier=linear")
    module.task.criterion = Criterion({"for": CrossEntropy(), "against": Opposite(weight=lambda step: 0.0)})
    found = measure(TRAINER, module, batch())
    assert found.cosine[("for", "against")] == pytest.approx(-1)
    assert found.share == {"for": 1, "against": 0}


def test_a_batch_without_a_labelled_pixel_has_neither_share_nor_cosine(made):
    module, b = made("classifier=cac"), batch()
    b.label.fill_(255)
    found = measure(TRAINER, module, b)
    assert set(found.share.values()) == set(found.cosine.values()) == {None}


def test_random_state_buffers_and_gradients_are_put_back(made):
    module, b = made("classifier=ssa"), batch()
    module.task.losses(b, 0).total.backward()
    state = torch.get_rng_state()
    buffers = [buffer.clone() for buffer in module.buffers()]
    gradients = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    with untouched(module):
        measure(TRAINER, module, b)
        assert not same(buffers, module.buffers())
    assert torch.equal(state, torch.get_rng_state())
    assert same(buffers, module.buffers())
    assert same(gradients, [p.grad for p in module.parameters()])


def test_the_first_and_every_nth_step_are_measured_once_each(train):
    folder, _, _ = train("run", *MEASURED, "callbacks.loss_components.every_n_steps=2",
                         "trainer.accumulate_grad_batches=2", steps=5)  # fmt: skip
    assert [row["step"] for row in rows(folder / "insight/loss_components.csv")] == ["1", "2", "4"]


def test_a_resumed_run_goes_on_with_its_tables(train):
    every = [*MEASURED, "classifier=cac"]
    whole, _, _ = train("whole", *every, steps=4)
    parts, _, _ = train("parts", *every, steps=4)
    (parts / "insight/loss_components.csv").open("a").write("4,ma")  # cut off by a crash
    train("parts", *every, "trainer.max_steps=6", resume=str(parts / "checkpoints/last.ckpt"))
    for name in ("loss_components", "loss_components_cosine"):
        before, after = rows(whole / f"insight/{name}.csv"), rows(parts / f"insight/{name}.csv")
        kept = [row for row in after if int(row["step"]) <= 4]
        assert [row["step"] for row in kept] == [row["step"] for row in before]
        assert {int(row["step"]) for row in after} == {1, 2, 3, 4, 5, 6}


def test_a_run_begun_anew_in_the_same_folder_forgets_the_old_tables(train):
    train("run", *MEASURED, steps=3)
    folder, _, _ = train("run", *MEASURED, steps=1)
    assert {row["step"] for row in rows(folder / "insight/loss_components.csv")} == {"1"}


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_between_measurements_are_refused(steps):
    with pytest.raises(ConfigError, match=f"every_n_steps={steps} — expected at least 1"):
        LossComponents(every_n_steps=steps)
