"""Outputs of a finished study into the notebooks, its first seed's checkpoints into data/checkpoints.

`python -m amc_study.report.publish`, after `make study` or `make study-full`.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import nbformat
from PIL import Image

from amc_lib.checkpoints import SHIPPED as CHECKPOINTS
from amc_lib.files import ROOT, write_bytes
from amc_study.comparison import DETECTOR_BASED, FINETUNED, shipped_name
from amc_study.plans import HOMES, plan
from amc_study.run_folder import open_run

STUDY = HOMES["scenes"]
LARGE = 200_000  # characters of base64; larger pictures become JPEG, figures/ has them in full
WIDGET = "application/vnd.jupyter.widget-view+json"


def with_outputs(notebook: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with the outputs of its execution, without progress (stderr), widgets and papermill's own cell.

    Raises ValueError if the code differs, or if it was run on photographs, which nobody may pass on.
    """
    mine, code = ([cell for cell in one.cells if cell.cell_type == "code"] for one in (notebook, executed))
    given = [cell for cell in code if "injected-parameters" in cell.metadata.get("tags", [])]
    if any(re.search(r"""^tier = (?!["']scenes["'])""", cell.source, re.MULTILINE) for cell in (*given, *code[:1])):
        raise ValueError("the executed notebook shows photographs, which are not to be published")
    code = [cell for cell in code if cell not in given]
    if [cell.source for cell in code] != [cell.source for cell in mine]:
        raise ValueError("the executed notebook is not this notebook: run the study again")
    for number, (cell, done) in enumerate(zip(mine, code, strict=True), 1):
        cell.execution_count = number
        cell.outputs = [o for o in done.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {})]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            if len(picture := output.get("data", {}).get("image/png", "")) > LARGE:
                del output.data["image/png"]
                output.data["image/jpeg"] = jpeg(picture)
    return notebook


def jpeg(png: str, quality: int = 80) -> str:
    """A picture in base64, PNG to JPEG."""
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").save(buffer := io.BytesIO(), "JPEG", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode()


def shown_steps() -> dict[str, str]:
    """The notebooks and, of each, the study's first step that runs it: its outputs are published."""
    steps = [step for side_by_side in plan(1, full=True) for step in side_by_side]
    return {step.what: step.name for step in reversed(steps)}


def publish(study: Path = STUDY, notebooks: Path = ROOT / "notebooks", checkpoints: Path = CHECKPOINTS) -> None:
    """Fill each notebook whose step has run; copy seed 0's checkpoints under the names that `Grounder.load` knows."""
    for notebook, step in shown_steps().items():
        path, executed = notebooks / notebook, study / "notebooks" / f"{step}.ipynb"
        if executed.is_file():
            filled = with_outputs(*(nbformat.read(one, as_version=4) for one in (path, executed)))
            write_bytes(path, f"{nbformat.writes(filled)}\n".encode())
    for system, name in (FINETUNED | DETECTOR_BASED).items():
        folder = open_run(study / "seed-0" / name).folder
        shutil.copytree(folder, checkpoints / shipped_name(system, "scenes"), dirs_exist_ok=True)


if __name__ == "__main__":
    publish()
