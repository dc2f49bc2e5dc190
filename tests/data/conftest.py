"""Miniatures for the tests, and a cache of verdicts that is not the user's."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "data"


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


MINIATURES = _load("miniatures", HERE / "miniatures.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``each`` runs for every dataset."""
    if "each" in metafunc.fixturenames:
        metafunc.parametrize("each", list(MINIATURES.ALL))


@pytest.fixture
def mini() -> ModuleType:
    """The generator: ``mini.camvid(root)``, ``mini.image(path)``, ``mini.label(path, ids)``."""
    return MINIATURES


@pytest.fixture(scope="session")
def cifar10_miniature() -> ModuleType:
    """The script that writes CIFAR-10 in miniature: ``cifar10_miniature.write(folder, per_class, layout)``."""
    return _load("cifar10_miniature", HERE.parents[1] / "scripts" / "cifar10_miniature.py")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A named pipe that nobody writes to; whoever waits at it is interrupted after a second."""

    def wake(*_: object) -> None:
        raise TimeoutError("waited at a pipe")

    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    before = signal.signal(signal.SIGALRM, wake)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    yield path
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _real(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable) or default)
    if not folder.is_dir():
        pytest.skip(f"no real data: ${variable} is not a folder")
    return folder


@pytest.fixture
def samples() -> Path:
    """Real files of the published datasets."""
    return _real("SEGLAB_SAMPLES", SHARED / "samples")


@pytest.fixture
def real_camvid() -> Path:
    """The whole of CamVid."""
    return _real("SEGLAB_CAMVID", SHARED / "camvid")


@pytest.fixture
def published_tables() -> Path:
    """Class tables gathered from the datasets' own sources."""
    return _real("SEGLAB_META", SHARED / "meta")
