"""Every notebook runs from its first cell to its last, on the embedded data and with few steps."""

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("SEGLAB_NOTEBOOK_STEPS", "6")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the tests run side by side
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what a notebook leaves goes with the test
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "test mIoU" in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    import json

    cells = json.loads(path.read_text())["cells"]
    assert not [cell for cell in cells if cell.get("outputs")]
