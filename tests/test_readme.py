"""What the README tells a reader to type, typed: its examples in a folder with a picture, boxes and a tiny BLIP."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import gradio
import pytest
import torch
from paper_data import write_paper_data
from tiny_blip import save_blip
from tiny_scenes import code_cells
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from amc_lib import page
from amc_lib.__main__ import main as ask
from amc_lib.datasets.__main__ import main as datasets
from amc_lib.files import ROOT
from amc_lib.score import main as score
from amc_study.rival import propose

README = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURE = ROOT / "data" / "photographs" / "astronaut.jpg"
ON_THE_HUB = "Salesforce/blip-itm-base-coco"


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language; "" for commands."""
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [source for of_block, source in every if of_block == language]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The folder in which the reader stands."""
    (tmp_path / "photographs").mkdir()
    for name in ("your.jpg", "photographs/one.jpg", "photographs/two.jpg"):
        shutil.copy(PICTURE, tmp_path / name)
    shutil.copytree(PICTURE.parent, tmp_path / "data" / "photographs")
    box = {"image_id": 1, "category_id": 1, "bbox": [150, 200, 180, 120]}
    coco = {"images": [{"id": 1, "file_name": "your.jpg"}], "categories": [{"id": 1, "name": "a helmet"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(coco | {"annotations": [box]}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_examples_run_one_after_the_other(place, capsys):
    names: dict[str, object] = {}
    examples = blocks("python")
    assert len(examples) == 3
    for source in examples:
        exec(source.replace(ON_THE_HUB, save_blip(place / "blip")), names)
    assert (place / "where.png").is_file()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["one.jpg", "two.jpg"]


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("") for line in block.splitlines()]
    return [line for line in lines if line.startswith(("python -m", "papermill"))]


def test_commands_run(place, capsys, monkeypatch):
    write_paper_data(place / "data" / "paper")
    torch.manual_seed(0)
    small = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=64).eval()  # else it would be fetched
    monkeypatch.setattr(propose, "open_detector", lambda weights: small)
    monkeypatch.setattr(gradio.Blocks, "launch", lambda blocks, **_: None)  # which would serve until it is stopped
    ran = {
        "amc_lib": ask,
        "amc_lib.page": page.main,
        "amc_lib.evaluate": score,
        "amc_lib.datasets": datasets,
        "amc_study.rival.propose": propose.main,
    }
    asked = [shlex.split(line)[2:] for line in commands() if line.startswith("python -m")]
    assert {module for module, *_ in asked} == set(ran)
    for module, *arguments in asked:
        ran[module](arguments)
    written = ("where-1.png", "where-2.png", "mine.csv", "proposals.npz")
    assert all((place / name).is_file() for name in written)
    printed = capsys.readouterr().out
    assert "'her glasses' is at x" in printed and re.search(r"all +\d+\.\d\d % ", printed)
    assert "1 phrases; notebook 07 needs two pictures" in printed


def test_notebooks_know_the_parameters_that_are_given():
    given = [shlex.split(line) for line in commands() if line.startswith("papermill")]
    assert len(given) >= 3
    for _, notebook, _, *options in given:
        known = re.findall(r"^(\w+) = ", code_cells(Path(notebook).stem)[0], flags=re.MULTILINE)
        assert set(options[1::3]) <= set(known) and set(options[::3]) == {"-p"}, notebook
