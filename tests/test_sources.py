"""Checkpoints from wherever they come: what is missing is said in one sentence that names the file."""

from __future__ import annotations

import sys

import pytest

from amc_lib.checkpoints import CheckpointError
from amc_lib.sources import open_checkpoint, weights_hash
from amc_study import answers
from amc_study.finetune import main as finetune_main


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("AMC_DATA", str(tmp_path))
    return tmp_path


def test_launch_of_answers_names_what_is_missing(no_data, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["answers", "nothing.pth"])
    with pytest.raises(SystemExit) as stopped:
        answers.main()
    assert str(stopped.value).startswith(f"{no_data / 'bert-base-uncased' / 'vocab.txt'}: cannot be read")


def test_launch_of_training_names_what_is_missing(no_data):
    with pytest.raises(SystemExit) as stopped:
        finetune_main(["--tier", "paper"])
    assert str(stopped.value) == f"{no_data / 'checkpoints' / 'ALBEF.pth'}: cannot be read: No such file or directory"


def test_shipped_names_and_missing_folders_are_told_apart():
    assert len(weights_hash("amc-scenes")) == 64
    assert open_checkpoint("amc-scenes").sha256 == weights_hash("amc-scenes")
    with pytest.raises(CheckpointError, match="no checkpoint at 'nowhere'"):
        weights_hash("nowhere")
