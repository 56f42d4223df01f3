"""Run a notebook of the documentation and compare its output with the stored output."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode


def read(path: Path) -> NotebookNode:
    """The notebook as stored in its file."""
    found: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return found


def executed(path: Path, timeout_s: int = 120) -> NotebookNode:
    """The notebook with the outputs of a new run; raises CellExecutionError if a cell fails."""
    notebook = read(path)
    NotebookClient(notebook, timeout=timeout_s, kernel_name="python3").execute()
    return notebook


def outputs_of(notebook: NotebookNode) -> Iterator[tuple[str, str | None]]:
    """The source and output of every code cell, without figures; None if a tag marks the output as
    variable.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            text = "".join(output.get("text", str(output)) for output in cell.outputs)
            plain = re.sub(r"\s*-?\d+(\.\d+)?", " #", text)
            yield cell.source, None if "varies" in cell.metadata.get("tags", ()) else plain
