"""The data check: what is there, missing, broken or left out, in numbers, and the command's exit status."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from paper_data import write_paper_data

from amc_lib.datasets.__main__ import main
from amc_lib.datasets.check import SHOWN, check


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    write_paper_data(root)
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / "ALBEF.pth").touch()
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "paper")


def row(found: pd.DataFrame, what: str) -> tuple:
    """(found, expected, verdict) of the one row whose `what` ends so."""
    (match,) = found[found["what"].str.endswith(what)].itertuples(index=False)
    return tuple(None if pd.isna(value) else value for value in (match.found, match.expected, match.verdict))


def test_counts_stand_beside_the_known_ones(whole):
    found = check(whole)
    assert list(found.columns) == ["set", "what", "found", "expected", "verdict"]
    assert row(found, "regions: pictures") == (12, 108_077, "differs")
    assert row(found, "regions: phrases") == (37, 5_408_689, "differs")
    assert row(found, "test: pictures") == (4, 1_000, "differs")
    assert row(found, "testA: refs") == (6, 1_975, "differs")
    assert row(found, "testA: phrases") == (9, 5_726, "differs")
    assert row(found, "testB: refs") == (6, 1_798, "differs")
    assert row(found, "testB: phrases") == (9, 4_889, "differs")
    assert row(found, "dets.json: images") == (12, None, "ok")
    assert row(found, "ALBEF.pth") == (1, 1, "ok")
    assert row(found, "vocab.txt: tokens")[1:] == (30_522, "differs")
    assert set(found["verdict"]) == {"ok", "differs"}


def test_nothing_there_is_a_row_each(tmp_path):
    found = check(tmp_path / "nowhere")
    assert found["what"].tolist() == [
        "visual_genome/",
        "flickr30k/",
        "refer/",
        "refer/refcoco+/dets.json",
        "checkpoints/ALBEF.pth",
        "bert-base-uncased/vocab.txt",
    ]
    assert found["verdict"].tolist() == ["missing", "missing", "missing", "absent", "missing", "missing"]


def test_missing_files_are_rows_and_optional_ones_do_not_fail(root):
    (root / "visual_genome" / "objects.json").unlink()
    (root / "refer" / "refcoco+" / "dets.json").unlink()
    found = check(root)
    assert row(found, "objects.json") == row(found, "dets.json") == (0, 1, "absent")
    assert main(["check", str(root)]) == 0
    (root / "refer" / "refclef" / "refs(unc).p").unlink()
    assert row(check(root), "refclef/refs(unc).p") == (0, 1, "missing")
    assert main(["check", str(root)]) == 1


def test_what_does_not_open_is_named_only_when_asked(root, capsys):
    picture = root / "visual_genome" / "VG_100K" / "2315353.jpg"
    picture.write_bytes(picture.read_bytes()[:700])
    assert "broken" not in set(check(root)["verdict"])
    found = check(root, decode=True)
    assert row(found, "regions: pictures that do not open") == (1, 0, "broken")
    assert found["what"].str.startswith(f"{picture}: cannot be read as an image").sum() == 1
    assert main(["check", str(root), "--decode"]) == 1
    assert f"{picture}: cannot be read as an image" in capsys.readouterr().out


def test_broken_files_are_one_sentence_each(root):
    (root / "refer" / "refcoco+" / "instances.json").write_text('{"annotations": [', encoding="utf-8")
    (root / "refer" / "refclef" / "refs(unc).p").write_bytes(b"no pickle")
    (root / "refer" / "refcoco+" / "dets.json").write_text("3", encoding="utf-8")
    (root / "bert-base-uncased" / "vocab.txt").write_bytes(b"\xff\xfe")
    broken = check(root).query("verdict == 'broken'")
    assert [what.removeprefix(str(root)).partition(":")[0] for what in broken["what"]] == [
        "/refer/refcoco+/instances.json",
        "/refer/refclef/refs(unc).p",
        "/refer/refcoco+/dets.json",
        "/bert-base-uncased/vocab.txt",
    ]


def test_records_left_out_fail_evaluation_but_not_training(root):
    descriptions = root / "visual_genome" / "region_descriptions.json"
    images = json.loads(descriptions.read_text(encoding="utf-8"))
    number = 0
    for image in images:
        for region in image["regions"]:
            region["phrase"] = "..." if number < SHOWN + 2 else region["phrase"]
            number += 1
    descriptions.write_text(json.dumps(images), encoding="utf-8")
    found = check(root)
    assert row(found, "regions: records left out") == (SHOWN + 2, 0, "left out")
    assert found["what"].str.contains("has no words").sum() == SHOWN
    assert row(found, "regions: and 2 more") == (None, None, "left out")
    assert main(["check", str(root)]) == 0
    (root / "flickr30k" / "Annotations" / "1007129816.xml").write_text("<annotation>", encoding="utf-8")
    assert row(check(root), "test: records left out") == (1, 0, "broken")
    assert main(["check", str(root)]) == 1
