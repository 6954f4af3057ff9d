"""Writers leave a whole file or the old one, never a piece, and no litter."""

import json
import os

import pandas as pd
import pytest

from amc_lib.files import (
    atomic_file,
    check_writable,
    remove_unfinished,
    write_bytes,
    write_csv,
    write_json,
    write_together,
)


def test_bytes_come_back_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "data.bin"
    write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"


def test_json_is_readable_utf8_and_ends_with_a_newline(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"λ1": 0.2, "names": ["a", None]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"λ1": 0.2, "names": ["a", None]}
    assert "λ1" in text and text.endswith("}\n")


def test_csv_keeps_every_digit_and_has_no_index(tmp_path):
    path = tmp_path / "x.csv"
    frame = pd.DataFrame({"system": ["AMC"], "accuracy": [0.1 + 0.2]})
    write_csv(path, frame)
    assert path.read_text(encoding="utf-8").splitlines()[0] == "system,accuracy"
    pd.testing.assert_frame_equal(pd.read_csv(path), frame, check_exact=True)


def test_a_writer_that_fails_midway_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half of the n")
        raise RuntimeError("power cut")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.bin"]


def test_the_old_file_is_visible_until_the_block_ends(tmp_path):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_rename_that_fails_leaves_no_temporary_file(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(tmp_path / "x.bin", b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_is_refused_before_the_old_file_is_touched(tmp_path, value):
    path = tmp_path / "x.json"
    write_json(path, {"accuracy": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"accuracy": value})
    assert json.loads(path.read_text()) == {"accuracy": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_files_follow_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        write_bytes(tmp_path / "x.bin", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "x.bin").stat().st_mode & 0o777 == 0o644


def test_files_that_belong_together_are_renamed_when_all_are_written(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    write_together({first: b"old", second: b"old"})
    flush, descriptors = os.fsync, []

    def full_at_the_second(descriptor: int) -> None:
        descriptors.append(descriptor)
        if len(descriptors) == 2:
            raise OSError("disk full")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_second)
    with pytest.raises(OSError, match="disk full"):
        write_together({first: b"new", second: b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"first": b"old", "second": b"old"}
    monkeypatch.undo()
    renamed, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (renamed.append(target), replace(source, target)))
    write_together({first: b"new", second: b"newer"})
    assert renamed == [first, second] and second.read_bytes() == b"newer"


def test_what_killed_writers_left_is_removed(tmp_path):
    (tmp_path / ".weights.safetensors.0123abcd.tmp").write_bytes(b"half")
    write_bytes(tmp_path / "x.bin", b"")
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        check_writable(tmp_path / "file")
