import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seglab import cli, train
from tests.conftest import SMALL_NET, TINY
from tests.loggers.test_wandb import Offline

pytest.importorskip("wandb_workspaces")

SCRIPT = Path(__file__).parents[2] / "scripts" / "dashboards.py"
SWEEP = Path(__file__).parents[2] / "scripts" / "wandb_sweep.yaml"
INSIGHT = {
    "loss_components": "{_target_: seglab.callbacks.loss_components.LossComponents, every_n_steps: 1}",
    "tau_calibration": "{_target_: seglab.callbacks.tau_calibration.TauCalibration, temperatures: [5.0]}",
    "prototype_report": "{_target_: seglab.callbacks.prototype_report.PrototypeReport}",
    "feature_projection": "{_target_: seglab.callbacks.feature_projection.FeatureProjection, method: pca, pixels: 20}",
}
FACTORS = {"variant": ["SEPA", "SPPA"], "classifier.tau": [5, 10], "seed": [0]}


@pytest.fixture(scope="module")
def dashboards():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """What a real run with all callbacks for insight leaves on the disk for W&B."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
            patch.delenv(name, raising=False)
        home = tmp_path_factory.mktemp("home")
        for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(home))
        choices = {"data": "scenes", "backbone": "resnet18", "decoder": "fpn", "classifier": "ssa"}
        patch.setattr("seglab.loggers.job.hydra_choices", lambda: (choices, True))
        folder = tmp_path_factory.mktemp("sweep") / "job"
        plan = {"jobs": {"job": {"factors": {key: values[0] for key, values in FACTORS.items()}}}}
        (folder.parent / "sweep.json").write_text(json.dumps(plan))
        added = [f"+callbacks.{name}={value}" for name, value in INSIGHT.items()]
        config = cli.compose(
            "train",
            ["classifier=ssa", *TINY, *SMALL_NET, "trainer.max_steps=1", "trainer.log_every_n_steps=1", "metrics=full",
             "callbacks=context_gap", *added, "logger=wandb", "logger.wandb.mode=offline", f"run_dir={folder}"],
        )  # fmt: skip
        train.fit(config, folder)
        return Offline(folder)


@pytest.mark.slow
def test_every_name_that_a_panel_shows_is_one_that_a_run_logs(dashboards, logged):
    names, patterns, settings = dashboards["named"](dashboards["workspace"]("me", "seglab", FACTORS))
    there = {key for row in logged.rows for key in row} | set(logged.summary)
    assert names - there == set(), "panels without data"
    assert [p for p in patterns if not any(re.search(p, key) for key in there)] == []
    assert len(names) > 15
    assert patterns

    def known(setting):
        node = logged.config
        if setting in node:
            return True
        for part in setting.split("."):
            if not isinstance(node, dict) or part not in node:
                return False
            node = node[part]
        return True

    assert [setting for setting in settings if not known(setting)] == []


def test_scores_and_media_are_of_the_kind_that_their_panels_show(dashboards, logged):
    board = dashboards["workspace"]("me", "seglab", FACTORS)
    kinds = {}
    for record in logged.all("history"):
        for item in record.item:
            key = item.nested_key[0] if item.nested_key else item.key
            value = json.loads(item.value_json)
            if item.nested_key[1:] == ["_type"]:
                kinds[key] = value
            elif len(item.nested_key) <= 1:
                kinds[key] = value["_type"] if isinstance(value, dict) else type(value).__name__
    panels = [panel for section in board.sections for panel in section.panels]
    media = {key for panel in panels for key in getattr(panel, "media_keys", [])}
    assert {kinds[key] for key in media} == {"images/separated"}
    tables = {panel.table_name for panel in panels if hasattr(panel, "table_name")}
    assert {kinds[key] for key in tables} == {"table-file"}


def test_a_sweeps_dashboard_shows_its_runs_by_its_factors(tmp_path):
    plan = {"jobs": {str(k): {"factors": {"classifier.tau": tau, "seed": 0}} for k, tau in enumerate((5, 10))}}
    sweep = tmp_path / "cac_tau-camvid"
    sweep.mkdir()
    (sweep / "sweep.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, SCRIPT, "--dry-run", "--sweep", sweep], capture_output=True, text=True, check=True, timeout=60
    )
    section = json.loads(done.stdout)["section"]
    (runs,) = section["runSets"]
    assert "cac_tau-camvid" in json.dumps(runs["filters"])
    assert "factors/classifier/tau.value" in json.dumps(runs["grouping"])
    assert "seed" not in json.dumps(runs["grouping"])
    panels = [panel for part in section["panelBankConfig"]["sections"] for panel in part["panels"]]
    bars = [p["config"] for p in panels if p["viewType"] == "Bar Chart"]
    assert "factors/classifier/tau.value" in [config["groupBy"] for config in bars]
    curve = next(p["config"] for p in panels if p["viewType"] == "Scatter Plot")
    assert (curve["xAxis"], curve["yAxis"], curve["xAxisLogScale"]) == (
        "config:classifier.value.tau", "summary:test/mIoU", True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "--entity"), (["--dry-run", "--sweep", "nowhere"], "nowhere: no sweep.json")]
)
def test_what_is_missing_is_named(arguments, said, dashboards, capsys):
    assert dashboards["main"](arguments) == 2
    assert said in capsys.readouterr().err


def test_the_sweep_for_agents_asks_for_keys_and_scores_that_there_are(logged):
    sweep = yaml.safe_load(SWEEP.read_text())
    assert sweep["metric"]["name"] in logged.summary
    for key in sweep["parameters"]:
        node = logged.config
        for part in key.split("."):
            assert part in node, key
            node = node[part]
    assert sweep["command"][-1] == "${args_no_hyphens}", "Hydra takes key=value"
    assert "logger=wandb" in sweep["command"]
