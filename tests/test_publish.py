"""Publishing: outputs land in their own cells, progress and injected parameters do not, another notebook is refused."""

from __future__ import annotations

import base64
import io
import json

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from amc_lib.checkpoints import SHIPPED
from amc_study.report import publish


def notebook(last: str = "1 + 1") -> nbformat.NotebookNode:
    first = new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    return new_notebook(cells=[new_markdown_cell("# Title"), first, new_code_cell(last)])


def executed(last: str = "1 + 1") -> nbformat.NotebookNode:
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(png := io.BytesIO(), "PNG")
    done = notebook(last)
    done.cells[2].outputs = [
        new_output("stream", name="stderr", text="50 %"),
        new_output("stream", name="stdout", text="2"),
        new_output("display_data", {publish.WIDGET: {"model_id": "1"}, "text/plain": "bar"}),
        new_output("execute_result", {"image/png": base64.b64encode(png.getvalue()).decode()}, execution_count=3),
    ]
    done.cells[1].execution_count, done.cells[2].execution_count = 1, 3
    done.cells.insert(2, new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]}))
    return done


def test_outputs_come_without_progress_widgets_and_injected_parameters():
    filled = publish.with_outputs(notebook(), executed())
    assert [cell.source for cell in filled.cells] == ["# Title", "seed = 0", "1 + 1"]
    assert [cell.execution_count for cell in filled.cells[1:]] == [1, 2]
    printed, result = filled.cells[2].outputs
    assert printed.text == "2" and result.execution_count == 2
    assert set(result.data) == {"image/jpeg"}  # large pictures become smaller ones
    nbformat.validate(filled)


def test_outputs_of_another_notebook_are_refused():
    with pytest.raises(ValueError, match="not this notebook"):
        publish.with_outputs(notebook(), executed("2 + 2"))


@pytest.mark.parametrize("tier", ["photos", "paper"])
def test_outputs_that_show_photographs_are_refused(tier):
    done = executed()
    done.cells[2].source = f'# Parameters\ntier = "{tier}"\n'
    with pytest.raises(ValueError, match="shows photographs"):
        publish.with_outputs(notebook(), done)
    done.cells[2].source = 'tier = "scenes"'
    assert publish.with_outputs(notebook(), done).cells[2].outputs


def test_what_has_run_is_published_and_an_unfinished_study_is_refused(tmp_path):
    executed_here, notebooks = tmp_path / "study" / "notebooks", tmp_path / "own"
    executed_here.mkdir(parents=True)
    notebooks.mkdir()
    steps = publish.shown_steps()
    assert steps["03_train.ipynb"] == "amc-0"
    for name, step in steps.items():
        nbformat.write(notebook(), notebooks / name)
        if step != "ablations":
            nbformat.write(executed(), executed_here / f"{step}.ipynb")
    with pytest.raises(ValueError, match="no finished run"):
        publish.publish(tmp_path / "study", notebooks, tmp_path / "checkpoints")
    for name, step in steps.items():
        outputs = nbformat.read(notebooks / name, as_version=4).cells[2].outputs
        assert bool(outputs) is (step != "ablations")


def test_shipped_weights_are_small_and_say_where_they_come_from():
    """At most 40 MB a checkpoint and 120 MB in all; each has the account of its training."""
    sizes = {path.parent.name: path.stat().st_size for path in SHIPPED.glob("*/*.safetensors")}
    assert max(sizes.values()) <= 40e6 and sum(sizes.values()) <= 120e6
    for name in sizes:
        account = json.loads((SHIPPED / name / "metrics.json").read_text(encoding="utf-8"))["provenance"]
        assert len(account["commit"]) == 40, name
