"""The notebook of the documentation runs from top to bottom."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "photo_index.ipynb"
# Put below the first cell, which makes 60 photos and 15 queries: a minute of two processors.
FEWER = """
for photo in sorted(folder.iterdir())[12:]:
    photo.unlink()
queries = queries[:3]
"""


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "write_photos" in first.source
    first.source += FEWER
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs)
    assert len(said.splitlines()) == 3
    assert outputs[-1]["data"]["text/plain"].endswith("closed>)")
    assert all(cell.get("outputs", []) == [] for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
