"""The command line answers quickly, exits with the promised codes and says what to change."""

import os
import subprocess
import sys
import time

import pytest

from seglab import cli
from seglab.errors import DataError
from tests.commands import run, run_apart
from tests.conftest import each


@pytest.mark.parametrize("flag", [("--help",), ("--cfg", "job")])
@pytest.mark.parametrize("module", each(["seglab.train", "seglab.evaluate", "seglab.predict"], "seglab.train"))
def test_help_and_cfg_never_import_torch(module, flag, tmp_path):
    code = (
        f"import sys, runpy; sys.argv = ['x', *{flag!r}]\n"
        f"try: runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_answers_within_seconds(tmp_path):
    start = time.perf_counter()
    done = run_apart("--help", cwd=tmp_path)
    assert "classifier: " in done.stdout
    assert time.perf_counter() - start < 10  # about a second on an idle machine; importing torch alone takes longer


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("optim.head_lrr=2", "Did you mean head_lr"),
        ("classifier=saa", "Did you mean ssa"),
        ("trainr.max_steps=3", "Did you mean trainer"),
        ("clasifier=ssa", "Did you mean classifier"),
        ("augment.scale=[2048,512]", "augment.scale is now augment.long_short"),
        ("loss.response.weight=0", "loss.response is now loss.distill"),
        ("~loss.response", "loss.response is now loss.distill"),
        ("augment.mean=[1,2,3]", "augment.mean is now normalize.mean"),
        ("evaluation.scale=[2048,512]", "evaluation.scale is now evaluation.long_short"),
    ],
)
def test_a_misspelt_choice_exits_2_and_names_the_nearest(override, suggestion, tmp_path):
    done = run(override, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert suggestion in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_mandatory_value_is_named_with_its_key(tmp_path):
    done = run("data=folder", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "data." in done.stderr
    assert "Traceback" not in done.stderr


def test_the_configuration_is_found_beside_the_package():
    assert (cli.conf_dir() / "train.yaml").is_file()


def test_a_workers_error_is_shown_without_its_trace():
    wrapped = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\nseglab.errors.DataError: a.png holds 77"
    assert cli.readable(DataError(wrapped)) == "a.png holds 77"
    assert cli.readable(DataError("plain")) == "plain"


def test_a_jobs_folder_is_named_by_its_choices_within_what_a_file_system_allows():
    assert cli.run_folder_name("classifier=ssa,seed=1") == "classifier=ssa,seed=1"
    assert "/" not in cli.run_folder_name("data.root=/a/b")
    long = [cli.run_folder_name("x" * 300 + str(i)) for i in range(2)]
    assert len(set(long)) == 2
    assert max(map(len, long)) < 130


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_idle_threads_sleep_soon_unless_the_environment_says_otherwise(monkeypatch, given, expected):
    monkeypatch.setattr(os, "environ", dict(given))
    cli.share_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
