import json

import pytest

from seglab.loggers.job import describe, flat


@pytest.fixture
def chosen(monkeypatch):
    def choose(swept=False, **choices):
        monkeypatch.setattr("seglab.loggers.job.hydra_choices", lambda: (choices, swept))

    return choose


def test_outside_hydra_a_run_has_its_folders_name(tmp_path):
    job = describe(tmp_path / "mine")
    assert (job.name, job.group, job.kind, job.tags, job.facts) == ("mine", None, "train", [], {})


def test_a_folder_named_by_the_time_has_its_parents_name_as_well(tmp_path):
    assert describe(tmp_path / "camvid-seed0" / "20260102-030405-ab").name == "camvid-seed0/20260102-030405-ab"


def test_the_group_leaves_the_seed_out_and_the_experiment_is_the_job_type(tmp_path, chosen):
    chosen(data="camvid", backbone="resnet18", decoder="fpn", classifier="ssa", experiment="camvid_small")
    jobs = [describe(tmp_path / f"seed{seed}") for seed in (0, 1)]
    assert {job.group for job in jobs} == {"camvid-resnet18-fpn-ssa"}
    assert {job.kind for job in jobs} == {"camvid_small"}


def test_the_jobs_of_any_multirun_are_one_group(tmp_path, chosen):
    chosen(True, data="camvid", classifier="ssa")
    assert describe(tmp_path / "20260102" / "0-tau=1").group == "20260102"


def test_a_factor_with_dots_is_filed_with_slashes(tmp_path):
    plan = {"jobs": {"a": {"factors": {"variant": "SEPA", "classifier.tau": 5, "seed": 1}}}}
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    job = describe(tmp_path / "a")
    assert job.facts == {"factors/variant": "SEPA", "factors/classifier/tau": 5, "factors/seed": 1}
    assert job.name == "variant=SEPA, tau=5, seed=1"


def test_a_nested_configuration_is_flat_without_classes_and_lists():
    nested = {"a": {"_target_": "x.Y", "tau": 1.5, "deep": {"on": True}}, "b": [1, 2], "c": "word", "d": None}
    assert flat(nested) == {"a/tau": 1.5, "a/deep/on": True, "c": "word"}
