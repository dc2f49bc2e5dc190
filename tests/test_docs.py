"""README and docs/ agree with the code: links lead somewhere, commands compose, groups, options and files exist."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from seglab import cli, options
from seglab.hierarchy import plan
from seglab.hs3 import FINAL, planned
from tests.pages import PAGES, ROOT, Command, blocks, commands

CONF = ROOT / "conf"
ROOTS = {f"seglab.{path.stem}": path.stem for path in CONF.glob("*.yaml")}
COMMANDS = sorted({c for page in PAGES for c in commands(page) if c.module in ROOTS and not c.own}, key=str)
PROSE = {page: re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE) for page in PAGES}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may be, as GitHub makes it of the heading."""
    headings = re.findall(r"^#+ (.*)$", PROSE[page], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", PROSE[page]):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page not in PAGES:
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)", PROSE[page])
        waiting += [(page.parent / link).resolve() for link in links]
    assert reached == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_it_names_exists(page):
    for path in re.findall(r"(?<![\w/.])(?:scripts|docs|tests|conf|notebooks|seglab)/[\w./]+\w", page.read_text()):
        if not path.startswith("seglab/conf/"):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_group_and_option_in_its_tables_exists(page):
    for groups, named in re.findall(r"^\| ((?:`\w+=`(?:, )?)+) \| (.*) \|$", PROSE[page], re.MULTILINE):
        for group in re.findall(r"`(\w+)=`", groups):
            there = {path.stem for path in (CONF / group).glob("*.yaml")}
            assert there, group
            assert set(re.findall(r"`(\w+)`", named)) <= there, group


def test_every_ablation_is_in_the_table():
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ", PROSE[ROOT / "docs/ablations.md"], re.MULTILINE)
    assert {found for row in rows for found in re.findall(r"`(\w+)`", row)} == {
        path.stem for path in (CONF / "ablation").glob("*.yaml")
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_its_single_overrides_are_of_options_that_exist(page):
    """``group=option`` in running text, unless the option stands for any (in capitals or with dots)."""
    groups = {path.parent.name for path in CONF.glob("*/*.yaml")}
    for text in re.findall(r"`([^`\n]+)`", PROSE[page]):
        for group, option in re.findall(r"(?<![\w.@])([a-z_]+)=([a-z]\w*)(?![\w.])", text):
            if group in groups:
                if group in ("classifier", "decoder", "heads", "metrics", "data", "loss") and "extending" in page.parts:
                    continue  # the page's own
                assert (CONF / group / f"{option}.yaml").exists(), text


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_overrides_in_running_text_are_what_a_shell_and_hydra_understand(page):
    for text in re.findall(r"`((?:\+|~)?'?[a-z_]+(?:\.\w+)+=[^`]*)`", PROSE[page].replace("\n", " ")):
        if "…" not in text:
            OverridesParser.create().parse_overrides(shlex.split(text))


def test_the_order_of_groups_is_that_of_train_yaml():
    text = PROSE[ROOT / "docs/configuration.md"]
    listed = re.findall(r"^\d\. (.*)$", text, re.MULTILINE)
    said = [group for line in listed for group in re.findall(r"`(\w+)`", line)]
    entries = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    groups = [group for entry in entries if isinstance(entry, dict) for group in entry]
    assert said == [group for group in groups if not group.startswith("override ")]


def test_what_a_data_set_sets_wins_over_other_groups_and_the_command_line_over_it():
    run = "run_dir=RUN_DIR"
    camvid = cli.compose("train", ["data=camvid", "trainer=deterministic", "augment=none", run])
    assert (camvid["trainer"]["max_steps"], camvid["augment"]["crop"]) == (10000, [360, 480])
    assert cli.compose("train", ["data=camvid", "trainer.max_steps=1000", run])["trainer"]["max_steps"] == 1000
    small = cli.compose("train", ["experiment=camvid_small", "classifier=ssa", "trainer.max_steps=200", run])
    assert small["trainer"]["max_steps"] == 200
    assert small["classifier"]["_target_"].endswith("SSA")
    assert set(cli.compose("train", ["classifier=cac", "heads=fcn", run])["loss"]) == {
        "main",
        "coarse",
        "gt",
        "distill",
        "aux",
    }


def single(override: Override) -> str:
    """An override with one of the values that it sweeps over."""
    if not override.is_sweep_override():
        return override.input_line
    value = override.value()
    chosen = value.start if isinstance(value, IntervalSweep) else next(iter(override.sweep_string_iterator()))
    return f"{override.get_key_element()}={chosen}"


@pytest.fixture(scope="module")
def with_a_plan(tmp_path_factory) -> Path:
    """A folder in which the run that pages call PROBE_RUN has left its plan."""
    folder = tmp_path_factory.mktemp("pages")
    matrices = {f"backbone.{i}": np.eye(12) for i in (1, 2, 3)} | {FINAL: np.eye(12)}
    made = planned(matrices, tuple("abcdefghijkl"), 0.0, "coarsest", {})
    plan.write(made, folder / "PROBE_RUN" / plan.FILE, "0")
    return folder


ROW = next(line for line in (ROOT / "README.md").read_text().splitlines() if "a page of its own" in line)
METHODS = {ROOT / target for target in re.findall(r"\((docs/[^)#]+)\)", ROW)}
COMMON = {command for page in PAGES if page not in METHODS for command in commands(page)}
"""Commands of pages that are not of a single method; the others are composed with ``-m slow``."""


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=[] if c in COMMON else pytest.mark.slow, id=str(c)) for c in COMMANDS]
)
def test_every_command_composes(command: Command, with_a_plan, monkeypatch):
    """With one value of each sweep, and without what is Hydra's own (the run folder, flags)."""
    monkeypatch.chdir(with_a_plan)
    typed = [a for a in command.arguments if not a.startswith("-") and a != "job"]
    overrides = [single(override) for override in OverridesParser.create().parse_overrides(typed)]
    overrides = [override for override in overrides if not override.startswith("hydra.")]
    root = ROOTS[command.module]
    config = cli.compose(root, [*overrides, *(["run_dir=RUN_DIR"] if root == "train" else [])])
    known = {"evaluate": options.EVALUATE, "predict": options.PREDICT, "export": options.EXPORT, "hs3": options.HS3}
    if root in known:
        options.check(config, known[root])


def test_commands_of_many_kinds_are_found():
    assert {command.module for command in COMMANDS} >= {
        "seglab.train",
        "seglab.evaluate",
        "seglab.predict",
        "seglab.export",
    }
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_module_it_runs_is_there(page):
    for command in commands(page):
        assert hasattr(importlib.import_module(module_of(command)), "main"), command


def module_of(command: Command) -> str:
    return f"{command.module}.__main__" if command.module == "seglab.report" else command.module


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_class_and_function_it_names_exists(page):
    for dotted in re.findall(r"(?<![\w.])seglab(?:\.\w+)+", page.read_text()):
        assert pkgutil.resolve_name(dotted) is not None, dotted


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_compile_and_their_imports_exist(page):
    for block in blocks(page, "python"):
        compile(block, name(page), "exec")
        for module, imported in re.findall(r"^from (seglab[\w.]*) import ([\w, ]+)$", block, re.MULTILINE):
            found = importlib.import_module(module)
            for each in imported.split(", "):
                assert hasattr(found, each) or importlib.util.find_spec(f"{module}.{each}"), (module, each)
