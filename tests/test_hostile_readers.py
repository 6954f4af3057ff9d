"""Annotation files that are damaged or mean harm: regions as promised, or one sentence that names the file."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile import JUNK, NASTY_TEXT, RUNS, check_region, damaged, drive, mutated, outcome, untouched
from hostile_pickles import calls, programs
from hypothesis import strategies as st
from paper_data import write_paper_data

from amc_lib.datasets import flickr30k, refer, visual_genome
from amc_lib.datasets.check import check
from amc_lib.datasets.photo_table import ARRAYS, build, open_table
from amc_lib.datasets.records import Regions

VG, FLICKR, REFER = "visual_genome", "flickr30k", "refer"
REFS = f"{REFER}/refcoco+/refs(unc).p"
READERS: dict[str, Callable[[Path, bool], Regions]] = {
    VG: lambda root, strict: visual_genome.read(root / VG, sources=tuple(visual_genome.FILES), strict=strict),
    FLICKR: lambda root, strict: flickr30k.read(root / FLICKR, "test", strict),
    REFER: lambda root, strict: refer.read(root / REFER, "refcoco+", "unc", "testA", strict),
    "records": lambda root, strict: visual_genome.read_records(root / "records.json", root / VG, strict),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("original") / "data"
    write_paper_data(root, visual_genome=3, flickr30k=3, refcoco=4, refclef=1)
    records = [
        {"image": path.relative_to(root / VG).as_posix(), "caption": ["cat", "a cat"], "bbox": [[1, 2, 30, 40]]}
        for path in sorted((root / VG).glob("*/*.jpg"))
    ]
    (root / "records.json").write_text(json.dumps(records), encoding="utf-8")
    return root


@pytest.fixture
def root(original, tmp_path) -> Path:
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def files_of(root: Path) -> dict[str, str]:
    """Every annotation file that a reader reads, with the reader's name."""
    names = {f"{VG}/{name}": VG for name in ("image_data.json", *visual_genome.FILES.values())}
    (image_id,) = flickr30k.image_ids(root / FLICKR, "test")[:1]
    flickr = ("test.txt", f"Sentences/{image_id}.txt", f"Annotations/{image_id}.xml")
    names |= {f"{FLICKR}/{name}": FLICKR for name in flickr}
    return names | {REFS: REFER, f"{REFER}/refcoco+/instances.json": REFER, "records.json": "records"}


def obey(read: Callable[[Path, bool], Regions], root: Path) -> None:
    """Strict and lenient reading agree: equal regions, or the first sentence of those that were left out."""
    with untouched(root.parent):
        found, error = outcome(lambda: read(root, True), root)
        lenient, fatal = outcome(lambda: read(root, False), root)
    assert error or (lenient == found and lenient.skipped == [])
    assert not error or fatal or lenient.skipped[0] == error
    for region in lenient or ():
        check_region(region, root, boxed=region.id.partition(":")[0] != "records")


@RUNS
def test_damaged_files(inputs, root):
    readers = files_of(root)
    for name in readers:  # undamaged ones are read
        assert READERS[readers[name]](root, True)
    contents = {name: (root / name).read_bytes() for name in readers}

    def law(case: tuple[str, bytes]) -> None:
        name, data = case
        (root / name).write_bytes(data)
        obey(READERS[readers[name]], root)
        (root / name).write_bytes(contents[name])

    names = st.sampled_from(sorted(readers))
    drive(inputs, law, names.flatmap(lambda name: st.tuples(st.just(name), damaged(contents[name]))))


@RUNS
def test_json_that_says_something_else(inputs, root):
    readers = {name: reader for name, reader in files_of(root).items() if name.endswith(".json")}
    contents = {name: (root / name).read_text(encoding="utf-8") for name in readers}

    def law(case: tuple[str, object]) -> None:
        name, value = case
        (root / name).write_text(json.dumps(value), encoding="utf-8")
        obey(READERS[readers[name]], root)
        (root / name).write_text(contents[name], encoding="utf-8")

    names = st.sampled_from(sorted(readers))
    drive(inputs, law, names.flatmap(lambda name: st.tuples(st.just(name), mutated(json.loads(contents[name])))))


@RUNS
def test_sentences_and_boxes_of_flickr30k_that_say_something_else(inputs, root):
    names = [name for name, reader in files_of(root).items() if reader == FLICKR]
    contents = {name: (root / name).read_text(encoding="utf-8") for name in names}

    def law(name: str, place: int, word: str) -> None:
        parts = re.split(r"([\s<>/#\]]+)", contents[name])
        parts[place % len(parts)] = word
        (root / name).write_text("".join(parts), encoding="utf-8", errors="surrogatepass")
        obey(READERS[FLICKR], root)
        (root / name).write_text(contents[name], encoding="utf-8")

    words = NASTY_TEXT | st.sampled_from(["nan", "inf", "-1e999", "99999999999", "/", "]", "[/EN#", "<bndbox>"])
    drive(inputs, law, st.sampled_from(names), st.integers(0, 500), words)


@RUNS
def test_refs_that_say_something_else(inputs, root):
    refs = pickle.loads((root / REFS).read_bytes())

    def law(value: object, protocol: int) -> None:
        (root / REFS).write_bytes(pickle.dumps(value, protocol))
        obey(READERS[REFER], root)

    drive(inputs, law, mutated(refs, JUNK | st.sampled_from([b"x", (1, 2), {3}, 1j])), st.integers(0, 5))


@RUNS
def test_refs_that_try_to_execute(inputs, root):
    canary = root.parent / "canary"

    def law(program: bytes) -> None:
        (root / REFS).write_bytes(program)
        obey(READERS[REFER], root)
        assert not canary.exists()

    drive(inputs, law, programs(canary))


def test_canaries_sing_where_pickles_are_executed(tmp_path):
    sung = 0
    for number, call in enumerate(calls(tmp_path / "canary")):
        try:
            pickle.loads(b"\x80\x02" + call + b".")
        except Exception:
            assert number > 6
        sung += (tmp_path / "canary").exists()
        (tmp_path / "canary").unlink(missing_ok=True)
    assert sung >= 8


@RUNS
def test_detections_that_say_something_else(inputs, tmp_path):
    path = tmp_path / "dets.json"
    shapes = ({"1": [[0, 0, 5, 5], {"box": [1, 1, 2, 2]}]}, [{"image_id": 1, "box": [0, 0, 5, 5]}])

    def law(data: bytes) -> None:
        path.write_bytes(data)
        found, _ = outcome(lambda: refer.read_detections(path), path)
        for boxes in (found or {}).values():
            assert all(x1 < x2 and y1 < y2 and np.isfinite([x1, y1, x2, y2]).all() for x1, y1, x2, y2 in boxes)

    texts = st.sampled_from(shapes).flatmap(mutated).map(lambda value: json.dumps(value).encode())
    bytes_ = st.sampled_from(shapes).flatmap(lambda value: damaged(json.dumps(value).encode()))
    drive(inputs, law, texts | bytes_)


@RUNS
def test_tables_of_photographs(inputs, root):
    folder = root.parent / "table"
    regions = visual_genome.read(root / VG)
    whole = open_table(folder, lambda: build(regions, root / VG, {}))
    rows = [(whole.image(row), whole.phrases(row)) for row in range(len(whole))]
    names = ["table.json", *(f"{name}.npy" for name in ARRAYS)]
    contents = {name: (folder / name).read_bytes() for name in names}
    del whole

    def law(case: tuple[str, bytes]) -> None:
        name, data = case
        (folder / name).unlink()  # what is mapped from the old file stays as it was
        (folder / name).write_bytes(data)
        table, _ = outcome(lambda: open_table(folder, lambda: pytest.fail("made again")), folder)
        if table is not None:
            read = [(table.image(row), table.phrases(row)) for row in range(len(table))]
            assert len(read) <= len(rows) + 1
        (folder / name).write_bytes(contents[name])

    drive(inputs, law, st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), damaged(contents[name]))))


@RUNS
def test_check_says_what_is_broken(inputs, root):
    names = sorted([*files_of(root), f"{REFER}/refcoco+/dets.json", "bert-base-uncased/vocab.txt"])
    names += [str(path.relative_to(root)) for path in sorted((root / VG).glob("*/*.jpg"))]
    contents = {name: (root / name).read_bytes() for name in names}

    def law(case: tuple[str, bytes]) -> None:
        name, data = case
        (root / name).write_bytes(data)
        with untouched(root.parent):
            found = check(root, decode=True)
        assert set(found["verdict"]) <= {"ok", "differs", "left out", "absent", "missing", "broken"}
        assert all(what.isprintable() for what in found["what"])
        (root / name).write_bytes(contents[name])

    drive(inputs, law, st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), damaged(contents[name]))))
