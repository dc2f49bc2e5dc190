"""What README shows is what happens."""

import json
import re
import subprocess
from pathlib import Path

from PIL import Image

from tests.commands import run
from tests.test_train import TINY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_two_commands_install_and_train_and_install_and_test():
    train, test = [block.strip() for block in blocks("bash")[:2]]
    assert train.startswith("python3 -m venv")
    assert train.endswith("-m seglab.train classifier=ssa")
    assert test.startswith("python3 -m venv")
    assert "-m pytest" in test


def test_ci_runs_readmes_test_command():
    pattern = re.search(r"grep -m 1 -E '([^']+)' README.md", (ROOT / ".ci/run").read_text()).group(1)
    found = subprocess.run(["grep", "-m", "1", "-E", pattern, ROOT / "README.md"], capture_output=True, text=True)
    assert found.stdout.strip() == blocks("bash")[1].strip()


def test_the_classifier_of_your_own_trains_from_one_file_and_one_yaml(tmp_path):
    shown = {block.split("\n")[0].lstrip("# "): block for block in blocks("python") + blocks("yaml")}
    for path in ("my_project/scaled.py", "my_conf/classifier/scaled.yaml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        # Hydra reads the package directive in the first lines: the file's own name is not part of it.
        (tmp_path / path).write_text(shown[path].split("\n", 1)[1])
    where = ["hydra.searchpath=[file://my_conf]", "hydra.run.dir=run"]
    run("classifier=scaled", "classifier.start=5", *where, *TINY, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test/mIoU"] >= 0

    Image.new("RGB", (64, 48), (90, 120, 30)).save(tmp_path / "a.png")
    predict = ["ckpt=run", "source=a.png", "output=out"]
    own = {"PYTHONPATH": str(tmp_path)}
    refused = run(*predict, cwd=tmp_path, module="seglab.predict", env=own, check=False)
    assert refused.returncode == 2
    assert "my_project.scaled.Scaled" in refused.stderr
    assert "trust=true" in refused.stderr
    run(*predict, "trust=true", cwd=tmp_path, module="seglab.predict", env=own)
    assert (tmp_path / "out/index/a.png").is_file()


def test_every_group_and_option_it_names_exists():
    conf = ROOT / "conf"
    for group, options in re.findall(r"^\| `(\w+)=` \| (.*) \|$", README, re.MULTILINE):
        named = set(re.findall(r"`(\w+)`", options))
        there = {path.stem for path in (conf / group).glob("*.yaml")}
        assert named <= there, (group, named - there)


def test_every_file_it_names_exists():
    for path in re.findall(r"(?<![\w/])(?:scripts|docs|tests|conf|notebooks)/[\w./]+\w", README):
        assert (ROOT / path).exists(), path
