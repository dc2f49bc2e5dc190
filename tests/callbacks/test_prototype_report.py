import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from seglab import build, prototypes
from seglab.callbacks.prototype_report import Movement, PrototypeReport, similarity
from seglab.classifiers.base import Classifier
from seglab.errors import ConfigError
from seglab.types import IGNORE
from tests.callbacks.observing import trained

TINY = [
    "data.dataset.size=[48,64]", "data.dataset.lengths={train: 24, val: 3, test: 2}", "data.batch_size=4", "data.num_workers=0",
    "augment.long_short=null", "augment.crop=[48,64]", "trainer.max_steps=2", "trainer.val_check_interval=1",
    "trainer.accelerator=cpu", "backbone.name=test_resnet.r160_in1k", "decoder.width=16", "callbacks.images=null",
]  # fmt: skip


def train(folder, *overrides, ema=False):
    return trained(folder, [*TINY, *overrides], ema)


@pytest.fixture(scope="module")
def ssa(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssa")
    return folder, *train(folder, "classifier=ssa", "callbacks=prototype_report")


@pytest.fixture(scope="module")
def cac(tmp_path_factory):
    """Without a loss that reads the ground-truth branch, with averaged weights."""
    folder = tmp_path_factory.mktemp("cac")
    chosen = ["classifier=cac", "loss.gt=null", "loss.distill=null", "callbacks=prototype_report"]
    return folder, *train(folder, *chosen, ema=True)


def report(folder, name):
    return json.loads((folder / f"insight/prototypes_{name}.json").read_text())


def test_each_evaluation_leaves_a_report_and_each_stage_a_figure(ssa):
    found = {path.name for path in (ssa[0] / "insight").iterdir()}
    reports = {
        f"prototypes_{name}{kind}" for name in ("val_000001", "val_000002", "test_000002") for kind in (".json", ".csv")
    }
    assert found == reports | {"prototypes.png", "prototypes_test.png"}
    one = report(ssa[0], "val_000002")
    assert set(one["kinds"]) == {
        "static", "basis", "adapted", "semantic", "spatial", "oracle", "oracle_semantic", "oracle_spatial",
    }  # fmt: skip
    assert Image.open(ssa[0] / "insight/prototypes.png").width > 1000


def test_training_is_bit_equal_with_and_without_it(ssa, tmp_path):
    _, without, states = train(tmp_path, "classifier=ssa")
    _, _, seen, after = ssa
    assert seen.keys() == without.keys()
    assert all(torch.equal(seen[name], without[name]) for name in seen)
    assert after == states, "random numbers were drawn"


def test_movement_is_that_of_the_weights_that_were_evaluated(ssa):
    folder, config, weights, _ = ssa
    data = build.build_data(config)
    module = build.build_training(config, data.spec)
    module.load_state_dict(weights)
    module.eval()
    K = data.spec.num_classes
    (batch,) = next(iter(data.val_dataloader()))
    with torch.no_grad():
        adapted = module(module.task.protocol.view(batch.image)).prototypes
    distances = 1 - torch.cosine_similarity(adapted, module.task.model.classifier.weight, dim=-1).double()
    occurs = torch.stack([(batch.label == k).flatten(1).any(1) for k in range(K)], dim=1)
    seen = report(folder, "val_000002")["kinds"]["adapted"]
    assert seen["all"]["images"] == [3] * K
    assert seen["all"]["distance_mean"] == pytest.approx(distances.mean(0).tolist(), abs=1e-5)
    assert seen["present"]["images"] == occurs.sum(0).tolist()
    for k in range(K):
        chosen = distances[occurs[:, k], k]
        expected = chosen.mean().item() if len(chosen) else None
        assert seen["present"]["distance_mean"][k] == pytest.approx(expected, abs=1e-5)
        deviation = seen["present"]["distance_sd"][k]
        assert (deviation is None) == (len(chosen) < 2)
        if deviation is not None:
            assert deviation == pytest.approx(chosen.std().item(), abs=1e-5)


def test_numbers_are_logged_where_curves_are_read(ssa):
    rows = list(csv.DictReader((ssa[0] / "metrics.csv").open()))
    seen = report(ssa[0], "val_000002")["kinds"]["adapted"]
    row = next(row for row in rows if row["step"] == "2" and row["val/prototype_shift"])
    known = [value for value in seen["present"]["distance_mean"] if value is not None]
    assert float(row["val/prototype_shift"]) == pytest.approx(np.mean(known), abs=1e-5)
    assert float(row["val/prototype_similarity_adapted"]) == pytest.approx(seen["mean_similarity"], abs=1e-5)
    assert row["val/mIoU"], "one row for all that a validation finds"
    assert any(row["test/prototype_shift"] for row in rows)


def test_spatial_prototypes_are_measured_from_their_basis(ssa):
    kinds = report(ssa[0], "val_000002")["kinds"]
    references = {name: kind["reference"] for name, kind in kinds.items() if "reference" in kind}
    assert {name for name, start in references.items() if start == "basis"} == {"spatial", "oracle_spatial"}
    basis = similarity(ssa[2]["task.model.classifier.basis"])
    assert np.allclose(kinds["basis"]["similarity"], basis, atol=1e-4)


def test_the_table_has_a_row_for_each_kind_class_and_choice_of_images(ssa):
    rows = list(csv.DictReader((ssa[0] / "insight/prototypes_val_000002.csv").open()))
    one = report(ssa[0], "val_000002")
    assert len(rows) == len(one["kinds"]) * len(one["classes"]) * 2
    absent = [
        row for row in rows if row["prototypes"] == "adapted" and row["over"] == "present" and row["images"] == "0"
    ]
    assert len(absent) == one["kinds"]["adapted"]["present"]["images"].count(0) > 0
    assert all(row["distance_mean"] == "" for row in absent)


def test_with_averaged_weights_the_average_is_reported_and_an_untrained_oracle_is_not(cac):
    folder, _, weights, _ = cac
    kinds = report(folder, "val_000002")["kinds"]
    assert set(kinds) == {"static", "adapted"}
    average = similarity(weights["task.model.classifier.conv.weight"][:, :, 0, 0])
    now = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["current_model_state"]
    live = similarity(now["task.model.classifier.conv.weight"][:, :, 0, 0])
    assert np.allclose(kinds["static"]["similarity"], average, atol=1.01e-4)
    assert not np.allclose(kinds["static"]["similarity"], live, atol=1.01e-4)


def test_a_fixed_classifier_has_its_static_similarities_and_is_told_so_once(tmp_path, caplog):
    with caplog.at_level("INFO", logger="seglab.callbacks.prototype_report"):
        train(tmp_path, "classifier=linear", "callbacks=prototype_report")
    assert caplog.text.count("adapts nothing") == 1
    assert set(report(tmp_path, "val_000002")["kinds"]) == {"static"}
    assert (tmp_path / "insight/prototypes.png").is_file()


def test_a_classifier_without_static_prototypes_is_refused():
    class Bare(Classifier):
        pass

    module = SimpleNamespace(task=SimpleNamespace(model=SimpleNamespace(classifier=Bare(4, 3))))
    with pytest.raises(ConfigError, match="Bare has no static prototypes.*prototype_report=null"):
        PrototypeReport().setup(None, module, "fit")


def test_movement_by_hand():
    fixed = torch.eye(2)
    label = torch.tensor([[0, IGNORE]])  # class 1 does not occur
    metric = Movement(2, 2)
    metric.update(fixed, None, label)
    assert metric.compute() == {}
    metric.update(fixed, torch.tensor([[5.0, 0.0], [0.0, 1.0]]), label)  # no turn, five times as long
    metric.reset()  # and forgets what it saw
    metric.update(fixed, torch.tensor([[5.0, 0.0], [0.0, 1.0]]), label)
    metric.update(fixed, torch.tensor([[0.0, 2.0], [0.0, 1.0]]), label)  # a right angle
    found = metric.compute()
    assert found["present"]["images"].tolist() == [2, 0]
    assert found["present"]["distance_mean"][0].item() == pytest.approx(0.5)
    assert found["present"]["distance_sd"][0].item() == pytest.approx(0.5**0.5)
    assert found["present"]["norm_mean"][0].item() == pytest.approx((4 + 5**0.5) / 2)
    assert found["present"]["spread"][0].item() == pytest.approx(1 - 0.5**0.5)
    assert found["present"]["distance_mean"][1].isnan()
    assert found["all"]["distance_mean"][1].item() == pytest.approx(0)
    assert found["all"]["spread"][1].item() == pytest.approx(0)
    assert found["similarity"].tolist() == [[1, 0.5], [0.5, 1]]


def test_sums_of_two_processes_are_those_of_one():
    generator = torch.Generator().manual_seed(0)
    fixed = torch.randn(3, 4, generator=generator)
    images = [(torch.randn(3, 4, generator=generator), torch.randint(3, (2, 2), generator=generator)) for _ in range(5)]
    whole, first, second = (Movement(3, 4) for _ in range(3))
    for i, (moved, label) in enumerate(images):
        whole.update(fixed, moved, label)
        (first if i < 2 else second).update(fixed, moved, label)
    first.merge_state(second)
    for over in ("all", "present"):
        for name, value in whole.compute()[over].items():
            assert torch.allclose(value, first.compute()[over][name], equal_nan=True), (over, name)
    assert torch.allclose(whole.compute()["similarity"], first.compute()["similarity"])


def test_two_runs_are_set_side_by_side(ssa, cac, tmp_path):
    found = prototypes.compare(cac[0], ssa[0], tmp_path / "out.png", names=("off", "on"))
    assert set(found) == {"static", "adapted"}, "what both have"
    a, b = (report(folder, "val_000002")["kinds"]["adapted"]["mean_similarity"] for folder in (cac[0], ssa[0]))
    assert found["adapted"] == pytest.approx({"a": a, "b": b, "difference": b - a}, abs=1e-4)
    assert Image.open(tmp_path / "out.png").width > 1000


def test_the_command_prints_the_means_and_ends_with_2_where_there_is_no_report(ssa, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prototypes", str(ssa[0]), str(ssa[0]), "--output", str(tmp_path / "a.png")])
    prototypes.main()
    assert "difference +0.0000" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "argv", ["prototypes", str(ssa[0]), str(tmp_path / "empty")])
    with pytest.raises(SystemExit) as ended:
        prototypes.main()
    assert ended.value.code == 2
    assert "callbacks=prototype_report" in capsys.readouterr().err


def test_the_commands_help_loads_no_framework():
    code = "import sys, seglab.prototypes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def written(folder, classes=("a", "b"), text=None, step=1):
    """A run folder with a report."""
    content = {"step": step, "stage": "val", "classes": classes, "kinds": {"static": {"similarity": [[1, 0], [0, 1]]}}}
    target = folder / f"insight/prototypes_val_{step:06d}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content) if text is None else text)
    return folder


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"kinds": {"static": {}}}', '{"kinds": {"static": {"similarity": [[1]]}}, "classes": ["a", "b"]}'],
)
def test_a_broken_report_is_named(tmp_path, text):
    with pytest.raises(ConfigError, match="prototypes_val_000001.json is no prototype report"):
        prototypes.read(written(tmp_path, text=text))


def test_a_comparison_of_what_does_not_compare_is_refused(tmp_path):
    a, b = written(tmp_path / "a"), written(tmp_path / "b", classes=("a", "c"))
    with pytest.raises(ConfigError, match="different classes"):
        prototypes.compare(a, b, tmp_path / "out.png")
    with pytest.raises(ConfigError, match=r"expected the name of a figure"):
        prototypes.compare(a, a, tmp_path / "out.txt")
    with pytest.raises(ConfigError, match="no such folder"):
        prototypes.compare(a, tmp_path / "nowhere", tmp_path / "out.png")


def test_reports_are_read_in_the_order_of_their_steps(tmp_path):
    for step in (1000000, 999999, 5):
        written(tmp_path, step=step)
    assert [one["step"] for one in prototypes.read(tmp_path)] == [5, 1000000]
