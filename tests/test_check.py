"""The data check: what is there, missing, broken or left out, in numbers, and the command's exit status."""

from __future__ import annotations

import json
import shutil

import mini_paper
import pandas as pd
import pytest
import torch

from amc_lib import presets
from amc_lib.datasets.__main__ import main
from amc_lib.datasets.check import PHOTOS, SENTENCES, check


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    mini_paper.write(root)
    return root


@pytest.fixture(autouse=True)
def settings_of_a_tiny_model(whole, monkeypatch):
    tiny = mini_paper.settings(whole)
    monkeypatch.setattr(presets, "_PRESETS", presets._PRESETS | {"paper": lambda: tiny})


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "paper")


def row(rows: pd.DataFrame, what: str) -> tuple:
    """(found, expected, verdict) of the one row whose `what` ends so."""
    (match,) = rows[rows["what"].str.endswith(what)].itertuples(index=False)
    return tuple(None if pd.isna(value) else value for value in (match.found, match.expected, match.verdict))


def test_counts_stand_beside_those_of_the_complete_sets(whole):
    rows = check(whole)
    assert list(rows.columns) == ["set", "what", "found", "expected", "verdict"]
    assert row(rows, "pictures of VG_100K") == (12, 108_077, "differs")
    assert row(rows, "region descriptions") == (37, 5_408_689, "differs")
    assert row(rows, "pictures of dets.json") == (12, None, "ok")
    assert row(rows, "bytes of ALBEF.pth") == ((whole / "checkpoints" / "ALBEF.pth").stat().st_size, None, "ok")
    assert row(rows, "tokens")[1:] == (30_522, "differs")
    assert set(rows["verdict"]) == {"ok", "differs", "absent"}
    absent = rows[rows["verdict"] == "absent"]  # RefCOCO, RefCOCOg and UNC's RefCLEF are not in the mini data
    assert set(absent["set"]) == {"RefCOCO", "RefCOCOg", "RefCLEF"}


def test_nothing_there(tmp_path, capsys):
    assert set(check(tmp_path / "nowhere")["verdict"]) == {"missing", "absent"}
    assert main(["check", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "refs(unc).p: no such file" in printed and "ALBEF.pth: No such file or directory" in printed


def test_missing_files_are_named_and_optional_ones_do_not_fail(root, capsys):
    (root / "refer" / "refcoco+" / "dets.json").unlink()
    assert row(check(root), "dets.json: no such file")[2] == "absent"
    assert main(["check", str(root)]) == 0
    assert "differs  RefCOCO+            sentences of testB: 9 of 4,889\n" in capsys.readouterr().out
    (root / "refer" / "refcoco+" / "refs(unc).p").unlink()
    assert row(check(root), "refcoco+/refs(unc).p: no such file")[2] == "missing"
    assert row(check(root), "refclef/refs(unc).p: no such file")[2] == "absent"
    assert main(["check", str(root)]) == 1


@pytest.fixture
def flickr8k(root, monkeypatch):
    """Photographs as the two downloads unpack, four in each list; the second of train is not among them."""
    folder = root / "flickr30k"
    (folder / "flickr30k-images").rename(folder / "Flicker8k_Dataset")
    for path in list((folder / "Flicker8k_Dataset").iterdir()):
        path.rename(path.with_stem(f"{path.stem}_693b08cb0e"))
    second = (folder / "train.txt").read_text(encoding="utf-8").split()[1]
    (folder / "Flicker8k_Dataset" / f"{second}_693b08cb0e.jpg").unlink()
    monkeypatch.setenv("AMC_PHOTOS", str(root))
    monkeypatch.setenv("AMC_DATA", str(root / "nowhere"))
    return folder


def test_photographs_of_the_two_downloads(flickr8k, capsys):
    rows = check(flickr8k, parts=PHOTOS)
    assert row(rows, "photographs of train") == (3, 7_559, "differs")
    assert row(rows, "files in Annotations") == (12, None, "ok")
    assert row(rows, "phrases of train") == (15, 98_000, "differs")
    assert row(rows, "phrases of train: listed images that are not among the pictures") == (1, None, "left out")
    assert main(["check"]) == 0
    printed = capsys.readouterr().out
    assert f"photos tier: {flickr8k}\n" in printed and f"paper tier: there is no {flickr8k.parent}" in printed
    assert "differs  Flickr30k Entities  phrases of val: 20 of 3,239\n" in printed


def test_photographs_that_are_missing_fail(flickr8k, capsys):
    for path in list((flickr8k / "Flicker8k_Dataset").iterdir()):
        path.unlink()
    assert row(check(flickr8k, parts=PHOTOS), "phrases of val") == (0, 3_239, "missing")
    shutil.rmtree(flickr8k / "Annotations")
    (flickr8k / "test.txt").unlink()
    assert main(["check"]) == 1
    printed = capsys.readouterr().out
    assert f"{flickr8k}/Annotations: No such file or directory" in printed and "test.txt: no such file" in printed
    shutil.rmtree(flickr8k)
    assert set(check(flickr8k, parts=PHOTOS)["verdict"]) == {"missing"}


def test_both_tiers_are_checked_where_they_lie(whole, monkeypatch, capsys):
    monkeypatch.setenv("AMC_PHOTOS", str(whole))
    monkeypatch.setenv("AMC_DATA", str(whole))
    assert main(["check"]) == 0
    printed = capsys.readouterr().out
    assert f"photos tier: {whole / 'flickr30k'}\n" in printed and f"paper tier: {whole}\n" in printed


def test_what_does_not_open_is_named_only_when_asked(root, capsys):
    picture = root / "visual_genome" / "VG_100K" / "2315353.jpg"
    picture.write_bytes(picture.read_bytes()[:700])
    assert "broken" not in set(check(root)["verdict"])
    rows = check(root, decode=True)
    assert row(rows, "region descriptions: pictures that do not open") == (1, 0, "broken")
    assert main(["check", str(root), "--decode"]) == 1
    assert f"{picture}: cannot be read as an image" in capsys.readouterr().out


def test_broken_files_are_one_sentence_each(root):
    (root / "refer" / "refcoco+" / "instances.json").write_text('{"annotations": [', encoding="utf-8")
    (root / "refer" / "refclef" / "refs(berkeley).p").write_bytes(b"no pickle")
    (root / "bert-base-uncased" / "vocab.txt").write_bytes(b"\xff\xfe")
    broken = check(root).query("verdict == 'broken'")
    names = {what.removeprefix(f"{root}/").partition(":")[0] for what in broken["what"]}
    assert names == {"refer/refcoco+/instances.json", "refer/refclef/refs(berkeley).p", "bert-base-uncased/vocab.txt"}


WEIGHTS, DETECTIONS = "checkpoints/ALBEF.pth", "refer/refcoco+/dets.json"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (WEIGHTS, "<html>", "cannot be read as a checkpoint: it is a web page, not the file itself: download it again"),
        (WEIGHTS, {"temp": torch.zeros(2)}, "does not fit the model: size mismatch for temp: "),
        (WEIGHTS, {"fc.weight": torch.zeros(3, 4)}, "does not fit the model: missing "),
        ("bert-base-uncased/vocab.txt", "version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer, not the"),
        (DETECTIONS, '{"images": [], "annotations": []}', "holds no detection"),
        (DETECTIONS, '{"42": [[1, 2, 30, 40]]}', "its image ids are none of those that are asked about, such as 98304"),
    ],
)
def test_files_of_something_else_are_broken(root, name, content, sentence):
    if isinstance(content, str):
        (root / name).write_text(content, encoding="utf-8")
    else:
        torch.save(content, root / name)
    (broken,) = check(root).query("verdict == 'broken'")["what"]
    assert broken.startswith(f"{root / name}: ") and sentence in broken


def test_records_left_out_fail_evaluation_but_not_training(root):
    descriptions = root / "visual_genome" / "region_descriptions.json"
    images = json.loads(descriptions.read_text(encoding="utf-8"))
    for region in [region for image in images for region in image["regions"]][: SENTENCES + 2]:
        region["phrase"] = "..."
    descriptions.write_text(json.dumps(images), encoding="utf-8")
    rows = check(root)
    assert row(rows, "region descriptions: records left out") == (SENTENCES + 2, 0, "left out")
    assert rows["what"].str.contains("has no words").sum() == SENTENCES
    assert main(["check", str(root)]) == 0
    (root / "flickr30k" / "Annotations" / "1007129816.xml").write_text("<annotation>", encoding="utf-8")
    assert row(check(root), "phrases of test: records left out") == (1, 0, "broken")
    assert main(["check", str(root)]) == 1
