"""Sweeps as a user starts them, stops them and starts them again: real runs of a few steps."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seglab.multirun import record
from tests.commands import run
from tests.test_train import TINY

QUICK = [*TINY, "trainer.max_steps=2", "trainer.val_check_interval=2", "callbacks=minimal", "metrics=default"]
ROOT = Path(__file__).parents[2]


def sweep_of(cwd: Path) -> Path:
    (folder,) = (cwd / "runs/sweeps").iterdir()
    return folder


def states(folder: Path) -> dict[str, str]:
    return {record.label(job["factors"]): record.state(folder / name) for name, job in jobs(folder).items()}


def jobs(folder: Path) -> dict[str, dict]:
    return record.read(folder)["jobs"]


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """An ablation run with one seed, then with two, then once more."""
    cwd = tmp_path_factory.mktemp("ablation")
    only = ["ablation=ssa_structure", "sweep.only=[baseline,SEPA]", *QUICK, "logger=many"]
    offline = {"WANDB_MODE": "offline"}
    first = run(*only, "seed=0", cwd=cwd, env=offline)
    folder = sweep_of(cwd)
    written = {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in jobs(folder)}
    second = run(*only, "seed=0,1", cwd=cwd, env=offline)
    third = run(*only, "seed=0,1", cwd=cwd, env=offline)
    return folder, written, (first, second, third), only


def test_an_ablation_needs_no_flag_and_names_its_rows(ablation):
    folder, _, (first, *_), _ = ablation
    assert folder.name.startswith("ssa_structure-scenes")
    assert set(states(folder)) == {f"variant={v}, seed={s}" for v in ("baseline", "SEPA") for s in (0, 1)}
    assert set(states(folder).values()) == {"done"}
    assert "python -m seglab.report" in first.stdout
    plan = record.read(folder)
    assert plan["title"] == "SSA-Seg: structure"
    assert plan["published"]["values"]["SEPA"] == 42.88
    assert plan["baseline"] == {"variant": "baseline"}


def test_the_same_command_again_runs_only_what_is_new(ablation):
    folder, written, (first, second, third), _ = ablation
    assert first.stdout.count("data: scenes") == second.stdout.count("data: scenes") == 2
    assert third.stdout.count("data: scenes") == 0
    for name, when in written.items():
        assert (folder / name / "metrics.json").stat().st_mtime_ns == when


def test_every_job_has_its_own_folder_and_its_own_logger_run(ablation):
    folder = ablation[0]
    ids = set()
    for name, job in jobs(folder).items():
        assert f"variant={job['factors']['variant']}" in name
        assert len(list((folder / name).glob("wandb/offline-run-*"))) == 1
        ids.add((folder / name / "wandb_id.txt").read_text())
        assert "sweep" not in (folder / name / "config.yaml").read_text().split()
    assert len(ids) == 4


def test_the_progress_tells_the_job_the_best_and_the_time(ablation):
    second = ablation[2][1].stdout
    assert "job 4 of 4: variant=SEPA, seed=1; 3 done, 1 to go, best" in second
    assert "left" in second
    assert "4 jobs: 4 done, 0 to go" in second


def test_a_dry_run_lists_what_is_done_and_an_estimate_and_writes_nothing(ablation):
    folder, _, _, only = ablation
    before = sorted(folder.rglob("*"))
    done = run(*only, "seed=0,1,2", "sweep.dry_run=true", cwd=folder.parents[2])
    assert "4 of 6 jobs are done, 2 left: about" in done.stdout
    assert done.stdout.count("new") == 2
    assert sorted(folder.rglob("*")) == before


def test_a_second_command_makes_the_papers_table_with_error_bars_figures_and_a_page(ablation):
    folder = ablation[0]
    done = run(str(folder), cwd=folder, module="seglab.report")
    assert "SSA-Seg (NeurIPS 2024), Table 8" in done.stdout
    table = (folder / "report/table.md").read_text()
    for row, published in (("baseline", "42.36"), ("SEPA", "42.88")):
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {row} |")]
        assert re.search(r"\d+\.\d\d ± \d", line), "mean and standard deviation"
        assert published in line
    assert {path.stem for path in (folder / "report/plots").glob("*.png")} == {"variants", "classes", "pareto"}
    assert "<table" in (folder / "report/report.html").read_text()
    cost = json.loads((folder / "cost.json").read_text())["networks"].values()
    assert len({each["gflops"] for each in cost}) == 2


def test_a_jobs_crash_leaves_the_others_results_and_it_is_run_again(tmp_path):
    command = ["-m", "classifier.dropout=-1,0.1", "seed=0", *QUICK]
    done = run(*command, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    folder = sweep_of(tmp_path)
    assert states(folder) == {"dropout=-1, seed=0": "failed", "dropout=0.1, seed=0": "done"}
    assert "1 of 2 jobs failed" in done.stderr
    assert "classifier.dropout" in done.stderr
    again = run(*command, cwd=tmp_path, check=False)
    assert again.stdout.count("data: scenes") == 0, "the finished one is left alone"
    assert len(list((folder / ".failed").iterdir())) == 1, "what the failed one left is kept"


def test_on_error_stop_starts_no_more_jobs(tmp_path):
    done = run("-m", "classifier.dropout=-1,0.1", *QUICK, "sweep.on_error=stop", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert states(sweep_of(tmp_path)) == {"dropout=-1, seed=0": "failed", "dropout=0.1, seed=0": "new"}


def start(*overrides: str, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "seglab.train", *overrides], cwd=cwd, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def wait_for_checkpoints(cwd: Path, count: int) -> None:
    deadline = time.time() + 120
    while len(list(cwd.glob("runs/sweeps/*/*/checkpoints/last.ckpt"))) < count:
        assert time.time() < deadline, "no checkpoint within two minutes"
        time.sleep(0.1)


def send_when_there_is_a_checkpoint(number: int, cwd: Path) -> None:
    """To the process of a sweep's only job."""
    wait_for_checkpoints(cwd, 1)
    folder = sweep_of(cwd)
    (name,) = jobs(folder)
    pid = record.status(folder / name)["pid"]
    assert pid != os.getpid()
    os.kill(pid, number)


SLOW = [*TINY, "callbacks=minimal", "trainer.val_check_interval=2", "test=null", "trainer.max_steps=10", "+callbacks.slow={_target_: tests.stopper.Slow, seconds: 1.5}"]  # fmt: skip
"""Ten seconds and more from the first checkpoint to the end, in few steps: validations and checkpoints are what costs."""


@pytest.mark.slow
def test_ctrl_c_stops_the_whole_sweep_and_the_same_command_goes_on(tmp_path):
    command = ["-m", "classifier=linear,cosine", *SLOW]
    process = start(*command, cwd=tmp_path)
    wait_for_checkpoints(tmp_path, 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130, process.stdout.read()
    folder = sweep_of(tmp_path)
    assert states(folder) == {"classifier=linear, seed=0": "stopped", "classifier=cosine, seed=0": "new"}
    first = next(folder.glob("classifier=linear*"))
    reached = json.loads((first / "status.json").read_text())["step"]
    assert 2 <= reached < 10
    done = run(*command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "SEGLAB_TEST_FAST": "1"})
    assert set(states(folder).values()) == {"done"}
    steps = [int(line.split(",")[0]) for line in (first / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(steps), "it went on where it was, and did not begin again"
    assert json.loads((first / "status.json").read_text())["step"] == 10
    assert f"{len(jobs(folder))} jobs: 2 done" in done.stdout


@pytest.mark.slow
def test_jobs_side_by_side_are_all_stopped_by_ctrl_c_and_go_on(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    loky = pytest.importorskip("joblib.externals.loky")
    command = ["-m", "classifier=linear,cosine,cac", *SLOW, "launcher=joblib"]
    process = start(*command, cwd=tmp_path)
    wait_for_checkpoints(tmp_path, 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(timeout=60) == 130, process.stdout.read()
    folder = sweep_of(tmp_path)
    assert list(states(folder).values()) == ["stopped", "stopped", "new"]
    for name in list(jobs(folder))[:2]:
        assert json.loads((folder / name / "status.json").read_text())["status"] == "interrupted"
    try:
        run(*command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "SEGLAB_TEST_FAST": "1"})
    finally:  # its processes would wait for more jobs beside the other tests
        loky.get_reusable_executor().shutdown(wait=True)
    assert list(states(folder).values()) == ["done"] * 3


@pytest.mark.slow
def test_jobs_as_a_cluster_would_run_them_with_one_that_fails(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    command = ["-m", "classifier.dropout=-1,0.1", "seed=0", *QUICK, "launcher=submitit_local"]
    done = run(*command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    assert list(states(sweep_of(tmp_path)).values()) == ["failed", "done"]
    assert "1 of 2 jobs failed" in done.stderr


@pytest.mark.slow
def test_a_job_whose_time_on_the_cluster_is_up_saves_and_is_queued_again_and_ends(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    short = ["trainer.max_steps=8", "callbacks.slow.seconds=0.6"]
    command = ["-m", "classifier=cosine", *SLOW, *short, "launcher=submitit_local"]
    with ThreadPoolExecutor() as aside:
        signalled = aside.submit(send_when_there_is_a_checkpoint, signal.SIGUSR2, tmp_path)  # as submitit has SLURM do
        run(*command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    signalled.result()
    folder = sweep_of(tmp_path)
    (name,) = jobs(folder)
    assert states(folder) == {"seed=0": "done"}
    assert len(json.loads((folder / name / "provenance.json").read_text())["earlier"]) == 1, "it was started twice"
    steps = [int(line.split(",")[0]) for line in (folder / name / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(steps)


def test_a_row_that_is_not_there_is_named_before_anything_runs(tmp_path):
    done = run("ablation=cac_loss", "sweep.only=[liner]", *QUICK, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "liner" in done.stderr
    assert "main+coarse" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("several", ["trainer=ddp", "trainer.devices=2"])
def test_several_processes_in_a_job_are_refused_with_the_two_ways_that_work(several, tmp_path):
    done = run("-m", "seed=0,1", several, *QUICK, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "without -m" in done.stderr
    assert "one device per job" in done.stderr
    assert not (tmp_path / "runs").exists()
