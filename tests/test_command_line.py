"""The command line with a tiny checkpoint: what it prints, writes and refuses; the photographs it is shown on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amc_lib.__main__ import main, pictures_and_phrases
from amc_lib.datasets import own_table
from amc_lib.files import ROOT

PHOTOGRAPHS = ROOT / "data" / "photographs"
MOST_BYTES, LONGEST_SIDE = 200_000, 512  # of a photograph in the repository


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Wider than high."""
    return Image.open(PHOTOGRAPHS / "cat.jpg").resize((60, 40))


@pytest.fixture()
def ask(tiny_folder, capsys):
    """What the command line prints for arguments, line by line."""

    def ask(*arguments: str | Path) -> list[str]:
        main([*map(str, arguments), "-c", str(tiny_folder)])
        return capsys.readouterr().out.splitlines()

    return ask


@pytest.fixture()
def path(picture, tmp_path) -> Path:
    picture.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_command_prints_point_box_and_score_and_writes_the_overlay(grounder, picture, path, ask):
    answer, overlay = grounder.ground(picture, "w1 zebra"), path.with_name("overlay.png")
    (line,) = ask(path, "-o", overlay, "w1 zebra", "--json")
    assert json.loads(line) == {
        "picture": str(path),
        "phrase": "w1 zebra",
        "point": list(answer.point),
        "box": list(answer.box()),
        "score": answer.score,
        "present": None,
        "unknown": False,
        "unknown_words": ["zebra"],
        "unread_words": [],
        "seen": grounder.seen,
        "overlay": str(overlay),
    }
    assert (np.asarray(Image.open(overlay)) == np.asarray(answer.overlay())).all()
    found, unknown = ask(path, "w1 zebra")
    numbers = [int(number) for number in re.findall(r"[xy] (\d+)", found)]
    assert found.startswith(f"{path}: 'w1 zebra' is at") and numbers == [*answer.point, *answer.box()]
    assert found.endswith(f"match score {answer.score:.2f}") and unknown.endswith("does not know: zebra")


def test_command_is_a_program(tiny_folder, path):
    command = [sys.executable, "-m", "amc_lib", str(path), "w1", "-c", str(tiny_folder), "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path}: 'w1' is at")


def test_command_says_what_is_wrong_with_its_words_before_it_loads_torch(path):
    code = f"import sys; from amc_lib.__main__ import main; sys.modules['torch'] = None; main(['{path}'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == f"a picture and a phrase are needed, not '{path}' alone\n"


def test_command_asks_every_picture_for_every_phrase(grounder, picture, path, ask):
    second = path.with_name("second")  # a file, though it does not end like a picture
    picture.transpose(Image.Transpose.ROTATE_90).save(second, "PNG")
    lines = ask(path, second, "w1 w2", "a zebra", "w3", "--json", "-o", path.with_name("seen.png"))
    answers = [json.loads(line) for line in lines]
    asked = [(str(file), phrase) for file in (path, second) for phrase in ("w1 w2", "a zebra", "w3")]
    assert [(answer["picture"], answer["phrase"]) for answer in answers] == asked
    for answer in answers[0], answers[5]:
        alone = grounder.ground(answer["picture"], answer["phrase"])
        assert answer["point"] == list(alone.point) and answer["box"] == list(alone.box())
    written = {file.name for file in path.parent.glob("seen*")}
    assert written == {f"seen-{k}.png" for k in (1, 3, 4, 6)}  # none of what is unknown
    assert Image.open(answers[5]["overlay"]).size == (40, 60)


def test_command_says_that_a_phrase_is_unknown_and_points_nowhere(path, ask):
    (line,) = ask(path, "a zebra", "--json", "-o", path.with_name("overlay.png"))
    answer = json.loads(line)
    assert answer["unknown"] and answer["unknown_words"] == ["a", "zebra"]
    assert [answer[name] for name in ("point", "box", "score")] == [None] * 3
    assert "overlay" not in answer and not path.with_name("overlay.png").exists()
    (said,) = ask(path, "a zebra")
    assert said == f"{path}: 'a zebra' is unknown: the checkpoint knows no word of it (it has seen {answer['seen']})"


def test_first_is_a_picture_and_last_a_phrase_whatever_their_names(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path.rename("a dog")
    assert pictures_and_phrases(["a dog", "a dog"]) == (["a dog"], ["a dog"])
    assert pictures_and_phrases(["a dog", "b.JPG", "c.jfif", "a cat"]) == (["a dog", "b.JPG", "c.jfif"], ["a cat"])
    assert pictures_and_phrases(["none", "a cat", "a dog", "w1"]) == (["none"], ["a cat", "a dog", "w1"])


def test_command_refuses_with_one_sentence_and_goes_on_after_a_picture_that_cannot_be_read(path, ask, capsys):
    absent = "mps" if torch.cuda.is_available() else "cuda"
    for asked, sentence in [
        ([path], f"a picture and a phrase are needed, not '{path}' alone"),
        ([path, "w1", path, "w2"], f"'{path}' looks like a picture, but pictures come first and then phrases"),
        (["w1", path], f"'{path}' looks like a picture, but pictures come first and then phrases"),
        ([path, "?!"], "the phrase '?!' has no words"),
        ([path, "w1", "--device", absent], f"the device '{absent}' cannot be used: "),
        ([path, "w1", "-o", "overlay.xyz"], "-o overlay.xyz: must end in one of .bmp .gif"),
    ]:
        with pytest.raises(SystemExit, match=re.escape(sentence)):
            ask(*asked)
    with pytest.raises(SystemExit, match=r"none\.png: no such image"):
        ask(path.with_name("none.png"), path, "w1")
    assert capsys.readouterr().out.startswith(f"{path}: 'w1' is at")


def test_photographs_of_the_repository_are_small_and_each_has_its_source_and_licence():
    names = sorted(path.name for path in PHOTOGRAPHS.glob("*") if path.name not in ("README.md", "boxes.csv"))
    assert {region.image_id for region in own_table.read(PHOTOGRAPHS / "boxes.csv")} == set(names)
    rows = re.findall(
        r"^\| (\S+\.\w+) \|.*\| (?:public domain|CC0)\b.*\| .*\|$", (PHOTOGRAPHS / "README.md").read_text("utf-8"), re.M
    )
    assert names == sorted(rows) and len(names) >= 5
    for name in names:
        assert (PHOTOGRAPHS / name).stat().st_size < MOST_BYTES
        assert max(Image.open(PHOTOGRAPHS / name).size) <= LONGEST_SIDE
