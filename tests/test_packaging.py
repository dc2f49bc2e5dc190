"""What is installed: the configuration and the tables come along, no image does, and no licence surprises."""

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="building a wheel without isolation needs hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("seglab-*.whl"))


def test_a_wheel_holds_configuration_and_tables_and_composes_without_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "seglab/conf/train.yaml" in names
    assert "seglab/conf/ablation/ssa_structure.yaml" in names
    assert "seglab/data/meta/ade20k.json" in names
    assert "seglab/runs/folder.py" in names  # .gitignore, which the build obeys, has runs/
    assert "hydra_plugins/seglab_sweeper/__init__.py" in names
    assert {f"seglab/report/document.{kind}" for kind in ("html", "css", "js")} <= set(names)
    assert not [n for n in names if n.endswith((".png", ".jpg"))]
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); sys.argv = ['x', 'classifier=cac', '--cfg', 'job']\n"
    code += "import seglab.cli; assert 'site' in str(seglab.cli.conf_dir()); from seglab.train import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seglab.classifiers.CAC" in done.stdout


def requirements(name: str, seen: set[str]) -> set[str]:
    """Installed distributions that a distribution needs, itself included."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return seen
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return seen
    seen.add(key)
    for line in found.requires or []:
        if "extra ==" not in line:
            requirements(re.match(r"[\w.-]+", line).group(), seen)
    return seen


def test_nothing_that_is_needed_is_under_a_licence_that_spreads():
    needed = requirements("seglab", set())
    assert {"torch", "lightning", "timm", "albumentations"} <= needed
    bad = {}
    for name in needed:
        meta = importlib.metadata.metadata(name)
        stated = " ".join([meta.get("License-Expression") or "", *(meta.get_all("Classifier") or [])])
        if re.search(r"AGPL|Affero|(?<!L)GPL-|GNU General Public", stated):
            bad[name] = stated
    assert bad == {}


def test_pins_name_no_address():
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    assert [line for line in lines if line and not re.fullmatch(r"[\w.\-]+==[\w.+\-]+", line)] == []
