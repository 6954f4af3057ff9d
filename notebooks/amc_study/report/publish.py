"""Publishing a finished study: its notebooks with their outputs, and its first seed's checkpoints, into the repository.

`python -m amc_study.report.publish`, after `make study` or `make study-full`.
"""

from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
from PIL import Image

from amc_lib.checkpoints import SHIPPED as CHECKPOINTS
from amc_lib.files import write_bytes
from amc_study.comparison import DETECTOR_BASED, FINETUNED, SHIPPED
from amc_study.order import NOTEBOOKS, STUDY, full_plan
from amc_study.runs import open_run

LARGE = 200_000  # bytes; larger pictures are shown smaller, figures/ has them in full
WIDTH, QUALITY = 1200, 85  # pixels and JPEG quality of such a picture
WIDGET = "application/vnd.jupyter.widget-view+json"
SHOWN = ("data", "pretrain", "amc-0", "vmrm-0", "evaluate", "explore")  # the step whose outputs each notebook shows
SHOWN_FULL = ("explanations", "own-data", "ablations")  # likewise, where `make study-full` has run it


def with_outputs(notebook: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with the outputs of its execution, but for progress (stderr) and widgets, which need a kernel.

    The cell that papermill injects is not part of the notebook, so code cells are numbered anew from 1. Raises
    ValueError if the sources differ.
    """
    cells = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in cells] != [cell.source for cell in notebook.cells]:
        raise ValueError("the executed notebook is not this notebook: run the study again")
    code = [(cell, done) for cell, done in zip(notebook.cells, cells, strict=True) if cell.cell_type == "code"]
    for number, (cell, done) in enumerate(code, 1):
        kept = [o for o in done.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {})]
        cell.outputs = [_lighter(output) for output in kept]
        for numbered in (cell, *(o for o in cell.outputs if o.output_type == "execute_result")):
            numbered.execution_count = number
    return notebook


def _lighter(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The output with a large picture replaced by a smaller JPEG."""
    picture = output.get("data", {}).get("image/png", "")
    if len(picture) > LARGE:
        image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
        image.thumbnail((WIDTH, WIDTH))
        image.save(small := io.BytesIO(), "JPEG", quality=QUALITY)
        del output.data["image/png"]
        output.data["image/jpeg"] = base64.b64encode(small.getvalue()).decode()
    return output


def has_run_through(executed: Path) -> bool:
    """Whether there is an executed notebook whose cells are all done; papermill writes it from the first cell on."""
    if not executed.is_file():
        return False
    cells = (cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code")
    return all(cell.metadata.get("papermill", {}).get("status", "completed") == "completed" for cell in cells)


def publish_notebooks(study: Path = STUDY, notebooks: Path = NOTEBOOKS) -> None:
    for step in (step for steps in full_plan(1) for step in steps if step.name in SHOWN + SHOWN_FULL):
        path, done = notebooks / step.notebook, replace(step, home=study).executed
        if step.name in SHOWN_FULL and not has_run_through(done):
            continue
        executed = nbformat.read(done, as_version=4)
        filled = with_outputs(nbformat.read(path, as_version=4), executed)
        write_bytes(path, f"{nbformat.writes(filled)}\n".encode())


def publish_checkpoints(study: Path = STUDY, checkpoints: Path = CHECKPOINTS) -> None:
    """Copy the finished runs of seed 0 under the names by which `Grounder.load` and 04 find them."""
    for system, name in (FINETUNED | DETECTOR_BASED).items():
        run = open_run(study / "seed-0" / name)
        shutil.copytree(run.folder, checkpoints / SHIPPED[system], dirs_exist_ok=True)


if __name__ == "__main__":
    publish_notebooks()
    publish_checkpoints()
