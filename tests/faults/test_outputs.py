"""Where nothing can be written a sentence says so, and where nobody reads the work goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seglab import cli
from seglab.runs import atomic
from seglab.train import fit
from tests.commands import run
from tests.conftest import TINY, tiny

KEYS = {
    "seglab.train": "hydra.run.dir",
    "seglab.evaluate": "output",
    "seglab.predict": "output",
    "seglab.export": "output",
}


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(tiny(folder, "trainer.max_steps=1", "test=null"), folder)
    return folder / "checkpoints/last.ckpt"


@pytest.fixture
def asked(ckpt, tmp_path):
    """A command's arguments, its output left open."""
    from PIL import Image

    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    known = {"seglab.predict": [f"source={tmp_path / 'a.png'}", "device=cpu"], "seglab.train": TINY}
    return lambda module: [*known.get(module, []), *([f"ckpt={ckpt}"] if module != "seglab.train" else [])]


def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "file").write_text("")
    return {"below a file": f"{tmp_path / 'file'}/out", "a file": f"{tmp_path / 'file'}", "too long": "x" * 300}


@pytest.mark.parametrize("module", KEYS)
@pytest.mark.parametrize("place", ["below a file", "a file", "too long"])
def test_a_place_that_cannot_be_written_is_named_in_one_sentence(module, place, asked, tmp_path):
    output = f"{KEYS[module]}={places(tmp_path)[place]}"
    done = run(*asked(module), output, module=module, cwd=tmp_path, check=False)
    code, err = done.returncode, done.stderr
    assert code == 2, err
    assert "Traceback" not in err
    assert "cannot be written" in err
    assert f"another folder with {KEYS[module]}=" in err
    assert ("hydra.run.dir" in err) == (module == "seglab.train")


@pytest.mark.parametrize("module", KEYS)
@pytest.mark.parametrize(
    ("number", "said"), [(errno.EROFS, "Read-only"), (errno.EACCES, "denied"), (errno.ENOSPC, "no space")]
)
def test_so_is_a_folder_that_cannot_be_made(module, number, said, asked, tmp_path, monkeypatch):
    mkdir = os.mkdir

    def refuse(path, *rest, **options):
        if "forbidden" in os.fspath(path):
            raise OSError(number, os.strerror(number), os.fspath(path))
        return mkdir(path, *rest, **options)

    monkeypatch.setattr(os, "mkdir", refuse)
    output = f"{KEYS[module]}={tmp_path / 'forbidden/out'}"
    done = run(*asked(module), output, module=module, cwd=tmp_path, check=False)
    code, err = done.returncode, done.stderr
    assert code == 2, err
    assert said in err
    assert f"another folder with {KEYS[module]}=" in err
    assert "Traceback" not in err


def test_a_file_that_cannot_be_replaced_is_left_as_it_was(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(atomic.Unwritable, match="folder: cannot be written"):
        atomic.write_text(tmp_path / "folder", "text")
    with pytest.raises(atomic.Unwritable, match="File name too long"):
        atomic.write_text(tmp_path / ("x" * 300), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# Nobody reads


@pytest.fixture(params=["closed pipe", "full disk"])
def nobody(request):
    """A stream whose writes fail."""
    if request.param == "full disk":
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full on this system")
        stream = open("/dev/full", "w")  # noqa: SIM115
    else:
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
    yield stream
    stream.close()


def test_a_training_goes_on_when_its_output_cannot_be_written(nobody, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", cli.TolerantStream(nobody))
    results = fit(tiny(tmp_path / "run", "trainer.max_steps=2"), tmp_path / "run")
    assert "test/mIoU" in results
    assert atomic.read_json(tmp_path / "run/status.json")["status"] == "done"


def test_a_stream_that_nobody_reads_is_silent_for_good(nobody):
    stream = cli.TolerantStream(nobody)
    for _ in range(3):
        assert stream.write("x" * 100_000) == 100_000
        stream.flush()
    os.write(nobody.fileno(), b"from elsewhere")


def test_a_process_whose_reader_left_ends_with_its_own_exit_code():
    code = "from seglab import cli; cli.outlast_readers()\nfor _ in range(20000): print('a line')\ncli.fail('done', 3)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert b"seglab: done" in process.stderr.read()
    assert process.wait(timeout=60) == 3
