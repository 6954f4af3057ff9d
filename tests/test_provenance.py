"""A provenance record says what made a result, in JSON, the same for equal settings."""

import json
import subprocess
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amc_lib.files import ROOT, plain
from amc_study.provenance import git_state, provenance, settings_hash


@dataclass(frozen=True)
class Inner:
    width: int = 128


@dataclass(frozen=True)
class Settings:
    lambda1: float = 0.2
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)
    folder: Path = ROOT / "runs" / "a"


def test_record_is_json_and_names_what_matters():
    record = provenance(Settings(), seed=3, seconds=12.3456, checkpoint="abc")
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["seed"] == 3 and record["seconds"] == 12.3 and record["checkpoint"] == "abc"
    assert record["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["threads"] == torch.get_num_threads()
    assert record["settings"] == {"lambda1": 0.2, "sizes": [1, 2], "inner": {"width": 128}, "folder": "runs/a"}
    assert record["settings_hash"] == settings_hash(Settings())
    age = datetime.now(UTC) - datetime.fromisoformat(record["date"])
    assert 0 <= age.total_seconds() < 60
    assert record["processor"] and record["device"]


def test_what_is_not_given_is_not_claimed():
    assert "seconds" not in provenance({}, seed=0)
    assert provenance({}, seed=0, device="tpu")["device"] == "tpu"


def test_extra_entries_do_not_overwrite():
    with pytest.raises(ValueError, match="settings_hash"):
        provenance({}, seed=0, settings_hash="mine")


def test_hash_is_stable_over_time():
    """The start of the SHA-256 of {"a":null,"b":[1,2.5]}, as sha256sum prints it."""
    assert settings_hash({"b": [1, 2.5], "a": None}) == "e57f5d378654"


@given(st.dictionaries(st.text(max_size=4), st.one_of(st.integers(), st.booleans(), st.text(max_size=4)), max_size=6))
def test_hash_ignores_the_order_of_keys(settings):
    backwards = dict(reversed(settings.items()))
    assert settings_hash(settings) == settings_hash(backwards)
    assert len(settings_hash(settings)) == 12


def test_equal_settings_share_a_hash_and_different_ones_do_not():
    assert settings_hash({"x": 1}) == settings_hash({"x": 1.0}) == settings_hash({"x": np.float32(1)})
    assert settings_hash(Settings()) == settings_hash(plain(Settings()))
    others = [
        replace(Settings(), lambda1=0.3),
        replace(Settings(), sizes=(2, 1)),
        replace(Settings(), inner=Inner(64)),
        {"x": "1"},
        {"x": 1},
        {"x": None},
    ]
    assert len({settings_hash(settings) for settings in [Settings(), *others]}) == 7


def _git(folder, *arguments):
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_commit_and_dirty_flag(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    (tmp_path / "amc_lib").mkdir()
    source = tmp_path / "amc_lib" / "a.py"
    source.write_text("1\n")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "one")
    clean = git_state(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "figure.png").write_bytes(b"")
    assert git_state(tmp_path) == clean
    source.write_text("2\n")
    assert git_state(tmp_path) == clean | {"dirty": True}
