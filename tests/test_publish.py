"""Publishing: outputs land in their own cells, progress and injected parameters do not, another notebook is refused."""

from __future__ import annotations

import base64
import io

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from amc_study.order import full_plan, plan
from amc_study.report import publish


def notebook(last: str = "1 + 1") -> nbformat.NotebookNode:
    first = new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    return new_notebook(cells=[new_markdown_cell("# Title"), first, new_code_cell(last)])


def executed(last: str = "1 + 1") -> nbformat.NotebookNode:
    done = notebook(last)
    done.cells[2].outputs = [
        new_output("stream", name="stderr", text="50 %"),
        new_output("stream", name="stdout", text="2"),
        new_output("execute_result", {"text/plain": "2"}, execution_count=3),
    ]
    done.cells[1].execution_count, done.cells[2].execution_count = 1, 3
    done.cells.insert(2, new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]}))
    return done


def test_outputs_come_without_progress_and_injected_parameters():
    filled = publish.with_outputs(notebook(), executed())
    assert [cell.source for cell in filled.cells] == ["# Title", "seed = 0", "1 + 1"]
    assert [output.output_type for output in filled.cells[2].outputs] == ["stream", "execute_result"]
    assert filled.cells[2].outputs[0].text == "2"


def test_code_cells_are_numbered_without_a_gap():
    _, first, second = publish.with_outputs(notebook(), executed()).cells
    assert (first.execution_count, second.execution_count, second.outputs[1].execution_count) == (1, 2, 2)


def test_large_picture_becomes_a_small_one_and_widgets_go():
    noise = np.random.default_rng(0).integers(0, 255, (900, 1800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(png := io.BytesIO(), "PNG")
    done = executed()
    done.cells[3].outputs = [
        new_output("display_data", {"image/png": base64.b64encode(png.getvalue()).decode()}),
        new_output("display_data", {publish.WIDGET: {"model_id": "1"}, "text/plain": "bar"}),
    ]
    (shown,) = publish.with_outputs(notebook(), done).cells[2].outputs
    assert set(shown.data) == {"image/jpeg"}
    image = Image.open(io.BytesIO(base64.b64decode(shown.data["image/jpeg"])))
    assert image.size == (publish.WIDTH, publish.WIDTH // 2)


def test_outputs_of_another_notebook_are_refused():
    with pytest.raises(ValueError, match="not this notebook"):
        publish.with_outputs(notebook(), executed("2 + 2"))


def test_every_notebook_of_the_study_is_shown_once(tmp_path):
    steps = [step for steps in plan(1) for step in steps]
    assert {step.notebook for step in steps} == {step.notebook for step in steps if step.name in publish.SHOWN}
    for step in steps:
        if step.name in publish.SHOWN:
            nbformat.write(executed(), _made(tmp_path / "study" / "notebooks") / f"{step.name}.ipynb")
            nbformat.write(notebook(), _made(tmp_path / "own") / step.notebook)
    publish.publish_notebooks(tmp_path / "study", tmp_path / "own")
    for path in (tmp_path / "own").glob("*.ipynb"):
        assert nbformat.read(path, as_version=4).cells[2].outputs[0].text == "2"


def test_notebooks_of_the_full_study_are_shown_where_it_has_run(tmp_path):
    steps = [step for steps in full_plan(1) for step in steps if step.notebook]
    shown = [step for step in steps if step.name in publish.SHOWN + publish.SHOWN_FULL]
    assert sorted({step.notebook for step in steps}) == sorted(step.notebook for step in shown)
    for step in shown:
        nbformat.write(notebook(), _made(tmp_path / "own") / step.notebook)
        if step.name != "ablations":
            nbformat.write(executed(), _made(tmp_path / "study" / "notebooks") / f"{step.name}.ipynb")
    publish.publish_notebooks(tmp_path / "study", tmp_path / "own")
    for step in shown:
        outputs = nbformat.read(tmp_path / "own" / step.notebook, as_version=4).cells[2].outputs
        assert bool(outputs) is (step.name != "ablations")


def test_notebook_that_is_still_running_is_not_shown(tmp_path):
    done = executed()
    for status in ("pending", "completed"):
        done.cells[3].metadata["papermill"] = {"status": status}
        nbformat.write(done, tmp_path / "a.ipynb")
        assert publish.has_run_through(tmp_path / "a.ipynb") is (status == "completed")
    assert not publish.has_run_through(tmp_path / "b.ipynb")


def test_unfinished_study_is_not_published(tmp_path):
    with pytest.raises(ValueError, match="no finished run"):
        publish.publish_checkpoints(tmp_path, tmp_path / "checkpoints")


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder
