"""The method's pages: 00_method, executed as committed, and data/PROTOCOL.md, which the code cites by heading."""

from __future__ import annotations

import json
import re

import nbformat
import pytest
from nbclient import NotebookClient

from amc_lib.files import ROOT

NOTEBOOK = ROOT / "notebooks" / "00_method.ipynb"
REPORT = """
import json
print(json.dumps({
    "box": region.boxes[0],
    "points": [frame[2].tolist() for frame in frames],
    "points without L_max": [frame[2].tolist() for frame in unmoved],
    "L_mean": l_mean.item(),
    "L_max": [l_max.item(), explain(tuned, features, M)[2].item()],
    "slopes": list(slopes.values()),
}))
"""


@pytest.fixture(scope="module")
def shown() -> dict:
    """Values in the notebook's kernel after it has run."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT))
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(NOTEBOOK.parent))
    return json.loads(notebook.cells[-1].outputs[-1].text)


def inside(point: list[int], box: list[float]) -> bool:
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]


def test_the_point_walks_from_outside_into_the_box_and_stays(shown):
    hits = [inside(point, shown["box"]) for point in shown["points"]]
    assert not hits[0] and hits[-1] and hits == sorted(hits)
    assert shown["L_max"][0] > 0.5 and shown["L_max"][1] < 0.05


def test_without_l_max_a_content_l_mean_moves_nothing(shown):
    assert shown["L_mean"] == 0
    assert not any(inside(point, shown["box"]) for point in shown["points without L_max"])


def test_only_the_second_derivative_agrees_with_moving_a_weight(shown):
    for measured, twice, constant in shown["slopes"]:
        assert twice == pytest.approx(measured, rel=1e-4)
        assert abs(constant - measured) > 0.1 * abs(measured)


def test_it_is_short_and_light():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell.source.splitlines() for cell in notebook.cells if cell.cell_type == "code"]
    assert max(map(len, code)) <= 16 and sum(len([line for line in cell if line.strip()]) for cell in code) <= 150
    assert NOTEBOOK.stat().st_size < 1_500_000


def test_headings_cited_by_the_code_are_in_the_protocol():
    code = " ".join(
        path.read_text() for folder in ("amc_lib", "notebooks/amc_study") for path in (ROOT / folder).rglob("*.py")
    )
    cited = set(re.findall(r"PROTOCOL,? \(?([A-Z][a-z]+(?: [a-z]+)*)", code))
    assert cited and cited <= set(re.findall(r"^## (.+)$", (ROOT / "data" / "PROTOCOL.md").read_text(), re.MULTILINE))
