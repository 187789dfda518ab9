"""The notebook runs from top to bottom and shows clips."""

import nbformat
from nbclient import NotebookClient


def test_notebook_runs(pytestconfig, tmp_path):
    """It is the first thing many people try: a cell that fails, or shows nothing, is where they stop."""
    notebook = nbformat.read(pytestconfig.rootpath / "notebooks" / "generate.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs do not belong in the repository"
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [
        cell.source
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "<video" in output.get("data", {}).get("text/html", "")
    ]
    assert len(shown) == 3
    assert (tmp_path / "square.mp4").stat().st_size > 1000
