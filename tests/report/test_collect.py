"""What counts as a result, what is listed as missing, and what is refused."""

import json
import os

import pytest

from seglab.errors import ConfigError, DataError
from seglab.report import collect, document, formats, make
from seglab.runs.lock import born
from seglab.runs.provenance import whoami


def test_planned_factors_keep_their_order_and_numbers_are_sorted(folder):
    for value in (30, 5, 15):
        folder.run(f"t{value}", factors={"variant": "b", "classifier.tau": value})
    folder.run("a", factors={"variant": "a", "classifier.tau": 5})
    sweep = collect(folder.path)
    assert sweep.factors == {"variant": ["b", "a"], "classifier.tau": [5, 15, 30]}
    assert "seed" not in sweep.runs[0].factors


def test_without_a_plan_factors_are_the_overrides_that_vary(folder):
    common = ["data=scenes", "run_dir=x"]
    folder.run("0", overrides=[*common, "+classifier.tau=5", "seed=1", "logger=csv"], seed=1)
    folder.run("1", overrides=[*common, "classifier.tau=1e-1", "seed=2", "logger=wandb"], seed=2)
    folder.run("2", overrides=common, config={"classifier": {"tau": 15}})
    sweep = collect(folder.path)
    assert sweep.factors == {"classifier.tau": [0.1, 5, 15]}  # a run that leaves it alone has its configuration's
    assert {run.folder.name: run.factors["classifier.tau"] for run in sweep.runs} == {"0": 5, "1": 0.1, "2": 15}
    assert [run.seed for run in sweep.runs] == [1, 2, 0]
    assert sweep.title == "sweep"


def test_a_half_finished_sweep_lists_what_is_missing(folder):
    folder.rows({"a": [0.5, None]})
    folder.run("stopped", factors={"variant": "b"}, status="interrupted")
    folder.run("broken", factors={"variant": "c"}, status="failed", error="ValueError: bad\nmore")
    folder.run("dead", factors={"variant": "d"}, status="running")
    folder.run("cut", factors={"variant": "e"}, status="pruned")
    alive = folder.run("alive", factors={"variant": "f"}, status="running")
    (alive / ".lock").write_text(json.dumps({**whoami(), "born": born(os.getpid())}))
    sweep = collect(folder.path)
    assert dict(sweep.unfinished) == {
        "variant=a,seed=1": "not started", "stopped": "interrupted (step 10 of 20)", "broken": "failed: ValueError: bad",
        "dead": "killed (step 10 of 20)", "cut": "pruned (step 10 of 20)", "alive": "running (step 10 of 20)",
    }  # fmt: skip
    assert [run.folder.name for run in sweep.runs] == ["variant=a,seed=0"]


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("name", ["status.json", "metrics.json", "config.yaml", "provenance.json"])
@pytest.mark.parametrize("content", ["{ not: [", "[1, 2]", "\xff\xfe", None])
def test_a_broken_or_missing_file_is_named_and_its_run_left_out(folder, name, content, planned):
    folder.run("good", 0.5, factors={"variant": "a"} if planned else None)
    bad = folder.run("bad", 0.9, factors={"variant": "a"} if planned else None, seed=1)
    (bad / name).unlink()
    if content is not None:
        (bad / name).write_bytes(content.encode("latin-1"))
    sweep = collect(folder.path)
    assert [run.folder.name for run in sweep.runs] == ["good"]
    assert len(sweep.problems) == 1
    assert sweep.problems[0].startswith("bad: ")
    assert name in sweep.problems[0]
    assert not sweep.unfinished


def test_a_status_that_says_nothing_is_no_result(folder):
    folder.run("good")
    folder.run("bad", seed=1, status=None)
    assert "bad" in collect(folder.path).problems[0]


def test_runs_on_different_data_sets_are_refused_by_name(folder):
    folder.run("a", dataset="camvid")
    folder.run("b", dataset="ade20k")
    with pytest.raises(ConfigError, match=r"(?s)camvid: 1 runs, such as a.*ade20k.*one by one"):
        collect(folder.path)


def test_two_runs_of_one_choice_and_seed_do_not_pass_for_two_seeds(folder):
    folder.run("old", 0.1)
    new = folder.run("new", 0.2)
    about = json.loads((new / "provenance.json").read_text())
    (new / "provenance.json").write_text(json.dumps({**about, "started": "2026-06-01T00:00:00"}))
    sweep = collect(folder.path)
    assert [run.folder.name for run in sweep.runs] == ["new"]
    assert "old: same choices and seed as new" in sweep.problems[0]


def test_a_run_that_the_plan_does_not_know_is_left_out(folder):
    folder.rows({"a": [0.5]})
    folder.run("stray", 0.9)
    folder.path.joinpath(".failed").mkdir()
    folder.path.joinpath("report").mkdir()
    sweep = collect(folder.path)
    assert len(sweep.runs) == 1
    assert sweep.problems == ["stray: not among the jobs of sweep.json: left out"]


def test_changed_files_under_one_data_sets_name_are_told(folder):
    folder.run("a")
    b = folder.run("b", seed=1)
    (b / "provenance.json").write_text(json.dumps({"data": {"dataset": "scenes", "fingerprint": "other"}}))
    assert "different sets of files" in collect(folder.path).problems[0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path / "nowhere", "no such folder"),
        (lambda path: path, "is empty"),
        (lambda path: (path / "photos").mkdir() or (path / "photos/config.yaml").touch() or path, "no run of seglab"),
    ],
)
def test_an_empty_or_foreign_folder_is_refused(folder, make, said):
    with pytest.raises(ConfigError, match=said):
        collect(make(folder.path))


def test_a_folder_one_too_low_or_too_high_is_told_which_to_give(folder):
    run = folder.run("a")
    with pytest.raises(ConfigError, match=f"give the folder above it: {folder.path}"):
        collect(run)
    with pytest.raises(ConfigError, match=f"such as {folder.path}"):
        collect(folder.path.parent)


def test_a_sweep_without_a_finished_run_says_where_its_jobs_stand(folder):
    folder.run("a", status="failed", error="Boom")
    with pytest.raises(DataError, match=r"(?s)no finished run among 1 jobs.*a: failed: Boom"):
        collect(folder.path)


@pytest.mark.parametrize("content", ["{", '{"jobs": [1]}', '{"jobs": {"a": 1}}'])
def test_a_corrupt_plan_is_refused_and_not_ignored(folder, content):
    folder.run("a")
    (folder.path / "sweep.json").write_text(content)
    with pytest.raises(DataError, match=r"sweep\.json"):
        collect(folder.path)


def test_curves_skip_empty_cells(folder):
    run = folder.run("a")
    (run / "metrics.csv").write_text("step,train/loss,val/mIoU\n1,0.5,\n2,0.4,0.3\n")
    run = collect(folder.path).runs[0]
    assert run.curve("train/loss") == ([1, 2], [0.5, 0.4])
    assert run.curve("val/mIoU") == ([2], [0.3])
    assert run.curve("nothing") == ([], [])


def test_class_names_come_from_the_newest_test_table(folder):
    run = folder.run("a")
    (run / "tables").mkdir()
    for name, classes in {"val_000300": "v", "test_000100": "old", "test_000200": "new"}.items():
        (run / f"tables/{name}.csv").write_text(f"class,IoU\n{classes},0.5\n")
    assert collect(folder.path).runs[0].classes() == ["new"]


def test_the_number_of_a_trial_is_no_choice(folder):
    for n, tau in enumerate((5, 15)):
        folder.run(f"t{n}", factors={"trial": n, "classifier.tau": tau})
    assert collect(folder.path).factors == {"classifier.tau": [5, 15]}


def test_what_the_data_was_read_as_stands_with_the_data_set_and_a_mix_is_said(folder, tmp_path):
    read = {"crop": "gupta", "labels": "0..40"}
    for seed in (0, 1):
        folder.run(f"a{seed}", factors={"variant": "a"}, seed=seed, dataset="nyudv2", variant=read)
    sweep = collect(folder.path)
    assert sweep.dataset == "nyudv2 (crop gupta, labels 0..40)"
    assert sweep.problems == []
    table = make(sweep)
    assert formats.caption(table).startswith("s (nyudv2 (crop gupta, labels 0..40), ")
    document.write(table, [], tmp_path / "page.html")
    assert "<dd>nyudv2 (crop gupta, labels 0..40)</dd>" in (tmp_path / "page.html").read_text()
    folder.run("b", factors={"variant": "b"}, dataset="nyudv2", variant={**read, "crop": "none"})
    mixed = collect(folder.path)
    assert mixed.dataset == "nyudv2 (crop gupta / none, labels 0..40)"
    assert mixed.problems == [
        f"runs read the data in different ways, and their numbers differ in that too: {mixed.dataset}"
    ]


def test_a_variant_that_is_none_is_named(folder):
    folder.run("a", factors={"variant": "a"})
    folder.run("b", factors={"variant": "b"}, variant=[1])
    (problem,) = collect(folder.path).problems
    assert "b: provenance.json: the data's variant is [1] — expected texts by name" in problem
