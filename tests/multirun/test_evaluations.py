"""Sweeps of evaluations: trained networks under several options, each once."""

from __future__ import annotations

import os
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from seglab import build, checkpoint, cli
from seglab.multirun import record
from tests.commands import run

NET = ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]
EVALUATE = "seglab.evaluate"
QUICK = ["split=val", "trainer.accelerator=cpu", "images=0"]
ADAPTING = [
    "ablation=aux_adapt", "ckpt=main-${seed}.ckpt", "predictor.aux=aux.ckpt", "metrics=default", "sweep.only=[main,AuxAdapt]",
]  # fmt: skip


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with two videos and three untrained networks of their classes."""
    cwd, generator = tmp_path_factory.mktemp("evaluations"), np.random.default_rng(0)
    for split, name, frame in product(("train", "val"), ("a", "b"), ("f8", "f9")):
        for kind, high, shape in (("images", 255, (64, 64, 3)), ("labels", 3, (64, 64))):
            (cwd / "videos" / kind / split / name).mkdir(parents=True, exist_ok=True)
            values = generator.integers(0, high, shape).astype(np.uint8)
            Image.fromarray(values).save(cwd / "videos" / kind / split / name / f"{frame}.png")
    (cwd / "videos/classes.txt").write_text("red\ngreen\nblue\n")
    for name, seed in (("main-0", 0), ("main-1", 1), ("aux", 2)):
        common = ["data=folder", f"data.root={cwd / 'videos'}", "data.splits.test=val", "data.num_workers=0"]
        config = cli.compose("train", [*common, f"seed={seed}", "data.batch_size=1", "run_dir=.", *NET])
        module = build.build_training(config, build.build_data(config).spec)
        content = {"state_dict": module.state_dict(), "global_step": 7}
        checkpoint.embed(content, module.config, module.task.spec, module.task.TRAINING_PARTS)
        torch.save(content, cwd / f"{name}.ckpt")
    return cwd


@pytest.fixture(scope="module")
def swept(networks):
    """The folder of an ablation of two pairs of networks."""
    done = run(*ADAPTING, "seed=0,1", *QUICK, cwd=networks, module=EVALUATE)
    (folder,) = (networks / "runs/sweeps").iterdir()
    return folder, done


def test_an_ablation_of_trained_networks_evaluates_each_row_for_each_of_them(swept):
    folder, _ = swept
    jobs = record.read(folder)["jobs"]
    rows = [(job["factors"]["variant"], job["factors"]["seed"]) for job in jobs.values()]
    assert rows == [("main", 0), ("AuxAdapt", 0), ("main", 1), ("AuxAdapt", 1)]
    assert {record.state(folder / name) for name in jobs} == {"done"}
    scores = {name: record.atomic.read_json(folder / name / "metrics.json") for name in jobs}
    assert len({each["val/mIoU"] for each in scores.values()}) == 4
    assert ["networks" in each for each in scores.values()] == [False, True, False, True]


def test_its_table_is_of_the_split_that_was_evaluated_and_measures_no_cost_of_one_network_alone(swept, networks):
    done = run(str(swept[0]), cwd=networks, module="seglab.report")
    table = (swept[0] / "report/table.md").read_text()
    assert "val mIoU" in table
    assert "2 runs: cost not measured" in table
    (row,) = [line for line in table.splitlines() if line.startswith("| AuxAdapt |")]
    assert " ± " in row
    assert "AuxAdapt: variants and learning rates" in done.stdout


def test_the_same_command_evaluates_nothing_again_and_a_network_trained_anew_once(swept, networks):
    command = [*ADAPTING, *QUICK, "sweep.dry_run=true", "seed=0,1"]
    assert "4 of 4 jobs are done" in run(*command, cwd=networks, module=EVALUATE).stdout
    (networks / "aux").mkdir()  # the name of an option's value, and no network
    for name in ("main-1.ckpt", "aux.ckpt"):  # both rows of one seed; one row of both
        before = os.stat(networks / name)
        os.utime(networks / name, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert "2 of 4 jobs are done, 2 left" in run(*command, cwd=networks, module=EVALUATE).stdout
        os.utime(networks / name, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_any_option_is_varied_and_the_seed_is_that_of_the_run(networks):
    varied = ["-m", "ckpt=main-1.ckpt", "evaluation.flip=true,false", "hydra.sweep.dir=flips"]
    run(*varied, *QUICK, cwd=networks, module=EVALUATE)
    jobs = record.read(networks / "flips")["jobs"].values()
    assert [job["factors"] for job in jobs] == [{"evaluation.flip": flip, "seed": 1} for flip in (True, False)]


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (EVALUATE, ["ablation=hs3", "ckpt=aux.ckpt"], "python -m seglab.train"),
        (EVALUATE, ["ablation=cac_tau", "ckpt=aux.ckpt"], "another command"),
        ("seglab.train", ["ablation=aux_adapt"], "seglab.evaluate"),
        (EVALUATE, ["-m", "ckpt=aux.ckpt", "output=here"], "hydra.sweep.dir=FOLDER"),
        (EVALUATE, ["-m", "ckpt=aux.ckpt,nothing.ckpt"], "no checkpoint at nothing.ckpt"),
    ],
)
def test_what_a_command_cannot_sweep_is_refused_before_anything_runs(networks, module, arguments, said):
    before = sorted(networks.rglob("*"))
    done = run(*arguments, cwd=networks, module=module, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert sorted(networks.rglob("*")) == before
