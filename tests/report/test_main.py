"""One command from a folder to its files, and what it says when it cannot."""

import json
import subprocess
import sys

import pytest

from seglab import cli
from seglab.report import __main__ as command
from seglab.report import collect, cost
from tests.commands import run_apart

TEXT_ONLY = ("--no-cost", "--no-plots", "--no-report")


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["seglab.report", *map(str, arguments)])
        code = 0
        try:
            command.main()
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_prints_the_table_and_writes_every_text_format(folder, call):
    folder.rows({"linear": [0.5, 0.6], "ssa": [0.6, None]})
    code, out, err = call(folder.path, *TEXT_ONLY)
    assert code == 0
    assert "55.00 ± 7.07" in out
    assert "variant=ssa,seed=1: not started" in out
    report = folder.path / "report"
    assert sorted(path.name for path in report.iterdir()) == ["table.csv", "table.json", "table.md", "table.tex"]
    assert "table.md" in err
    assert call(folder.path, *TEXT_ONLY)[1] == out  # its own output is no run


@pytest.mark.parametrize(
    ("form", "file"), [("md", "table.md"), ("tex", "table.tex"), ("csv", "table.csv"), ("json", "table.json")]
)
def test_what_is_printed_for_a_pipe_is_what_is_written(folder, call, tmp_path, form, file):
    folder.rows({"linear": [0.5]})
    _, out, _ = call(folder.path, *TEXT_ONLY, "--format", form, "--output", tmp_path / "out")
    assert out == (tmp_path / "out" / file).read_text()
    assert not (folder.path / "report").exists()


def test_rows_alone_make_a_grid_of_two_factors(folder, call):
    for decoder in ("fcn", "fpn"):
        for tau in (5, 15):
            folder.run(f"{decoder}{tau}", factors={"classifier.tau": tau, "decoder": decoder})
    _, out, _ = call(folder.path, *TEXT_ONLY, "--rows", "decoder", "--format", "md", "--baseline", "tau=15,decoder=fcn")
    assert "| decoder \\\\ classifier.tau | 5 | 15 |" in out
    assert (folder.path / "report/grid.tex").exists()
    assert json.loads((folder.path / "report/table.json").read_text())["compared_with"] == {
        "classifier.tau": 15,
        "decoder": "fcn",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metric", "x"], "--metric one of"),
        (["--baseline", "linear"], "expected KEY=VALUE"),
        (["--baseline", "variant=z"], "no finished run is variant=z"),
        (["--rows", "variant"], "give both --rows and --columns"),
        (["--rows", "nothing"], "nothing varies by that name"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused_with_code_2_and_nothing_written(folder, call, arguments, said):
    folder.rows({"linear": [0.5], "ssa": [0.6]})
    code, out, err = call(folder.path, *TEXT_ONLY, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert not (folder.path / "report").exists()


def test_mixed_data_sets_leave_with_code_2(folder, call):
    folder.run("a", dataset="camvid")
    folder.run("b", dataset="ade20k")
    code, _, err = call(folder.path, *TEXT_ONLY)
    assert code == 2
    assert "different data sets" in err


def test_figures_and_report_are_part_of_the_command(folder, call):
    folder.rows({"linear": [0.5, 0.6], "ssa": [0.6, 0.7]})
    assert call(folder.path, "--no-cost")[0] == 0
    report = folder.path / "report"
    assert {path.suffix for path in (report / "plots").iterdir()} == {".png", ".svg"}
    assert "<html" in (report / "report.html").read_text()


def test_help_needs_no_heavy_import():
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        "try: runpy.run_module('seglab.report', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'matplotlib', 'numpy', 'pandas', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--baseline" in done.stdout


def test_the_former_name_does_the_same_and_says_the_new_one(folder):
    folder.rows({"linear": [0.5]})
    now, before = (run_apart(".", *TEXT_ONLY, cwd=folder.path, module=f"seglab.{name}") for name in ("report", "sweep"))
    assert before.stdout == now.stdout
    first, *rest = before.stderr.splitlines()
    assert "python -m seglab.report" in first
    assert rest == now.stderr.splitlines()


def networks():
    """A linear classifier, the same with another seed, and a larger network, as their runs wrote them."""
    net = ["run_dir=.", "backbone.name=test_resnet.r160_in1k", "decoder.width=16", "augment.crop=[32,32]"]
    for name, more in {
        "linear": [],
        "again": ["seed=1"],
        "cac": ["classifier=cac"],
        "warm": ["classifier=cac", "classifier.tau=5"],
    }.items():
        yield name, cli.compose("train", [*net, *more])


def test_each_network_is_measured_once_and_kept(folder, monkeypatch):
    for name, config in networks():
        folder.run(name, factors={"variant": name}, seed=config["seed"], config=config)
    sweep = collect(folder.path)
    costs, notes = cost.measure(sweep, rounds=1)
    found = {path.name: known for path, known in costs.items()}
    assert not notes
    assert found["linear"] is found["again"]
    assert found["cac"] is found["warm"]
    assert 0 < found["linear"].gflops < found["cac"].gflops
    assert found["cac"].latency > 0
    assert found["cac"].setting.startswith("one image of 32x32, 3 classes, cpu")
    monkeypatch.setattr(cost, "measure_networks", None)  # a second time, nothing is measured
    assert cost.measure(sweep)[0] == costs


def test_a_run_from_a_stranger_names_only_parts_of_networks_unless_it_is_trusted(folder, tmp_path):
    ((_, config), *_) = networks()
    mark = tmp_path / "called"
    config["classifier"] = {
        "_target_": "pathlib.Path.touch",
        "self": {"_target_": "pathlib.Path", "_args_": [str(mark)]},
    }
    folder.run("theirs", factors={"variant": "theirs"}, config=config)
    costs, notes = cost.measure(collect(folder.path))
    assert costs == {}
    assert "pathlib.Path" in notes[0]
    assert "--trust" in notes[0]
    assert not mark.exists()
    cost.measure(collect(folder.path), trusted=True)
    assert mark.exists()


def test_a_network_that_cannot_be_built_any_more_costs_only_its_cost(folder):
    folder.run("old", factors={"variant": "old"})
    costs, notes = cost.measure(collect(folder.path))
    assert costs == {}
    assert notes[0].startswith("old: cost not measured (")


def test_a_device_that_is_not_there_is_named(folder, call):
    folder.rows({"a": [0.5]})
    code, _, err = call(folder.path, "--device", "cuda:99", "--no-plots", "--no-report")
    assert code == 2
    assert "--device cuda:99 cannot be used" in err
