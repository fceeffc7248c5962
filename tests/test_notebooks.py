"""Notebooks of the documents run, and give the figures that they show; `WRITE_DOCS=1` writes them anew."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernels import Kernel

nbformat = pytest.importorskip("nbformat", reason="wants nbformat")
nbclient = pytest.importorskip("nbclient", reason="wants nbclient")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
LIMIT = 600
"""Seconds until a cell counts as hung."""
CLOSE = 0.15
"""How far figures of two machines may be apart: few users, and sums of floats in another order."""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """For one notebook after the other: they share the import of PyTorch and the folder of records."""
    kernel = Kernel(tmp_path_factory.mktemp("notebooks"))
    yield kernel
    kernel.stop()


def executed(path: Path, kernel: Kernel) -> Any:
    """The notebook after a run, which has none of the names that another one defined."""
    kernel.client.execute_interactive("%reset -f", timeout=LIMIT)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, km=kernel.manager, timeout=LIMIT)
    client.kc = kernel.client
    client.execute()
    return notebook


def shown(cell: Any) -> str:
    """What a cell prints or ends with, as text; not its progress."""
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return "\n".join(output.get("text") or output["data"]["text/plain"] for output in outputs)


def tidy(notebook: Any) -> None:
    """Without what differs each time and nobody reads, such as a warning of torch with a path."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs if "FutureWarning" not in output.get("text", "")
            ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_gives_what_it_shows(path: Path, kernel: Kernel) -> None:
    stored, fresh = nbformat.read(path, as_version=4), executed(path, kernel)
    if os.environ.get("WRITE_DOCS"):
        tidy(fresh)
        nbformat.write(fresh, path)
        return
    pairs = list(zip(stored.cells, fresh.cells, strict=True))
    compared = [pair for pair in pairs if "figures" in pair[0].metadata.get("tags", [])]
    assert len(compared) > 1
    for before, after in compared:
        words, again = shown(before).split(), shown(after).split()
        assert len(words) == len(again) > 0, shown(after)
        for word, other in zip(words, again, strict=True):
            if re.fullmatch(r"\d+\.\d+", word):
                assert float(other) == pytest.approx(float(word), abs=CLOSE), shown(after)
            else:
                assert other == word, shown(after)
    for before, after in pairs:
        if before.cell_type == "code":
            kinds = [
                [output.output_type for output in cell.outputs if output.get("name") != "stderr"]
                for cell in (before, after)
            ]
            assert kinds[0] == kinds[1], shown(after)


def test_stored_notebooks_show_no_folder_of_a_machine() -> None:
    assert len(NOTEBOOKS) == 2
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/home/|/root/|/tmp/|/Users/|site-packages|Traceback", text)
        assert '"execution_count": null' not in text, "WRITE_DOCS=1 executes and writes it"
